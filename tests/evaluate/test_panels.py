"""Figures of exact curves: every point where its numbers say, panels over one x, and text that stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from trueline.evaluate.panels import BOTTOM, GAP, HEAD, LEFT, RIGHT, TOP, Bars, Cloud, Curve, Mark, Panel, panels
from trueline.evaluate.sheet import Fact, Part, render


def svg(markup) -> ET.Element:
    return ET.fromstring(re.search(r"<svg.*</svg>", str(markup), re.DOTALL)[0])


def points(element: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_a_spike_one_point_wide_stays_a_spike():
    """Fifty zeros, a one, fifty zeros, nothing smoothed. The axis ends 6 % above 1, so the spike is 1 / 1.06 high."""
    ys = [0.0] * 50 + [1.0] + [0.0] * 50
    drawn = svg(panels("t", [Panel("p", [Curve("c", 1, range(101), ys)], 100, zero=True)], "x"))
    line = points(drawn.find("polyline"))
    base = TOP + HEAD + 100
    assert [y for _, y in line].count(base) == 100
    assert line[50] == pytest.approx(((LEFT + 4 + 280 - RIGHT) / 2, base - 100 / 1.06), abs=0.06)
    assert line[0][0] == LEFT + 4 and line[-1][0] == 280 - RIGHT


def test_panels_stand_below_each_other_over_one_x():
    one = Panel("above", [Curve("a", 1, [0, 10], [0, 1])], 60)
    two = Panel("below", [Curve("b", 2, [5], [7.0])], 40)
    drawn = svg(panels("t", [one, two], "x", marks=[Mark(5, "here")]))
    first, second = (points(line) for line in drawn.findall("polyline"))
    assert second[0][0] == pytest.approx((first[0][0] + first[1][0]) / 2)
    assert second[0][1] > TOP + HEAD + 60 + GAP + HEAD
    assert drawn.get("viewBox") == f"0 0 280 {TOP + HEAD + 60 + GAP + HEAD + 40 + BOTTOM}"
    dotted = next(line for line in drawn.findall("line") if line.get("class") == "zero")
    assert float(dotted.get("x1")) == second[0][0] and "here" in [text.text for text in drawn.findall("text")]


def test_a_logarithmic_x_puts_powers_of_ten_apart_alike():
    curve = Curve("c", 1, [0.01, 0.1, 1.0], [3.0, 2.0, 1.0], dots=True)
    drawn = svg(panels("t", [Panel("p", [curve])], "beta", log=True))
    (a, _), (b, _), (c, _) = points(drawn.find("polyline"))
    assert b - a == pytest.approx(c - b, abs=0.11)
    ticks = [text.text for text in drawn.findall("text") if text.get("text-anchor") == "middle"]
    assert ticks == ["0.01", "0.1", "1", "beta"]
    assert [note.text for note in drawn.iter("title")] == ["c", "c, 0.01: 3", "c, 0.1: 2", "c, 1: 1"]


def test_a_scale_of_the_root_says_what_stands_there():
    """0, 1 and 4 are as far apart as 0, 1 and 2; ticks are squares of round numbers."""
    drawn = svg(panels("t", [Panel("p", [Curve("c", 1, [0.0, 1.0, 4.0], [3.0, 2.0, 1.0])])], "KL", root=True))
    (a, _), (b, _), (c, _) = points(drawn.find("polyline"))
    assert b - a == pytest.approx(c - b, abs=0.11)
    ticks = [text.text for text in drawn.findall("text") if text.get("text-anchor") == "middle"]
    assert ticks == ["0", "0.25", "1", "2.25", "4", "KL"]


def test_a_band_holds_its_curve_and_a_cloud_is_single_points():
    """Curve 1, 2 within 0 to 4: the axis holds the band, whose outline goes out above and back below."""
    curve = Curve("c", 1, [0, 1], [1.0, 2.0], lows=[0.0, 1.0], highs=[2.0, 4.0])
    drawn = svg(panels("t", [Panel("p", [Cloud("each", 1, [0, 1], [1.5, 1.5]), curve], 100)], "x"))
    (band,) = (polygon for polygon in drawn.iter("polygon") if polygon.get("class") == "band arm-1")
    outline, line = points(band), points(drawn.find("polyline"))
    assert [x for x, _ in outline] == [line[0][0], line[1][0], line[1][0], line[0][0]]
    assert outline[1][1] < line[1][1] < outline[2][1] and outline[0][1] < line[0][1] < outline[3][1]
    assert [float(dot.get("cx")) for dot in drawn.iter("circle")] == [line[0][0], line[1][0]]


def test_bars_touch_and_stand_on_the_axis():
    drawn = svg(panels("t", [Panel("p", [Bars("b", 0, [0, 1, 2], [1.0, 3.0, 2.0])], 100, zero=True)], "x"))
    outline = points(drawn.find("g/polygon"))
    base, wide = TOP + HEAD + 100, (280 - RIGHT - LEFT - 4) / 2
    assert outline[0][1] == outline[-1][1] == base and len(outline) == 8
    assert outline[2][0] - outline[1][0] == pytest.approx(wide, abs=0.11) and outline[2][0] == outline[3][0]


def test_nothing_to_draw_is_nothing_and_one_point_is_enough():
    assert panels("t", [Panel("p", [Curve("c", 1, [], [])])], "x") == ""
    assert "<polyline" in panels("t", [Panel("p", [Curve("c", 1, [3.0], [3.0])])], "x", log=True)


def test_text_stays_text():
    evil = "<script>alert(1)</script>"
    drawn = panels(evil, [Panel(evil, [Curve(evil, 1, [0, 1], [0, 1], dots=True)])], evil, marks=[Mark(0.5, evil)])
    page = render(
        evil, evil, evil, [Fact(evil, evil, evil)], [Part(evil, evil, (drawn,), ((1, evil),), evil, wide=True)]
    )
    assert "<script" not in page and page.count("&lt;script&gt;") >= 12
    assert "<svg" in page and "default-src 'none'" in page
