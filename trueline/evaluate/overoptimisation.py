"""`overoptimisation`: what a policy that learned from a score gained by another one, as it left its reference.

    ppo = online(sft, prompts, Reward(rater), PPO(), watch=Gold())
    report(..., also=(overoptimisation((Optimised("PPO", (ppo,)),)),))

A reward model is right about the answers that it was trained on; a policy that pursues its score finds others. The
score it learns from (the proxy) rises on; what was wanted (gold: the critic that only watched) rises, comes to a peak
and falls, over the root of the divergence much as a parabola does (Gao et al. 2023, arXiv 2210.10760). Both are what
the run logged of the answers that each iteration learned from, so that iteration 1 shows the start.

Single iterations are noisy, hence *stretches* of several in a row. The peak is the highest of many stretches, so the
highest of many errors too: rise and fall have intervals that hold for all stretches at once (as Dunnett 1955 compares
many with one), and a fall whose interval holds 0 is not called one.

Files: `report.json` (an `Overoptimisation`), `table.txt`; `report(..., also=(...,))` draws the curves.

Shape suffixes: T iterations, K stretches, B simulated runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from trueline.errors import UserError
from trueline.evaluate import plain
from trueline.evaluate.charts import number
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import bounds, places, plus
from trueline.evaluate.statistics import LEVEL, SEED, Floats, Interval, Z
from trueline.evaluate.table import share, within
from trueline.pipeline import Work, stage
from trueline.records import Record, numbered_lines
from trueline.store import Policy, Report

CELLS, DRAWS = 1_000_000, 4_000
"""Numbers held at once while chance is simulated, and how often it is."""
LEAST = 3
"""Iterations of a stretch, where there are enough for two."""


@dataclass(frozen=True)
class Optimised:
    """A policy that `online` made, under the name that it has in the report; several that went on from each other, in
    order, where a run was made in parts."""

    name: str
    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        where = f"Optimised({self.name!r})"
        if not self.policies:
            raise UserError(where, "it has no policy", "what online made")
        for policy in self.policies:
            if not isinstance(policy, Policy) or policy.stage != "online":
                got = f"{policy.name if isinstance(policy, Policy) else policy!r} was not made by online"
                raise UserError(where, got, "policies with a log of iterations")
        first = self.policies[0].inputs
        for name in ("critic", "watch"):
            if any(policy.inputs[name] != first[name] for policy in self.policies):
                got = f"its policies were made with different {name}= critics"
                raise UserError(where, got, "one for all", "Give each policy a name and a curve of its own.")
        if any(policy.inputs["reference"] != first["reference"] for policy in self.policies):
            raise UserError(
                where, "its policies measure their divergence from different references", "one for all",
                "Give each online(...) of a chain the same reference=.",
            )  # fmt: skip


class Logged(Record, frozen=True):
    """One iteration: divergence in nats per answer, mean scores of the critic and of the one that watched (None: there
    was none), tokens per answer, share not ended, answers scored; and standard errors over prompts, where known."""

    iteration: int
    kl: float
    reward: float
    length: float
    unfinished: float
    answers: int
    watched: float | None = None
    kl_se: float | None = None
    reward_se: float | None = None
    watched_se: float | None = None


class Stretch(Record, frozen=True):
    """Iterations `first` to `last` together."""

    first: int
    last: int
    kl: Interval
    reward: Interval
    length: float
    unfinished: float
    watched: Interval | None = None


class Traced(Record, frozen=True):
    """One run. peak: the stretch where the watched score is highest. rise: of that score from the first stretch to the
    peak; fall: what it lost from there to the last; onward: what the other score gained meanwhile. over: whether it
    fell while that rose, None where that cannot be said."""

    name: str
    by: str
    watched_by: str
    logged: tuple[Logged, ...]
    stretches: tuple[Stretch, ...]
    verdict: str
    peak: int | None = None
    rise: Interval | None = None
    fall: Interval | None = None
    onward: Interval | None = None
    over: bool | None = None


class Overoptimisation(Record, frozen=True):
    """All runs: `report.json`."""

    runs: tuple[Traced, ...]


@stage(Report, rev=1, label="overoptimisation", estimate=lambda runs, **_: {"runs": len(runs)})
def overoptimisation(work: Work, runs: tuple[Optimised, ...], stretch: int = 0) -> None:
    """Score and watched score of `runs` against their divergence.

    stretch: iterations that are taken together (0: a twentieth of them, at least 3, at most half).
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise UserError("overoptimisation(runs=...)", f"got {names}", "runs, each with a name of its own")
    if stretch < 0:
        raise UserError("overoptimisation(stretch=...)", f"got {stretch}", "a number of iterations, or 0")
    found = Overoptimisation(tuple(trace(run, stretch) for run in runs))
    write_figures(work, found)
    (work.dir / "table.txt").write_text(draw(found), encoding="utf-8")
    work.count("runs", len(runs))
    work.count("iterations", sum(len(run.logged) for run in found.runs))


