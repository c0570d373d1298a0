"""Picks: shares of classes, the preference for short answers, what fills free places."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.conditions.protocol import NO_CLASS
from trueline.errors import UserError
from trueline.records import Completion
from trueline.train.picks import Candidates, Everything, PerClass, PerPrompt, shuffled, tokens_of

A, B, C, D = range(4)
# Six of the first class, one of the second, none of the third, three of the fourth, as they were sampled.
STORED = (A, A, B, A, D, A, A, D, A, D)


def found(ranks, lengths=None, words=None, classes=4, key="k"):
    n = len(ranks)
    return Candidates(ranks, lengths or [1] * n, words or [1] * n, classes, key)


def taken(ranks, indices):
    return [ranks[i] for i in indices]


def test_eight_of_a_prompt_over_four_classes():
    """Two of each class where it has them: A 2, B 1, D 2; three places stay free, or are filled.

    "ordered": by the first three not yet taken as they were sampled. "class": by A, D, A, in turn (B has no more).
    """
    candidates = found(STORED)
    none, of_class, ordered = (PerPrompt(8, fill=fill)(candidates) for fill in ("none", "class", "ordered"))
    assert taken(STORED, none) == [A, A, B, D, D]
    assert taken(STORED, of_class) == [A, A, B, D, D, A, D, A]
    assert of_class[:5] == ordered[:5] == none
    assert ordered[5:] == [i for i in range(10) if i not in none][:3]


def test_the_remainder_of_the_division_is_a_free_place():
    """Ten over four classes: two each, and two places that only a fill takes."""
    ranks = (A,) * 9 + (B, C, D)
    assert Counter(taken(ranks, PerPrompt(10)(found(ranks)))) == {A: 2, B: 1, C: 1, D: 1}
    assert Counter(taken(ranks, PerPrompt(10, fill="class")(found(ranks)))) == {A: 7, B: 1, C: 1, D: 1}


def test_only_the_ordered_fill_takes_what_is_in_no_class():
    ranks = (None, NO_CLASS, A, A, None, NO_CLASS)
    assert sorted(PerPrompt(4, fill="class")(found(ranks))) == [2, 3]
    assert sorted(PerPrompt(4, fill="ordered")(found(ranks))) == [1, 2, 3, 5]
    assert sorted(PerClass(3)(found(ranks))) == [2, 3]
    assert Everything()(found(ranks)) == [1, 2, 3, 5]


def test_two_of_each_class_the_best_first():
    assert taken(STORED, PerClass(2)(found(STORED))) == [A, A, B, D, D]
    assert PerClass(2)(found([])) == []


def test_short_answers_come_first_and_long_ones_fill():
    """64 tokens are not fewer than 64: the three short ones of five come first, in an order that lengths do not set."""
    ranks, lengths = (A,) * 5, [64, 63, 100, 1, 2]
    for n in range(1, 6):
        picked = PerClass(n)(found(ranks, lengths))
        assert set(picked[:3]) <= {1, 3, 4} and set(picked[3:]) <= {0, 2}
    assert set(PerClass(3, shorter_than=0)(found(ranks, lengths, key="other"))) != {1, 3, 4}
    orders = {tuple(PerClass(3)(found(ranks, lengths, key=str(seed)))) for seed in range(40)}
    assert len(orders) == 6


def test_an_answer_is_as_long_as_its_own_tokens_or_else_its_words():
    """The token that ended an answer is not counted; three words at 0.75 words to a token are four tokens."""
    assert tokens_of(Completion("a b", tokens=(1, 2, 3))) == 2
    assert tokens_of(Completion("a b", stopped="length", tokens=(1, 2, 3))) == 3
    assert tokens_of(Completion("a b")) is None
    candidates = found((A, A), [None, 3], [3, 99])
    assert [candidates.length(i, 0.75) for i in (0, 1)] == [4, 3]
    assert PerClass(1, shorter_than=4)(candidates) == [1]
    assert PerClass(1, shorter_than=4, words=3.0)(found((A, A), [None, 4], [3, 1])) == [0]


ranks = st.lists(st.none() | st.integers(-1, 3), max_size=24)


@given(ranks, st.integers(1, 12), st.sampled_from(["none", "class", "ordered"]))
def test_a_pick_takes_nothing_twice_and_no_class_beyond_its_share(given_ranks, n, fill):
    candidates = found(given_ranks)
    per_class, per_prompt = PerClass(n)(candidates), PerPrompt(n, fill=fill)(candidates)
    for picked in (per_class, per_prompt, Everything()(candidates)):
        assert len(set(picked)) == len(picked)
        assert None not in taken(given_ranks, picked)
    sizes = Counter(given_ranks)
    assert Counter(taken(given_ranks, per_class)) == Counter({r: min(n, sizes[r]) for r in range(4) if sizes[r]})
    assert len(per_prompt) <= n
    share = Counter(taken(given_ranks, per_prompt))
    if fill == "none":
        assert share == Counter({r: min(n // 4, sizes[r]) for r in range(4) if min(n // 4, sizes[r])})
    else:
        here = sum(sizes[r] for r in range(4)) + (sizes[NO_CLASS] if fill == "ordered" else 0)
        assert len(per_prompt) == min(n, here)
        assert all(share[r] >= min(n // 4, sizes[r]) for r in range(4))


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.text(max_size=3))
def test_the_order_of_some_does_not_depend_on_the_others(some, others, key):
    together = shuffled(sorted(some | others), key)
    assert [i for i in together if i in some] == shuffled(sorted(some), key)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PerClass(0),
        lambda: PerClass(2.0),
        lambda: PerClass(2, shorter_than=-1),
        lambda: PerClass(2, words=0),
        lambda: PerPrompt(0),
        lambda: PerPrompt(8, fill="any"),
    ],
)
def test_refusals(wrong):
    with pytest.raises(UserError):
        wrong()
