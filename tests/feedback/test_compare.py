"""Comparing in both orders: soft preferences, flips, ties, abstentions, and the cache of verdicts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.feedback.cache import FILE, ask
from trueline.feedback.compare import Compare
from trueline.feedback.protocol import Comparer, Critic, Item, Verdict, metering
from trueline.records import Completion, Group, Prompt
from trueline.store import using


@dataclass(frozen=True)
class Scripted:
    """Says what is written for (first, second); remembers, outside its identity, every question it was asked."""

    said: tuple[tuple[str, str, float | None], ...]
    name: str = "scripted"
    asked: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        self.asked.extend((first, second) for _, first, second in items)
        table = {(first, second): p for first, second, p in self.said}
        return [Verdict(table[first, second], f"{first} or {second}") for _, first, second in items]


def group(*texts: str, prompt: str = "q") -> Group:
    return Group(Prompt.of(prompt), tuple(Completion(text) for text in texts))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as chosen:
        yield chosen


def test_both_orders_are_averaged_into_a_soft_preference():
    """A first: 0.9. B first: 0.7 for B, so 0.3 for A. p(A) = (0.9 + 0.3) / 2 = 0.6, and the orders disagree."""
    compare = Compare(Scripted((("A", "B", 0.9), ("B", "A", 0.7))))
    (preference,) = compare([group("A", "B")])[0].preferences
    assert preference.p == pytest.approx(0.6)
    assert preference.orders == pytest.approx((0.9, 0.3))
    assert preference.flipped is True
    assert preference.raw == ("A or B", "B or A")
    assert preference.by == "compare:scripted"
    assert isinstance(compare, Critic)
    assert isinstance(compare.by, Comparer)


@given(st.floats(0, 1), st.floats(0, 1))
def test_position_bias_cancels(quality, bias):
    """A comparer that adds the same to whatever stands first comes out fair: 0.5 + (q + b)/2 and 0.5 + (-q + b)/2."""
    first, second = 0.5 + (quality / 2 + bias / 2) / 2, 0.5 + (-quality / 2 + bias / 2) / 2
    (preference,) = Compare(Scripted((("A", "B", first), ("B", "A", second))))([group("A", "B")])[0].preferences
    assert preference.p == pytest.approx(0.5 + quality / 4)


def test_identical_answers_tie_without_a_question():
    by = Scripted(())
    (preference,) = Compare(by)([group("same", "same")])[0].preferences
    assert (preference.p, preference.orders, preference.raw) == (0.5, (), ())
    assert by.asked == []


def test_one_abstention_of_two_silences_the_pair_unless_told_otherwise():
    said = (("A", "B", None), ("B", "A", 0.2))
    (strict,) = Compare(Scripted(said))([group("A", "B")])[0].preferences
    assert strict.p is None
    assert strict.orders == (None, 0.8)
    assert strict.flipped is None
    (kept,) = Compare(Scripted(said), half="keep")([group("A", "B")])[0].preferences
    assert kept.p == 0.8
    silent = (("A", "B", None), ("B", "A", None))
    (nothing,) = Compare(Scripted(silent, name="silent"), half="keep")([group("A", "B")])[0].preferences
    assert nothing.p is None


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ("all", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("adjacent", [(0, 1), (1, 2), (2, 3)]),
        ("first", [(0, 1), (0, 2), (0, 3)]),
    ],
)
def test_which_pairs_are_asked(pairs, wanted):
    """Four answers: 6, 3 or 3 pairs, two questions each; the plan's estimate says the same."""
    texts = "ABCD"
    by = Scripted(tuple((a, b, 0.5) for a in texts for b in texts if a != b))
    compare = Compare(by, pairs=pairs)
    judged = compare([group(*texts), group("A"), group()])
    assert [(p.left, p.right) for p in judged[0].preferences] == wanted
    assert judged[1].preferences == judged[2].preferences == ()
    assert len(by.asked) == 2 * len(wanted) == compare.calls(groups=1, completions=4)


def test_one_order_is_tossed_by_content_not_by_place():
    """orders=1: which answer stands first depends on the pair alone, and over many pairs on neither side."""
    texts = [f"answer {i}" for i in range(40)]
    by = Scripted(tuple((a, b, 0.75) for a in texts for b in texts if a != b))
    compare = Compare(by, orders=1)
    pairs = [(texts[i], texts[i + 1]) for i in range(0, 40, 2)]
    compare([group(a, b) for a, b in pairs])
    shown = dict.fromkeys(by.asked)
    first = sum((a, b) in shown for a, b in pairs)
    assert len(by.asked) == 20
    assert 4 <= first <= 16
    before = len(by.asked)
    (turned,) = compare([group(pairs[0][1], pairs[0][0])])[0].preferences
    assert len(by.asked) == before, "the same pair the other way round is the same question"
    assert turned.p in (0.75, 0.25)
    assert turned.orders == ()


def test_every_verdict_is_asked_once(store):
    """Asked again, in another stage or run, nothing is asked; another prompt or comparer is another question."""
    said = (("A", "B", 0.9), ("B", "A", None))
    by = Scripted(said)
    items: list[Item] = [(Prompt.of("q"), "A", "B"), (Prompt.of("q"), "B", "A"), (Prompt.of("q"), "A", "B")]
    with metering() as first:
        assert [v.p for v in ask(by, items)] == [0.9, None, 0.9]
    assert by.asked == [("A", "B"), ("B", "A")], "a repeated question is asked once, an abstention is an answer"
    assert (first["critic_calls"], first["cached"]) == (3, 1)
    with metering() as again:
        assert [v.raw for v in ask(Scripted(said), items)] == ["A or B", "B or A", "A or B"]
    assert (again["critic_calls"], again["cached"]) == (3, 3)
    ask(by, [(Prompt.of("another"), "A", "B")])
    ask(Scripted(said, name="other"), items[:1])
    assert len(by.asked) == 3
    with sqlite3.connect(store.root / FILE) as table:
        assert table.execute("SELECT count(*) FROM verdicts").fetchone() == (4,)


def test_more_questions_than_one_statement_holds():
    texts = [str(i) for i in range(1300)]
    by = Scripted(tuple((text, "x", 1.0) for text in texts))
    items = [(Prompt.of("q"), text, "x") for text in texts]
    assert ask(by, items) == ask(by, items)
    assert len(by.asked) == 1300


def test_a_broken_cache_says_that_nothing_is_lost(store):
    store.create()
    (store.root / FILE).write_bytes(b"this is no database, whatever its name says" * 30)
    with pytest.raises(UserError, match="Delete it: no result is lost"):
        ask(Scripted((("A", "B", 1.0),)), [(Prompt.of("q"), "A", "B")])


def test_a_comparer_that_loses_items_is_a_defect():
    @dataclass(frozen=True)
    class Mute:
        name: str = "mute"

        def compare(self, items: Sequence[Item]) -> list[Verdict]:
            return []

    with pytest.raises(ValueError, match="0 verdicts for 1 items"):
        ask(Mute(), [(Prompt.of("q"), "A", "B")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": 3}, "1 or 2"),
        ({"pairs": "adjacant"}, 'Did you mean "adjacent"'),
        ({"half": "guess"}, "one of abstain, keep"),
    ],
)
def test_unknown_options_are_refused_where_they_are_written(options, message):
    with pytest.raises(UserError, match=message):
        Compare(Scripted(()), **options)


def test_what_is_no_comparer_is_refused():
    with pytest.raises(UserError, match="something with compare"):
        Compare("gpt")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Verdict(1.5)
