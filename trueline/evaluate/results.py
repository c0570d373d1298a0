"""What a report knows of its arms, as records, gathered by pure functions from groups and duels.

An arm is one method's answers to the common prompts. Everything a reader is told stands in `Result` first (it is
`report.json`), and every number there names the artefact it came from; the table and the page only lay it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trueline.errors import UserError
from trueline.evaluate.accuracy import Accuracy
from trueline.evaluate.length import LengthControlled
from trueline.evaluate.paired import Paired
from trueline.evaluate.statistics import Interval, WinRate, difference, mean_interval, per_prompt
from trueline.records import Group, Record
from trueline.sample.protocol import money


class Step(Record, frozen=True):
    """One artefact on the way to an arm: what its record says it took and counted; `parents` by name."""

    name: str
    stage: str
    fingerprint: str
    kind: str = ""
    parents: tuple[str, ...] = ()
    seconds: float | None = None
    counts: dict[str, int] = {}
    record: dict[str, Any] = {}


class Cost(Record, frozen=True):
    """What some steps took: those on the way to an arm's policy, from where its lineage begins, without evaluating it.

    teacher: answers that teachers were asked for. feedback: every verdict used, `cached` of them remembered from an
    earlier question. calls: requests to engines over HTTP whose answers were used, whoever asked, `cached_calls` of
    them kept from before; prompt_tokens and completion_tokens are theirs. microusd: what these answers cost, kept ones
    too; paid_microusd: what was paid when the steps were made; unpriced_calls: those of the calls whose price nobody
    knows, so that the cost is at least `microusd`.
    """

    feedback: int = 0
    cached: int = 0
    samples: int = 0
    train_tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    teacher: int = 0
    calls: int = 0
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    microusd: int = 0
    paid_microusd: int = 0
    unpriced_calls: int = 0

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Cost:
        """What the records of these steps add up to."""

        def total(count: str) -> int:
            return sum(step.counts.get(count, 0) for step in steps)

        own = ("cached", "samples", "train_tokens", "calls", "cached_calls", "prompt_tokens", "completion_tokens")
        return cls(
            feedback=total("critic_calls"),
            teacher=total("teacher_calls"),
            microusd=total("cost_microusd"),
            paid_microusd=total("paid_microusd"),
            unpriced_calls=total("unpriced_calls"),
            seconds=sum(step.seconds or 0.0 for step in steps),
            steps=len(steps),
            **{name: total(name) for name in own},
        )

    @property
    def oracle(self) -> int:
        """How often an oracle was asked: teachers for answers, critics for verdicts."""
        return self.teacher + self.feedback

    @property
    def money(self) -> str:
        """The cost for people: '$1.2345', 'unknown', 'at least $0.5000', '$0'."""
        return money({"cost_microusd": self.microusd, "unpriced_calls": self.unpriced_calls})


class Answers(Record, frozen=True):
    """An arm's answers in numbers, per prompt first: the score's mean, length, and the share cut at max_tokens."""

    score: Interval
    characters: Interval
    tokens: Interval
    cut: float
    samples: int
    unscored: int = 0


class ArmResult(Record, frozen=True):
    """One row of the method table.

    `gap` is the paired difference in score from the baseline over common prompts; `win` is of the duel named `duel`
    against the baseline, judged by `win_by`, from this arm's side; `length` too, with the prompts' difficulty from the
    other arms' duels by the same judge where there are two or more. `kl` is KL(arm || reference) per
    answer, in nats. `pairs` is the accuracy on held-out pairs.
    """

    name: str
    colour: int
    samples: str
    fingerprint: str
    answers: Answers
    cost: Cost
    policy: str = ""
    gap: Interval | None = None
    win: WinRate | None = None
    length: LengthControlled | None = None
    win_by: str = ""
    duel: str = ""
    kl: Interval | None = None
    pairs: Accuracy | None = None


class Answer(Record, frozen=True):
    """One answer at a glance: the reader's question, the figure that answers it, the sentence that says how far."""

    question: str
    figure: str = ""
    text: str = ""


