"""Plain tables: what a report writes into its `table.txt`, readable without colour, 100 columns at most."""

from __future__ import annotations

import io
from collections.abc import Sequence

WIDTH = 100


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    notes: Sequence[str] = (),
    left: int = 1,
    width: int = WIDTH,
) -> str:
    """A table as text, notes below it; the first `left` columns stand to the left, an empty row parts two blocks.

    >>> print(table(["round", "score"], [["0", "0.50"], ["1", "0.75"]], notes=["Of 9 prompts."]), end="")
    round   score
    ─────────────
    0        0.50
    1        0.75
    <BLANKLINE>
    Of 9 prompts.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))  # as text: a name in brackets is no markup
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    above, below = (title, "") if title else (), ("", *notes) if notes else ()
    for part in (*above, drawn, *below):
        console.print(part, highlight=False, markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
