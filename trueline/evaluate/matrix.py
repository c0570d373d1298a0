"""`matrix`: what labels add to a start, by who taught it, who labelled, and who judges; fair cells marked.

    matrix((Taught("0.5", b, a), ...), (Labelled("0.5", "1", c, duels=(("fair", c_against_b),), unfair="..."), ...))

A row is a start B, taught on a share of the prompts; a cell the same start after learning from a critic's labels of its
answers to the rest (C). The gain C - B is paired by prompt, by the scores of one critic that all share; beside it stand
the win rates of C over B as each judge sees them. Where the teacher was also asked about the rest (A), A - B says what
the same calls would have bought as demonstrations, and C - A which of the two was the better buy.

Worked: scores of two prompts B (0.5, 0.4), A (0.7, 0.6), C (1, 0.6): C - B is 0.35, A - B 0.2, C - A 0.15.

Files: `report.json` (a `Matrix`), `table.txt`, `report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from trueline.errors import UserError
from trueline.evaluate import charts, plain
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.charts import Line
from trueline.evaluate.duel import Duel
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import bounds, listed, places, plus
from trueline.evaluate.results import scores
from trueline.evaluate.sheet import Fact, Part, render
from trueline.evaluate.statistics import Interval, difference, mean_interval
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Groups, Report


@dataclass(frozen=True)
class Taught:
    """One teacher's start: scored answers after its share of the prompts, and (None: not trained) after all of them."""

    teacher: str
    share: Groups
    every: Groups | None = None


@dataclass(frozen=True)
class Labelled:
    """A teacher's start after a critic's labels: scored answers, and duels against the start by a judge each.

    unfair: why labels and demonstrations are no fair comparison here, "" if they are: critic and teacher are one.
    """

    teacher: str
    critic: str
    answers: Groups
    duels: tuple[tuple[str, Report], ...] = ()
    unfair: str = ""


class Row(Record, frozen=True):
    """A teacher: its start's score, and what its demonstrations for the rest add to it."""

    teacher: str
    start: Interval
    demonstrations: Interval | None = None


class Seen(Record, frozen=True):
    """What a judge saw in a cell: C's win rate over B, at equal length too, and the share of verdicts that turned."""

    judge: str
    wins: Interval
    at_equal_length: Interval
    flips: float | None = None


class Cell(Record, frozen=True):
    """A teacher and a critic: C - B, C - A where A was trained, and what the judges saw."""

    teacher: str
    critic: str
    gain: Interval
    over_demonstrations: Interval | None
    seen: tuple[Seen, ...]
    unfair: str = ""


class Matrix(Record, frozen=True):
    """All cells, row by row: `report.json`."""

    by: str
    prompts: int
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]

    def row(self, teacher: str) -> list[Cell]:
        """The cells of a teacher, in the order of the critics."""
        return [cell for cell in self.cells if cell.teacher == teacher]


@stage(Report, rev=1, label="matrix", estimate=lambda taught, labelled, **_: {"arms": len(taught) + len(labelled)})
def matrix(work: Work, taught: tuple[Taught, ...], labelled: tuple[Labelled, ...], by: str = "") -> None:
    """The gains of labels by teacher, critic and judge. by: the critic whose scores are read (default: the last that
    scored all answers). Raises `UserError` for a cell whose teacher is in no row.
    """
    starts = {row.teacher: row for row in taught}
    for cell in labelled:
        if cell.teacher not in starts:
            got = f'"{cell.teacher}" is in no row'
            raise UserError(f"matrix, critic {cell.critic}", got, f"one of {', '.join(starts)}")
    given = {f"{t.teacher}, share": t.share for t in taught}
    given |= {f"{t.teacher}, all": t.every for t in taught if t.every is not None}
    given |= {f"{c.teacher}, labelled by {c.critic}": c.answers for c in labelled}
    every = {name: list(groups.read()) for name, groups in given.items()}
    prompts, _ = common_prompts(every, "matrix", 0.0)
    critics = scorers(every, by, "matrix(by=...)")
    marks = {name: scores(only(of, prompts), critics[name]) for name, of in every.items()}
    rows = tuple(_row(marks, t.teacher) for t in taught)
    cells = tuple(_cell(marks, cell) for cell in labelled)
    result = Matrix(next(iter(critics.values())), len(prompts), rows, cells)
    write_figures(work, result)
    (work.dir / "table.txt").write_text("\n".join((draw(result), draw_judges(result))), encoding="utf-8")
    (work.dir / "report.html").write_text(page(result), encoding="utf-8")
    work.count("arms", len(given))


