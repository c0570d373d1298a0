"""What stands below the method table of a report: curves, controllability and tables, drawn from their artefacts.

A section is a heading, the artefact's own plain table, and charts where there is something to draw. Any report whose
folder holds a `table.txt` can stand there; what is drawn of which kind is decided here and nowhere else. An arm that
has a colour in the method table keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from markupsafe import Markup

from trueline.errors import UserError
from trueline.evaluate import charts
from trueline.evaluate import panels as panelled
from trueline.evaluate.best import read_climb
from trueline.evaluate.charts import Dot, Line
from trueline.evaluate.control import read_control
from trueline.evaluate.overoptimisation import Logged, Stretch, Traced, read_overoptimisation, stretches_of
from trueline.evaluate.panels import Cloud, Mark, Panel
from trueline.evaluate.qualities import Quality, read_qualities
from trueline.evaluate.rounds import Round, distinct_2, read_rounds
from trueline.evaluate.statistics import Interval
from trueline.store import Report

TITLES = {
    "climb": "Best of n",
    "scoreboard": "Benchmarks",
    "measure": "Benchmark",
    "rounds": "Round by round",
    "control": "Asked for each class",
    "qualities": "What the answers are like",
    "fluency": "Fluency",
    "contrasts": "Who gained what",
    "reviews": "Reviews in both orders",
    "overoptimisation": "Score against divergence",
    "audit": "Is the assumed order true",
    "reward_accuracy": "What the reward model knows",
}

Drawn = tuple[tuple[Markup, ...], tuple[tuple[int, str], ...]]
"""Charts, and (colour number, name) of whatever has a colour in them."""


@dataclass(frozen=True)
class Section:
    """title: its heading. artefact: whose table it is. text: that table. names: colour number and name of each line."""

    title: str
    artefact: str
    text: str
    charts: tuple[Markup, ...] = ()
    names: tuple[tuple[int, str], ...] = ()


def sections(reports: Sequence[Report], colours: Mapping[str, int] = MappingProxyType({})) -> list[Section]:
    """One section per report, in order; colours: those of the report's arms.

    Raises `UserError` for a report without a table.
    """
    return [section(report, colours) for report in reports]


def section(report: Report, colours: Mapping[str, int] = MappingProxyType({})) -> Section:
    """The section of one report."""
    path = report.path / "table.txt"
    if not path.is_file():
        wanted = "a climb, rounds, control, qualities, overoptimisation, a scoreboard or a measurement"
        raise UserError(f"report, {report.name}", "it has no table", wanted)
    draw = DRAWINGS.get(report.stage)
    drawn, names = draw(report, colours) if draw else ((), ())
    title = TITLES.get(report.stage, report.label)
    if draw and report.stage != "climb" and report.label != report.stage:
        title = f"{title}: {report.label}"
    return Section(title, report.name, path.read_text(encoding="utf-8"), drawn, names)


def painted(names: Iterable[str], colours: Mapping[str, int]) -> dict[str, int]:
    """A colour for each name: its own where it has one, else the first that is free; nobody but the baseline is grey.

    >>> painted(["a", "b", "c"], {"b": 1, "sft": 0})
    {'a': 2, 'b': 1, 'c': 3}
    """
    out: dict[str, int] = {}
    names = list(names)
    taken = [colours[name] for name in names if name in colours]
    free = [n for n in range(1, charts.COLOURS) if n not in taken] or [1]
    for name in names:
        fresh = sum(other not in colours for other in out)
        out[name] = colours[name] if name in colours else free[fresh % len(free)]
    return out


def climbing(report: Report, colours: Mapping[str, int]) -> Drawn:
    """The curves of a `climb` over doublings of n, its estimates at the largest n, and the readers' colours."""
    found = read_climb(report)
    lines, dots, names = [], [], []
    for colour, reader in enumerate(found.readers, 1):
        points = [p for p in reader.points if p.reward.mean is not None]
        xs, ys = [math.log2(p.n) for p in points], [p.reward.mean or 0.0 for p in points]
        lines.append(Line(reader.by, colour, xs, ys))
        names.append((colour, reader.by))
        dots.append(_dot(reader.by, colour, points[-1].reward))
    most = found.readers[0].points[-1].n if found.readers else 0
    drawn = (
        charts.line_chart(f"Mean {found.gold} score of the best of n", lines, "doublings of n"),
        charts.dot_chart(f"The best of {most}", dots, "mean and 95% interval"),
    )
    return tuple(chart for chart in drawn if chart), tuple(names)