def read_overoptimisation(report: Report) -> Overoptimisation:
    """The result of a made `overoptimisation`."""
    if report.stage != "overoptimisation":
        raise UserError(report.name, "it is no curve of over-optimisation", "what overoptimisation(runs) made")
    return read_figures(report, Overoptimisation)


# --- what was logged -------------------------------------------------------------------------------------------------


def trace(run: Optimised, stretch: int) -> Traced:
    """The figures of one run."""
    asked = run.policies[0].inputs
    watch = asked["watch"].name if asked.get("watch") is not None else ""
    every = enumerate((one for policy in run.policies for one in read(policy)), 1)
    logged = tuple(msgspec.structs.replace(one, iteration=i) for i, one in every)
    if watch:  # where the watching critic said nothing at all, there is nothing to hold against the score
        logged = tuple(one for one in logged if one.watched is not None)
    return judged(run.name, asked["critic"].name, watch, logged, stretch)


def read(policy: Policy) -> list[Logged]:
    """The iterations in a policy's log."""
    rows = [json.loads(line) for _, line in numbered_lines(policy.path / "metrics.jsonl")]
    return [
        Logged(
            row["iteration"], row["kl/answer"], row["reward"], row["length"], row["unfinished"],
            row["samples"] - row["abstained"], row.get("watched"), row.get("kl/se"), row.get("reward/se"),
            row.get("watched/se"),
        )
        for row in rows
    ]  # fmt: skip


def stretches_of(logged: Sequence[Logged], size: int) -> tuple[Stretch, ...]:
    """Every `size` iterations in a row.

    Worked: watched scores 0.5, 0.7, 0.9 with standard errors 0.03, 0.04, 0.12; of two: 0.6 with sqrt(0.0009 + 0.0016)
    / 2 = 0.025, and 0.8 with sqrt(0.0016 + 0.0144) / 2 = 0.0632.
    """
    parts = [logged[at : at + size] for at in range(len(logged) - size + 1)]
    return tuple(
        Stretch(
            part[0].iteration, part[-1].iteration, _mean(part, "kl"), _mean(part, "reward"),
            _mean(part, "length").mean or 0.0, _mean(part, "unfinished").mean or 0.0,
            _mean(part, "watched") if part[0].watched is not None else None,
        )
        for part in parts
    )  # fmt: skip


def _mean(part: Sequence[Logged], field: str) -> Interval:
    values = [getattr(one, field) for one in part]
    known = [se for one in part if (se := getattr(one, f"{field}_se", None)) is not None]
    mean, n = math.fsum(values) / len(values), sum(one.answers for one in part)
    if len(known) < len(values):
        return Interval(n, mean)
    return interval(n, mean, math.hypot(*known) / len(known))


def interval(n: int, mean: float, se: float, times: float = Z) -> Interval:
    """The mean with so many standard errors to both sides."""
    return Interval(n, mean, se, mean - times * se, mean + times * se)


# --- what it says ----------------------------------------------------------------------------------------------------