def _row(marks: Mapping[str, Mapping[str, float | None]], teacher: str) -> Row:
    start, full = marks[f"{teacher}, share"], marks.get(f"{teacher}, all")
    return Row(teacher, mean_interval(list(start.values())), difference(full, start) if full else None)


def _cell(marks: Mapping[str, Mapping[str, float | None]], cell: Labelled) -> Cell:
    start, full = marks[f"{cell.teacher}, share"], marks.get(f"{cell.teacher}, all")
    after = marks[f"{cell.teacher}, labelled by {cell.critic}"]
    seen = []
    for judge, report in cell.duels:
        found = read_figures(report, Duel)
        seen.append(Seen(judge, found.raw.rate, found.length.adjusted, found.raw.flip_rate))
    over = difference(after, full) if full else None
    return Cell(cell.teacher, cell.critic, difference(after, start), over, tuple(seen), cell.unfair)


# --- shown -----------------------------------------------------------------------------------------------------------


def signed(value: Interval | None, times: float = 1) -> str:
    """'+0.115 ±0.033': a difference with half its interval."""
    if value is None or value.mean is None or value.low is None or value.high is None:
        return "–"
    digits = 3 if times == 1 else 1
    return f"{plus(times * value.mean, digits)} ±{times * (value.high - value.low) / 2:.{digits}f}"


def draw(result: Matrix) -> str:
    """The gains: a row per teacher, a column per critic, fair cells in brackets."""
    critics = list(dict.fromkeys(cell.critic for cell in result.cells))
    rows = []
    for row in result.rows:
        cells = {cell.critic: cell for cell in result.row(row.teacher)}
        said = [_marked(cells.get(name)) for name in critics]
        start = f"{row.start.mean or 0:.3f}"
        rows.append([row.teacher, start, signed(row.demonstrations), *said])
    heads = ["teacher", "start B", "answers A − B", *(f"labels by {name}" for name in critics)]
    return plain.table(heads, rows, title="What is added to the start, by teacher and critic", notes=[
        f"{result.by} score, paired over {result.prompts} prompts; ±: half the 95 % interval, not widened for the "
        "number of cells, and of the prompts alone: each cell was trained once.",
        "Answers: what the teacher's own answers to the rest add, for the same number of calls.",
        f"In brackets: fair, critic and teacher are one. Not fair elsewhere: {'; '.join(reasons(result))}.",
    ])  # fmt: skip


def _marked(cell: Cell | None) -> str:
    return "– " if cell is None else f"{signed(cell.gain)} " if cell.unfair else f"[{signed(cell.gain)}]"


def reasons(result: Matrix) -> list[str]:
    """Why cells are not fair, each reason once."""
    return list(dict.fromkeys(cell.unfair for cell in result.cells if cell.unfair)) or ["nothing"]


def draw_judges(result: Matrix) -> str:
    """C - A, and what each judge makes of C against B, in points above one half."""
    judges = list(dict.fromkeys(seen.judge for cell in result.cells for seen in cell.seen))
    rows = []
    for cell in result.cells:
        by = {seen.judge: seen for seen in cell.seen}
        wins = [signed(by[name].wins.shifted(-0.5), 100) if name in by else "–" for name in judges]
        name = f"{cell.teacher}, {cell.critic}{'' if cell.unfair else ' (fair)'}"
        rows.append([name, signed(cell.over_demonstrations), *wins])
    notes = [
        "Labels less answers: the score after the critic's labels of the rest less that after the teacher's "
        "answers to it, a call per prompt in both.",
        "Judges: win rate of labels over the start in points above 50, by judges that err as they are named, in both "
        f"orders. Verdicts that turned with the order: {flipped(result)}.",
    ]
    heads = ["teacher, critic", "labels less answers", *judges]
    return plain.table(heads, rows, title="Against the same calls as demonstrations, and by judge", notes=notes)


def flipped(result: Matrix) -> str:
    """Each judge's share of verdicts that turned, over all cells."""
    found: dict[str, list[float]] = {}
    for seen in (seen for cell in result.cells for seen in cell.seen):
        if seen.flips is not None:
            found.setdefault(seen.judge, []).append(seen.flips)
    return listed([f"{name} {100 * sum(of) / len(of):.0f}%" for name, of in found.items()]) or "not known"


