"""`scaling`: how the arms of a study grow with its data: scores and contrasts by size, a table and curves.

    scaling((Sized(80, (("B", b), ("C", c))), Sized(160, ...)), (("Labels", (Contrast("C - B", ("C",), ("B",)),)),))

Every size answers the same held-out prompts, so a contrast is paired by prompt at each of them, and so is what it
changed by from the smallest size to the largest.

Worked: on two prompts C - B is (0.5, 0.2) at 80 and (0.2, 0.1) at 640: 0.35, 0.15, and a change of -0.2.

Files: `report.json` (a `Scaled`), `table.txt`, `report.html`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trueline.errors import UserError, closest
from trueline.evaluate import charts, plain
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.charts import Line, number
from trueline.evaluate.contrasts import Contrast, gains
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import bounds, plus
from trueline.evaluate.matrix import signed
from trueline.evaluate.results import scores
from trueline.evaluate.sheet import Fact, Part, render
from trueline.evaluate.statistics import Interval, mean_interval
from trueline.evaluate.table import within
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Groups, Report

Marks = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Sized:
    """The arms at one size: scored answers by arm, all to the same prompts."""

    size: int
    arms: tuple[tuple[str, Groups], ...]


class Point(Record, frozen=True):
    """One size: each arm's score and each contrast, by name."""

    size: int
    scores: dict[str, Interval]
    gains: dict[str, Interval]


class Scaled(Record, frozen=True):
    """Everything by size, the smallest first: `report.json`. change: of each contrast, the largest less the smallest.

    unfair: why a contrast is no fair comparison, by name; fair ones are not in it. panels: what is drawn together, arms
    or contrasts, by title.
    """

    by: str
    prompts: int
    points: tuple[Point, ...]
    change: dict[str, Interval]
    unfair: dict[str, str] = {}
    panels: tuple[tuple[str, tuple[str, ...]], ...] = ()


@stage(Report, rev=1, label="scaling", estimate=lambda sizes, **_: {"arms": sum(len(one.arms) for one in sizes)})
def scaling(
    work: Work,
    sizes: tuple[Sized, ...],
    contrasted: tuple[tuple[str, tuple[Contrast, ...]], ...],
    beside: tuple[tuple[str, tuple[str, ...]], ...] = (),
    by: str = "",
    what: str = "prompts",
) -> None:
    """Scores and contrasts of the arms at every size.

    contrasted: the contrasts, those that are drawn together under one title. beside: which arms are drawn together, by
    title (default: all). by: the critic whose scores are read (default: the last that scored all answers). what: what
    sizes count. Raises `UserError` where sizes or their arms do not match.
    """
    sizes = tuple(sorted(sizes, key=lambda one: one.size))
    wanted = [one for _, some in contrasted for one in some]
    names = check(sizes, wanted, [name for _, some in beside for name in some])
    every = {f"{name} at {one.size}": list(of.read()) for one in sizes for name, of in one.arms}
    prompts, _ = common_prompts(every, "scaling", 0.0)
    critics = scorers(every, by, "scaling(by=...)")
    marks = {name: scores(only(of, prompts), critics[name]) for name, of in every.items()}
    at = {one.size: {name: marks[f"{name} at {one.size}"] for name in names} for one in sizes}
    points = tuple(_point(size, of, wanted) for size, of in at.items())
    change = {one.name: mean_interval(moved(one, at[sizes[0].size], at[sizes[-1].size])) for one in wanted}
    unfair = {one.name: one.unfair for one in wanted if one.unfair}
    panels = tuple((title, tuple(one.name for one in some)) for title, some in contrasted)
    panels += beside or (("All arms", tuple(names)),)
    result = Scaled(next(iter(critics.values())), len(prompts), points, change, unfair, panels)
    write_figures(work, result)
    (work.dir / "table.txt").write_text("\n".join((draw(result, what), draw_gains(result, what))), encoding="utf-8")
    (work.dir / "report.html").write_text(page(result, what), encoding="utf-8")
    work.count("arms", len(every))


def check(sizes: Sequence[Sized], wanted: Sequence[Contrast], beside: Sequence[str] = ()) -> list[str]:
    """The names of the arms. Raises `UserError` where a size stands twice, or has other arms than the first."""
    values = [one.size for one in sizes]
    if len(values) < 2 or len(set(values)) < len(values):
        raise UserError("scaling(sizes=...)", f"got {values}", "at least two, each once")
    names = [name for name, _ in sizes[0].arms]
    for one in sizes:
        if [name for name, _ in one.arms] != names:
            got = f"the arms {', '.join(name for name, _ in one.arms)} at {one.size}"
            raise UserError("scaling(sizes=...)", got, f"{', '.join(names)}, as at {sizes[0].size}")
    meant = [name for one in wanted for name in (*one.plus, *one.minus)]
    for name in (name for name in (*meant, *beside) if name not in names):
        raise UserError("scaling", f'no arm is named "{name}"', "", closest(name, names))
    return names


