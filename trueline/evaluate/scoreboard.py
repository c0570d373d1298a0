"""`scoreboard`: many measurements as one table, and as the files in which the published results stand.

    read = [measure(dph, benchmark, reader) for benchmark in gpt4all() for reader in (Likelihood(), PreferenceHead())]
    scoreboard(tuple(read))

Rows are benchmarks, columns are arms: a policy, read in one way. A suite that is complete gets its average, and the
policy a folder with `gpt4all.tsv` and `race.tsv` (a row per reading); GLUE's test split gives `glue_log/`, `glue_dph/`,
and the archives that its server takes once all eleven files are there.

Files: `report.json` (a `Scoreboard`), `table.txt`, a folder per policy.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from trueline.errors import UserError
from trueline.evaluate import tables
from trueline.evaluate.benchmarks.glue import TASKS, Name
from trueline.evaluate.figures import write_figures
from trueline.evaluate.measure import Measured, items_of, percent, read
from trueline.evaluate.metrics import Metric
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Report

# What the published files call a reading.
WRITTEN = MappingProxyType({"log": "log", "head": "dph"})
GLUE = "glue_"
MOST_COLUMNS = 5  # more arms than this stand below each other


class Scoreboard(Record, frozen=True):
    """Every measurement, and the averages of complete suites by suite and arm, in per cent."""

    measured: tuple[Measured, ...]
    averages: dict[str, dict[str, float]] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """A policy and its reader each, in the order in which they were given."""
        return tuple(dict.fromkeys(map(arm, self.measured)))

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Their names, in the order in which they were given."""
        return tuple(dict.fromkeys(one.benchmark for one in self.measured))

    def find(self, benchmark: str, of: str) -> Measured | None:
        """One arm's measurement."""
        return next((one for one in self.measured if (one.benchmark, arm(one)) == (benchmark, of)), None)


@stage(Report, rev=1, label="scoreboard")
def scoreboard(work: Work, measured: tuple[Report, ...]) -> None:
    """The table of `measured`, which `measure` made; the policies' files beside it."""
    found = {report: read(report) for report in measured}
    seen: dict[tuple[str, str], str] = {}
    for report, one in found.items():
        first = seen.setdefault((one.benchmark, arm(one)), report.name)
        if first != report.name:
            raise UserError(
                "scoreboard", f"{first} and {report.name} are both {one.benchmark} of {arm(one)}", "one of them",
                "Two splits, or two settings of one benchmark, stand in two scoreboards.",
            )  # fmt: skip
    board = Scoreboard(tuple(found.values()), averages(list(found.values())))
    write_figures(work, board)
    (work.dir / "table.txt").write_text(draw(board), encoding="utf-8")
    for policy in dict.fromkeys(one.policy for one in found.values()):
        mine = {report: one for report, one in found.items() if one.policy == policy}
        write_published(work.dir / (policy or "baselines"), list(mine.values()))
        write_glue(work.dir / (policy or "baselines"), mine)
    work.count("measurements", len(found))
    work.count("arms", len(board.arms))


def arm(measured: Measured) -> str:
    """A policy and how it was read."""
    return f"{measured.policy} {measured.reader}".strip()


def averages(measured: list[Measured]) -> dict[str, dict[str, float]]:
    """Suite -> arm -> its number in per cent, for arms that have all of a suite's benchmarks with their labels."""
    out: dict[str, dict[str, float]] = {}
    for of in dict.fromkeys(map(arm, measured)):
        row = {one.benchmark: means(one) for one in measured if arm(one) == of}
        accuracy = {name: 100 * found["accuracy"] for name, found in row.items() if "accuracy" in found}
        glue = {name.removeprefix(GLUE): found for name, found in row.items() if name.startswith(GLUE) and found}
        for suite, number in _suites(accuracy, glue):
            out.setdefault(suite, {})[of] = number
    return out


