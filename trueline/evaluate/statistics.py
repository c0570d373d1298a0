"""Means, win rates and their intervals over prompts: pure functions of numbers.

The unit of chance is the *prompt*: answers to one prompt are averaged first, intervals come from resampling prompts.
Preferences are probabilities that the left side wins (1 left, 0.5 a tie, 0 right); `None` is an abstention, is left
out of the mean, and never counts as a tie. Nothing here reads files or knows what was compared.

Shape suffixes: N pairs, P prompts, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trueline.records import Record

Floats = NDArray[np.float64]

LEVEL = 0.95
Z = 1.959963984540054  # the normal quantile of LEVEL
RESAMPLES = 10_000
SEED = 0
_CHUNK_CELLS = 2_000_000  # resampled cells held at once: bounds memory, changes no result


class Interval(Record, frozen=True):
    """A mean over `n` prompts with its standard error and interval.

    `se` is analytic: sample standard deviation (ddof 1) over the square root of n. `low` and `high` are percentiles of
    a bootstrap over prompts with a stated seed. All None where nothing was seen; `se` None for a single prompt.
    """

    n: int
    mean: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval can be told from none."""
        return self.n > 1 and self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high

    def shifted(self, by: float) -> Interval:
        """The interval of the same quantity plus a constant."""
        if self.mean is None or self.low is None or self.high is None:
            return self
        return Interval(self.n, self.mean + by, self.se, self.low + by, self.high + by)


