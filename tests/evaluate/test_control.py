"""Asked for each class: in order or not, worked by hand, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.graded import graded
from trueline.errors import UserError
from trueline.evaluate.control import Control, Controlled, control, in_order, obeyed, read_control, spearman
from trueline.pipeline import make
from trueline.store import using

BEST = tuple((0.9 + 0.01 * (i % 5),) for i in range(20))
FAIR = tuple((0.5 + 0.02 * (i % 7),) for i in range(20))
WORST = tuple((0.1 + 0.03 * (i % 3),) for i in range(20))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def of(*arms, asks=("Excellent. ", "Fair. ", "Horrible. "), **more):
    return tuple(graded(arm, ask=ask, **more) for arm, ask in zip(arms, asks, strict=False))


def test_worked():
    """Two prompts, three classes: (0.9, 0.7, 0.7) and (0.5, 0.6, 0.2); gaps 0.2 and -0.1, 0 and 0.4.

    Adjacent pairs in order: 1 and 1/2 of 2; 0 and 1 of 2. Spearman of (0.5, 0.6, 0.2): ranks 3, 2, 1 and 2, 3, 1, 1/2.
    """
    marks = [{"p": 0.9, "q": 0.5}, {"p": 0.7, "q": 0.6}, {"p": 0.7, "q": 0.2}]
    found = obeyed("m", "gold", ("a", "b", "c"), marks)
    assert [c.score.mean for c in found.classes] == pytest.approx([0.7, 0.65, 0.45])
    assert [gap.mean for gap in found.gaps] == pytest.approx([0.05, 0.2])
    assert found.in_order.mean == pytest.approx((1.5 / 2 + 1 / 2) / 2)
    assert found.spearman.mean == pytest.approx((0.8660254 + 0.5) / 2)
    assert not found.ordered and found.prompts == 2


def test_a_prompt_without_a_score_for_a_class_is_left_out_of_all():
    marks = [{"p": 0.9, "q": 0.5, "r": 1.0}, {"p": 0.7, "q": None, "r": 0.0}]
    found = obeyed("m", "gold", ("a", "b"), marks, left_out=3)
    assert (found.prompts, found.left_out) == (2, 4)
    assert [c.score.n for c in found.classes] == [2, 2] and found.classes[0].score.mean == pytest.approx(0.95)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_turning_the_classes_round_turns_the_measures_round(scores):
    assert spearman(scores) == pytest.approx(-spearman(scores[::-1]), abs=1e-9)
    assert in_order(scores) == pytest.approx(1 - in_order(scores[::-1]))
    assert spearman(sorted(scores, reverse=True)) >= spearman(scores) - 1e-9
    assert in_order([scores[0]] * 3) == 0.5 and spearman([scores[0]] * 3) == 0


def test_classes_that_come_out_in_order():
    made = make(control((Controlled("Quark", of(BEST, FAIR, WORST)),)))
    (method,) = read_control(made).methods
    assert method.ordered and method.by == "gold" and method.prompts == 20
    assert [c.name for c in method.classes] == ["Excellent.", "Fair.", "Horrible."]
    assert method.spearman.mean == pytest.approx(1) and method.in_order.mean == 1
    table = (made.path / "table.txt").read_text()
    assert "Quark: the classes come out in the order asked for, by gold, on 20 prompts." in table
    assert made.record["counts"] == {"arms": 3, "prompts": 20}


def test_classes_that_do_not_and_two_methods_in_one_table():
    swapped = Controlled("ALT", of(FAIR, BEST, WORST), ("best", "fair", "worst"))
    found = read_control(make(control((Controlled("Quark", of(BEST, FAIR, WORST)), swapped), by="gold")))
    assert isinstance(found, Control)
    assert [method.ordered for method in found.methods] == [True, False]
    assert [c.name for c in found.methods[1].classes] == ["best", "fair", "worst"]
    assert found.methods[1].in_order.mean == pytest.approx(0.5)


def test_prompts_that_one_class_lacks_are_left_out_up_to_a_share():
    arms = of(BEST, FAIR[:19], WORST)
    assert read_control(make(control((Controlled("Quark", arms),)))).methods[0].left_out == 1
    with pytest.raises(UserError, match=r"15 of 20 prompts are in every arm \(class 0 20, class 1 15.*at least 90%"):
        make(control((Controlled("Quark", of(BEST, FAIR[:15], WORST)),)))
    other = (*of(BEST), graded(FAIR, first=20, ask="Fair. "))
    with pytest.raises(UserError, match="0 of 40 prompts"):
        make(control((Controlled("Quark", other),), max_unmatched=1.0))


def test_refusals():
    with pytest.raises(UserError, match="at least two classes"):
        Controlled("Quark", of(BEST))
    with pytest.raises(UserError, match="2 names for 3 classes"):
        Controlled("Quark", of(BEST, FAIR, WORST), ("best", "worst"))
    with pytest.raises(UserError, match="the same answers stand for two classes"):
        Controlled("Quark", of(BEST)[:1] * 2)
    with pytest.raises(UserError, match=r'were both asked with "Good\. "'):
        make(control((Controlled("Quark", of(BEST, FAIR, asks=("Good. ", "Good. "))),)))
    with pytest.raises(UserError, match=r"control of Quark\(by=...\) on class 0: no answer has a score by silver"):
        make(control((Controlled("Quark", of(BEST, FAIR)),), by="silver"))
    nobody = tuple((None,) for _ in range(20))
    with pytest.raises(UserError, match="no score on class 1"):
        make(control((Controlled("Quark", of(BEST, nobody)),)))
    with pytest.raises(UserError, match="each with a name of its own"):
        make(control((Controlled("Quark", of(BEST, FAIR)), Controlled("Quark", of(FAIR, BEST)))))
    half = tuple((1.0 if i % 2 else None,) for i in range(20)), tuple((None if i % 2 else 1.0,) for i in range(20))
    with pytest.raises(UserError, match="none of 20 prompts has a score for every class"):
        make(control((Controlled("Quark", of(*half)),)))
    with pytest.raises(UserError, match="it is no measure of control"):
        read_control(make(graded(BEST)))


def test_a_condition_written_into_the_prompt_is_found():
    """Two arms whose prompts share ids but not words are no arms on the same prompts."""
    arms = (*of(BEST), graded(FAIR, question="Fair. question"))
    with pytest.raises(UserError, match="class 1 was asked something else under the id q0"):
        make(control((Controlled("Quark", arms),)))
