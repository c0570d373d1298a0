"""Charts, the lineage drawing and the wording of figures: what a reader's eye relies on."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.evaluate import charts, graph
from trueline.evaluate.charts import (
    Dot,
    Line,
    dot_chart,
    fine,
    line_chart,
    number,
    padded,
    ridge_chart,
    smooth,
    strip,
    ticks,
    wrapped,
)
from trueline.evaluate.graph import WIDE, Box, arrange, depths, draw, layers
from trueline.evaluate.headline import bounds, clock, listed, percent, places, plus, short
from trueline.evaluate.statistics import Interval
from trueline.evaluate.table import within

HALF = Interval(40, 0.6123, 0.02, 0.57, 0.65)


def test_numbers_for_people():
    assert [number(x) for x in (0.61234, 12345.6, -0.05, None, 3.0, 0, float("nan"))] == [
        "0.612", "12\u202f346", "−0.05", "–", "3", "0", "–",
    ]  # fmt: skip
    assert [short(x) for x in (0, 999, 1234, 123_456, 2_500_000)] == ["–", "999", "1.2k", "123k", "2.5M"]
    assert [clock(x) for x in (0.04, 9.96, 48.2, 200, 7500)] == ["0.0 s", "10.0 s", "48 s", "3 min 20 s", "2 h 5 min"]
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_an_interval_shows_as_many_places_as_it_deserves():
    """Half of 0.57 to 0.65 is 0.04: two digits of it are three places."""
    assert places(HALF) == 3
    assert within(HALF) == "0.612 ±0.040"
    assert within(HALF, 100, 1) == "61.2 ±4.0"
    assert bounds(HALF) == "0.570 to 0.650"
    assert bounds(HALF.shifted(-0.6), plus) == "−0.030 to +0.050"
    assert percent(HALF) == "61% (57 to 65)"
    assert within(Interval(0)) == percent(Interval(0)) == bounds(Interval(0)) == "–"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_inside(low, span):
    found = ticks(low, low + span)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert 2 <= len(found) <= 7
    # A tick may stand outside by what nobody can see: a billionth of the axis, and rounding of the numbers themselves.
    unseen = 1e-9 * (max(1, abs(low)) + span)
    assert low - unseen <= found[0] and found[-1] <= low + span + unseen
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_smoothing_is_a_centred_mean_that_shortens_at_the_ends():
    """Window 3 of 0, 3, 6, 0: (0+3)/2, (0+3+6)/3, (3+6+0)/3, (6+0)/2."""
    assert smooth([0, 3, 6, 0], 3) == [1.5, 3, 3, 3]


def test_every_chart_is_well_formed_and_stays_in_its_frame():
    evil = "<b>&\"'"
    dots = [Dot(evil, 1, 0.6, 0.5, 0.7, evil), Dot("b", 2, 0.4, 0.4, 0.4, "n")]
    drawn = [
        line_chart(evil, [Line(evil, 1, range(60), [x % 7 for x in range(60)]), Line("one", 2, [3], [3])], "step"),
        line_chart("flat", [Line("a", 1, [1, 2], [0.5, 0.5])], "step"),
        ridge_chart(evil, [(evil, 1, [1.0, 2.0, 2.0]), ("b", 2, [1.5])], "x"),
        ridge_chart("same", [("a", 1, [2.0, 2.0])], "x"),
        dot_chart(evil, dots, "x", zero=0.5, percent=True),
        dot_chart("wide", dots, "x", within=(-3.0, 9.0)),
        line_chart(
            "rounds",
            [Line(evil, i, [0, 1], [0.2, 0.9], False, [0.1, 0.8], [0.3, 1]) for i in range(7)],
            "round",
            whole=True,
        ),
        line_chart("one round", [Line("a", 1, [0], [0.5], False, [0.4], [0.6])], "round", whole=True),
        strip(dots[0], 0.3, 0.8, 0.5),
    ]
    for svg in drawn:
        root = ET.fromstring(str(svg))
        frame = root if root.tag == "svg" else root.find("svg")
        _, _, width, height = map(float, frame.get("viewBox").split())
        for mark in frame.iter():
            for name, most in (("cx", width), ("x1", width), ("x2", width), ("cy", height), ("y1", height)):
                assert mark.get(name) is None or -0.01 <= float(mark.get(name)) <= most + 0.01
            for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", mark.get("points") or ""):
                assert -0.01 <= float(x) <= width and -0.01 <= float(y) <= height


def test_estimates_at_whole_numbers_have_dots_and_whiskers():
    """Rounds 0 to 2: no tick at 0.5; two methods' dots beside each other, each with its interval in the tooltip."""
    lines = [Line(name, i, [0, 1, 2], [1.0, 2.0, 3.0], False, [0.5, 1.5, 2.5], [1.5, 2.5, 3.5]) for i, name in
             enumerate(("Quark", "ALT"), 1)]  # fmt: skip
    drawn = str(line_chart("Score", lines, "round", whole=True))
    assert drawn.count("<circle") == drawn.count('class="whisker thin"') == 6
    assert "<title>Quark, 1: 2 (1.5 to 2.5)</title>" in drawn
    base = re.findall(r'text-anchor="middle">([^<]+)<', drawn)
    assert base == ["0", "1", "2", "round"]