def judged(name: str, by: str, watched_by: str, logged: tuple[Logged, ...], stretch: int = 0) -> Traced:
    """What became of the two scores of a run."""
    size = max(1, min(stretch or max(LEAST, round(len(logged) / 20)), len(logged) // 2))
    parts = stretches_of(logged, size)
    plain_one = Traced(name, by, watched_by, logged, parts, "")
    if not watched_by or not parts:
        said = "nothing watched: whether its score is worth what it says cannot be seen (watch= logs another critic)"
        return msgspec.structs.replace(plain_one, verdict=said)
    levels = [part.watched.mean or 0.0 for part in parts if part.watched is not None]
    peak = max(range(len(levels)), key=lambda k: levels[k])
    rise = change(logged, "watched", size, 0, peak)
    fall = change(logged, "watched", size, len(parts) - 1, peak)
    onward = change(logged, "reward", size, peak, len(parts) - 1, every=False)
    found = msgspec.structs.replace(plain_one, peak=peak, rise=rise, fall=fall, onward=onward)
    over, said = verdict(found)
    return msgspec.structs.replace(found, over=over, verdict=said)


def change(logged: Sequence[Logged], field: str, size: int, fixed: int, at: int, every: bool = True) -> Interval:
    """How much higher the stretch `at` is than the stretch `fixed`; every: the interval holds for all stretches at
    once, so also for one that was chosen for what it showed."""
    value_T = np.array([getattr(one, field) for one in logged])
    told = [getattr(one, f"{field}_se") for one in logged]
    level_K = windows(value_T, size)
    n, apart = sum(one.answers for one in logged), float(level_K[at] - level_K[fixed])
    if None in told:
        return Interval(n, apart)
    if at == fixed:
        return Interval(n, 0.0, 0.0, 0.0, 0.0)
    se_T = np.array(told)
    se = float(errors(se_T, size, fixed)[at])
    return interval(n, apart, se, simultaneous(se_T, size, fixed) if every else Z)


def windows(value_T: Floats, size: int) -> Floats:
    """Means of every `size` numbers in a row along the last axis, [..., K]."""
    sums = np.cumsum(value_T, axis=-1)
    ends = sums[..., size - 1 :].copy()
    ends[..., 1:] -= sums[..., :-size]
    return ends / size


def errors(se_T: Floats, size: int, fixed: int) -> Floats:
    """Standard error of each stretch less the stretch `fixed`, [K]: iterations that both hold cancel.

    >>> errors(np.array([3.0, 4.0, 1.0]), 1, 1).tolist(), errors(np.array([3.0, 9.0, 4.0]), 2, 0).tolist()
    ([5.0, 0.0, 4.123105625617661], [0.0, 2.5])
    """
    at_T, first_K = np.arange(se_T.size), np.arange(se_T.size - size + 1)
    fixed_T = (at_T >= fixed) & (at_T < fixed + size)
    own_K = windows(se_T**2, size) * size
    both_K = windows(se_T**2 * fixed_T, size) * size
    alone_K = np.where(first_K == fixed, 0.0, own_K + (se_T**2 * fixed_T).sum() - 2 * both_K)
    return np.sqrt(np.maximum(alone_K, 0.0)) / size


def simultaneous(se_T: Floats, size: int, fixed: int) -> float:
    """How many standard errors all stretches' differences from the stretch `fixed` stay within together, 95 times of
    100, if nothing but chance moves them."""
    generator = np.random.default_rng(SEED)
    sd_K = errors(se_T, size, fixed)
    known = sd_K > 0
    if not known.any():
        return Z
    largest: list[Floats] = []
    rows = max(1, CELLS // se_T.size)
    for start in range(0, DRAWS, rows):
        noise_BT = generator.standard_normal((min(rows, DRAWS - start), se_T.size)) * se_T
        level_BK = windows(noise_BT, size)
        apart_BK = np.abs(level_BK - level_BK[:, fixed : fixed + 1])[:, known] / sd_K[known]
        largest.append(apart_BK.max(axis=1))
    return float(np.quantile(np.concatenate(largest), LEVEL))


def verdict(found: Traced) -> tuple[bool | None, str]:
    """(over-optimised or not, a sentence about it) of a run that was watched."""
    assert found.peak is not None and found.fall is not None and found.onward is not None
    peak, gold = found.stretches[found.peak], found.watched_by
    if found.fall.low is None:
        return None, f"how sure the means are was not logged, so that a fall of {gold} cannot be told from noise"
    where = f"its peak at {spoken(peak)}"
    if not found.fall.excludes_zero or (found.fall.mean or 0.0) <= 0:
        if found.peak == len(found.stretches) - 1:
            return False, f"{gold} is highest at the end: nothing was over-optimised"
        return False, f"at the end {gold} is {amount(found.fall)} below {where}, which cannot be told from none"
    fell = f"{gold} fell by {amount(found.fall)} from {where}"
    if found.onward.mean is not None and found.onward.excludes_zero and found.onward.mean > 0:
        return True, f"over-optimised: {fell}, while {found.by} rose by {amount(found.onward)}"
    if all(abs(one.reward - 0.5) < 1e-9 for one in found.logged):
        return None, f"{fell}; {found.by} compares answers with each other and has no level that could rise"
    return False, f"{fell}, and {found.by} did not rise meanwhile: it went wrong, but was not over-optimised"


def amount(value: Interval) -> str:
    """A difference with its interval."""
    digits = places(value)
    return f"{value.mean or 0.0:.{digits}f} ({bounds(value)})"


def spoken(part: Stretch) -> str:
    """Where a stretch lies."""
    return f"iteration {(part.first + part.last) // 2}, {number(max(part.kl.mean or 0.0, 0.0), 2)} nats away"


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(found: Overoptimisation) -> str:
    """Each run's start, peak and end, and its sentence."""
    headings = ["run", "at", "iterations", "KL", "score", "watched", "tokens", "not ended %"]
    rows: list[list[str]] = []
    for run in found.runs:
        if not run.stretches:
            continue
        shown: dict[int, str] = {0: "start", len(run.stretches) - 1: "end"}
        if run.peak is not None:
            shown[run.peak] = "peak" if run.peak not in shown else f"{shown[run.peak]}, peak"
        rows += [[""] * len(headings)] if rows else []
        for i, at in enumerate(sorted(shown)):
            rows.append([run.name if i == 0 else "", shown[at], *cells(run.stretches[at])])
    if all(row[5] in ("", "–") for row in rows):
        headings, rows = _without(headings, 5), [_without(row, 5) for row in rows]
    return plain.table(headings, rows, notes=notes(found), left=2)


def _without(row: Sequence[str], at: int) -> list[str]:
    return [*row[:at], *row[at + 1 :]]


def cells(part: Stretch) -> list[str]:
    """A stretch in words."""
    return [
        f"{part.first}–{part.last}" if part.last > part.first else str(part.first),
        number(part.kl.mean, 2),
        _told(part.reward),
        _told(part.watched) if part.watched is not None else "–",
        f"{part.length:.0f}",
        share(part.unfinished),
    ]


def _told(value: Interval) -> str:
    return within(value) if value.low is not None else number(value.mean)


def notes(found: Overoptimisation) -> list[str]:
    """A sentence per run, who scored, and what the columns mean."""
    said: dict[str, list[str]] = {}
    for run in found.runs:
        said.setdefault(run.verdict, []).append(run.name)
    out = [f"{'; '.join(names)}: {verdict}." for verdict, names in said.items()]
    for run in found.runs:
        rose = run.rise
        if rose is not None and rose.mean is not None and rose.low is not None and run.peak:
            gained = f"{plus(rose.mean, places(rose))} ({bounds(rose, plus)})"
            out.append(f"{run.name}: from its start to its peak {run.watched_by} gained {gained}.")
    scored = sorted({f"{run.by}{f', watched by {run.watched_by}' if run.watched_by else ''}" for run in found.runs})
    out.append(f"Learned from {'; '.join(scored)}. ±, and bands: 95% intervals over the iterations' prompts.")
    if any(run.peak is not None for run in found.runs):
        out.append(
            "Rises and falls have intervals that hold for all stretches of a run at once, as the peak was chosen for "
            "what it shows."
        )
    out.append("KL in nats per answer. What the last iteration learned is in no row.")
    return out
