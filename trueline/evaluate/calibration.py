"""How far a reward's differences are the odds they claim to be: Bradley-Terry says P(first is better) = sigma(r1 - r2).

A reward model that ranks well may still be too sure of itself, and what is learned from its margins (best of n against
a threshold, PPO, soft labels) then overshoots. Of rewards that are no log-odds (a score from 0 to 3) this says only by
what factor they would have to be multiplied.

    error   mean over pairs of |how sure - how often right|, in bins of how sure (expected calibration error)
    loss    mean of -log sigma(r preferred - r other); ln 2 = 0.693 is what knowing nothing costs
    scale   the factor on rewards at which the loss is least: below 1 they are too sure, above 1 not sure enough

Worked: of four pairs that are log 3 apart the preferred is higher in three. Sure of 0.75, right in 0.75: error 0, loss
(3 log(4/3) + log 4) / 4 = 0.562, scale 1. Were they 2 log 3 apart: sure of 0.9, error 0.15, scale 0.5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from trueline.records import Record

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MOST = 1e4


class Bin(Record, frozen=True):
    """Pairs of which the reward was sure by `low` to `high`: their number, mean sureness, and how often it was right.

    All between 0 and 1; equal rewards are right by half.
    """

    low: float
    high: float
    pairs: int
    sure: float
    right: float


class Calibration(Record, frozen=True):
    """The figures; bins without a pair are left out. scale: None where no pair, or all pairs, are right: then any
    larger factor is better."""

    error: float
    loss: float
    scale: float | None
    bins: tuple[Bin, ...]


def calibration(gaps: Sequence[float]) -> Calibration | None:
    """The calibration of rewards whose preferred answers are `gaps` above the others; None for no pair."""
    if not gaps:
        return None
    rows = [(sigmoid(abs(gap)), 0.5 + (gap > 0) / 2 - (gap < 0) / 2) for gap in gaps]
    bins = []
    for low, high in itertools.pairwise(EDGES):
        inside = [row for row in rows if low <= row[0] < high or (high == EDGES[-1] and row[0] >= high)]
        if inside:
            sure, right = (math.fsum(column) / len(inside) for column in zip(*inside, strict=True))
            bins.append(Bin(low, high, len(inside), sure, right))
    error = math.fsum(one.pairs * abs(one.sure - one.right) for one in bins) / len(gaps)
    return Calibration(error, loss(gaps), scale(gaps), tuple(bins))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def loss(gaps: Sequence[float]) -> float:
    """Mean of log(1 + exp(-gap)).

    >>> round(loss([0.0]), 6), loss([1000.0]), loss([-1000.0])
    (0.693147, 0.0, 1000.0)
    """
    return math.fsum(max(-gap, 0.0) + math.log1p(math.exp(-abs(gap))) for gap in gaps) / len(gaps)


def scale(gaps: Sequence[float]) -> float | None:
    """The factor on `gaps` at which `loss` is least; None where it has no least value above 0 and below 10,000.

    The loss is convex in the factor, so its slope is halved in on.
    """

    def slope(factor: float) -> float:
        return -math.fsum(gap * sigmoid(-factor * gap) for gap in gaps)

    if slope(0.0) >= 0 or slope(MOST) <= 0:
        return None
    low, high = 0.0, MOST
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
