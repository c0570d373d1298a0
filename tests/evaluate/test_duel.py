"""Duels: prompts meet by id, the win rate is worked by hand, swapping the sides mirrors it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluate.study import Reader, pretend, questions, written
from trueline.errors import UserError
from trueline.evaluate.duel import PAIRS, Duel, decide, duel, match, swapped
from trueline.feedback.compare import Compare
from trueline.feedback.protocol import Verdict
from trueline.feedback.rule import Rule
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Preference, Prompt, read_jsonl, write_jsonl
from trueline.store import Groups, using

ENDS = ("left-1", "1"), ("right-2", "2")


def group(id: str, *texts: str) -> Group:
    return Group(Prompt.of(id, id=id), tuple(Completion(text) for text in texts))


def judged(*ps: float | None, left: str = "aaaa", right: str = "bb") -> list[Group]:
    """One pair per preference, all judged by critic "c"."""
    return [
        Group(Prompt.of(str(i), id=str(i)), (Completion(left), Completion(right)), (), (Preference(0, 1, p, "c"),))
        for i, p in enumerate(ps)
    ]


@stage(Groups, name="fixed")
def fixed(work: Work, texts: dict[str, tuple[str, ...]]) -> None:
    """Answers by prompt id."""
    write_jsonl(work.dir / "groups.jsonl", [group(id, *of) for id, of in texts.items()])
    work.count("samples", sum(map(len, texts.values())))


def length(text: str) -> float:
    return float(len(text))


def test_a_duel_of_four_prompts(tmp_path):
    """Marks 0.9 v 0.1, 0.9 v 0.1, 0.1 v 0.9, 0.5 v 0.5: two wins, a loss, a tie of equal texts.

    Without a lean to the first each verdict is sigma(4 * 0.8) = 0.960834 for the better one, so the win rate is
    (0.960834 + 0.960834 + 0.039166 + 0.5) / 4 = 0.615209. Three pairs, two orders: six questions.
    """
    left = fixed({"a": ("[0.90]",), "b": ("x[0.90]",), "c": ("[0.10]",), "d": ("[0.50]",)}, label="left")
    right = fixed({"d": ("[0.50]",), "c": ("[0.90]",), "b": ("[0.10]",), "a": ("[0.10]",)}, label="right")
    fight = duel(left, right, Compare(Reader(position=0.0)))
    make(fight, store=tmp_path)
    with using(tmp_path):
        result = msgspec.json.decode((fight.path / "report.json").read_bytes(), type=Duel)
        assert result.raw.rate.mean == pytest.approx(0.6152085, abs=1e-6)
        assert (result.raw.wins, result.raw.losses, result.raw.ties, result.raw.pairs) == (2, 1, 1, 4)
        assert (result.raw.flips, result.raw.both_orders) == (0, 3)
        assert (result.left.fingerprint, result.right.name) == (left.fingerprint, right.name)
        assert (result.left.characters, result.right.characters) == (6.25, 6.0)
        assert result.length.not_longer.n == 3
        counts = {"critic_calls": 6, "pairs": 4, "ties": 1, "flips": 0, "abstained": 0}
        assert {name: fight.record["counts"][name] for name in counts} == counts
        pairs = list(read_jsonl(fight.path / PAIRS, Group))
        assert [pair.prompt.id for pair in pairs] == ["a", "b", "c", "d"]
        assert pairs[2].preferences[0].raw == ("Output (b)", "Output (a)")


def test_both_ways_add_up_to_one(tmp_path):
    """duel(a, b) + duel(b, a) = 1: win rate, interval ends, equal-length rate; with a judge that leans both ways."""
    asked = questions(40)
    policy = pretend()
    one, other = written(policy, asked, 0.6, wordy=2), written(policy, asked, 0.5)
    critic = Compare(Reader(position=0.7, length=0.5))
    there, back = duel(one, other, critic), duel(other, one, critic)
    make(there, back, store=tmp_path)
    with using(tmp_path):
        a, b = (json.loads((fight.path / "report.json").read_bytes()) for fight in (there, back))
        for x, y in ((a["raw"]["rate"], b["raw"]["rate"]), (a["length"]["adjusted"], b["length"]["adjusted"])):
            assert x["mean"] + y["mean"] == pytest.approx(1)
            assert x["low"] + y["high"] == pytest.approx(1)
        assert a["raw"]["flips"] == b["raw"]["flips"] > 0
        assert back.record["counts"]["cached"] == back.record["counts"]["critic_calls"], "the same questions"


@settings(max_examples=30)
@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=12))
def test_swapping_judged_pairs_mirrors_the_result(ps):
    pairs = judged(*ps)
    one, other = decide(pairs, "c", *ENDS), decide(swapped(pairs), "c", ENDS[1], ENDS[0])
    assert (one.left, one.right) == (other.right, other.left)
    assert (one.raw.wins, one.raw.losses, one.raw.abstained) == (other.raw.losses, other.raw.wins, other.raw.abstained)
    if one.raw.rate.mean is not None:
        assert one.raw.rate.mean + other.raw.rate.mean == pytest.approx(1)
    assert swapped(swapped(pairs)) == pairs


def test_several_answers_per_prompt_meet_in_order():
    pairs, unmatched = match([group("a", "1", "2")], [group("a", "3", "4")])
    assert [[c.text for c in pair.completions] for pair in pairs] == [["1", "3"], ["2", "4"]]
    assert unmatched == []
    result = decide([p.with_preferences([Preference(0, 1, 1.0, "c")]) for p in pairs], "c", *ENDS)
    assert (result.raw.pairs, result.raw.rate.n) == (2, 1)


def test_prompts_on_one_side_only_stop_the_duel_unless_allowed(tmp_path):
    """b and c are one-sided: two of three prompts. Refused at 0, at a half; let through at 0.7, dropped and counted."""
    left, right = fixed({"a": ("[0.9]",), "b": ("[0.9]",)}), fixed({"a": ("[0.1]",), "c": ("[0.1]",)})
    for allowed in (0.0, 0.5):
        with pytest.raises(UserError, match=r"2 of 3 rows \(66.7%\) are unmatched prompts"):
            make(duel(left, right, Compare(Reader()), allow_unmatched=allowed), store=tmp_path)
    fight = duel(left, right, Compare(Reader()), allow_unmatched=0.7)
    make(fight, store=tmp_path)
    with using(tmp_path):
        assert fight.record["counts"]["dropped"] == 2
        assert json.loads((fight.path / "report.json").read_bytes())["unmatched"] == 2
        dropped = [json.loads(line)["row"] for line in (fight.path / "dropped.jsonl").read_text().splitlines()]
        assert dropped == [{"prompt": "b", "side": "left"}, {"prompt": "c", "side": "right"}]


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ([group("a", "x"), group("a", "y")], [group("a", "z")], "left side: prompt a stands twice"),
        ([group("a", "x")], [group("a", "y", "z")], "1 answers on the left, 2 on the right"),
        ([group("a", "x")], [group("b", "y")], "no prompt in common"),
    ],
)
def test_sides_that_do_not_fit(left, right, message):
    with pytest.raises(UserError, match=message):
        match(left, right)


def test_a_critic_without_preferences_cannot_duel(tmp_path):
    sides = fixed({"a": ("x",)}), fixed({"a": ("y",)})
    with pytest.raises(UserError, match=r"gave a preference on 0 of 1 pairs.*Use a comparing critic"):
        make(duel(*sides, Rule(length)), store=tmp_path)


@dataclass(frozen=True)
class Bare:
    name: str = "bare"

    def compare(self, items):
        return []


def test_a_bare_comparer_is_refused_when_the_plan_is_made(tmp_path):
    with using(tmp_path), pytest.raises(UserError, match=r"Wrap it: Compare\(by=...\)"):
        _ = duel(fixed({"a": ("x",)}), fixed({"a": ("y",)}), Bare()).count


@dataclass(frozen=True)
class Reads:
    """A comparer that has to be open, and always says "first"."""

    name: str = "reads"
    log: list[str] = field(default_factory=list, compare=False)

    def __enter__(self):
        self.log.append("open")
        return self

    def __exit__(self, *error):
        self.log.append("close")

    def compare(self, items):
        assert self.log[-1] == "open"
        return [Verdict(1.0) for _ in items]


def test_a_judge_that_always_says_first_is_opened_once_and_warned_of(tmp_path, caplog):
    """Twelve pairs in shards of five: one opening, twelve flips, win rate one half, and a warning."""
    texts = {str(i): f"{i}" for i in range(12)}
    left = fixed({id: (text,) for id, text in texts.items()}, label="left")
    right = fixed({id: (text + "!",) for id, text in texts.items()}, label="right")
    by = Reads()
    fight = duel(left, right, Compare(by))
    make(fight, store=tmp_path, machine=Machine(shard=5))
    assert by.log == ["open", "close"]
    with using(tmp_path):
        result = msgspec.json.decode((fight.path / "report.json").read_bytes(), type=Duel)
        assert (result.raw.flips, result.raw.rate.mean, result.raw.flip_rate) == (12, 0.5, 1.0)
        assert "12 of 12 pairs (100%) name different winners" in fight.record["notes"]["warning"]
    assert "name different winners" in caplog.text