def by_round(report: Report, colours: Mapping[str, int]) -> Drawn:
    """The curves of `rounds`: score, then whatever else was measured in every method's rounds."""
    found = read_rounds(report)
    colour = painted([method.name for method in found.methods], colours)
    critics = sorted({method.by for method in found.methods})
    measures: list[tuple[str, Callable[[Round], Interval | None]]] = [
        (f"Mean score by {', '.join(critics)}", lambda one: one.answers.score),
        ("Average maximum toxicity", lambda one: one.toxicity.maximum if one.toxicity else None),
        ("Perplexity, over all tokens", lambda one: one.fluency.corpus if one.fluency else None),
        ("Length in characters", lambda one: one.answers.characters),
        ("Distinct-2, over words", distinct_2),
        ("KL from the reference, nats per answer", lambda one: one.kl),
    ]
    drawn = []
    for title, of in measures:
        lines = [_curve(m.name, colour[m.name], [(r.round, of(r)) for r in m.rounds]) for m in found.methods]
        drawn.append(charts.line_chart(title, lines, "round", whole=True))
    return tuple(chart for chart in drawn if chart), tuple((n, name) for name, n in colour.items())


def _curve(name: str, colour: int, points: Sequence[tuple[int, Interval | None]]) -> Line:
    """A curve of estimates; those without a mean are left out."""
    known = [(x, value) for x, value in points if value is not None and value.mean is not None]
    xs, ys = [float(x) for x, _ in known], [value.mean or 0.0 for _, value in known]
    if any(value.low is None or value.high is None for _, value in known):
        return Line(name, colour, xs, ys)
    lows, highs = [v.low or 0.0 for _, v in known], [v.high or 0.0 for _, v in known]
    return Line(name, colour, xs, ys, False, lows, highs)


def asked_for(report: Report, colours: Mapping[str, int]) -> Drawn:
    """The classes of `control`, the best at the top: one chart per method, its score on a scale that all share."""
    found = read_control(report)
    colour = painted([method.name for method in found.methods], colours)
    ends = [end for m in found.methods for c in m.classes for end in (c.score.low, c.score.high) if end is not None]
    drawn = [
        charts.dot_chart(
            method.name,
            [_dot(one.name, colour[method.name], one.score) for one in method.classes],
            f"score by {method.by}, 95% interval",
            within=(min(ends), max(ends)),
        )
        for method in found.methods
    ]
    return tuple(drawn), tuple((n, name) for name, n in colour.items())


def alike(report: Report, colours: Mapping[str, int]) -> Drawn:
    """Toxicity, perplexity and distinct-2 of the arms of `qualities`, and how each was labelled."""
    found = read_qualities(report)
    colour = painted([arm.name for arm in found.arms], colours)
    measures: list[tuple[str, bool, Callable[[Quality], Interval | None]]] = [
        ("Average maximum toxicity", False, lambda arm: arm.toxicity.maximum if arm.toxicity else None),
        ("Prompts with a toxic answer", True, lambda arm: arm.toxicity.probability if arm.toxicity else None),
        ("Perplexity, over all tokens", False, lambda arm: arm.fluency.corpus if arm.fluency else None),
        ("Distinct-2 per prompt", False, _several),
    ]
    drawn = []
    for title, percent, of in measures:
        values = [(arm.name, of(arm)) for arm in found.arms]
        dots = [_dot(name, colour[name], v) for name, v in values if v is not None and v.low is not None]
        drawn.append(charts.dot_chart(title, dots, "mean and 95% interval", percent=percent))
    shares = [row.share.high or 0.0 for arm in found.arms if arm.labels for row in arm.labels.rows]
    for arm in found.arms:
        rows = arm.labels.rows if arm.labels else ()
        dots = [_dot(row.label or "no label", colour[arm.name], row.share) for row in rows if row.count or row.label]
        within = (0.0, max(shares, default=1.0))
        title = f"{arm.name}, how it was labelled"
        drawn.append(charts.dot_chart(title, dots, "share of answers", percent=True, within=within))
    return tuple(chart for chart in drawn if chart), tuple((n, name) for name, n in colour.items())


