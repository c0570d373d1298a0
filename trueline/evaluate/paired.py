"""Two systems against one baseline, prompt by prompt: is the one really better than the other?

Whether two intervals overlap does not say: on the same prompts the spread between prompts cancels, and a small
difference can be sure. So differences are taken per prompt first. Three readings stand side by side: the mean
difference with its bootstrap interval, the sign test on who does better at more prompts, and McNemar's test on the
prompts where only one of the two beats the baseline. The difference of length-controlled rates is resampled with the
same prompts for both systems. Nothing is widened for the number of pairs that are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from trueline.evaluate import plain
from trueline.evaluate.length import RESAMPLES, Model, Others, Slope, Verdicts, fitted, others_of, spread
from trueline.evaluate.logistic import Floats
from trueline.evaluate.statistics import SEED, Interval, mean_interval, sign_test
from trueline.records import Record


class Paired(Record, frozen=True):
    """`first` less `second`, over the prompts that both were judged on.

    `win` and `length` are differences in win rate and in length-controlled win rate. `ahead` prompts went better for
    `first`, `behind` for `second`, the rest alike; `sign` is the sign test's p. `only_first` prompts are won against
    the baseline by `first` alone, `only_second` by `second` alone; `mcnemar` is McNemar's exact p. Both are two-sided.
    """

    first: str
    second: str
    win: Interval
    length: Interval
    ahead: int
    behind: int
    sign: float
    only_first: int
    only_second: int
    mcnemar: float


class Pairing:
    """All pairs of some systems against one baseline; what two pairs have in common is worked out once."""

    def __init__(
        self, fights: Mapping[str, Verdicts], slope: Slope | None = None, resamples: int = RESAMPLES, seed: int = SEED
    ) -> None:
        self.fights, self.slope, self.resamples, self.seed = fights, slope, resamples, seed
        self._others: dict[str, Others] = {}
        self._rates: dict[tuple[str, tuple[str, ...]], tuple[float, Floats]] = {}

    def all(self) -> tuple[Paired, ...]:
        """Every pair, in the order of the systems."""
        return tuple(self.pair(a, b) for a, b in itertools.combinations(self.fights, 2))

    def pair(self, first: str, second: str) -> Paired:
        """`first` less `second`."""
        a, b = self.fights[first].rates, self.fights[second].rates
        common = sorted(prompt for prompt in a if a[prompt] is not None and b.get(prompt) is not None)
        both = [(a[prompt] or 0.0, b[prompt] or 0.0) for prompt in common]
        ahead, behind = sum(x > y for x, y in both), sum(x < y for x, y in both)
        alone = sum(x > 0.5 >= y for x, y in both), sum(y > 0.5 >= x for x, y in both)
        return Paired(
            first=first,
            second=second,
            win=mean_interval([x - y for x, y in both], seed=self.seed),
            length=self._length(first, second, tuple(common)),
            ahead=ahead,
            behind=behind,
            sign=sign_test(ahead, behind),
            only_first=alone[0],
            only_second=alone[1],
            mcnemar=sign_test(*alone),
        )

    def _length(self, first: str, second: str, common: tuple[str, ...]) -> Interval:
        if len(common) < 2:
            return Interval(0)
        (a, a_B), (b, b_B) = self._rate(first, common), self._rate(second, common)
        return spread(a - b, np.asarray(a_B - b_B), len(common))

    def _rate(self, name: str, common: tuple[str, ...]) -> tuple[float, Floats]:
        """A system's length-controlled rate on these prompts, and in resamples of them: the same for every system."""
        if (name, common) not in self._rates:
            if name not in self._others:
                rest = [of for other, of in self.fights.items() if other != name]
                self._others[name] = others_of(rest, self.slope)
            model = Model(self.fights[name].on(common), self._others[name])
            coefs_BK, all_BP = fitted(model)
            drawn_B = model.resampled(coefs_BK[0], self.resamples, self.seed)
            self._rates[name, common] = float(model.rates(coefs_BK, all_BP)[0]), drawn_B
        return self._rates[name, common]


NOTE = (
    "Paired by prompt; win and LC in points, ± half the 95% interval. p: the sign test on better at, McNemar's exact "
    "test on the prompts that one alone wins against the baseline."
)


MANY = 10
"""More pairs than this are shown as those of one arm with each other one; all of them stand in the file of numbers."""


def paired_table(pairs: Sequence[Paired], title: str = "", of: str = "") -> str:
    """The pairs as text, one row each; of many pairs those with the arm `of`."""
    heads = ["first − second", "win", "LC", "better at", "p", "alone", "p"]
    shown = [pair for pair in pairs if of in (pair.first, pair.second)] if of and len(pairs) > MANY else list(pairs)
    notes = [NOTE] if len(shown) == len(pairs) else [NOTE, f"All {len(pairs)} pairs: report.json."]
    return plain.table(heads, [paired_row(pair) for pair in shown], title, notes=notes)


def paired_row(pair: Paired) -> list[str]:
    """One pair of systems in words."""
    row = [f"{pair.first} − {pair.second}", points(pair.win), points(pair.length)]
    row += [f"{pair.ahead} : {pair.behind}", p_value(pair.sign)]
    return [*row, f"{pair.only_first} : {pair.only_second}", p_value(pair.mcnemar)]


def points(gap: Interval) -> str:
    """'+8.0 ±2.2', in percentage points; a dash where nothing is in common."""
    if gap.low is None or gap.high is None:
        return "–"
    return f"{hundredths(gap.mean, 1, '+')} ±{50 * (gap.high - gap.low):.1f}"


def p_value(p: float) -> str:
    """A p-value with two digits; '<0.0001' below that.

    >>> p_value(0.0390625), p_value(1.0), p_value(1e-9)
    ('0.039', '1', '<0.0001')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def hundredths(share: float | None, digits: int = 2, sign: str = "") -> str:
    """A share in percent."""
    return number(None if share is None else 100 * share, digits, sign)


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number with a real minus sign; a dash where it is not known."""
    return "–" if value is None else f"{value:{sign}.{digits}f}".replace("-", "−")
