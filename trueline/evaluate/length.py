"""The win rate with length taken out, on any prompts: a logistic model of each verdict, read at equal length.

    logit P(system beats baseline on x) = theta + phi tanh(d / sd) + psi gamma_x

d is the system's answer less the baseline's in characters, sd their standard deviation over this system's pairs (ddof
1, not centred), gamma_x how easily *other* systems beat the baseline on prompt x. The length-controlled rate is the
mean over prompts of sigma(theta + psi gamma_x): the length term left out. It is AlpacaEval's model (Dubois et al. 2024,
arXiv 2404.04475) with the sign of d turned round, so that phi above zero means: the judge favours the longer answer.

What is estimated from whom (cross-fitting: a system's own verdicts never enter its gamma or the prior of its phi):

* From the system's own verdicts theta, phi, psi; normal priors of mean 0 and sd 10, 2, 2 keep a clean sweep finite and
  say little else (published slopes lie between 0.2 and 3).
* With two or more other systems against the same baseline, from theirs in one joint fit: gamma_x (prior sd 1.5), and
  what slopes the judge has here. phi's prior is then their mean, as wide as they differ (random effects, DerSimonian
  and Laird 1986) and at least 0.5: a system that is shorter on every prompt can hardly show a slope, and borrows.
* With fewer, there is no gamma, and phi's prior stays about zero.
* A `slope` that is known of the judge otherwise (mean and sd: from the baseline asked to be longer and shorter, say)
  replaces phi's prior. Nothing tells taste for length from quality better.

Every prior is symmetric under a change of sides, so that LC(m, b) = 1 - LC(b, m); a system against itself has d = 0 and
all ties, so that LC(b, b) = 1/2. Standard error and interval are of a bootstrap over prompts that fits theta, phi and
psi anew each time and holds gamma and the priors; they do not know how uncertain gamma is.

Shape suffixes: N pairs, P prompts, B bootstrap resamples, K coefficients, M systems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trueline.evaluate.logistic import Floats, fit, sigmoid
from trueline.evaluate.statistics import LEVEL, SEED, Interval, mean_interval, per_prompt, resampled_weights
from trueline.records import Group, Record

RESAMPLES = 1000
SD_THETA, SD_PHI, SD_PSI, SD_GAMMA = 10.0, 2.0, 2.0, 1.5
LEAST_SPREAD = 0.5  # of slopes between systems, however alike the few at hand are
ENOUGH_OTHERS = 2
PRECISION = np.asarray([SD_THETA, SD_PHI]) ** -2
_JOINT_STEPS = 100

Ints = NDArray[np.int64]
Slope = tuple[float, float]
"""What is known of phi beforehand: mean and standard deviation of a normal."""


class LengthControlled(Record, frozen=True):
    """Win rate with length taken out, two ways.

    `not_longer` is the plain win rate among pairs in which the system's answer is not the longer one. `adjusted` is the
    model's rate at equal length, `length_effect` its phi, `difficulty` its psi, None without other systems, of which
    there were `others`. `longer` is the share of decided pairs in which the system's answer is the longer one: near 0
    or 1, equal length lies beyond the data and `adjusted` is an extrapolation.
    """

    not_longer: Interval
    adjusted: Interval
    length_effect: float | None
    longer: float | None = None
    difficulty: float | None = None
    others: int = 0

    @property
    def extrapolated(self) -> bool:
        """Whether fewer than one pair in twenty is on the other side of equal length."""
        return self.longer is not None and not 0.05 <= self.longer <= 0.95


@dataclass(frozen=True)
class Verdicts:
    """One system's pairs with a baseline.

    ps: probability that the system wins, None where the judge abstained. ahead: characters of its answer less the
    baseline's. prompts: which prompt each pair belongs to; a prompt with several pairs weighs as much as one with one.

    >>> Verdicts((1.0, None), (12, -3), ("a", "b")).rates
    {'a': 1.0, 'b': None}
    """

    ps: tuple[float | None, ...]
    ahead: tuple[int, ...]
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[Group], by: str | None = None) -> Verdicts:
        """Judged pairs, the system's answer first: the last preference on each counts (of critic `by`, or of any)."""
        said = [next((p for p in reversed(group.preferences) if by in (None, p.by)), None) for group in pairs]
        ps = [None if p is None or p.p is None else p.p if p.left == 0 else 1 - p.p for p in said]
        ahead = [len(group.completions[0].text) - len(group.completions[1].text) for group in pairs]
        return cls(tuple(ps), tuple(ahead), tuple(group.prompt.id for group in pairs))

    def on(self, prompts: Sequence[str]) -> Verdicts:
        """The pairs of these prompts, the prompts in the order given."""
        at = {prompt: i for i, prompt in enumerate(prompts)}
        kept = sorted((i for i, prompt in enumerate(self.prompts) if prompt in at), key=lambda i: at[self.prompts[i]])
        chosen = ([column[i] for i in kept] for column in (self.ps, self.ahead, self.prompts))
        return Verdicts(*(tuple(column) for column in chosen))  # type: ignore[arg-type]

    @cached_property
    def rates(self) -> dict[str, float | None]:
        """Win rate per prompt."""
        return per_prompt(self.ps, self.prompts)

    @cached_property
    def x_N(self) -> Floats:
        """tanh(d / sd) of every pair; 0 where all differ alike, or not at all."""
        d_N = np.asarray(self.ahead, dtype=np.float64)
        sd = float(d_N.std(ddof=1)) if len(d_N) > 1 else 0.0
        return np.tanh(d_N / sd) if sd > 0 else np.zeros(len(d_N))