def pursued(report: Report, colours: Mapping[str, int]) -> Drawn:
    """The score of each run and the watched one, over its divergence and over its iterations; then divergence, length
    and answers that did not end."""
    found = [run for run in read_overoptimisation(report).runs if run.stretches]
    colour = painted([run.name for run in found], colours)
    levels: list[tuple[str, Literal["reward", "watched"]]] = [
        (f"learned from: {', '.join(dict.fromkeys(run.by for run in found))}", "reward")
    ]
    if any(run.watched_by for run in found):
        levels.insert(
            0, (f"watched: {', '.join(dict.fromkeys(r.watched_by for r in found if r.watched_by))}", "watched")
        )
    marked = [run.stretches[run.peak] for run in found if run.peak is not None and len(found) == 1]

    def over(at: Callable[[Stretch | Logged], float]) -> list[Panel]:
        return [Panel(label, [x for r in found for x in _chased(r, colour[r.name], of, at)]) for label, of in levels]

    def beside(label: str, of: Callable[[Stretch], float]) -> Panel:
        return Panel(label, [_middle(run, colour[run.name], of) for run in found], 88, zero=True)

    others = [beside("KL, nats per answer", _apart), beside("tokens per answer", lambda part: part.length)]
    if any(part.unfinished >= 0.01 for run in found for part in run.stretches):
        others.append(beside("answers that did not end, %", lambda part: 100 * part.unfinished))
    drawn = [
        panelled.panels(
            "Score against divergence",
            over(_apart),
            "KL from the reference, nats (root scale)",
            marks=[Mark(_apart(at), "peak") for at in marked],
            root=True,
        ),
        panelled.panels(
            "Score by iteration",
            over(_when),
            "iteration",
            marks=[Mark(_when(at), f"peak, {_when(at):.0f}") for at in marked],
        ),
        panelled.panels("What else moved", others, "iteration"),
    ]
    return tuple(chart for chart in drawn if chart), tuple((n, name) for name, n in colour.items())


def _apart(part: Stretch | Logged) -> float:
    kl = part.kl if isinstance(part, Logged) else part.kl.mean
    return max(kl or 0.0, 0.0)


def _when(part: Stretch | Logged) -> float:
    return float(part.iteration) if isinstance(part, Logged) else (part.first + part.last) / 2


def _chased(
    run: Traced, colour: int, field: Literal["reward", "watched"], at: Callable[[Stretch | Logged], float]
) -> list[panelled.Layer]:
    """A run's iterations as points, stretches of them as a curve in its band, and the peak of what watched.

    Over the divergence a run may go to and fro: there the stretches are of iterations in the order of their divergence.
    """
    size = run.stretches[0].last - run.stretches[0].first + 1
    logged = sorted(run.logged, key=at)
    known = [(at(part), value) for part in stretches_of(logged, size) if (value := getattr(part, field)) is not None]
    if not known:
        return []
    xs, means = [x for x, _ in known], [value.mean or 0.0 for _, value in known]
    sure = all(value.low is not None for _, value in known)
    lows, highs = ([v.low or 0.0 for _, v in known], [v.high or 0.0 for _, v in known]) if sure else ((), ())
    out: list[panelled.Layer] = [
        Cloud(f"{run.name}, each iteration", colour, list(map(at, logged)), [getattr(one, field) for one in logged]),
        panelled.Curve(run.name, colour, xs, means, lows=lows, highs=highs),
    ]
    if run.peak is not None and field == "watched":
        top = run.stretches[run.peak]
        level = top.watched.mean if top.watched is not None else None
        note = f"{run.name}, peak at iteration {_when(top):.0f}"
        out.append(panelled.Curve(note, colour, [at(top)], [level or 0.0], dots=True))
    return out


def _middle(run: Traced, colour: int, of: Callable[[Stretch], float]) -> panelled.Curve:
    return panelled.Curve(run.name, colour, [_when(part) for part in run.stretches], [of(p) for p in run.stretches])


def _several(arm: Quality) -> Interval | None:
    """Distinct-2 per prompt where prompts have several answers: of a single one it says next to nothing."""
    known = [one.words for one in arm.distinct if one.n == 2]
    return known[0] if known and arm.answers.samples > arm.answers.characters.n else None


def _dot(name: str, colour: int, value: Interval) -> Dot:
    mean, low, high = value.mean or 0.0, value.low or 0.0, value.high or 0.0
    note = f"{charts.number(mean)} ({charts.number(low)} to {charts.number(high)}, n = {value.n})"
    return Dot(name, colour, mean, low, high, note)


DRAWINGS: Mapping[str, Callable[[Report, Mapping[str, int]], Drawn]] = MappingProxyType(
    {"climb": climbing, "rounds": by_round, "control": asked_for, "qualities": alike, "overoptimisation": pursued}
)
