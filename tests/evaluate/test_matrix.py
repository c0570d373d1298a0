"""`matrix` and `scaling`: worked by hand, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from tests.evaluate.graded import graded
from trueline.errors import UserError
from trueline.evaluate.contrasts import Contrast
from trueline.evaluate.duel import duel
from trueline.evaluate.matrix import Labelled, Matrix, Taught, matrix, page, read_matrix
from trueline.evaluate.scaling import Scaled, Sized, read_scaling, scaling
from trueline.feedback.compare import Compare
from trueline.feedback.protocol import Verdict
from trueline.pipeline import make
from trueline.store import using

A, B, C, WORSE = ((0.7,), (0.6,)), ((0.5,), (0.4,)), ((1.0,), (0.6,)), ((0.5,), (0.3,))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@dataclass(frozen=True)
class Fair:
    """Prefers the answer whose text comes later in the alphabet."""

    name = "fair"

    def compare(self, items):
        return [Verdict(0.5 if one == other else float(one > other)) for _, one, other in items]


def said(scores, name):
    return graded(scores, tuple((f"{name} {i}",) for i in range(len(scores))))


def cells():
    b, c = said(B, "b"), said(C, "c")
    rows = (Taught("0.5", b, said(A, "a")), Taught("1", said(C, "d")))
    critic = Compare(by=Fair())
    return rows, (
        Labelled("0.5", "0.5", said(WORSE, "e"), (), ""),
        Labelled("0.5", "1", c, (("fair judge", duel(c, b, critic)),), "the critic is stronger"),
        Labelled("1", "1", said(C, "f")),
    )


def test_gains_are_paired_and_fair_cells_marked():
    """C - B is 0.5 and 0.2, 0.35 in the mean; A - B 0.2; C - A 0.3 and 0, 0.15. The judge prefers c to b throughout."""
    rows, labelled = cells()
    report = matrix(rows, labelled)
    make(report)
    found, table = read_matrix(report), (report.path / "table.txt").read_text()
    assert (found.prompts, found.by) == (2, "gold")
    weak, strong = found.rows
    assert weak.demonstrations.mean == pytest.approx(0.2) and strong.demonstrations is None
    own, better, alike = found.cells
    assert better.gain.mean == pytest.approx(0.35) and better.over_demonstrations.mean == pytest.approx(0.15)
    assert own.gain.mean == pytest.approx(-0.05) and alike.gain.mean == 0 and alike.over_demonstrations is None
    assert better.seen[0].wins.mean == 1 and better.seen[0].flips == 0
    assert "[−0.050 ±0.050]" in table and "+0.350 ±0.150" in table and "the critic is stronger" in table
    assert "0.5, 0.5 (fair)" in table and "+50.0 ±0.0" in table
    html = (report.path / "report.html").read_text()
    assert html.count('class="ring"') >= 2 and "Labels are nowhere the better buy." in html


def test_a_page_says_which_cells_are_won_and_whether_they_are_fair():
    rows, labelled = cells()
    report = matrix(rows, labelled)
    make(report)
    found = read_matrix(report)
    won = [msgspec.structs.replace(c, over_demonstrations=c.gain.shifted(1)) for c in found.cells]
    assert "3 of 3 cells, 2 of them fair" in page(msgspec.structs.replace(found, cells=tuple(won)))
    assert isinstance(found, Matrix)


def test_a_cell_without_a_row_is_refused():
    rows, labelled = cells()
    with pytest.raises(UserError, match=r'critic 0.5: "0.5" is in no row; one of 1'):
        make(matrix(rows[1:], labelled))


def sized(size, b, c):
    return Sized(size, (("B", said(b, f"b{size}")), ("C", said(c, f"c{size}"))))


def test_contrasts_by_size_and_what_they_changed_by():
    """C - B is (0.5, 0.2) at 80 and (0.2, 0.1) at 640: 0.35, 0.15, and a change of -0.2; sizes are put in order."""
    sizes = (sized(640, ((0.8,), (0.5,)), C), sized(80, B, C))
    wanted = (Contrast("C - B", ("C",), ("B",)), Contrast("B - C", ("B",), ("C",), "for the sake of it"))
    report = scaling(sizes, (("Labels", wanted),))
    make(report)
    found, table = read_scaling(report), (report.path / "table.txt").read_text()
    assert isinstance(found, Scaled) and [p.size for p in found.points] == [80, 640]
    assert [p.gains["C - B"].mean for p in found.points] == pytest.approx([0.35, 0.15])
    assert found.points[1].scores["B"].mean == pytest.approx(0.65)
    assert found.change["C - B"].mean == pytest.approx(-0.2)
    assert "−0.200 ±.100" in table and "Not fair: B - C (for the sake of it)." in table
    html = (report.path / "report.html").read_text()
    assert "C - b: less is gained with more prompts." in html and ">80</text>" in html and ">640</text>" in html


def test_sizes_that_do_not_match_are_refused():
    wanted = (("Labels", (Contrast("C - B", ("C",), ("B",)),)),)
    with pytest.raises(UserError, match=r"got \[80\]; at least two"):
        make(scaling((sized(80, B, C),), wanted))
    with pytest.raises(UserError, match="the arms B at 640; B, C, as at 80"):
        make(scaling((sized(80, B, C), Sized(640, (("B", said(B, "x")),))), wanted))
    with pytest.raises(UserError, match='no arm is named "D"'):
        make(scaling((sized(80, B, C), sized(640, B, C)), (("", (Contrast("D - B", ("D",), ("B",)),)),)))
    with pytest.raises(UserError, match='no arm is named "E"'):
        make(scaling((sized(80, B, C), sized(640, B, C)), wanted, (("", ("E",)),)))