def _point(size: int, marks: Marks, wanted: Sequence[Contrast]) -> Point:
    known = {name: mean_interval(list(of.values())) for name, of in marks.items()}
    return Point(size, known, {one.name: mean_interval(gains(one, marks)) for one in wanted})


def moved(one: Contrast, first: Marks, last: Marks) -> list[float]:
    """The change of a contrast on every prompt on which all its arms have a score at both sizes."""
    both = {f"{name}, first": of for name, of in first.items()} | {f"{name}, last": of for name, of in last.items()}
    plus_ = (*(f"{name}, last" for name in one.plus), *(f"{name}, first" for name in one.minus))
    minus = (*(f"{name}, last" for name in one.minus), *(f"{name}, first" for name in one.plus))
    return gains(Contrast(one.name, plus_, minus), both)


# --- shown -----------------------------------------------------------------------------------------------------------


def draw(result: Scaled, what: str = "prompts") -> str:
    """The scores by size."""
    rows = [[str(p.size), *(within(p.scores[name], 1, 3) for name in p.scores)] for p in result.points]
    return plain.table([what, *result.points[0].scores], rows, title=f"Mean {result.by} score, by {what}")


def draw_gains(result: Scaled, what: str = "prompts") -> str:
    """The contrasts by size with what they changed by."""
    rows = [[str(p.size), *(_short(p.gains[name]) for name in result.change)] for p in result.points]
    rows.append(["change", *map(_short, result.change.values())])
    told = [name.partition(": ") for name in result.change]
    notes = [
        "; ".join(f"{short}: {long}" for short, _, long in told if long) + "." if any(x[2] for x in told) else "",
        f"{result.by} score, paired over {result.prompts} prompts; ±: half the 95 % interval, not widened for their "
        "number, and of the prompts alone: each arm was trained once at each size.",
        *(f"Not fair: {name} ({why})." for name, why in result.unfair.items()),
    ]
    title = f"What one has over another, by {what}; change: the last row less the first"
    return plain.table([what, *(short for short, _, _ in told)], rows, title=title, notes=[n for n in notes if n])


def _short(value: Interval) -> str:
    return signed(value).replace("±0.", "±.")  # six contrasts stand beside each other


def page(result: Scaled, what: str = "prompts") -> str:
    """The page: how the contrasts moved, the curves of contrasts and of arms."""
    last = result.points[-1]
    facts = [
        Fact(
            name,
            plus(last.gains[name].mean or 0.0, 3),
            f"At {number(last.size, 6)} {what}: {bounds(last.gains[name], plus)}; {bounds(change, plus)} more than at "
            f"{number(result.points[0].size, 6)}.",
        )
        for name, change in list(result.change.items())[:3]
    ]
    lead = f"The same study at {len(result.points)} sizes, all arms on the same {result.prompts} held-out prompts."
    return render("By size", headline(result, what), lead, facts, parts(result, what))


def headline(result: Scaled, what: str) -> str:
    """One sentence: which contrast changed most."""
    name, change = max(result.change.items(), key=lambda one: abs(one[1].mean or 0.0))
    if not change.excludes_zero:
        return f"No contrast changed with the number of {what} so that these prompts can show it."
    short, _, long = name.partition(": ")
    moved = "more" if (change.mean or 0.0) > 0 else "less"
    return f"{(long or short).capitalize()}: {moved} is gained with more {what}."


def parts(result: Scaled, what: str) -> list[Part]:
    """The sections: contrasts, then the arms; the charts of a section share a scale."""
    named = {math.log2(p.size): str(p.size) for p in result.points}

    def section(title: str, lead: str, of: Sequence[Mapping[str, Interval]], text: str, zero: bool) -> Part:
        every = list(of[0])
        ends = [x for values in of for v in values.values() for x in (v.low, v.high) if x is not None]
        drawn = []
        for panel, names in result.panels:
            if names[0] not in every:
                continue
            lines = [_line(name, 1 + every.index(name) % 7, list(named), of) for name in names]
            drawn.append(charts.line_chart(panel, lines, what, named=named, zero=zero, within=(min(ends), max(ends))))
        key = tuple((1 + at % 7, name) for at, name in enumerate(every))
        return Part(title, lead, tuple(drawn), key, text)

    gained, scored = [p.gains for p in result.points], [p.scores for p in result.points]
    lead = "Paired by prompt at each size; a size is twice the one before it where they are evenly apart."
    return [
        section("What one has over another", lead, gained, draw_gains(result, what), True),
        section("The arms", f"Mean {result.by} score, by {what}.", scored, draw(result, what), False),
    ]


def _line(name: str, colour: int, places: Sequence[float], of: Sequence[Mapping[str, Interval]]) -> Line:
    known = [(x, values[name]) for x, values in zip(places, of, strict=True) if values[name].mean is not None]
    ys, lows, highs = ([getattr(v, end) or 0.0 for _, v in known] for end in ("mean", "low", "high"))
    return Line(name, colour, [x for x, _ in known], ys, False, lows, highs)


def read_scaling(report: Report) -> Scaled:
    """The result of a made `scaling`."""
    return read_figures(report, Scaled)
