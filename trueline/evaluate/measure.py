"""`measure`: what a policy scores on a benchmark, read in one way.

    measure(dph, RACE(level="high"), Likelihood())          the "log" column
    measure(dph, RACE(level="high"), PreferenceHead())      the "head" column
    measure(None, HHH(), Longest())                         a baseline that needs no model

A benchmark and a reader are values, so any of one goes with any of the other. Scoring stands in `choice` and `readers`,
what scores are worth in `metrics`; many measurements become one table in `scoreboard`.

Files: `items.jsonl` (an `Outcome` per item: values, winners, hit), `report.json` (a `Measured`), `table.txt`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trueline.errors import UserError
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.metrics import Metric, Outcome, Summary, outcomes, summarize
from trueline.evaluate.protocol import Benchmark, Item, Reader
from trueline.pipeline import Work, stage
from trueline.records import Record, read_jsonl
from trueline.store import Policy, Report, shards

if TYPE_CHECKING:
    from trueline.models import Loaded

ITEMS = "items.jsonl"
# Items per shard: questions of one passage or one subject share what stands before them only within a shard.
SHARD = 512


class Measured(Record, frozen=True):
    """What a policy scored on a benchmark by one reader.

    policy, fingerprint: whose; "" for a reader that needs none. dropped: items without a value, as they do not fit into
    the model's context; they count as misses, and `summary.unscored` holds them and those without a readable answer.
    """

    benchmark: str
    reader: str
    policy: str
    fingerprint: str
    summary: Summary
    dropped: int = 0


@stage(Report, rev=1, label="measure")
def measure(
    work: Work,
    policy: Policy | None,
    benchmark: Benchmark,
    reader: Reader,
    chat: str = "auto",
    max_dropped: float = 0.1,
) -> None:
    """What `policy` scores on `benchmark`, read by `reader`.

    policy: None for a reader that needs no model. chat: how questions are rendered (`chat.Renderer`'s styles).
    max_dropped: the share of items, from 0 to 1, that may be longer than the model's context; a larger one is an error,
    and dropped items count as misses. Which they are stands in `dropped.jsonl`.

    Counted in the record: items, options, tokens (scored ones), dropped.
    """
    if not isinstance(benchmark, Benchmark):
        raise UserError("measure(benchmark)", f"got {benchmark!r}", "a benchmark")
    if not isinstance(reader, Reader):
        raise UserError("measure(reader)", f"got {reader!r}", "a reader: Likelihood(), PreferenceHead(), Generated()")
    items = list(benchmark.items())
    opened: list[Loaded] = []

    def process(part: Sequence[Item]) -> list[Outcome]:
        # Opened by the first shard that is not done yet: a run with nothing left to score loads no model.
        if policy is not None and not opened:
            from trueline import models

            opened.append(models.load(policy, machine=work.machine, chat=chat))
        scores = list(reader.read(opened[0] if opened else None, part))
        for item, score in zip(part, scores, strict=True):
            work.count("items")
            work.count("options", len(item.options))
            work.count("tokens", sum(score.tokens))
            if score.dropped:
                work.drop(score.dropped, {"item": item.id})
        return list(outcomes(part, scores))

    shards(work, items, process, out=ITEMS, size=SHARD)
    dropped = work.counts["dropped"]
    work.limit("longer than the model's context", dropped, len(items), max_dropped)
    summary = summarize(read_jsonl(work.dir / ITEMS, Outcome), benchmark.metrics)
    name, fingerprint = (policy.name, policy.fingerprint) if policy is not None else ("", "")
    measured = Measured(benchmark.name, reader.name, name, fingerprint, summary, dropped)
    write_figures(work, measured)
    (work.dir / "table.txt").write_text(draw(measured), encoding="utf-8")


def read(report: Report) -> Measured:
    """The result of a made `measure`."""
    return read_figures(report, Measured)


def items_of(report: Report) -> list[Outcome]:
    """What a made `measure` found for each item, in the benchmark's order."""
    return list(read_jsonl(report.path / ITEMS, Outcome))


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(measured: Measured, width: int = 100) -> str:
    """The measurement as a plain table: each metric, then the headline by group, with interval, n and chance."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    summary = measured.summary
    title = f"{measured.benchmark}, read by {measured.reader}" + (f", {measured.policy}" if measured.policy else "")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", title_justify="left", pad_edge=False)
    table.add_column("metric", overflow="fold")
    for heading in ("%", "95% interval", "n", "chance %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, metric in enumerate(summary.metrics):
        table.add_row(metric.name, *cells(metric), percent(summary.chance) if index == 0 else "")
    for group, metric in summary.groups.items():
        table.add_row(f"  {group or '(no group)'}", *cells(metric), "")
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    for note in notes(measured):
        console.print(note, highlight=False, markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def cells(metric: Metric) -> tuple[str, str, str]:
    """Value, interval and n."""
    found = metric.interval
    within = f"{percent(found.low)} to {percent(found.high)}" if found.low is not None else "–"
    return percent(found.mean), within, f"{found.n:,}"


def percent(value: float | None) -> str:
    """A share or a correlation in per cent, one decimal."""
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")


def notes(measured: Measured) -> list[str]:
    """What a reader of the table has to know: ties, misses, items without a label."""
    summary, out = measured.summary, [metric.note for metric in measured.summary.metrics if metric.note]
    if summary.tied:
        out.append(f"{summary.tied:,} items tied between their right option and others; each counts by its share.")
    if measured.dropped:
        out.append(
            f"{measured.dropped:,} items are longer than the model's context (dropped.jsonl) and count as misses."
        )
    if summary.unlabelled:
        out.append(f"{summary.unlabelled:,} of {summary.items:,} items have no label, and stand in no metric.")
    return [note[:1].upper() + note[1:].rstrip(".") + "." for note in dict.fromkeys(out)]
