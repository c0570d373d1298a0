"""The method table as text: one row per arm, 100 columns at most, readable without colour.

After ± stands half the 95 % interval over prompts; a dash is *not known*. What a column means stands below the table,
so that a pasted table explains itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from trueline.evaluate.charts import number
from trueline.evaluate.headline import clock, dollars, listed, places, short
from trueline.evaluate.results import ArmResult, Cost, Result
from trueline.evaluate.statistics import Interval

WIDTH = 100


def columns(result: Result) -> list[tuple[str, Callable[[ArmResult], str]]]:
    """(heading, cell) of every column for which at least one arm has something to say."""
    every: list[tuple[str, Callable[[ArmResult], str]]] = [
        ("method", lambda arm: arm.name),
        (result.score_by or "score", lambda arm: within(arm.answers.score)),
        (f"win % vs {result.baseline}", lambda arm: within(arm.win.rate, 100, 1) if arm.win else "–"),
        ("LC", lambda arm: share(arm.length.adjusted.mean) if arm.length else "–"),
        ("pairs %", lambda arm: within(arm.pairs.implicit, 100, 1) if arm.pairs else "–"),
        ("head %", lambda arm: within(arm.pairs.head, 100, 1) if arm.pairs and arm.pairs.head else "–"),
        ("chars", lambda arm: f"{arm.answers.characters.mean:.0f}"),
        ("cut %", lambda arm: share(arm.answers.cut)),
        ("KL", lambda arm: number(arm.kl.mean, 2) if arm.kl else "–"),
        ("calls", lambda arm: short(arm.cost.oracle)),
        ("cost", lambda arm: dollars(arm.cost)),
        ("tokens", lambda arm: short(arm.cost.train_tokens)),
        ("time", lambda arm: clock(arm.cost.seconds) if arm.cost.seconds else "–"),
    ]
    return [(head, cell) for head, cell in every if head == "method" or any(cell(arm) != "–" for arm in result.arms)]


def draw(result: Result, width: int = WIDTH) -> str:
    """The table, what its columns mean, and the headline, as plain text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=result.title, title_style="bold", title_justify="left", pad_edge=False)
    shown = columns(result)
    for head, _ in shown:
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for arm in result.arms:
        table.add_row(*(cell(arm) for _, cell in shown))
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    wide = console.options.update(width=10 * width)
    table.collapse_padding = console.measure(table, options=wide).maximum > width
    # A figure is never cut: rather a line that is too long.
    console.print(table, width=max(width, console.measure(table, options=wide).maximum), crop=False)
    console.print(legend(result, {head for head, _ in shown}), highlight=False)
    for answer in result.headline:
        parts = [answer.question, answer.figure, answer.text]
        console.print("  ".join(part for part in parts if part), highlight=False, markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def legend(result: Result, heads: set[str]) -> str:
    """What the columns mean, in one or two lines."""
    n = max((arm.answers.score.n or arm.answers.characters.n for arm in result.arms), default=0)
    said = [f"±: half the 95% interval over {n} prompts"]
    if any(head.startswith("win") for head in heads):
        said.append("win: ties half, abstentions left out")
    if "LC" in heads:
        said.append("LC: win % at equal length")
    if "pairs %" in heads:
        pairs = max(arm.pairs.pairs for arm in result.arms if arm.pairs)
        said.append(f"pairs: of {pairs} held-out pairs, where the implicit reward prefers the preferred answer")
    if "head %" in heads:
        said.append("head: the same by the preference head")
    if "KL" in heads:
        said.append("KL: nats per answer")
    spent: list[str] = [word for word in ("calls", "tokens", "time") if word in heads]
    if spent:
        asked = "of critics" if not any(arm.cost.teacher for arm in result.arms) else "of teachers and critics"
        said.append(
            f"{listed(spent)}: {f'{asked}, trained and taken, ' if len(spent) == 3 else ''}over the whole lineage"
        )
    if "cost" in heads:
        total = Cost.of(result.steps)
        paid = f", of which ${total.paid_microusd / 1e6:.2f} was paid in these runs" if total.paid_microusd else ""
        said.append(
            "cost: of answers over HTTP (? unknown, ≥ partly); all steps here, judging too, each once: "
            f"{total.money} for {total.calls:,} requests{paid}"
        )
    return "; ".join(said) + ".\n"


def within(value: Interval, times: float = 1, digits: int | None = None) -> str:
    """'0.712 ±0.031', with as many places as the interval deserves."""
    if value.mean is None or value.low is None or value.high is None:
        return "–"
    half = (value.high - value.low) / 2
    digits = places(value) if digits is None else digits
    return f"{times * value.mean:.{digits}f} ±{times * half:.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """A share as a percentage without its sign; a dash where not known."""
    return "–" if value is None else f"{100 * value:.0f}"