def _suites(accuracy: Mapping[str, float], glue: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    def whole(names: Mapping[str, str]) -> bool:
        return names.keys() <= accuracy.keys()

    if whole(tables.GPT4ALL):
        yield "GPT4All", tables.gpt4all_average(accuracy)
    if whole(tables.RACE):
        yield "RACE", tables.race_average(accuracy)
    if {name for part in tables.GLUE_SCORE for name in part if part != ("wnli",)} <= glue.keys():
        yield "GLUE", tables.glue_score(glue)


def means(measured: Measured) -> dict[str, float]:
    """The metrics that have a value, by name."""
    found = {metric.name: metric.interval.mean for metric in measured.summary.metrics}
    return {name: value for name, value in found.items() if value is not None}


def write_published(folder: Path, measured: list[Measured]) -> None:
    """gpt4all.tsv and race.tsv of one policy, with the readings that have every column."""
    files: tuple[tuple[str, Mapping[str, str], Callable[[Path, Mapping[str, tables.Row]], None]], ...] = (
        ("gpt4all.tsv", tables.GPT4ALL, tables.write_gpt4all), ("race.tsv", tables.RACE, tables.write_race),
    )  # fmt: skip
    for name, columns, write in files:
        rows: dict[str, tables.Row] = {}
        for reader in dict.fromkeys(one.reader for one in measured):
            row = {one.benchmark: 100 * means(one).get("accuracy", float("nan")) for one in measured
                   if one.reader == reader and "accuracy" in means(one)}  # fmt: skip
            if columns.keys() <= row.keys():
                rows[WRITTEN.get(reader, reader)] = row
        if rows:
            folder.mkdir(exist_ok=True)
            write(folder / name, rows)


def write_glue(folder: Path, measured: Mapping[Report, Measured]) -> None:
    """The server's files of one policy: a folder per reading, and its archive once every task is there."""
    written: set[Path] = set()
    for report, one in measured.items():
        task = one.benchmark.removeprefix(GLUE)
        hidden = one.summary.unlabelled == one.summary.items
        if one.benchmark.startswith(GLUE) and task in TASKS and hidden:
            into = folder / f"{GLUE}{WRITTEN.get(one.reader, one.reader)}"
            name: Name = next(known for known in TASKS if known == task)
            tables.write_glue(into, name, items_of(report))
            written.add(into)
    for into in written:
        if len(list(into.glob("*.tsv"))) == len(TASKS):
            tables.zip_glue(into, into.with_suffix(".zip"))


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(board: Scoreboard, width: int = 100) -> str:
    """Benchmarks by arms, in per cent, with half the 95 % interval, averages last; many arms are rows, not columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = [["benchmark", *headings(board), "chance", "n"], *lines(board)]
    turned = len(board.arms) > MOST_COLUMNS
    if turned:
        grid = [[text.replace("\n", ", ") for text in column] for column in zip(*grid, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(grid[0]):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in grid[1:]:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    console.print("Per cent; ±: half the 95% interval. Ties count by their share, so guessing scores chance.")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def lines(board: Scoreboard) -> Iterator[list[str]]:
    """A row per benchmark and metric: its name, each arm's cell, chance, n; then the averages of suites."""
    for benchmark in board.benchmarks:
        of_arms = [board.find(benchmark, of) for of in board.arms]
        one = next(found for found in of_arms if found is not None)
        if not one.summary.metrics:
            yield [benchmark, *("no labels" if found else "–" for found in of_arms), "", f"{one.summary.items:,}"]
        for index, metric in enumerate(one.summary.metrics):
            name = benchmark if index == 0 else f"  {metric.name}"
            cells = ["–" if found is None else cell(found.summary.metrics[index]) for found in of_arms]
            yield [name, *cells, percent(one.summary.chance) if index == 0 else "", f"{metric.interval.n:,}"]
    for suite, by_arm in board.averages.items():
        yield [suite, *(f"{by_arm[of]:.1f}" if of in by_arm else "–" for of in board.arms), "", ""]


def headings(board: Scoreboard) -> list[str]:
    """What stands above each arm: the policy by its label where that tells it from the others, and the reader."""
    arms = {arm(one): (one.policy, one.reader) for one in board.measured}
    policies = {policy for policy, _ in arms.values()}
    labels = {policy: policy.rpartition("-")[0] for policy in policies}
    unique = len(set(labels.values())) == len(policies)
    return [f"{labels[policy] if unique else policy}\n{reader}".lstrip() for policy, reader in arms.values()]


def cell(metric: Metric) -> str:
    """A metric with half its interval."""
    found = metric.interval
    if found.low is None or found.high is None:
        return percent(found.mean)
    return f"{percent(found.mean)} ±{percent((found.high - found.low) / 2)}"
