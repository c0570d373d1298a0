"""Best-of-n: the candidate that a reader likes best, and what that is worth in gold reward as n grows.

    ranked = best(candidates, by="dph-8192ef8f/reward", n=16)      the best of the first 16, as groups of one answer
    curve = climb(candidates, ("dph-8192ef8f/reward", "logprob:token"), gold="gold")     for n = 1, 2, 4 ... 64

A *reader* is whoever gave the candidates scores: a preference head while it sampled (`HF(policy, heads=True)`), a
reward model (`Reward`), their log-probs (`Sampled`), any critic. One draw of N candidates serves every n up to N.

Files of `climb`: `report.json` (a `Climb`), `table.txt`.

Shape suffixes: C candidates of one prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from trueline.errors import UserError, closest
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.statistics import Floats, Interval, mean_interval
from trueline.pipeline import Work, stage
from trueline.records import Group, Record, write_jsonl
from trueline.store import Groups, Report

SHOWN = 100
NS = (1, 2, 4, 8, 16, 32, 64)


class Point(Record, frozen=True):
    """Expected gold reward of the best of `n`, over prompts."""

    n: int
    reward: Interval


class Reader(Record, frozen=True):
    """One reader's curve."""

    by: str
    points: tuple[Point, ...]


class Climb(Record, frozen=True):
    """What best-of-n is worth by each reader: `report.json` of `climb`."""

    gold: str
    prompts: int
    candidates: int
    readers: tuple[Reader, ...]


# --- the best answer -------------------------------------------------------------------------------------------------


def _estimate(groups: Groups, **_: Any) -> dict[str, int]:
    known = groups.count.get("groups", groups.count.get("prompts", 0))
    return {"groups": known, "samples": known}


@stage(Groups, rev=1, label="best", estimate=_estimate)
def best(work: Work, groups: Groups, by: str = "", n: int = 0) -> None:
    """The best of the first `n` answers of each group (0: of all), with what was said of it.

    by: whose scores decide, a critic's name; one that ends with "/" stands for the first of a policy's heads
    ("dph-8192ef8f/"), "" for whoever scored last. An answer without a score is never picked beside one that has it;
    equal ones go to the first. Preferences are left behind: they were between answers of the whole group.

    Files: `groups.jsonl`, and `table.txt` for people. Counted: groups, samples, unscored (groups of which the first
    answer was taken, because none had a score).

    Raises `UserError` for a reader that scored nothing, and for groups of fewer than `n` answers.
    """
    if n < 0:
        raise UserError("best(n=...)", f"got {n}", "a number of candidates, or 0 for all")
    read = list(groups.read())
    signed = signer(read, by, "best(by=...)")
    out = []
    for group in read:
        check_size(group, n, "best(n=...)")
        at = pick(group.scores(signed)[: n or None])
        if at is None:
            work.count("unscored")
        feedback = (group.feedback[at or 0],) if group.feedback else ()
        out.append(Group(group.prompt, (group.completions[at or 0],), feedback))
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", out))
    work.count("samples", len(out))
    (work.dir / "table.txt").write_text(listed(out, signed), encoding="utf-8")


def listed(groups: Sequence[Group], by: str | None, most: int = SHOWN) -> str:
    """The first groups' answers with their scores, for people."""
    lines = []
    for group in groups[:most]:
        score, question = group.scores(by)[0], " ".join(group.prompt.text.split())
        mark = "–" if score is None else f"{score:.3f}"
        lines.append(f"{mark:>8}  {question if len(question) <= 100 else question[:99] + '…'}")
        lines += [f"{'':8}  {line}" for line in group.completions[0].text.splitlines() or ["(nothing)"]]
    if len(groups) > most:
        lines.append(f"{'':8}  … and {len(groups) - most} more in groups.jsonl")
    return "\n".join([*lines, "", f"scores by {by or 'whoever scored last'}"]) + "\n"