class Result(Record, frozen=True):
    """A whole report: `report.json`.

    `close`: arms whose paired score (without scores: win rate) the best arm's cannot be told apart from. `paired`:
    every two arms that one judge compared with the baseline.
    """

    title: str
    baseline: str
    score_by: str
    arms: tuple[ArmResult, ...]
    close: tuple[str, ...] = ()
    headline: tuple[Answer, ...] = ()
    steps: tuple[Step, ...] = ()
    paired: tuple[Paired, ...] = ()

    def arm(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.name == name)


def choose_score(groups: Sequence[Sequence[Group]], wanted: str, names: Sequence[str]) -> str:
    """The critic whose scores stand in the table: `wanted`, else the last one that scored every arm; "" without any."""
    by_arm = [_scorers(arm) for arm in groups]
    common = [by for by in (by_arm[0] if by_arm else []) if all(by in arm for arm in by_arm)]
    if wanted and wanted not in common:
        lacking = [name for name, arm in zip(names, by_arm, strict=True) if wanted not in arm]
        raise UserError(
            f"report(score={wanted!r})", f"no such score on {', '.join(lacking)}", "a critic that scored every arm",
            f"Known on all arms: {', '.join(common) or 'none'}. Run judge(samples, critic) on each first.",
        )  # fmt: skip
    return wanted or (common[-1] if common else "")


def _scorers(groups: Sequence[Group]) -> list[str]:
    """Critics that gave a score, in the order in which they first spoke."""
    said = (f for group in groups for of in group.feedback for f in of)
    return list(dict.fromkeys(f.by for f in said if f.score is not None))


def scores(groups: Sequence[Group], by: str) -> dict[str, float | None]:
    """Mean score by critic `by` per prompt; None where it abstained on all of a prompt's answers."""
    return _by_prompt(groups, [group.scores(by) if by else [None] * len(group.completions) for group in groups])


def describe(groups: Sequence[Group], by: str) -> Answers:
    """An arm's answers in numbers."""
    completions = [c for group in groups for c in group.completions]
    if not completions:
        raise UserError("report", "an arm has no completions", "at least one answer per arm")
    marks = scores(groups, by)
    characters = _by_prompt(groups, [[len(c.text) for c in group.completions] for group in groups])
    tokens = _by_prompt(groups, [[None if c.tokens is None else len(c.tokens) for c in g.completions] for g in groups])
    return Answers(
        score=mean_interval(list(marks.values())),
        characters=mean_interval(list(characters.values())),
        tokens=mean_interval(list(tokens.values())),
        cut=sum(c.stopped == "length" for c in completions) / len(completions),
        samples=len(completions),
        unscored=sum(value is None for group in groups for value in group.scores(by)) if by else 0,
    )


def _by_prompt(groups: Sequence[Group], values: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
    prompts = [group.prompt.id for group, of in zip(groups, values, strict=True) for _ in of]
    return per_prompt([value for of in values for value in of], prompts)


def rivals(best: str, marks: Mapping[str, Mapping[str, float | None]]) -> tuple[str, ...]:
    """Arms whose paired difference in score from the best arm has an interval that holds zero."""
    return tuple(name for name in marks if name != best and not difference(marks[best], marks[name]).excludes_zero)


def rivals_by_wins(best: str, paired: Sequence[Paired]) -> tuple[str, ...]:
    """Arms whose paired difference in win rate from the best arm has an interval that holds zero."""
    close = (pair for pair in paired if best in (pair.first, pair.second) and not pair.win.excludes_zero)
    return tuple(pair.second if pair.first == best else pair.first for pair in close)


def kl_per_answer(own: Mapping[str, float], reference: Mapping[str, float]) -> Interval:
    """KL(arm || reference) per answer in nats: the mean of log p_arm - log p_reference over the arm's own samples.

    Unbiased where the answers were sampled at temperature 1 without truncation. Keys are examples.

    >>> kl_per_answer({"a": -1.0, "b": -2.0}, {"a": -1.5, "b": -3.5}).mean
    1.0
    """
    return difference(own, reference)