@dataclass(frozen=True)
class Others:
    """What the other systems say: gamma by prompt, and where a slope lies (normal, `centre` and `spread`, its sd)."""

    gamma: Mapping[str, float]
    centre: float = 0.0
    spread: float = SD_PHI
    systems: int = 0


NOBODY = Others({})


@dataclass(frozen=True)
class Model:
    """One system's logistic model: its verdicts, and what the others say."""

    verdicts: Verdicts
    others: Others = NOBODY

    @cached_property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(self.verdicts.prompts))

    @cached_property
    def prompt_N(self) -> Ints:
        row = {prompt: i for i, prompt in enumerate(self.prompts)}
        return np.asarray([row[prompt] for prompt in self.verdicts.prompts], dtype=np.int64)

    @cached_property
    def gamma_P(self) -> Floats:
        """The others' gamma; 0 for a prompt that none of them answered."""
        return np.asarray([self.others.gamma.get(prompt, 0.0) for prompt in self.prompts])

    @cached_property
    def share_N(self) -> Floats:
        """1 over the decided pairs of the prompt; 0 for an abstention."""
        decided_N = np.asarray([p is not None for p in self.verdicts.ps], dtype=np.float64)
        return decided_N / np.maximum(np.bincount(self.prompt_N, decided_N)[self.prompt_N], 1.0)

    def coefficients(self, weights_BP: Floats, start_K: Floats | None = None) -> Floats:
        """[B, K] theta, phi and, with others, psi, for prompts of these weights."""
        y_N = np.asarray([0.5 if p is None else p for p in self.verdicts.ps])
        columns = [np.ones_like(y_N), self.verdicts.x_N, self.gamma_P[self.prompt_N]]
        k = 3 if self.others.systems else 2
        sd_K = np.asarray([SD_THETA, self.others.spread, SD_PSI])[:k]
        centre_K = np.asarray([0.0, self.others.centre, 0.0])[:k]
        weights_BN = weights_BP[:, self.prompt_N] * self.share_N
        return fit(np.stack(columns[:k], axis=1), y_N, weights_BN, sd_K**-2, centre_K, start_K)

    def rates(self, coefs_BK: Floats, weights_BP: Floats) -> Floats:
        """[B] the win rate at equal length, over all prompts, those of abstentions too."""
        if not self.others.systems:
            return sigmoid(coefs_BK[:, 0])
        p_BP = sigmoid(coefs_BK[:, :1] + coefs_BK[:, 2:] * self.gamma_P)
        return np.asarray((weights_BP * p_BP).sum(axis=1) / weights_BP.sum(axis=1))

    def resampled(self, coefs_K: Floats, resamples: int, seed: int) -> Floats:
        """[B] the rate in each bootstrap resample of the prompts."""
        drawn: Iterator[Floats] = resampled_weights(len(self.prompts), resamples, seed)
        return np.concatenate([self.rates(self.coefficients(w_BP, coefs_K), w_BP) for w_BP in drawn])


