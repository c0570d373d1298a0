"""`accuracy`: on held-out pairs, how often a policy prefers the answer that people preferred.

    accuracy(Pairs(held_out), score(dpo, Pairs(held_out)), score(sft, Pairs(held_out)))

Needs no sampling: the log-probs of the two answers are all it reads. Three readings stand side by side, because each
alone misleads: the *implicit reward* log pi - log reference (what DPO trains; DPO paper, section 4), the plain log-prob
of the whole answer (favours short answers), and the longer answer (the baseline to beat). A policy that is its own
reference has an implicit reward of 0 everywhere: all ties, one half. A policy with a preference head has a fourth, the
reward that its head reads:

    accuracy(pairs, ..., rewards=judge(held_out, Reward(dph)))

Files: `report.json` (an `Accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trueline.errors import UserError
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.statistics import Interval, mean_interval, per_prompt
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.records import Group, Message, Record, content_hash, read_jsonl
from trueline.store import Groups, Logprobs, Report


class Pairwise(Protocol):
    """A view whose examples hold two answers and which is better (`train.views.Pairs`)."""

    def examples(self) -> Iterator[Any]: ...


class Row(Record, frozen=True):
    """A line of `logprobs.jsonl`."""

    key: str
    logps: tuple[float, ...]
    counts: tuple[int, ...]


class Accuracy(Record, frozen=True):
    """Shares between 0 and 1 over prompts, ties counted half; `nats` is the loss per token of the preferred answers.

    pairs: decided pairs that were read; skipped: pairs without a preference, or dropped by scoring (too long). head:
    where rewards were given.
    """

    implicit: Interval
    likelihood: Interval
    longer: Interval
    nats: Interval
    pairs: int
    skipped: int = 0
    head: Interval | None = None


@dataclass(frozen=True)
class Judged:
    """One decided pair, the preferred answer first: log-probs, reference log-probs, token counts, characters, and the
    rewards, where they are known.
    """

    prompt: str
    logps: tuple[float, float]
    reference: tuple[float, float]
    counts: tuple[int, int]
    characters: tuple[int, int]
    rewards: tuple[float, float] | None = None


@stage(Report, rev=1, label="accuracy")
def accuracy(
    work: Work, pairs: Pairwise, logps: Logprobs, reference: Logprobs, rewards: Groups | None = added(None)
) -> None:
    """How often the policy behind `logps` agrees with the preferences of `pairs`; both log-probs are of that view.

    rewards: the groups of that view, scored by the policy's head (of several critics, the last one counts).
    """
    tables = [{row.key: row for row in read_jsonl(x.path / "logprobs.jsonl", Row)} for x in (logps, reference)]
    marks = dict(scored(rewards.read())) if rewards is not None else {}
    judged, skipped = [], 0
    for example in pairs.examples():
        rows = [table.get(example.key) for table in tables]
        if example.skip or example.p == 0.5 or rows[0] is None or rows[1] is None:
            skipped += 1
            continue
        first = 0 if example.p > 0.5 else 1
        prompt = asked(example.messages)
        lengths = [len(answer.text) for answer in example.answers]
        both: list[Sequence[float]] = [rows[0].logps, rows[1].logps, rows[0].counts, lengths]
        said = [marks[prompt, answer.text] for answer in example.answers if (prompt, answer.text) in marks]
        if rewards is not None and len(said) < 2:
            got = f'the pair "{example.answers[0].text[:40]}..." has no reward'
            raise UserError(f"accuracy of {logps.name}", got, "a score for each answer", "Judge the view's own groups.")
        both += [said] if rewards is not None else []
        judged.append(Judged(prompt, *((x[first], x[1 - first]) for x in both)))  # type: ignore[arg-type]
    if not judged:
        raise UserError(
            f"accuracy of {logps.name}", f"none of {skipped} pairs could be read", "pairs with a preference",
            "Score both policies on this very view, and check lengths with `trueline check`.",
        )  # fmt: skip
    result = decide(judged, skipped)
    write_figures(work, result)
    work.count("pairs", result.pairs)
    work.count("skipped", skipped)


def asked(messages: Iterable[Message]) -> str:
    """What stands for a conversation."""
    return content_hash([(m.role, m.content) for m in messages])


def scored(groups: Iterable[Group]) -> Iterator[tuple[tuple[str, str], float]]:
    """((conversation, answer), reward) of every scored answer."""
    for group in groups:
        prompt = asked(group.prompt.messages)
        for completion, score in zip(group.completions, group.scores(), strict=True):
            if score is not None:
                yield (prompt, completion.text), score


def decide(judged: Iterable[Judged], skipped: int = 0) -> Accuracy:
    """The readings of judged pairs.

    Worked: log-probs (-10, -12) against (-11, -11): implicit (1) > (-1), a hit; the plain log-prob is a hit too.
    """
    judged = list(judged)
    prompts = [pair.prompt for pair in judged]

    def over_prompts(values: list[float]) -> Interval:
        return mean_interval(list(per_prompt(values, prompts).values()))

    def implicit(pair: Judged) -> tuple[float, float]:
        return pair.logps[0] - pair.reference[0], pair.logps[1] - pair.reference[1]

    return Accuracy(
        implicit=over_prompts([hit(*implicit(pair)) for pair in judged]),
        likelihood=over_prompts([hit(*pair.logps) for pair in judged]),
        longer=over_prompts([hit(*pair.characters) for pair in judged]),
        nats=over_prompts([-pair.logps[0] / max(pair.counts[0], 1) for pair in judged]),
        pairs=len(judged),
        skipped=skipped,
        head=over_prompts([hit(*pair.rewards) for pair in judged if pair.rewards]) if judged[0].rewards else None,
    )


def hit(preferred: float, other: float) -> float:
    """1 where the preferred answer has the higher value, 1/2 for a tie: a dead reading scores chance."""
    return 0.5 if preferred == other else float(preferred > other)


def read(report: Report) -> Accuracy:
    """The result of a made `accuracy`."""
    return read_figures(report, Accuracy)
