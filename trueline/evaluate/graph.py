"""The lineage of a report as a drawing: one box per artefact, made from what stands above it.

A layered drawing after Sugiyama: rows are depths, a line that skips rows gets a bend in each of them so that it runs
beside the boxes instead of through them, the order within a row follows the neighbours' mean place, and so do the
horizontal places as far as the boxes leave room. Layout only; what stands in a box is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDE, TALL, GAP, RISE = 124, 40, 16, 34
BEND = 6  # width kept free for a line that passes a row
SWEEPS = 12

Rows = list[list[str]]
Links = dict[str, list[str]]


@dataclass(frozen=True)
class Box:
    """One artefact: `id` is unique and its anchor, `parents` are ids; `kind` becomes a class."""

    id: str
    label: str
    kind: str
    parents: tuple[str, ...]


def depths(boxes: Sequence[Box]) -> dict[str, int]:
    """Row of each box: one below its lowest parent; what is made from nothing stands right above its first use.

    >>> a, b, c = Box("a", "a", "", ()), Box("b", "b", "", ("a",)), Box("c", "c", "", ("a", "b"))
    >>> depths([a, b, c, Box("d", "d", "", ()), Box("e", "e", "", ("c", "d"))])
    {'a': 0, 'b': 1, 'c': 2, 'd': 2, 'e': 3}
    """
    depth: dict[str, int] = {}
    for box in boxes:
        depth[box.id] = 1 + max((depth[p] for p in box.parents if p in depth), default=-1)
    for box in boxes:
        below = [depth[other.id] for other in boxes if box.id in other.parents]
        if not box.parents and below:
            depth[box.id] = min(below) - 1
    return depth


def layers(boxes: Sequence[Box]) -> tuple[Rows, Links, dict[tuple[str, str], list[str]]]:
    """Rows of ids with bends put in, links between neighbouring rows (both ways), and each line's way, end to end."""
    depth = depths(boxes)
    rows: Rows = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for box in boxes:
        rows[depth[box.id]].append(box.id)
    links: Links = {box.id: [] for box in boxes}
    ways = {}
    for box in boxes:
        for parent in (p for p in box.parents if p in depth):
            bends = [f"{parent}>{box.id}@{row}" for row in range(depth[parent] + 1, depth[box.id])]
            for row, bend in enumerate(bends, depth[parent] + 1):
                rows[row].append(bend)
                links[bend] = []
            way = ways[parent, box.id] = [parent, *bends, box.id]
            for a, b in itertools.pairwise(way):
                links[a].append(b)
                links[b].append(a)
    return rows, links, ways


def arrange(rows: Rows, links: Links, widths: Mapping[str, float]) -> dict[str, float]:
    """Centre of every box and bend, by sweeping down and up: each row is ordered and pulled towards its neighbours."""
    x: dict[str, float] = {}
    for row in rows:
        for i, id in enumerate(row):
            x[id] = (i - (len(row) - 1) / 2) * (WIDE + GAP)
    for sweep in range(SWEEPS):
        order = range(len(rows)) if sweep % 2 == 0 else range(len(rows) - 1, -1, -1)
        for at in order:
            near = (
                set(rows[at - 1] if at else []) if sweep % 2 == 0 else set(rows[at + 1] if at + 1 < len(rows) else [])
            )
            wanted = {id: _mean([x[other] for other in links[id] if other in near], x[id]) for id in rows[at]}
            if sweep < SWEEPS - 4:
                rows[at].sort(key=lambda id: wanted[id])
            x |= _spaced(rows[at], wanted, widths)
    return x


def _spaced(row: Sequence[str], wanted: Mapping[str, float], widths: Mapping[str, float]) -> dict[str, float]:
    """Places near the wanted ones, in order, without overlap: the mean of packing from the left and from the right."""
    if not row:
        return {}
    ends = []
    for direction in (1, -1):
        ids = list(row)[::direction]
        placed = [direction * wanted[ids[0]]]
        for before, id in itertools.pairwise(ids):
            apart = (widths[before] + widths[id]) / 2 + GAP
            placed.append(max(direction * wanted[id], placed[-1] + apart))
        ends.append([direction * p for p in placed][::direction])
    return {id: (a + b) / 2 for id, a, b in zip(row, *ends, strict=True)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def draw(boxes: Sequence[Box]) -> Markup:
    """The drawing as SVG of its natural size; every box is a link to `#step-<id>`."""
    rows, links, ways = layers(boxes)
    if not rows:
        return Markup("")
    real = {box.id for box in boxes}
    widths = {id: float(WIDE if id in real else BEND) for id in links}
    x = arrange(rows, links, widths)
    left = min(x[id] - widths[id] / 2 for id in x) - 1
    width = max(x[id] + widths[id] / 2 for id in x) - left + 1
    height = len(rows) * (TALL + RISE) - RISE + 2
    y = {id: 1 + at * (TALL + RISE) for at, row in enumerate(rows) for id in row}
    place = {id: (x[id] - left, float(y[id])) for id in x}
    lines = "".join(f'<path class="edge" d="{_line([place[id] for id in way])}"/>' for way in ways.values())
    nodes = "".join(_node(box, *place[box.id]) for box in boxes)
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img" '
        f'aria-label="What was made from what">{lines}{nodes}</svg>'
    )


def _line(way: Sequence[tuple[float, float]]) -> str:
    """From the foot of the first box, straight down past the rows between, to the head of the last."""
    (x, y), *rest = way
    y += TALL
    path = [f"M{x:.1f} {y:.1f}"]
    for i, (to_x, to_y) in enumerate(rest):
        middle = (y + to_y) / 2
        path.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if i < len(rest) - 1:
            y += TALL
            path.append(f"V{y:.1f}")
    return "".join(path)


def _node(box: Box, x: float, y: float) -> str:
    label = box.label if len(box.label) <= 17 else box.label[:16] + "…"
    return (
        f'<a href="#step-{escape(box.id)}" class="node {escape(box.kind)}"><title>{escape(box.label)}</title>'
        f'<rect x="{x - WIDE / 2:.1f}" y="{y:.1f}" width="{WIDE}" height="{TALL}" rx="7"/>'
        f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{escape(label)}</text>'
        f'<text class="id" x="{x:.1f}" y="{y + 31:.1f}" text-anchor="middle">{escape(box.id)}</text></a>'
    )
