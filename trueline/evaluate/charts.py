"""Small charts as SVG text for the report page: lines, dots with whiskers, histograms one above the other.

Drawn by hand instead of by a plotting library so that the page stays small, sharp at any size and readable in light
and dark: strokes take their colour from the page's style sheet (classes `arm-0` ... `arm-7`, `axis`, `grid`), text is
real text, every mark has a tooltip. Numbers go in, markup comes out; nothing here knows what it draws.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 280, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 10, 38
COLOURS = 8


@dataclass(frozen=True)
class Line:
    """One curve: its name, its colour's number, its points and, where they are estimates, their intervals.

    ringed: numbers of the points that have a ring around them.
    """

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    ringed: Sequence[int] = ()


@dataclass(frozen=True)
class Dot:
    """One estimate with its interval at position `at`; `note` is the tooltip."""

    label: str
    colour: int
    mean: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """A linear map from data [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: `digits` significant digits, thousands apart, a real minus sign, a dash for None.

    >>> number(0.61234), number(12345.6), number(-0.05), number(None), number(3.0)
    ('0.612', '12 346', '−0.05', '–', '3')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}".replace(",", "\u202f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high.

    >>> ticks(0, 1), ticks(-3, 11)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0])
    """
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * k for k in (1, 2, 5, 10) if rough <= power * k * 1.25), power * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def fine(value: float, values: Sequence[float]) -> str:
    """A tick's number, with as many digits as tell it from its neighbours.

    >>> [fine(v, [393.0, 393.5, 394.0]) for v in (393.0, 393.5)], fine(12000, [10000, 12000])
    (['393', '393.5'], '12\u202f000')
    """
    step = values[1] - values[0] if len(values) > 1 else 0.0
    most = max(map(abs, values))
    needed = math.floor(math.log10(most)) - math.floor(math.log10(step)) + 1 if step > 0 and most > 0 else 3
    return number(value, max(3, needed))


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """The range of the values with a little air around; one wide where they are all equal."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 0.5
        return low - room, high + room
    room = (high - low) * share
    return low - room, high + room


