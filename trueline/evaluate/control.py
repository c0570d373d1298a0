"""`control`: does a policy do what it is asked for? Ask for each class, and see whether the classes come out in order.

    arms = tuple(judge(draw(quark, held_out, sampling, condition=asking(tokens, k)), critic) for k in range(5))
    control((Controlled("Quark", arms, ("best", "good", "fair", "poor", "worst")),))

Class 0 is the best. All numbers are over the prompts that were asked for every class, and on which each class has a
score: a prompt's score under a class is the mean over its answers.

    scores 0.9, 0.7, 0.7, 0.2 for the classes 0 to 3 of a prompt: adjacent pairs in order 1, a tie counted half, 1:
    2.5 of 3. Ranks asked 4, 3, 2, 1 and found 4, 2.5, 2.5, 1: Spearman 0.949

The classes *come out in order* where the interval of every gap between neighbours, paired by prompt, lies above 0. The
intervals are not widened for the number of gaps.

Files: `report.json` (a `Control`), `table.txt`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trueline.errors import UserError
from trueline.evaluate import plain
from trueline.evaluate.arms import common_prompts, scorers
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import bounds, places, plus
from trueline.evaluate.metrics import spearman_of
from trueline.evaluate.results import scores
from trueline.evaluate.statistics import Interval, difference, mean_interval
from trueline.evaluate.table import within
from trueline.pipeline import Work, stage
from trueline.records import Group, Record
from trueline.store import Groups, Report

Marks = Mapping[str, float | None]


@dataclass(frozen=True)
class Controlled:
    """A method's answers when asked for each class, the best first; classes: what they are called.

    Without `classes` each is called what its answers were asked with, where that is one text, else by its number.
    """

    name: str
    samples: tuple[Groups, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"Controlled({self.name!r})"
        if len(self.samples) < 2:
            raise UserError(where, f"got {len(self.samples)} classes", "groups for each of at least two classes")
        if self.classes and len(self.classes) != len(self.samples):
            got = f"got {len(self.classes)} names for {len(self.samples)} classes"
            raise UserError(where, got, "a name for each")
        if len(set(self.samples)) < len(self.samples):
            raise UserError(where, "the same answers stand for two classes", "groups drawn for each class")


class Class(Record, frozen=True):
    """What was asked for, and the score that came of it."""

    name: str
    score: Interval


class Obeyed(Record, frozen=True):
    """One method: its classes, the paired gap between each and the next worse one, and three ways of saying "in order".

    ordered: every gap's interval is above 0. spearman: mean over prompts of the rank correlation of what was asked for
    and the score; 0 for a prompt that scores the same throughout. in_order: mean over prompts of the share of adjacent
    pairs in the right order, ties counted half; one half is chance. prompts: that count; left_out: that were not asked
    for every class, or have no score for one.
    """

    name: str
    by: str
    classes: tuple[Class, ...]
    gaps: tuple[Interval, ...]
    ordered: bool
    spearman: Interval
    in_order: Interval
    prompts: int
    left_out: int = 0


class Control(Record, frozen=True):
    """What every method made of being asked: `report.json`."""

    methods: tuple[Obeyed, ...]


def obeyed(name: str, by: str, classes: Sequence[str], marks: Sequence[Marks], left_out: int = 0) -> Obeyed:
    """The measures of one method from its score per prompt for each class, the best first."""
    prompts = [p for p in marks[0] if all(of.get(p) is not None for of in marks)]
    kept = [{p: of[p] for p in prompts} for of in marks]
    rows = [[float(of[p] or 0.0) for of in kept] for p in prompts]
    gaps = tuple(difference(better, worse) for better, worse in itertools.pairwise(kept))
    return Obeyed(
        name=name,
        by=by,
        classes=tuple(Class(c, mean_interval(list(of.values()))) for c, of in zip(classes, kept, strict=True)),
        gaps=gaps,
        ordered=all(gap.n > 1 and gap.low is not None and gap.low > 0 for gap in gaps),
        spearman=mean_interval([spearman(row) for row in rows]),
        in_order=mean_interval([in_order(row) for row in rows]),
        prompts=len(prompts),
        left_out=left_out + len(marks[0]) - len(prompts),
    )


def spearman(scores: Sequence[float]) -> float:
    """Rank correlation of a prompt's scores, best class first, with the classes asked for; 0 where all are the same.

    >>> [round(spearman(scores), 3) for scores in ([0.9, 0.7, 0.7, 0.2], [1, 2], [1, 1])]
    [0.949, -1.0, 0.0]
    """
    cells_K2 = np.column_stack([-np.arange(len(scores)), scores]).astype(np.float64)
    return float(spearman_of(cells_K2, np.ones((1, len(scores))))[0])


def in_order(scores: Sequence[float]) -> float:
    """Share of neighbours of which the better class has the higher score, a tie counted half.

    >>> in_order([0.9, 0.7, 0.7, 0.2]) * 3
    2.5
    """
    pairs = list(itertools.pairwise(scores))
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


@stage(Report, rev=1, label="control", estimate=lambda methods, **_: {"arms": sum(len(m.samples) for m in methods)})
def control(work: Work, methods: tuple[Controlled, ...], by: str = "", max_unmatched: float = 0.1) -> None:
    """Whether each method's answers come out in the order in which they were asked for.

    by: the critic whose scores are read (default: the last that scored all of a method's answers). max_unmatched: the
    largest share of prompts, from 0 to 1, that may lack an answer for some class.
    """
    names = [method.name for method in methods]
    if not methods or len(set(names)) < len(names):
        raise UserError("control(methods=...)", f"got {names}", "methods, each with a name of its own")
    found = Control(tuple(_measured(method, by, max_unmatched) for method in methods))
    write_figures(work, found)
    (work.dir / "table.txt").write_text(draw(found), encoding="utf-8")
    work.count("arms", sum(len(method.classes) for method in found.methods))
    work.count("prompts", max(method.prompts for method in found.methods))


def _measured(method: Controlled, by: str, most: float) -> Obeyed:
    where = f"control of {method.name}"
    arms = {f"class {k}": list(groups.read()) for k, groups in enumerate(method.samples)}
    prompts, left_out = common_prompts(arms, where, most)
    critics = scorers(arms, by, f"{where}(by=...)")
    asked = tuple(_names(arms, where))
    marks = []
    for name, groups in arms.items():
        of = scores(groups, critics[name])
        marks.append({prompt: of[prompt] for prompt in prompts})
    found = obeyed(method.name, next(iter(critics.values())), method.classes or asked, marks, left_out)
    if not found.prompts:
        raise UserError(where, f"none of {len(prompts)} prompts has a score for every class", "a critic that answers")
    return found


def _names(arms: Mapping[str, Sequence[Group]], where: str) -> list[str]:
    """What each class was asked with, where all its answers share one text that no other class has."""
    asks = [{completion.ask for group in groups for completion in group.completions} for groups in arms.values()]
    for (one, a), (other, b) in itertools.combinations(zip(arms, asks, strict=True), 2):
        if a == b and a != {None}:
            raise UserError(
                where, f'{one} and {other} were both asked with "{next(iter(a))}"', "a condition for each class",
                "Draw each with condition=asking(condition, k).",
            )  # fmt: skip
    said = [next(iter(of)) if len(of) == 1 else None for of in asks]
    return [" ".join(ask.split()) or name if ask else name for name, ask in zip(arms, said, strict=True)]


def read_control(report: Report) -> Control:
    """The result of a made `control`."""
    if report.stage != "control":
        raise UserError(report.name, "it is no measure of control", "what control(methods) made")
    return read_figures(report, Control)


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(found: Control) -> str:
    """The methods' classes as plain text, with the gap from each to the next, and below whether they are in order."""
    rows: list[list[str]] = []
    for method in found.methods:
        rows += [[""] * 4] if rows else []
        gaps = [f"{plus(g.mean or 0.0, places(g))} ({bounds(g, plus)})" for g in method.gaps]
        for index, (one, gap) in enumerate(itertools.zip_longest(method.classes, gaps, fillvalue="")):
            assert isinstance(one, Class)
            rows.append([method.name if index == 0 else "", one.name, within(one.score), gap])
    notes = [note for method in found.methods for note in _said(method)]
    notes.append("±: half the 95% interval over prompts; gaps are paired by prompt. Ties count half.")
    return plain.table(["method", "asked for", "score", "over the next (95% interval)"], rows, notes=notes, left=2)


def _said(method: Obeyed) -> list[str]:
    said = "come out in the order asked for" if method.ordered else "do not all come out in the order asked for"
    left = f", {method.left_out} left out" if method.left_out else ""
    return [
        f"{method.name}: the classes {said}, by {method.by}, on {method.prompts} prompts{left}.",
        f"  rank correlation {within(method.spearman)}; adjacent pairs in order {within(method.in_order, 100, 1)}%"
        " (chance 50).",
    ]
