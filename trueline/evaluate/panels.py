"""Figures of exact curves as SVG text: panels one above the other over a common x, nothing smoothed.

`charts` draws estimates and training logs; here a hundred points are a hundred facts, a spike one point wide stays a
spike, and what shares an x but no unit stands in two panels instead of on two axes of one. Estimates stand in a band,
single measurements are a cloud of points. Colours, strokes and text come from the page's style sheet as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trueline.evaluate.charts import Scale, fine, number, padded, ticks

LEFT, RIGHT, TOP, BOTTOM, HEAD, GAP = 46, 12, 4, 38, 28, 22


@dataclass(frozen=True)
class Curve:
    """Points joined by a line; dots: each is marked, with its numbers as a tooltip. lows, highs: a band around it."""

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False
    dots: bool = False
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclass(frozen=True)
class Cloud:
    """Points that nothing joins, small and faint."""

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Bars:
    """A filled outline of bars side by side, each as wide as its neighbours are apart."""

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]


Layer = Curve | Bars | Cloud


@dataclass(frozen=True)
class Mark:
    """A dotted vertical line through all panels, and the word beside it."""

    x: float
    text: str


@dataclass(frozen=True)
class Panel:
    """What is drawn over one y axis; label: what that axis measures. zero: the axis begins at 0."""

    label: str
    layers: Sequence[Layer]
    height: int = 170
    zero: bool = False


def panels(
    title: str,
    stack: Sequence[Panel],
    x_label: str,
    *,
    marks: Sequence[Mark] = (),
    log: bool = False,
    root: bool = False,
    width: int = 280,
) -> Markup:
    """The panels as one figure. log: x, above 0, is drawn on a logarithmic scale with a tick at each point. root: x, of
    0 or more, is drawn on a scale of its root."""
    given = sorted({float(x) for panel in stack for layer in panel.layers for x in layer.xs})
    if not given:
        return Markup("")
    at: Callable[[float], float] = math.log10 if log else math.sqrt if root else float
    x = Scale(at(given[0]), at(given[-1]), LEFT + 4, width - RIGHT)
    drawn, top = [], TOP
    for panel in stack:
        drawn.append(_panel(panel, x, at, top, width))
        top += HEAD + panel.height + GAP
    top -= GAP
    values = given if log else ticks(at(given[0]), at(given[-1]), max(4, width // 90))
    values = [value**2 for value in values] if root else values
    for value in values:
        drawn.append(
            f'<text class="tick" x="{x(at(value)):.1f}" y="{top + 15}" text-anchor="middle">{number(value)}</text>'
        )
    for mark in marks:
        place = x(at(mark.x))
        side, anchor = (place + 5, "start") if place < width * 0.6 else (place - 5, "end")
        drawn.append(f'<line class="zero" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP + HEAD}" y2="{top}"/>')
        drawn.append(
            f'<text class="label" x="{side:.1f}" y="{TOP + HEAD + 9}" text-anchor="{anchor}">{escape(mark.text)}</text>'
        )
    middle, height = (LEFT + width - RIGHT) / 2, top + BOTTOM
    drawn.append(f'<text class="label" x="{middle:.1f}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}</figure>')


def _panel(panel: Panel, x: Scale, at: Callable[[float], float], top: float, width: int) -> str:
    low, high = padded([y for layer in panel.layers for y in reach(layer)])
    y = Scale(0.0 if panel.zero else low, high, top + HEAD + panel.height, top + HEAD)
    drawn = [f'<text class="label" x="0" y="{top + 12:.1f}">{escape(panel.label)}</text>']
    values = ticks(y.low, y.high)
    for value in values:
        height = y(value)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        drawn.append(
            f'<text class="tick" x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{fine(value, values)}</text>'
        )
    drawn.append(f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{y.start:.1f}" y2="{y.start:.1f}"/>')
    for layer in panel.layers:
        xs = [x(at(value)) for value in layer.xs]
        ys = [y(value) for value in layer.ys]
        if isinstance(layer, Bars):
            drawn.append(_bars(layer, xs, ys, y))
        elif isinstance(layer, Cloud):
            drawn.append(_cloud(layer, xs, ys))
        else:
            drawn.append(_band(layer, xs, y) + _curve(layer, xs, ys))
    return "".join(drawn)


def reach(layer: Layer) -> list[float]:
    """Everything that the y axis has to hold."""
    return [*layer.ys, *layer.lows, *layer.highs] if isinstance(layer, Curve) else list(layer.ys)


def _band(layer: Curve, xs: Sequence[float], y: Scale) -> str:
    if not layer.lows:
        return ""
    above = list(zip(xs, map(y, layer.highs), strict=True))
    below = list(zip(xs, map(y, layer.lows), strict=True))
    return f'<polygon class="band arm-{layer.colour}" points="{_points([*above, *reversed(below)])}"/>'


def _cloud(layer: Cloud, xs: Sequence[float], ys: Sequence[float]) -> str:
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.8"/>' for a, b in zip(xs, ys, strict=True))
    return f'<g class="cloud arm-{layer.colour}"><title>{escape(layer.name)}</title>{dots}</g>'


def _bars(layer: Bars, xs: Sequence[float], ys: Sequence[float], y: Scale) -> str:
    half = (xs[-1] - xs[0]) / max(1, len(xs) - 1) / 2
    base = y(max(0.0, y.low))
    corners = [(xs[0] - half, base)]
    for place, height in zip(xs, ys, strict=True):
        corners += [(place - half, height), (place + half, height)]
    points = _points([*corners, (xs[-1] + half, base)])
    name = escape(layer.name)
    return f'<g class="arm-{layer.colour}"><title>{name}</title><polygon class="area" points="{points}"/></g>'


def _curve(layer: Curve, xs: Sequence[float], ys: Sequence[float]) -> str:
    style, name = f"line arm-{layer.colour}{' dashed' if layer.dashed else ''}", escape(layer.name)
    places = list(zip(xs, ys, strict=True))
    out = [f'<polyline class="{style}" points="{_points(places)}"><title>{name}</title></polyline>']
    if layer.dots:
        for (cx, cy), a, b in zip(places, layer.xs, layer.ys, strict=True):
            note = f"{name}, {number(a)}: {number(b)}"
            out.append(
                f'<g class="arm-{layer.colour}"><title>{note}</title>'
                f'<circle class="dot" cx="{cx:.1f}" cy="{cy:.1f}" r="3.5"/></g>'
            )
    return "".join(out)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
