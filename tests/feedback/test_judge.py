"""Judging: feedback is added, nothing is rewritten, abstentions and calls are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from trueline.errors import UserError
from trueline.feedback.compare import Compare
from trueline.feedback.judge import check_appended, judge
from trueline.feedback.protocol import Item, Verdict
from trueline.feedback.rule import Rule
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.store import Groups, using


@stage(Groups, name="answers", estimate=lambda texts: {"prompts": len(texts), "samples": sum(len(of) for of in texts)})
def answers(work: Work, texts: tuple[tuple[str, ...], ...]) -> None:
    """One prompt per tuple of texts."""
    groups = [
        Group(Prompt.of(f"question {i}", id=f"q{i}"), tuple(Completion(t) for t in of)) for i, of in enumerate(texts)
    ]
    write_jsonl(work.dir / "groups.jsonl", groups)
    work.count("prompts", len(groups))
    work.count("samples", sum(map(len, texts)))


@dataclass(frozen=True)
class Longer:
    """Prefers the longer answer; abstains where either is "?"; `first` is its bias for the answer shown first."""

    first: float = 0.0
    name: str = "longer"

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        out = []
        for _, a, b in items:
            fair = 0.5 if len(a) == len(b) else 0.8 if len(a) > len(b) else 0.2
            out.append(Verdict(None if "?" in (a, b) else min(1.0, fair + self.first), f"{a} | {b}"))
        return out


@dataclass(frozen=True)
class Meddler:
    """A critic that does what `how` says to the groups it is given."""

    how: str
    name: str = "meddler"

    def calls(self, groups: int, completions: int) -> int:
        return 0

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        said = [g.with_feedback(Feedback("meddler", score=1.0) for _ in g.completions) for g in groups]
        if self.how == "drops":
            return said[1:]
        if self.how == "reorders":
            return said[::-1]
        return [Group(g.prompt, (Completion("mine"), *g.completions[1:]), g.feedback) for g in said]


def brevity(text: str) -> float | None:
    return None if text == "?" else -len(text)


def test_scores_and_preferences_stand_side_by_side(tmp_path):
    """Two prompts, two answers each: a rule scores four (one abstains), a comparer is asked two pairs in two orders.

    Pair (aaa, b): 0.8 and 1 - 0.2 = 0.8, so p 0.8. Pair (?, cc): both orders abstain.
    """
    drawn = answers((("aaa", "b"), ("?", "cc")))
    judged = judge(judge(drawn, Rule(brevity)), Compare(Longer()))
    assert judged.count == {"prompts": 2, "samples": 4, "critic_calls": 4}, (
        "the plan's estimate before anything is made"
    )
    make(judged, store=tmp_path)
    with using(tmp_path):
        groups = list(judged.read())
        assert [g.scores() for g in groups] == [[-3.0, -1.0], [None, -2.0]]
        assert [g.preferences[0].p for g in groups] == [0.8, None]
        assert groups[0].preferences[0].orders == (0.8, 0.8)
        assert groups[0].preferences[0].raw == ("aaa | b", "b | aaa")
        first = judged.parents[0].record["counts"]
        assert first == {"scored": 3, "abstained": 1}
        second = judged.record["counts"]
        assert (second["critic_calls"], second["cached"], second["compared"], second["abstained"]) == (4, 0, 2, 1)


def test_another_stage_with_the_same_questions_pays_nothing(tmp_path):
    """Verdicts are remembered across stages: the same pairs under another critic setting cost no call."""
    drawn = answers((("aaa", "b"), ("dd", "cc")))
    one, other = judge(drawn, Compare(Longer())), judge(drawn, Compare(Longer(), pairs="first"))
    make(one, other, store=tmp_path)
    with using(tmp_path):
        assert one.record["counts"]["cached"] == 0
        assert other.record["counts"]["cached"] == other.record["counts"]["critic_calls"] == 4


@pytest.mark.parametrize("how", ["drops", "reorders", "rewrites"])
def test_a_critic_that_does_more_than_add_is_refused(tmp_path, how):
    with pytest.raises(UserError, match="critic meddler"):
        make(judge(answers((("a", "b"), ("c", "d"))), Meddler(how)), store=tmp_path)


def test_feedback_that_was_there_must_stay():
    before = Group(Prompt.of("q"), (Completion("a"),), ((Feedback("x", score=1.0),),))
    check_appended([before], [before.with_feedback([Feedback("y", score=2.0)])], "y")
    with pytest.raises(UserError, match="changed what it was given"):
        check_appended([before], [Group(before.prompt, before.completions, ((Feedback("y"),),))], "y")
    with pytest.raises(UserError, match="changed what it was given"):
        check_appended([before], [Group(before.prompt, before.completions)], "y")


def test_a_bare_comparer_is_told_how_to_become_a_critic(tmp_path):
    with pytest.raises(UserError, match=r"Wrap it: Compare\(by=...\)"):
        make(judge(answers((("a", "b"),)), Longer()), store=tmp_path)


def test_a_lambda_has_no_identity():
    with pytest.raises(UserError, match="a lambda"):
        judge(answers((("a",),)), Rule(lambda text: 1.0))