def others_of(fights: Sequence[Verdicts], slope: Slope | None = None) -> Others:
    """What these systems say of a further one against the same baseline; gamma and slopes from at least two."""
    fights = [of for of in fights if any(p is not None for p in of.ps)]
    if len(fights) < ENOUGH_OTHERS:
        return Others({}, *slope) if slope else NOBODY
    gamma, phi_M, variance_M = joint(fights)
    if slope:
        return Others(gamma, *slope, len(fights))
    weight_M = 1 / variance_M
    fixed = (weight_M * phi_M).sum() / weight_M.sum()
    excess = (weight_M * (phi_M - fixed) ** 2).sum() - (len(phi_M) - 1)
    between = max(excess / (weight_M.sum() - (weight_M**2).sum() / weight_M.sum()), LEAST_SPREAD**2)
    weight_M = 1 / (variance_M + between)
    centre = float((weight_M * phi_M).sum() / weight_M.sum())
    return Others(gamma, centre, float(np.sqrt(between + 1 / weight_M.sum())), len(fights))


def joint(fights: Sequence[Verdicts]) -> tuple[dict[str, float], Floats, Floats]:
    """(gamma by prompt, [M] phi, [M] their variances) of one fit to all systems, psi being 1 for each.

    Penalised maximum likelihood by Newton's method; gamma, whose curvature is diagonal, is eliminated first (Schur
    complement), so that a step costs as much as the pairs and a 2M by 2M solve. The variances hold gamma, and are those
    of the sandwich over prompts: soft verdicts spread less than coins.
    """
    prompts = list(dict.fromkeys(prompt for of in fights for prompt in of.prompts))
    row = {prompt: i for i, prompt in enumerate(prompts)}
    rows = _Rows(
        system_N=np.repeat(np.arange(len(fights)), [len(of.ps) for of in fights]),
        prompt_N=np.asarray([row[prompt] for of in fights for prompt in of.prompts]),
        share_N=np.concatenate([Model(of).share_N for of in fights]),
        y_N=np.asarray([0.5 if p is None else p for of in fights for p in of.ps]),
        x_N2=np.stack([np.ones(sum(len(of.ps) for of in fights)), np.concatenate([of.x_N for of in fights])], axis=1),
    )
    own_M2, gamma_P = np.zeros((len(fights), 2)), np.zeros(len(prompts))
    for _ in range(_JOINT_STEPS):
        step_M2, step_P = rows.step(own_M2, gamma_P)
        longest = max(np.abs(step_M2).max(), np.abs(step_P).max())
        own_M2, gamma_P = own_M2 + step_M2 / max(longest, 1.0), gamma_P + step_P / max(longest, 1.0)
        if longest < 1e-9:
            break
    return dict(zip(prompts, gamma_P.tolist(), strict=True)), own_M2[:, 1], rows.variance_of_phi(own_M2, gamma_P)


