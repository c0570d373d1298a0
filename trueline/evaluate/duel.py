"""`duel`: how often one set of answers beats another, prompt by prompt.

    duel(dpo_samples, sft_samples, Compare(by=oracle))

Answers meet by prompt id; the i-th answer of the left meets the i-th of the right. The critic is the same kind of
thing that labels training data, so who judges, in which orders and with what memory is said in one place. The win
rate counts ties half and leaves abstentions out, its interval is over *prompts*, and beside it stand two numbers
that take length out (`length.LengthControlled`), because a judge that likes long answers is the oldest trick. What
other systems say of the prompts' difficulty is known only where several duels meet: in `report` and `leaderboard`.

Files: `report.json` (a `Duel`), `pairs.jsonl` (one group of two completions per pair, left first, with the verdict).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from trueline.errors import UserError
from trueline.evaluate.figures import write_figures
from trueline.evaluate.length import LengthControlled, Verdicts, length_controlled
from trueline.evaluate.statistics import WinRate, win_rate
from trueline.feedback.protocol import Critic, held_open, metering, one_sided, require_critic
from trueline.pipeline import Work, stage
from trueline.records import Group, Record, read_jsonl
from trueline.store import Groups, Report, shards

log = logging.getLogger("trueline")

PAIRS = "pairs.jsonl"


class Side(Record, frozen=True):
    """One side of a duel: which artefact, and how long its answers are (mean characters)."""

    name: str
    fingerprint: str
    characters: float | None = None


class Duel(Record, frozen=True):
    """What a duel found; `raw.rate` is the win rate of the left side."""

    left: Side
    right: Side
    critic: str
    raw: WinRate
    length: LengthControlled
    unmatched: int = 0


def _estimate(left: Groups, right: Groups, critic: Critic, **_: Any) -> dict[str, int]:
    require_critic(critic, "duel(critic=...)")
    pairs = min(left.count.get("samples", 0), right.count.get("samples", 0))
    return {"pairs": pairs, "critic_calls": critic.calls(pairs, 2 * pairs)}


@stage(Report, rev=2, label="duel", estimate=_estimate)
def duel(work: Work, left: Groups, right: Groups, critic: Critic, allow_unmatched: float = 0.0) -> None:
    """Win rate of `left` against `right` by the preferences of `critic`.

    allow_unmatched: share of prompts (0 to 1) that may be on one side only; they are dropped and counted, and a larger
    share is an error, because arms that were asked different questions cannot be compared. A critic whose two orders
    mostly name different winners is warned of, in the record too.
    """
    require_critic(critic, "duel(critic=...)")
    pairs, unmatched = match(left.read(), right.read())
    for prompt, side in unmatched:
        work.drop("prompt on one side only", {"prompt": prompt, "side": side})
    work.limit("unmatched prompts", len(unmatched), len(unmatched) + len({g.prompt.id for g in pairs}), allow_unmatched)

    def process(part: Sequence[Group]) -> list[Group]:
        with metering() as metered:
            said = critic(part)
        for name, n in metered.items():
            work.count(name, n)
        return said

    with held_open(critic):
        shards(work, pairs, process, out=PAIRS)
    judged = list(read_jsonl(work.dir / PAIRS, Group))
    result = decide(judged, critic.name, (left.name, left.fingerprint), (right.name, right.fingerprint), len(unmatched))
    write_figures(work, result)
    for name in ("pairs", "ties", "flips", "abstained"):
        work.count(name, getattr(result.raw, name))
    if warning := one_sided(critic.name, result.raw.flips, result.raw.both_orders):
        log.warning("%s", warning)
        work.note("warning", warning)


def match(left: Iterable[Group], right: Iterable[Group]) -> tuple[list[Group], list[tuple[str, str]]]:
    """One group of two completions (left's first) per pair, in left's order, and the prompts that only one side has.

    Raises `UserError` for a prompt that stands twice on a side, or has more answers on one side than on the other.
    """
    sides = [_by_prompt(groups, name) for groups, name in ((left, "left"), (right, "right"))]
    pairs = []
    for id, mine in sides[0].items():
        other = sides[1].get(id)
        if other is None:
            continue
        n, m = len(mine.completions), len(other.completions)
        if n != m:
            raise UserError(
                f"duel, prompt {id}", f"{n} answers on the left, {m} on the right", "equally many on both sides",
                "Draw both with the same Sampling(n=...).",
            )  # fmt: skip
        pairs += [Group(mine.prompt, pair) for pair in zip(mine.completions, other.completions, strict=True)]
    alone = [(id, "left") for id in sides[0] if id not in sides[1]]
    alone += [(id, "right") for id in sides[1] if id not in sides[0]]
    if not pairs:
        raise UserError(
            "duel", "the two sides have no prompt in common", "answers to the same prompts",
            "Draw both sides from the same Prompts.",
        )  # fmt: skip
    return pairs, alone


def decide(
    judged: Sequence[Group], critic: str, left: tuple[str, str], right: tuple[str, str], unmatched: int = 0
) -> Duel:
    """The result of judged pairs; `left` and `right` are (name, fingerprint). Raises where the critic compared none."""
    said = [next((p for p in reversed(group.preferences) if p.by == critic), None) for group in judged]
    found = [preference for preference in said if preference is not None]
    if len(found) != len(judged):
        raise UserError(
            f"duel judged by {critic}", f"it gave a preference on {len(found)} of {len(judged)} pairs",
            "a preference on every pair (None to abstain)", "Use a comparing critic: Compare(by=...).",
        )  # fmt: skip
    lengths = tuple([len(group.completions[side].text) for group in judged] for side in (0, 1))
    sides = [
        Side(name, fingerprint, sum(of) / len(of))
        for (name, fingerprint), of in zip((left, right), lengths, strict=True)
    ]
    verdicts = Verdicts.of(judged, critic)
    raw = win_rate(verdicts.ps, verdicts.prompts, [p.flipped for p in found])
    return Duel(sides[0], sides[1], critic, raw, length_controlled(verdicts), unmatched)


def swapped(judged: Sequence[Group]) -> list[Group]:
    """The same judged pairs with the right side on the left."""
    return [
        Group(
            group.prompt,
            group.completions[::-1],
            preferences=tuple(
                msgspec.structs.replace(p, left=1 - p.left, right=1 - p.right) for p in group.preferences
            ),
        )
        for group in judged
    ]


def _by_prompt(groups: Iterable[Group], side: str) -> dict[str, Group]:
    found: dict[str, Group] = {}
    for group in groups:
        if group.prompt.id in found:
            raise UserError(
                f"duel, {side} side", f"prompt {group.prompt.id} stands twice", "each prompt once per side",
                "Take the duplicates out of the prompts.",
            )  # fmt: skip
        found[group.prompt.id] = group
    return found