def pick(scores: Sequence[float | None]) -> int | None:
    """Index of the highest score, the first of equals; None where there is none.

    >>> pick([0.5, None, 2.0, 2.0])
    2
    """
    known = [(score, -index) for index, score in enumerate(scores) if score is not None]
    return -max(known)[1] if known else None


def signer(groups: Sequence[Group], by: str, where: str, said: Literal["score", "label"] = "score") -> str | None:
    """The name under which a reader's scores (or labels) stand, None for any.

    Raises `UserError` for a reader that said nothing of the kind.
    """
    names = list(dict.fromkeys(f.by for g in groups for of in g.feedback for f in of if getattr(f, said) is not None))
    wanted = unlabelled(by)
    known = {name: unlabelled(name) for name in names}
    found = next((n for n in names if known[n] == wanted or (by.endswith("/") and known[n].startswith(wanted))), None)
    if found is None and (by or not names):
        heads = "Draw with HF(policy, heads=True), or run" if said == "score" else "Run"
        cure = closest(by, names) if names else f"{heads} judge(groups, critic) first."
        raise UserError(where, f"no answer has a {said} by {by or 'anybody'}", "a reader that gave them one", cure)
    return found


def unlabelled(name: str) -> str:
    """A reader's name with its policy by digits alone: what a policy is called may differ from recipe to recipe.

    >>> unlabelled("dpo-dph-38dd73f3/reward"), unlabelled("reward:rm-48daa7cb"), unlabelled("gold")
    ('38dd73f3/reward', 'reward:48daa7cb', 'gold')
    """
    return re.sub(r"[\w.+-]+-([0-9a-f]{8})\b", r"\1", name)


def check_size(group: Group, n: int, where: str) -> None:
    """Refuse a group of fewer than `n` answers, or of none."""
    count = len(group.completions)
    if count < max(n, 1):
        raise UserError(
            f"{where} on prompt {group.prompt.id}", f"it has {count} answers", f"at least {max(n, 1)}",
            "Draw more: Sampling(n=...).",
        )  # fmt: skip


# --- what it is worth ------------------------------------------------------------------------------------------------


def expected_best(read: Sequence[float | None], gold: Sequence[float], n: int) -> float:
    """Mean gold reward of the candidate that a reader likes best, over all subsets of n of the candidates.

    With the candidates in rising order of what the reader gave them, number i of N is the best of a random subset of n
    with chance C(i-1, n-1) / C(N, n), so

        sum over i of gold_i C(i-1, n-1) / C(N, n)

    is an unbiased estimate of what the best of n new candidates earns: from one draw of N, for every n up to N, and
    with less noise than the best of one subset. Candidates that the reader holds equal share their chances (ties go to
    any of them alike); those that it abstained on (None) come last. At n = 1 it is the mean, at n = N the best one's.

    Source: the estimator of Nakano et al. 2021 (WebGPT), used for such curves by Gao, Schulman and Hilton 2022.

    Worked: read (1, 2, 3), gold (0, 1, 5), n = 2. The subsets' best earn 1, 5, 5: mean 11/3. By the formula the chances
    are C(0,1)/3 = 0, C(1,1)/3 = 1/3, C(2,1)/3 = 2/3: 1/3 + 10/3.

    >>> round(expected_best([1, 2, 3], [0, 1, 5], 2), 4)
    3.6667
    >>> expected_best([7, 7, None], [0, 1, 5], 3)
    0.5
    """
    count = len(gold)
    if not 1 <= n <= count or len(read) != count:
        raise ValueError(f"the best of {n} from {len(read)} readings and {count} gold rewards")
    read_C = np.array([-math.inf if r is None else r for r in read], dtype=np.float64)
    gold_C = np.asarray(gold, dtype=np.float64)
    levels, level_C = np.unique(read_C, return_inverse=True)
    sizes = np.bincount(level_C, minlength=len(levels))
    upto = np.concatenate([[0], np.cumsum(sizes)])
    # The chance that no candidate above is in the subset: C(m, n) / C(N, n), a product that stays within floats.
    below = np.array([_within(int(m), count, n) for m in upto])
    mean = np.bincount(level_C, weights=gold_C, minlength=len(levels)) / sizes
    return float((np.diff(below) * mean).sum())