@dataclass(frozen=True)
class _Rows:
    """All pairs of several systems, one below the other; A stands for M times 2, theta and phi of each system."""

    system_N: Ints
    prompt_N: Ints
    share_N: Floats
    y_N: Floats
    x_N2: Floats

    def slopes(self, own_M2: Floats, gamma_P: Floats) -> tuple[Floats, Floats]:
        """[N] what each row lacks, and how curved it is there."""
        p_N = sigmoid((self.x_N2 * own_M2[self.system_N]).sum(axis=1) + gamma_P[self.prompt_N])
        return self.share_N * (self.y_N - p_N), self.share_N * p_N * (1 - p_N)

    def curvature(self, v_N: Floats, m: int) -> Floats:
        """[M, 2, 2] of every system's own coefficients."""
        square_N4 = (self.x_N2[:, :, None] * self.x_N2[:, None, :] * v_N[:, None, None]).reshape(-1, 4)
        summed = [np.bincount(self.system_N, square_N, m) for square_N in square_N4.T]
        return np.asarray(np.stack(summed, axis=1).reshape(m, 2, 2) + np.diag(PRECISION), dtype=np.float64)

    def step(self, own_M2: Floats, gamma_P: Floats) -> tuple[Floats, Floats]:
        """Newton's step in the systems' own coefficients and in gamma."""
        m, p = len(own_M2), len(gamma_P)
        rest_N, v_N = self.slopes(own_M2, gamma_P)
        cell_N = self.system_N * p + self.prompt_N
        slope_M2 = np.stack([np.bincount(self.system_N, rest_N * x_N, m) for x_N in self.x_N2.T], axis=1)
        slope_A = (slope_M2 - PRECISION * own_M2).ravel()
        slope_P = np.bincount(self.prompt_N, rest_N, p) - gamma_P / SD_GAMMA**2
        curve_P = np.bincount(self.prompt_N, v_N, p) + SD_GAMMA**-2
        cross = [np.bincount(cell_N, v_N * x_N, m * p).reshape(m, p) for x_N in self.x_N2.T]
        cross_AP = np.stack(cross, axis=1).reshape(2 * m, p)
        schur_AA = -(cross_AP / curve_P) @ cross_AP.T
        for system, block_22 in enumerate(self.curvature(v_N, m)):
            schur_AA[2 * system : 2 * system + 2, 2 * system : 2 * system + 2] += block_22
        step_A = np.linalg.solve(schur_AA, slope_A - cross_AP @ (slope_P / curve_P))
        step_M2 = np.asarray(step_A.reshape(m, 2), dtype=np.float64)
        return step_M2, np.asarray((slope_P - cross_AP.T @ step_A) / curve_P, dtype=np.float64)

    def variance_of_phi(self, own_M2: Floats, gamma_P: Floats) -> Floats:
        """[M] by the sandwich over prompts, the prior's share of the information added."""
        m, p = len(own_M2), len(gamma_P)
        rest_N, v_N = self.slopes(own_M2, gamma_P)
        inverse_M22 = np.linalg.inv(self.curvature(v_N, m))
        cell_N = self.system_N * p + self.prompt_N
        score = [np.bincount(cell_N, rest_N * x_N, m * p).reshape(m, p) for x_N in self.x_N2.T]
        score_M2P = np.stack(score, axis=1)
        meat_M22 = score_M2P @ score_M2P.transpose(0, 2, 1) + np.diag(PRECISION)
        return np.asarray((inverse_M22 @ meat_M22 @ inverse_M22)[:, 1, 1])


def length_controlled(
    mine: Verdicts,
    others: Sequence[Verdicts] = (),
    slope: Slope | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> LengthControlled:
    """Both length-controlled rates of one system; `others` are other systems' verdicts against the same baseline."""
    short = [p if gap <= 0 else None for p, gap in zip(mine.ps, mine.ahead, strict=True)]
    not_longer = mean_interval(list(per_prompt(short, mine.prompts).values()))
    decided = [gap > 0 for p, gap in zip(mine.ps, mine.ahead, strict=True) if p is not None]
    if not decided:
        return LengthControlled(not_longer, Interval(0), None)
    model = Model(mine, others_of(others, slope))
    coefs_BK, all_BP = fitted(model)
    rate, n = float(model.rates(coefs_BK, all_BP)[0]), sum(p is not None for p in mine.rates.values())
    adjusted = Interval(1, rate, None, rate, rate)
    if n > 1:
        adjusted = spread(rate, model.resampled(coefs_BK[0], resamples, seed), n)
    psi = float(coefs_BK[0, 2]) if model.others.systems else None
    longer = sum(decided) / len(decided)
    return LengthControlled(not_longer, adjusted, float(coefs_BK[0, 1]), longer, psi, model.others.systems)


def fitted(model: Model) -> tuple[Floats, Floats]:
    """([1, K] coefficients, [1, P] weights) with every prompt counted once."""
    all_BP = np.ones((1, len(model.prompts)))
    return model.coefficients(all_BP), all_BP


def spread(value: float, resampled_B: Floats, n: int) -> Interval:
    """An estimate with the standard deviation and the percentiles of its bootstrap."""
    low, high = np.quantile(resampled_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(n, value, float(resampled_B.std(ddof=1)), float(low), float(high))


def together(
    fights: Mapping[str, Verdicts], slope: Slope | None = None, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, LengthControlled]:
    """Every system's length-controlled rates, each with the rest for others."""
    return {
        name: length_controlled(mine, [of for other, of in fights.items() if other != name], slope, resamples, seed)
        for name, mine in fights.items()
    }
