"""Answers side by side: per prompt, what each arm answered and what the critics said of it, ready to be laid out.

Nothing is chosen: the first prompts in their own order, each arm's first answer, every word that was said of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trueline.evaluate.charts import number
from trueline.records import Completion, Feedback, Group, Message, Preference


@dataclass(frozen=True)
class Remark:
    """One critic's word on one answer: who, what (a score, a label, a probability of winning), and the raw reply."""

    by: str
    value: str
    note: str = ""
    flag: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Shown:
    """One arm's answer."""

    name: str
    colour: int
    text: str
    size: str
    cut: bool
    said: tuple[Remark, ...]


@dataclass(frozen=True)
class Sample:
    """One prompt with every arm's answer; `tags` are what the browser filters by."""

    id: str
    turns: tuple[Message, ...]
    reference: str | None
    answers: tuple[Shown, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """An arm to show: its groups by prompt id, and its judged pairs against the baseline (its own answer first)."""

    name: str
    colour: int
    groups: Mapping[str, Group]
    pairs: Mapping[str, Group]


def side_by_side(sides: Sequence[Side], baseline: str, by: str, limit: int) -> list[Sample]:
    """The first `limit` prompts that the baseline answered, with the answer of every arm that has one."""
    base = next(side for side in sides if side.name == baseline)
    samples = []
    for id, group in list(base.groups.items())[:limit]:
        here = [side for side in sides if id in side.groups and side.groups[id].completions]
        answers = tuple(_shown(side, side.groups[id], side.pairs.get(id), baseline) for side in here)
        tags = dict.fromkeys(tag for side in here for tag in _tags(side, base, id, by))
        samples.append(Sample(id, group.prompt.messages, group.prompt.reference, answers, tuple(tags)))
    return samples


def _shown(side: Side, group: Group, pair: Group | None, baseline: str) -> Shown:
    answer = group.completions[0]
    said = [_remark(f) for f in (group.feedback[0] if group.feedback else ())]
    if pair is not None:
        said += [_verdict(p, baseline) for p in pair.preferences]
    return Shown(side.name, side.colour, answer.text, _size(answer), answer.stopped == "length", tuple(said))


def _size(answer: Completion) -> str:
    tokens = f", {len(answer.tokens)} tokens" if answer.tokens is not None else ""
    return f"{len(answer.text)} characters{tokens}"


def _remark(f: Feedback) -> Remark:
    value = ", ".join(x for x in (number(f.score) if f.score is not None else "", f.label or "") if x)
    return Remark(f.by, value or ("" if f.text else "–"), f.text or "", "abstained" if f.abstained else "", f.raw or "")


def _verdict(p: Preference, baseline: str) -> Remark:
    """How the pair went, from this answer's side (which stands first)."""
    if p.p is None:
        return Remark(p.by, f"no verdict against {baseline}", "", "abstained", "\n".join(p.raw))
    won = "tie with" if p.p == 0.5 else "better than" if p.p > 0.5 else "worse than"
    if not p.orders:
        note = "(same text)" if p.p == 0.5 else ""
    else:
        note = f"({number(p.p, 2)}; by order {' and '.join(number(x, 2) for x in p.orders)})"
    return Remark(p.by, f"{won} {baseline}", note, "turned with the order" if p.flipped else "", "\n".join(p.raw))


def _tags(side: Side, base: Side, id: str, by: str) -> list[str]:
    group, pair = side.groups[id], side.pairs.get(id)
    tags = ["cut"] if group.completions[0].stopped == "length" else []
    said = [*(f.abstained for f in (group.feedback[0] if group.feedback else ()))]
    if pair is not None:
        said += [p.p is None for p in pair.preferences]
        tags += ["flip"] if any(p.flipped for p in pair.preferences) else []
    tags += ["abstained"] if any(said) else []
    outcome = _outcome(group, base.groups[id], pair, by) if side is not base else None
    return [*tags, f"{outcome}-{side.colour}"] if outcome else tags


def _outcome(group: Group, base: Group, pair: Group | None, by: str) -> str | None:
    """Whether an answer beats the baseline's: by the duel where there is one, else by score."""
    if pair is not None and pair.preferences:
        p = pair.preferences[-1].p
        if p is not None:
            return "tie" if p == 0.5 else "win" if p > 0.5 else "loss"
    if not by:
        return None
    mine, other = group.scores(by)[0], base.scores(by)[0] if base.completions else None
    if mine is None or other is None:
        return None
    return "tie" if mine == other else "win" if mine > other else "loss"