def smooth(ys: Sequence[float], window: int) -> list[float]:
    """Centred moving average over `window` points, shorter at the ends."""
    half = window // 2
    sums = [0.0]
    for y in ys:
        sums.append(sums[-1] + y)
    bounds = [(max(0, i - half), min(len(ys), i + half + 1)) for i in range(len(ys))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    y_zero: bool = False,
    whole: bool = False,
    named: Mapping[float, str] | None = None,
    within: tuple[float, float] | None = None,
    zero: bool = False,
) -> Markup:
    """Curves over a common x; a noisy one (over 40 points) is drawn faint with its moving average on top.

    whole: x is a count, so only whole numbers stand at the axis, and each point gets a dot and its whisker. named: what
    stands at the axis, by its place, for values that are no numbers or unevenly spaced; drawn as with `whole`. within:
    the ends of y, where several charts share it. zero: draws the line of no difference.
    """
    lines = [line for line in lines if line.xs]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for y in (*line.ys, *line.lows, *line.highs)]
    whole = whole or named is not None
    low, high = padded([*ys, *([0.0] if y_zero or zero else []), *(within or ())])
    room = 18 if named else 6 * whole
    x = Scale(min(xs), max(xs), LEFT + room, WIDTH - RIGHT - room)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    marks = [_axes(x, y, x_label, whole, named)]
    if zero:
        marks.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>')
    for index, line in enumerate(lines):
        if whole:
            # Side by side, so that estimates at one x do not hide each other.
            step = min(6.0, 24 / len(lines)) if named else min(3.0, 9 / len(lines))
            aside = (index - (len(lines) - 1) / 2) * step
            marks += _estimates(line, x, y, aside, named or {})
            continue
        style, name = f"line arm-{line.colour}{' dashed' if line.dashed else ''}", escape(line.name)
        layers = [("", line.ys)]
        if len(line.xs) > 40:
            layers = [(" faint", line.ys), ("", smooth(line.ys, max(5, len(line.ys) // 15)))]
        for faint, values in layers:
            points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.xs, values, strict=True))
            marks.append(f'<polyline class="{style}{faint}" points="{points}"><title>{name}</title></polyline>')
        if len(line.xs) == 1:
            marks.append(
                f'<circle class="dot arm-{line.colour}" cx="{x(line.xs[0]):.1f}" cy="{y(line.ys[0]):.1f}" r="3"/>'
            )
    return _figure(title, marks)


def _estimates(line: Line, x: Scale, y: Scale, aside: float, named: Mapping[float, str]) -> list[str]:
    """A line through dots with vertical whiskers, `aside` pixels from their places."""
    places = [(x(a) + aside, y(b)) for a, b in zip(line.xs, line.ys, strict=True)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    style = f"line arm-{line.colour}{' dashed' if line.dashed else ''}"
    marks = [f'<polyline class="{style}" points="{points}"><title>{escape(line.name)}</title></polyline>']
    for index, (at, height) in enumerate(places):
        ends, note = "", f"{line.name}, {named.get(line.xs[index]) or number(line.xs[index])}: {number(line.ys[index])}"
        if line.lows:
            low, high = line.lows[index], line.highs[index]
            note += f" ({number(low)} to {number(high)})"
            ends = f'<line class="whisker thin" x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
        if index in line.ringed:
            ends += f'<circle class="ring" cx="{at:.1f}" cy="{height:.1f}" r="7"/>'
        marks.append(
            f'<g class="arm-{line.colour}"><title>{escape(note)}</title>{ends}'
            f'<circle class="dot" cx="{at:.1f}" cy="{height:.1f}" r="3.5"/></g>'
        )
    return marks


def ridge_chart(
    title: str, samples: Sequence[tuple[str, int, Sequence[float]]], x_label: str, bins: int = 28
) -> Markup:
    """Distributions one above the other over common bins, each scaled to its own peak; a line marks the mean."""
    samples = [sample for sample in samples if sample[2]]
    if not samples:
        return Markup("")
    every = [value for _, _, values in samples for value in values]
    low, high = min(every), max(every)
    if low == high:
        low, high = padded(every)
    width, row = (high - low) / bins, 46
    height = TOP + row * len(samples) + BOTTOM
    x = Scale(low, high, 2, WIDTH - RIGHT)
    marks = _x_axis(x, height, 2, x_label)
    for i, (name, colour, values) in enumerate(samples):
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, int((value - low) / width))] += 1
        base = TOP + row * (i + 1)
        y = Scale(0.0, max(counts), base, base - row + 10)
        corners = [(low, base * 1.0)]
        for k, count in enumerate(counts):
            corners += [(low + k * width, y(count)), (low + (k + 1) * width, y(count))]
        points = " ".join(f"{x(a):.1f},{b:.1f}" for a, b in [*corners, (high, base)])
        mean = sum(values) / len(values)
        note = f"{escape(name)}: mean {number(mean)}, n = {len(values)}"
        marks.append(
            f'<g class="arm-{colour}"><title>{note}</title><polygon class="area" points="{points}"/>'
            f'<line class="mean" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{base}" y2="{base - row + 6}"/></g>'
        )
    return _figure(title, marks, height)


def dot_chart(
    title: str,
    dots: Sequence[Dot],
    x_label: str,
    *,
    zero: float | None = None,
    percent: bool = False,
    within: tuple[float, float] | None = None,
) -> Markup:
    """Estimates with whiskers, one row each.

    zero: draws the line of no difference. within: the scale's ends, where several charts share it.
    """
    if not dots:
        return Markup("")
    ends = [value for dot in dots for value in (dot.low, dot.high)] + ([zero] if zero is not None else [])
    ends += within or ()
    low, high = padded(ends, 0.08)
    if percent:
        low, high = max(0.0, low), min(1.0, high)
    names = [wrapped(dot.label) for dot in dots]
    left, row = max(76.0, 12 + 6.4 * max(len(part) for named in names for part in named)), 46
    height = TOP + row * len(dots) + BOTTOM
    x = Scale(low, high, left, WIDTH - RIGHT)
    marks = _x_axis(x, height, left, x_label, percent)
    if zero is not None:
        marks.append(f'<line class="zero" x1="{x(zero):.1f}" x2="{x(zero):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for i, (dot, named) in enumerate(zip(dots, names, strict=True)):
        at = TOP + row * (i + 0.5)
        for row_number, part in enumerate(named):
            below = at + 4 + 13 * (row_number - (len(named) - 1) / 2)
            marks.append(f'<text class="name" x="0" y="{below:.1f}">{escape(part)}</text>')
        marks.append(_whisker(dot, x, at))
    return _figure(title, marks, height)


def wrapped(label: str, width: int = 12, most: int = 3) -> list[str]:
    """A label in at most `most` rows of `width` characters, cut between words where it can be.

    >>> wrapped("Harmless and very helpful"), wrapped("_QUANTILE_TOKEN_0_")
    (['Harmless and', 'very helpful'], ['_QUANTILE_TO', 'KEN_0_'])
    """
    rows = textwrap.wrap(label, width) or [""]
    return rows if len(rows) <= most else [*rows[: most - 1], rows[most - 1][: width - 1] + "…"]


def strip(dot: Dot, low: float, high: float, zero: float | None = None, width: int = 92) -> Markup:
    """A whisker for a table cell, on a scale that all rows share."""
    x = Scale(low, high, 4, width - 4)
    line = f'<line class="zero" x1="{x(zero):.1f}" x2="{x(zero):.1f}" y1="1" y2="15"/>' if zero is not None else ""
    note = escape(dot.note)
    return Markup(
        f'<svg class="strip" viewBox="0 0 {width} 16" width="{width}" height="16" role="img" aria-label="{note}">'
        f"{line}{_whisker(dot, x, 8)}</svg>"
    )


def _whisker(dot: Dot, x: Scale, at: float) -> str:
    return (
        f'<g class="arm-{dot.colour}"><title>{escape(dot.note)}</title>'
        f'<line class="whisker" x1="{x(dot.low):.1f}" x2="{x(dot.high):.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<circle class="dot" cx="{x(dot.mean):.1f}" cy="{at:.1f}" r="4"/></g>'
    )


def _label(text: str, x: float, y: float) -> str:
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _axes(x: Scale, y: Scale, x_label: str, whole: bool = False, named: Mapping[float, str] | None = None) -> str:
    marks, values = [], ticks(y.low, y.high)
    for value in values:
        at = y(value)
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        marks.append(
            f'<text class="tick" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{fine(value, values)}</text>'
        )
    base = HEIGHT - BOTTOM
    marks.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    at_ticks = named or {v: number(v) for v in ticks(x.low, x.high) if not whole or v == round(v)}
    for value, text in at_ticks.items():
        marks.append(
            f'<text class="tick" x="{x(value):.1f}" y="{base + 15}" text-anchor="middle">{escape(text)}</text>'
        )
    marks.append(_label(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5))
    return "".join(marks)


def _x_axis(x: Scale, height: float, left: float, label: str, percent: bool = False) -> list[str]:
    """Vertical grid lines with their numbers, and what they measure."""
    base, values = height - BOTTOM, ticks(x.low, x.high)
    marks = [_label(label, (left + WIDTH - RIGHT) / 2, height - 5)]
    for value in values:
        at, text = x(value), f"{100 * value:.0f}%" if percent else fine(value, values)
        marks.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{base}"/>')
        marks.append(f'<text class="tick" x="{at:.1f}" y="{base + 15}" text-anchor="middle">{text}</text>')
    return marks


def _figure(title: str, marks: Sequence[str], height: float = HEIGHT) -> Markup:
    svg = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}</figure>')
