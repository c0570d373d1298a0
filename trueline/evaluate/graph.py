"""The lineage of a report as a drawing: one box per artefact, made from what stands above it.

Rows are depths (longest way from something that is made from nothing), the order within a row follows the mean
position of the parents, so that few lines cross. Layout only; what stands in a box is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX, TALL, GAP, RISE = 132, 40, 18, 34


@dataclass(frozen=True)
class Box:
    """One artefact: `id` is unique and its anchor, `parents` are ids; `kind` becomes a class."""

    id: str
    label: str
    kind: str
    parents: tuple[str, ...]


def rows(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes by depth, each row ordered by the mean place of its parents; `boxes` has parents first.

    >>> a, b, c = Box("a", "a", "", ()), Box("b", "b", "", ("a",)), Box("c", "c", "", ("a", "b"))
    >>> [[box.id for box in row] for row in rows([a, b, c])]
    [['a'], ['b'], ['c']]
    """
    depth: dict[str, int] = {}
    for box in boxes:
        depth[box.id] = 1 + max((depth[p] for p in box.parents if p in depth), default=-1)
    # What is made from nothing stands right above its first use, not at the top.
    for box in reversed(boxes):
        below = [depth[other.id] for other in boxes if box.id in other.parents]
        if not box.parents and below:
            depth[box.id] = min(below) - 1
    out: list[list[Box]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for box in boxes:
        out[depth[box.id]].append(box)
    place: dict[str, float] = {}
    for row in out:
        row.sort(key=lambda box: _mean([place[p] for p in box.parents if p in place]))
        place |= {box.id: (i + 0.5) / len(row) for i, box in enumerate(row)}
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def draw(boxes: Sequence[Box]) -> Markup:
    """The drawing as SVG of its natural size; every box is a link to `#step-<id>`."""
    placed = rows(boxes)
    if not placed:
        return Markup("")
    width = max(len(row) for row in placed) * (BOX + GAP) - GAP + 2
    height = len(placed) * (TALL + RISE) - RISE + 2
    at: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(placed):
        start = (width - (len(row) * (BOX + GAP) - GAP)) / 2
        for i, box in enumerate(row):
            at[box.id] = (start + i * (BOX + GAP), 1 + depth * (TALL + RISE))
    edges = "".join(_edge(at[parent], at[box.id]) for box in boxes for parent in box.parents if parent in at)
    nodes = "".join(_node(box, at) for box in boxes)
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="What was made '
        f'from what">{edges}{nodes}</svg>'
    )


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0, x1, y1 = start[0] + BOX / 2, start[1] + TALL, end[0] + BOX / 2, end[1]
    middle = (y0 + y1) / 2
    return f'<path class="edge" d="M{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"/>'


def _node(box: Box, at: Mapping[str, tuple[float, float]]) -> str:
    x, y = at[box.id]
    label = box.label if len(box.label) <= 18 else box.label[:17] + "…"
    return (
        f'<a href="#step-{escape(box.id)}" class="node {escape(box.kind)}"><title>{escape(box.label)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="{TALL}" rx="7"/>'
        f'<text x="{x + BOX / 2:.0f}" y="{y + 17:.0f}" text-anchor="middle">{escape(label)}</text>'
        f'<text class="id" x="{x + BOX / 2:.0f}" y="{y + 31:.0f}" text-anchor="middle">{escape(box.id)}</text></a>'
    )
