"""`scaling`: how the arms of a study grow with its data: scores and contrasts by size, a table and curves.

    scaling((Sized(80, (("B", b), ("C", c))), Sized(160, ...)), (Contrast("C - B", ("C",), ("B",)),))

Every size answers the same held-out prompts, so a contrast is paired by prompt at each of them, and so is what it
changed by from the smallest size to the largest.

Worked: on two prompts C - B is (0.5, 0.2) at 80 and (0.2, 0.1) at 640: 0.35, 0.15, and a change of -0.2.

Files: `report.json` (a `Scaled`), `table.txt`, `report.html`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from trueline.errors import UserError, closest
from trueline.evaluate import charts, plain
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.charts import Line, number
from trueline.evaluate.contrasts import Contrast, gains
from trueline.evaluate.headline import bounds, plus
from trueline.evaluate.matrix import signed
from trueline.evaluate.results import scores
from trueline.evaluate.sheet import Fact, Part, render
from trueline.evaluate.statistics import Interval, mean_interval
from trueline.evaluate.table import within
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.records import Record, encode
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

    unfair: why a contrast is no fair comparison, by name; fair ones are not in it.
    """

    by: str
    prompts: int
    points: tuple[Point, ...]
    change: dict[str, Interval]
    unfair: dict[str, str] = {}


@stage(Report, rev=1, label="scaling", estimate=lambda sizes, **_: {"arms": sum(len(one.arms) for one in sizes)})
def scaling(
    work: Work, sizes: tuple[Sized, ...], wanted: tuple[Contrast, ...], by: str = "", what: str = added("prompts")
) -> None:
    """Scores and contrasts of the arms at every size. by: the critic whose scores are read (default: the last that
    scored all answers). what: what sizes count. Raises `UserError` where sizes or their arms do not match.
    """
    sizes = tuple(sorted(sizes, key=lambda one: one.size))
    names = check(sizes, wanted)
    every = {f"{name} at {one.size}": list(of.read()) for one in sizes for name, of in one.arms}
    prompts, _ = common_prompts(every, "scaling", 0.0)
    critics = scorers(every, by, "scaling(by=...)")
    marks = {name: scores(only(of, prompts), critics[name]) for name, of in every.items()}
    at = {one.size: {name: marks[f"{name} at {one.size}"] for name in names} for one in sizes}
    points = tuple(_point(size, of, wanted) for size, of in at.items())
    change = {one.name: mean_interval(moved(one, at[sizes[0].size], at[sizes[-1].size])) for one in wanted}
    unfair = {one.name: one.unfair for one in wanted if one.unfair}
    result = Scaled(next(iter(critics.values())), len(prompts), points, change, unfair)
    (work.dir / "report.json").write_bytes(msgspec.json.format(encode(result), indent=1))
    (work.dir / "table.txt").write_text(draw(result, what), encoding="utf-8")
    (work.dir / "report.html").write_text(page(result, what), encoding="utf-8")
    work.count("arms", len(every))


def check(sizes: Sequence[Sized], wanted: Sequence[Contrast]) -> list[str]:
    """The names of the arms. Raises `UserError` where a size stands twice, or has other arms than the first."""
    values = [one.size for one in sizes]
    if len(values) < 2 or len(set(values)) < len(values):
        raise UserError("scaling(sizes=...)", f"got {values}", "at least two, each once")
    names = [name for name, _ in sizes[0].arms]
    for one in sizes:
        if [name for name, _ in one.arms] != names:
            got = f"the arms {', '.join(name for name, _ in one.arms)} at {one.size}"
            raise UserError("scaling(sizes=...)", got, f"{', '.join(names)}, as at {sizes[0].size}")
    for name in (name for one in wanted for name in (*one.plus, *one.minus) if name not in names):
        raise UserError("scaling(wanted=...)", f'no arm is named "{name}"', "", closest(name, names))
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
    """The scores by size, then the contrasts by size with what they changed by."""
    arms = [[str(p.size), *(within(p.scores[name], 1, 3) for name in p.scores)] for p in result.points]
    first = plain.table([what, *result.points[0].scores], arms, title=f"Mean {result.by} score, by {what}")
    sizes = [number(p.size, 6) for p in result.points]
    rows = [
        [name, *(signed(p.gains[name]) for p in result.points), signed(result.change[name])] for name in result.change
    ]
    notes = [
        f"{result.by} score, paired over {result.prompts} prompts; ±: half the 95 % interval, not widened for their "
        "number, and of the prompts alone: each arm was trained once at each size.",
        *(f"Not fair: {name} ({why})." for name, why in result.unfair.items()),
    ]
    title = f"What one has over another, by {what}, and the last column less the first"
    return f"{first}\n{plain.table(['contrast', *sizes, 'change'], rows, title=title, notes=notes)}"


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
    lead = (
        f"The same study at {len(result.points)} sizes, all arms on the same {result.prompts} held-out prompts. Sizes "
        "are a constant factor apart on the axis where they double."
    )
    return render("By size", headline(result, what), lead, facts, parts(result, what))


def headline(result: Scaled, what: str) -> str:
    """One sentence: which contrast changed most."""
    name, change = max(result.change.items(), key=lambda one: abs(one[1].mean or 0.0))
    if not change.excludes_zero:
        return f"No contrast changed with the number of {what} so that these prompts can show it."
    title = name.partition(":")[0]
    return f"{title} {'grows' if (change.mean or 0.0) > 0 else 'shrinks'} with the number of {what}."


def parts(result: Scaled, what: str) -> list[Part]:
    """The sections: contrasts, then the arms."""
    arms, found = list(result.points[0].scores), list(result.change)
    named = {math.log2(p.size): str(p.size) for p in result.points}

    def chart(title: str, names: Sequence[str], of: Sequence[Mapping[str, Interval]], zero: bool) -> Markup:
        lines = []
        for name in names:
            at = (arms if name in arms else found).index(name)
            known = [(x, values[name]) for x, values in zip(named, of, strict=True) if values[name].mean is not None]
            ys = [v.mean or 0.0 for _, v in known]
            ends = [v.low or 0.0 for _, v in known], [v.high or 0.0 for _, v in known]
            lines.append(Line(name, 1 + at % 7, [x for x, _ in known], ys, False, *ends))
        return charts.line_chart(title, lines, what, named=named, zero=zero)

    gained = [p.gains for p in result.points]
    two = [
        chart(f"What one has over another, {part}", names, gained, True)
        for part, names in (("fair", [n for n in found if n not in result.unfair]), ("not fair", list(result.unfair)))
        if names
    ]
    levels = [chart(f"Mean {result.by} score", arms, [p.scores for p in result.points], False)]
    keys = [tuple((1 + at % 7, name) for at, name in enumerate(of)) for of in (found, arms)]
    text = draw(result, what).split("\n\n", 1)
    return [
        Part("What one has over another", "Paired by prompt at each size.", tuple(two), keys[0], text[-1]),
        Part("The arms", "Each trained once at each size.", tuple(levels), keys[1], text[0]),
    ]


def read_scaling(report: Report) -> Scaled:
    """The result of a made `scaling`."""
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=Scaled)
