"""Which two answers are compared, when all that is known is an order of their authors: pure functions of numbers.

`published` is ALMoST's algorithm to the letter, `every` is ours. Both take answers ranked by tier, 0 the best, and give
(better, worse) indices into them; both may bar a comparison whose better answer is suspiciously short:

    barred: it is shorter than the worse one AND shorter than M - spread * S,

M and S the mean and the population standard deviation of the lengths in characters. With two answers in the pool a
shorter better one is always barred at spread 1/2: its length is M - S.

Worked (`published`): lengths 480, 500, 520 of three tiers: M = 500, S = 16.33, the cut is 491.84. 480 against 500 is
barred, against 520 too; 500 is shorter than 520, but not below the cut: one pair, the second over the third.

What differs: `published` lets each tier be the better one at most once, against the first answer further down that is
not barred, and counts blank answers into the pool (one drags the cut down); `every` compares each two answers of
different tiers that say different things, and pools only what may be compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SPREAD = 0.5


@dataclass(frozen=True)
class Ranked:
    """One answer: its tier, 0 the best; its text; whether it was set aside (`WellFormed`)."""

    tier: int
    text: str
    unfit: bool = False

    @property
    def usable(self) -> bool:
        """Whether it may be compared: it says something, and nobody set it aside."""
        return not self.unfit and bool(self.text.strip())


def published(answers: Sequence[Ranked], spread: float | None = SPREAD) -> tuple[list[tuple[int, int]], int]:
    """The pairs of ALMoST's release, and how many comparisons the length prior barred. Ties keep their given order."""
    cut = threshold([len(one.text) for one in answers if not one.unfit], spread)
    order = sorted((i for i, one in enumerate(answers) if one.usable), key=lambda i: answers[i].tier)
    found, spent, blocked = [], set(), 0
    for place, better in enumerate(order):
        tier = answers[better].tier
        if tier in spent:
            continue
        for worse in order[place + 1 :]:
            if answers[worse].tier == tier:
                continue
            if barred(answers[better], answers[worse], cut):
                blocked += 1
                continue
            found.append((better, worse))
            spent.add(tier)
            break
    return found, blocked


def every(answers: Sequence[Ranked], spread: float | None = SPREAD) -> tuple[list[tuple[int, int]], int]:
    """Every two usable answers of different tiers and texts, the best tiers first; and how many pairs were barred."""
    order = sorted((i for i, one in enumerate(answers) if one.usable), key=lambda i: answers[i].tier)
    cut = threshold([len(answers[i].text) for i in order], spread)
    found, blocked = [], 0
    for place, better in enumerate(order):
        for worse in order[place + 1 :]:
            one, other = answers[better], answers[worse]
            if one.tier == other.tier or one.text == other.text:
                continue
            if barred(one, other, cut):
                blocked += 1
            else:
                found.append((better, worse))
    return found, blocked


def threshold(lengths: Sequence[int], spread: float | None) -> float:
    """The length below which an answer is suspiciously short; 0 without a prior.

    >>> round(threshold([480, 500, 520], 0.5), 2)
    491.84
    """
    if spread is None or not lengths:
        return 0.0
    return statistics.fmean(lengths) - spread * statistics.pstdev(lengths)


def barred(better: Ranked, worse: Ranked, cut: float) -> bool:
    """Whether the length prior keeps a comparison out."""
    return len(better.text) < len(worse.text) and len(better.text) < cut