def resampled_weights(n: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Floats]:
    """[some of B, n] how often each of n prompts is drawn in each bootstrap resample; rows sum to n.

    In pieces that bound the memory; what is drawn depends on n and the seed, not on the pieces.
    """
    generator = np.random.default_rng(seed)
    for rows in _pieces(resamples, n):
        drawn_BN = generator.integers(0, n, size=(rows, n))
        offsets_BN = drawn_BN + n * np.arange(rows)[:, None]
        yield np.bincount(offsets_BN.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _pieces(resamples: int, n: int) -> Iterator[int]:
    """How many resamples of n prompts to hold at once, until all are drawn."""
    most = max(1, _CHUNK_CELLS // n)
    while resamples > 0:
        yield min(resamples, most)
        resamples -= most


def mean_interval(
    values: Sequence[float | None], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Mean of the values that are not None (one per prompt), its analytic standard error and bootstrap interval.

    >>> mean_interval([0.0, 1.0, 0.5, None]).mean
    0.5
    >>> round(mean_interval([0.0, 1.0, 0.5, None]).se, 6)  # sd 0.5 over the root of 3
    0.288675
    """
    seen_P = np.asarray([value for value in values if value is not None], dtype=np.float64)
    n = len(seen_P)
    if n == 0:
        return Interval(0)
    mean = float(seen_P.mean())
    if n == 1:
        return Interval(1, mean, None, mean, mean)
    generator = np.random.default_rng(seed)
    means = [seen_P[generator.integers(0, n, size=(rows, n))].mean(axis=1) for rows in _pieces(resamples, n)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(n, mean, float(seen_P.std(ddof=1) / np.sqrt(n)), float(low), float(high))


def wilson(successes: float, n: int) -> Interval:
    """A share with Wilson's interval, which does not collapse at 0 and 1 as a bootstrap does; a half counts half.

    `se` is the plain standard error of a share. Wilson 1927.

    >>> share = wilson(8, 10)
    >>> share.mean, round(share.low, 4), round(share.high, 4)
    (0.8, 0.4902, 0.9433)
    """
    if n == 0:
        return Interval(0)
    share, z = successes / n, Z
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = float(centre - half) if share > 0 else 0.0  # at the ends rounding would leave the interval beside the share
    high = float(centre + half) if share < 1 else 1.0
    return Interval(n, share, float(np.sqrt(share * (1 - share) / n)), low, high)


def per_prompt(values: Sequence[float | None], prompts: Sequence[str]) -> dict[str, float | None]:
    """Mean per prompt of the values that are not None, in order of first appearance; None where all abstained."""
    gathered: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        gathered.setdefault(prompt, [])
        if value is not None:
            gathered[prompt].append(value)
    return {prompt: sum(seen) / len(seen) if seen else None for prompt, seen in gathered.items()}


def difference(left: Mapping[str, float | None], right: Mapping[str, float | None]) -> Interval:
    """Paired difference left minus right over the prompts on which both have a value.

    Pairing is what makes small gains visible: the spread between prompts cancels. Overlapping intervals of two
    separate means do *not* show that two arms are alike.
    """
    pairs = [(value, right.get(prompt)) for prompt, value in left.items()]
    return mean_interval([a - b for a, b in pairs if a is not None and b is not None])


class WinRate(Record, frozen=True):
    """How often the left side wins, ties counted half.

    `rate` is over prompts. `wins`, `losses` and `ties` count pairs by p above, below and at one half; `abstained`
    counts pairs without a verdict, which are in no rate. `flips` counts pairs whose two orders named different
    winners, out of `both_orders` pairs in which both orders were decided. `discrete` is the rate with every verdict
    rounded to a win, a loss or (at exactly one half) a tie: AlpacaEval's `discrete_win_rate`.
    """

    rate: Interval
    pairs: int
    wins: int
    losses: int
    ties: int
    abstained: int
    flips: int = 0
    both_orders: int = 0
    discrete: float | None = None

    @property
    def flip_rate(self) -> float | None:
        """Share of decided two-order pairs whose winner changed with the order shown; None without any."""
        return self.flips / self.both_orders if self.both_orders else None


def win_rate(
    ps: Sequence[float | None],
    prompts: Sequence[str] | None = None,
    flipped: Sequence[bool | None] = (),
) -> WinRate:
    """Win rate of the left side from preferences, one prompt each unless `prompts` says otherwise.

    `flipped` says of each pair whether its two orders named different winners, None where not both were decided.

    >>> result = win_rate([1.0, 0.0, 0.5, None])
    >>> result.rate.mean, result.rate.n, result.wins, result.losses, result.ties, result.abstained
    (0.5, 3, 1, 1, 1, 1)
    """
    prompts = prompts if prompts is not None else [str(i) for i in range(len(ps))]
    rounded = per_prompt([rounded_verdict(p) for p in ps], prompts)
    return WinRate(
        rate=mean_interval(list(per_prompt(ps, prompts).values())),
        pairs=len(ps),
        wins=sum(p is not None and p > 0.5 for p in ps),
        losses=sum(p is not None and p < 0.5 for p in ps),
        ties=sum(p == 0.5 for p in ps),
        abstained=sum(p is None for p in ps),
        flips=sum(flip is True for flip in flipped),
        both_orders=sum(flip is not None for flip in flipped),
        discrete=mean_of([value for value in rounded.values() if value is not None]),
    )


def rounded_verdict(p: float | None) -> float | None:
    """1 for a win, 0 for a loss, one half for an exact tie, None for an abstention."""
    return p if p is None or p == 0.5 else float(p > 0.5)


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def sign_test(ahead: int, behind: int) -> float:
    """Two-sided exact p-value of so many differences above and below zero, were either sign a fair coin.

    Ties are left out before. On the prompts that only one of two systems wins it is McNemar's exact test. Dixon and
    Mood 1946; McNemar 1947.

    >>> sign_test(8, 1)  # 2 (1 + 9) / 2 ** 9
    0.0390625
    >>> sign_test(3, 3), sign_test(0, 0)
    (1.0, 1.0)
    """
    n, fewer = ahead + behind, min(ahead, behind)
    ways = term = 1
    for i in range(fewer):
        term = term * (n - i) // (i + 1)
        ways += term
    return min(1.0, 2 * ways / 2**n) if n else 1.0


def from_alpaca_eval(preference: float | None) -> float | None:
    """Probability that `output_2` wins from an AlpacaEval preference: 1..2, legacy tie 0; anything else abstains.

    >>> [from_alpaca_eval(x) for x in (1, 2, 0, None, 1.5, 3)]
    [0.0, 1.0, 0.5, None, 0.5, None]
    """
    if preference == 0:
        return 0.5
    if preference is None or not 1 <= preference <= 2:
        return None
    return float(preference) - 1.0
