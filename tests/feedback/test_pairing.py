"""Who is compared with whom: ALMoST's vectors, ours where they differ, and properties of both."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.feedback.pairing import Ranked, every, published, threshold

B = None


def answers(*lengths, tiers=()):
    """Answers of these lengths (None: set aside, 0: blank), each in a tier of its own unless said otherwise."""
    tiers = tiers or range(len(lengths))
    letters = "abcdefgh"
    return [
        Ranked(tier, letters[i] * (n or 0), unfit=n is B)
        for i, (n, tier) in enumerate(zip(lengths, tiers, strict=True))
    ]


def told(found):
    """c1>c2, c2>c3 as ((1, 2), (2, 3))."""
    return tuple((better + 1, worse + 1) for better, worse in found[0])


@pytest.mark.parametrize(
    ("lengths", "pairs"),
    [
        ((300, 300, 300), ((1, 2), (2, 3))),
        ((900, 500, 100), ((1, 2), (2, 3))),
        ((100, 500, 900), ((2, 3),)),
        ((200, 600, 100), ((1, 2), (2, 3))),
        ((480, 500, 520), ((2, 3),)),
        ((B, 500, 100), ((2, 3),)),
        ((B, 100, 500), ()),
        ((300, B, 290), ((1, 3),)),
        ((300, B, 310), ()),
        ((300, 0, 310), ((1, 3),)),
        ((500, 100, 500), ((1, 2),)),
        ((100, 300, 300, 60), ((1, 4), (2, 3), (3, 4))),
        ((100, 200, 300, 400), ((2, 3), (3, 4))),
        ((100, B, 100, 100), ((1, 3), (3, 4))),
        ((100, B, B, B), ()),
    ],
)
def test_the_released_algorithm(lengths, pairs):
    assert told(published(answers(*lengths))) == pairs


@pytest.mark.parametrize(
    ("lengths", "pairs"), [((100, 100, 100, 100), ((1, 3), (3, 4))), ((50, 300, 200, 100), ((2, 3), (3, 4)))]
)
def test_the_released_algorithm_with_a_tie_at_the_top(lengths, pairs):
    assert told(published(answers(*lengths, tiers=(0, 0, 1, 2)))) == pairs


def test_cuts_and_how_many_comparisons_they_bar():
    """Blanks drag the released cut down, never ours: 300, blank, 310 pass there and are barred here."""
    assert threshold([200, 600, 100], 0.5) == pytest.approx(191.99, abs=0.005)
    assert threshold([300, 310], 0.5) == 302.5
    assert threshold([300, 0, 310], 0.5) == pytest.approx(131.42, abs=0.005)
    assert threshold([1, 2], None) == threshold([], 0.5) == 0
    assert published(answers(100, 500, 900))[1] == 2
    assert told(every(answers(300, 0, 310))) == ()
    assert every(answers(300, 0, 310), None) == ([(0, 2)], 0)


def test_ours_compares_all_tiers_but_not_equal_texts():
    """All of three; 100 under 200 of (100, 200, 300) is barred (mean 200, S 81.6, cut 159.2), under 300 too."""
    assert told(every(answers(300, 300, 300))) == ((1, 2), (1, 3), (2, 3))
    assert told(every(answers(100, 200, 300))) == ((2, 3),)
    assert every(answers(100, 200, 300))[1] == 2
    same = [Ranked(0, "one answer"), Ranked(1, "one answer"), Ranked(1, "another")]
    assert told(every(same, None)) == ((1, 3),)
    assert told(published(same, None)) == ((1, 2),)
    assert told(every(answers(9, 9, 9, tiers=(0, 0, 1)))) == ((1, 3), (2, 3))


RANKED = st.lists(
    st.builds(Ranked, st.integers(0, 4), st.text("ab ", max_size=12), st.booleans()), max_size=9
)  # fmt: skip
SPREADS = st.sampled_from([None, 0.0, 0.5, 1.0])


@given(RANKED, SPREADS)
def test_promises_of_both(ranked, spread):
    """The better tier is strictly better, nothing set aside or blank is compared, no pair is barred."""
    for of in (published, every):
        pairs, blocked = of(ranked, spread)
        assert len(set(pairs)) == len(pairs)
        assert blocked == 0 or spread is not None
        for better, worse in pairs:
            assert ranked[better].tier < ranked[worse].tier
            assert ranked[better].usable
            assert ranked[worse].usable
    assert all(ranked[i].text != ranked[j].text for i, j in every(ranked, spread)[0])


@given(RANKED, SPREADS)
def test_the_released_one_lets_each_tier_win_once(ranked, spread):
    pairs, _ = published(ranked, spread)
    winners = [ranked[better].tier for better, _ in pairs]
    assert len(set(winners)) == len(winners) <= max(0, len({one.tier for one in ranked}) - 1)


@given(RANKED)
def test_without_a_prior_every_comparison_of_the_released_one_is_made_by_ours(ranked):
    ours = {(ranked[i].tier, ranked[i].text, ranked[j].tier, ranked[j].text) for i, j in every(ranked, None)[0]}
    for i, j in published(ranked, None)[0]:
        assert (
            ranked[i].text == ranked[j].text or (ranked[i].tier, ranked[i].text, ranked[j].tier, ranked[j].text) in ours
        )


@given(st.lists(st.tuples(st.text("ab", max_size=9), st.booleans()), max_size=6), SPREADS, st.randoms())
def test_the_order_in_which_answers_stand_means_nothing_without_ties(told, spread, random):
    ranked = [Ranked(tier, text, unfit) for tier, (text, unfit) in enumerate(told)]
    shuffled = random.sample(ranked, len(ranked))
    for of in (published, every):
        plain, mixed = ({(of_[i].tier, of_[j].tier) for i, j in of(of_, spread)[0]} for of_ in (ranked, shuffled))
        assert plain == mixed


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6, unique=True))
def test_with_two_answers_a_shorter_better_one_is_always_barred(lengths):
    for first, second in itertools.permutations(lengths, 2):
        assert bool(published(answers(first, second))[0]) == (first >= second)
