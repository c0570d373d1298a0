"""Plain tables: what a shell shows."""

from __future__ import annotations

from trueline.evaluate.plain import table


def test_a_table_with_blocks_and_notes():
    """Names in brackets are text; an empty row parts two blocks; a title stands above, notes below."""
    drawn = table(["method", "round", "score"], [["[bold]", "0", "0.5"], ["", "", ""], ["[/x]", "10", "–"]], "All",
                  ["Of [9] prompts."], left=2)  # fmt: skip
    assert drawn.splitlines() == [
        "All", "", "method   round   score", "──────────────────────", "[bold]   0         0.5", "",
        "[/x]     10          –", "", "Of [9] prompts.",
    ]  # fmt: skip


def test_it_stays_within_its_width():
    drawn = table(["measure", *"abcd"], [["word " * 9, *["0.123 ±0.456"] * 4]], notes=["long " * 60])
    assert max(map(len, drawn.splitlines())) <= 100 and drawn.count("0.123 ±0.456") == 4