def test_labels_are_cut_between_words():
    assert wrapped("Harmless and very helpful") == ["Harmless and", "very helpful"]
    assert wrapped("_QUANTILE_TOKEN_0_") == ["_QUANTILE_TO", "KEN_0_"]
    assert wrapped("") == [""] and wrapped("one two three four five six seven") == [
        "one two",
        "three four",
        "five six…",
    ]


def test_ticks_that_lie_close_are_told_apart():
    assert [fine(v, [393.0, 393.5]) for v in (393.0, 393.5)] == ["393", "393.5"]
    assert fine(0.2, [0.0, 0.2]) == "0.2" and fine(0.0, [0.0]) == "0"


def test_nothing_to_draw_draws_nothing():
    assert line_chart("t", [], "x") == ridge_chart("t", [("a", 1, [])], "x") == dot_chart("t", [], "x") == ""
    assert padded([2.0, 2.0]) == pytest.approx((1.8, 2.2))
    assert charts.ticks(1.0, 1.0) == [1.0]
    assert draw([]) == ""


def chain(*edges: str) -> list[Box]:
    """Boxes from "child<parent,parent" in order."""
    split = [edge.partition("<") for edge in edges]
    return [Box(child, child, "", tuple(p for p in of.split(",") if p)) for child, _, of in split]


def test_depths_put_parents_above_and_sources_next_to_their_use():
    boxes = chain("a", "b<a", "c<a,b", "d", "e<c,d")
    assert depths(boxes) == {"a": 0, "b": 1, "c": 2, "d": 2, "e": 3}


def test_a_line_that_skips_rows_bends_in_each():
    rows, _, ways = layers(chain("a", "b<a", "c<b,a"))
    assert ways["a", "c"] == ["a", "a>c@1", "c"]
    assert sorted(rows[1]) == ["a>c@1", "b"]


@given(st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=12))
def test_boxes_never_overlap(parents):
    """Random lineages: within a row, centres stand a box and a gap apart; every artefact is drawn, every line too."""
    boxes = [Box(f"n{i}", f"n{i}", "", tuple(f"n{p}" for p in sorted(of) if p < i)) for i, of in enumerate(parents)]
    rows, links, ways = layers(boxes)
    real = {box.id for box in boxes}
    x = arrange(rows, links, {id: float(WIDE if id in real else graph.BEND) for id in links})
    for row in rows:
        for a, b in itertools.combinations([id for id in row if id in real], 2):
            assert abs(x[a] - x[b]) >= WIDE
    root = ET.fromstring(str(draw(boxes)))
    assert len(root.findall("a")) == len(boxes)
    assert len(root.findall("path")) == len(ways) == sum(len(box.parents) for box in boxes)