def page(result: Matrix) -> str:
    """The page: what is worth most where, gains, and what judges see of them."""
    fair = [cell for cell in result.cells if not cell.unfair]
    best = max(result.cells, key=lambda cell: cell.gain.mean or 0.0)
    facts = [Fact("Labels gain most", plus(best.gain.mean or 0.0, places(best.gain)), _of(best))]
    if fair:
        weak, strong = fair[0], fair[-1]
        for cell in dict.fromkeys((weak, strong)):
            title = f"Oracle {cell.teacher} teaches and labels"
            facts.append(Fact(title, plus(cell.gain.mean or 0.0, places(cell.gain)), _of(cell)))
    return render(
        "Teacher, critic, judge",
        headline(result),
        "A start learned from a teacher's answers to a share of the prompts; then a critic labelled pairs of its "
        "answers to the rest, or the teacher answered these too. A call per prompt in every case.",
        facts,
        parts(result),
    )


def _of(cell: Cell) -> str:
    said = f"Teacher {cell.teacher}, critic {cell.critic}: {bounds(cell.gain, plus)} over {cell.gain.n} prompts"
    return f"{said}; {cell.unfair or 'critic and teacher are one'}."


def headline(result: Matrix) -> str:
    """One sentence: where labels were the better buy."""
    known = [cell for cell in result.cells if cell.over_demonstrations is not None]
    if not known:
        return "What labels add, by teacher and critic."
    better = [c for c in known if (o := c.over_demonstrations) and o.excludes_zero and (o.mean or 0) > 0]
    fair = [cell for cell in better if not cell.unfair]
    if not better:
        return "Labels are nowhere the better buy."
    fairly = f"{len(fair)} of them fair" if fair else "none of them fair"
    return f"Labels beat demonstrations in {len(better)} of {len(known)} cells, {fairly}."


def parts(result: Matrix) -> list[Part]:
    """The sections."""
    critics = list(dict.fromkeys(cell.critic for cell in result.cells))
    named = {float(at): name for at, name in enumerate(critics)}
    key = tuple((1 + at % 7, f"teacher {row.teacher}") for at, row in enumerate(result.rows))

    def chart(
        title: str, of: Mapping[tuple[str, str], Interval | None], within: tuple[float, float] | None = None
    ) -> Markup:
        lines = []
        for at, row in enumerate(result.rows):
            cells = [(critics.index(c.critic), c, of.get((c.teacher, c.critic))) for c in result.row(row.teacher)]
            known = [(x, c, v) for x, c, v in cells if v is not None and v.mean is not None]
            lines.append(
                Line(
                    f"teacher {row.teacher}", 1 + at % 7, [float(x) for x, _, _ in known],
                    [v.mean or 0.0 for _, _, v in known], False, [v.low or 0.0 for _, _, v in known],
                    [v.high or 0.0 for _, _, v in known], [i for i, (_, c, _) in enumerate(known) if not c.unfair],
                )
            )  # fmt: skip
        return charts.line_chart(title, lines, "critic", named=named, zero=True, within=within)

    gains = [chart("What labels add to the start", {(c.teacher, c.critic): c.gain for c in result.cells})]
    if any(cell.over_demonstrations for cell in result.cells):
        over = {(c.teacher, c.critic): c.over_demonstrations for c in result.cells}
        gains.append(chart("Labels less the same calls as answers", over))
        own = [(row.teacher, row.demonstrations) for row in result.rows if row.demonstrations]
        dots = [
            charts.Dot(f"teacher {name}", 1 + at % 7, v.mean or 0.0, v.low or 0.0, v.high or 0.0, bounds(v, plus))
            for at, (name, v) in enumerate(own)
        ]
        gains.append(
            charts.dot_chart("What the teacher's answers to the rest add", dots, "gain over the start", zero=0.0)
        )
    judges = list(dict.fromkeys(seen.judge for cell in result.cells for seen in cell.seen))
    wins = {
        name: {(c.teacher, c.critic): s.wins.shifted(-0.5) for c in result.cells for s in c.seen if s.judge == name}
        for name in judges
    }
    ends = [x for of in wins.values() for v in of.values() for x in (v.low, v.high) if x is not None]
    within = (min(ends), max(ends)) if ends else None
    return [
        Part(
            "What labels buy", "Ringed points are fair: critic and teacher are one. Where the second chart is below "
            "zero, the same calls buy more as the teacher's answers.",
            tuple(gains), key, draw(result),
        ),
        Part(
            "As judges see it", "Wins of labels over the start, above one half, by judges that err as they are named. "
            "All charts share a scale.",
            tuple(chart(name, of, within) for name, of in wins.items()), key, draw_judges(result),
        ),
    ]  # fmt: skip


def read_matrix(report: Report) -> Matrix:
    """The result of a made `matrix`."""
    return read_figures(report, Matrix)