def _within(m: int, count: int, n: int) -> float:
    """C(m, n) / C(count, n): the chance that a random subset of n lies within m of `count`."""
    return math.comb(m, n) / math.comb(count, n)


def best_of_n_curve(
    groups: Iterable[Group], by: str, gold: str, ns: Sequence[int] = NS, where: str = "best_of_n_curve"
) -> list[Point]:
    """Expected gold reward of the best of n by reader `by`, for each n, with intervals over prompts.

    gold: the critic whose scores are the truth. A prompt on which it abstained for a candidate is left out (the
    intervals' n says how many were there): dropping the candidate alone would favour whom the abstention favours.

    Raises `UserError` for a reader or gold that scored nothing, and for groups of fewer than max(ns) answers.
    """
    groups = list(groups)
    if not ns or any(n < 1 for n in ns):
        raise UserError(f"{where}(ns=...)", f"got {tuple(ns)}", "numbers of candidates, each at least 1")
    reads, truth = signer(groups, by, f"{where}(by=...)"), signer(groups, gold, f"{where}(gold=...)")
    rows: list[list[float]] = []
    for group in groups:
        check_size(group, max(ns), f"{where}(ns=...)")
        marks = [mark for mark in group.scores(truth) if mark is not None]
        if len(marks) == len(group.completions):
            rows.append([expected_best(group.scores(reads), marks, n) for n in ns])
    values: Floats = np.array(rows, dtype=np.float64).reshape(len(rows), len(ns))
    return [Point(n, mean_interval(values[:, i].tolist())) for i, n in enumerate(ns)]


@stage(Report, rev=1, label="climb", estimate=lambda groups, **_: {"prompts": groups.count.get("groups", 0)})
def climb(work: Work, groups: Groups, by: tuple[str, ...], gold: str, ns: tuple[int, ...] = NS) -> None:
    """Expected gold reward of the best of n, by each of the readers `by` (names as in `best`), for each n of `ns`."""
    read = list(groups.read())
    readers = []
    for name in by:
        points = best_of_n_curve(read, name, gold, ns, "climb")
        readers.append(Reader(signer(read, name, "climb(by=...)") or name, tuple(points)))
    result = Climb(gold, len(read), min((len(g.completions) for g in read), default=0), tuple(readers))
    write_figures(work, result)
    (work.dir / "table.txt").write_text(table(result), encoding="utf-8")
    work.count("prompts", len(read))


def read_climb(report: Report) -> Climb:
    """The result of a `climb`. Raises `UserError` for another kind of report."""
    try:
        return read_figures(report, Climb)
    except msgspec.ValidationError:
        raise UserError(report.name, "it is no curve of best-of-n", "what climb(groups, by, gold) made") from None


def table(result: Climb) -> str:
    """The curves as plain text: a row per reader, a column per n, half an interval under each mean."""
    ns = [point.n for point in result.readers[0].points] if result.readers else []
    width = max([len(reader.by) for reader in result.readers] + [len("best of")])
    lines = [f"{'best of':<{width}}" + "".join(f"{n:>15}" for n in ns)]
    for reader in result.readers:
        lines.append(f"{reader.by:<{width}}" + "".join(f"{_cell(point.reward):>15}" for point in reader.points))
    said = (
        f"mean score by {result.gold} of the best of n, from {result.candidates} candidates to each prompt",
        f"expected over all subsets of n; ± half the 95% interval over {result.prompts} prompts",
    )
    return "\n".join([*lines, "", *said]) + "\n"


def _cell(value: Interval) -> str:
    if value.mean is None or value.low is None or value.high is None:
        return "–"
    return f"{value.mean:.3f} ± {(value.high - value.low) / 2:.3f}"
