"""DPO and its variants on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.train.objectives.given import given, value
from trueline.errors import UserError
from trueline.train.objectives.dpo import DPO

POLICY, REFERENCE = (-10.0, -12.0), (-11.0, -11.0)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        (DPO(0.05), 0.644396660),
        (DPO(0.05, label_smoothing=0.1), 0.654396660),
        (DPO(0.05, loss="robust", label_smoothing=0.1), 13.0879332),
        (DPO(0.05, loss="ipo"), 64.0),
        (DPO(0.05, importance=True), 0.237060283),
        (DPO(0.05, sft=0.1), 1.644396660),
        (DPO(0.05, reference_free=True), 0.644396660),
    ],
)
def test_every_variant_on_one_pair(objective, loss):
    """beta 0.05, log pi (-10, -12), log ref (-11, -11).

    h = (-10 + 12) - (-11 + 11) = 2; -log s(0.1) = 0.644397; with e = 0.1 it is 0.9 * 0.644397 + 0.1 * 0.744397 =
    0.654397, over beta 13.0879; IPO (2 - 10)^2 = 64; importance exp(-12 + 11) * 0.644397 = 0.237060; the regulariser
    adds 0.1 * 10. The reference's own log-ratio is 0, so leaving it out changes nothing.
    """
    outputs, batch = given(POLICY, REFERENCE)
    result = objective(outputs, batch)
    assert result.sum.item() == pytest.approx(loss, abs=1e-6, rel=1e-7)
    assert objective.weight(batch) == 1
    assert value(result.metrics["rewards/chosen"]) == pytest.approx(0.05)
    assert value(result.metrics["rewards/rejected"]) == pytest.approx(-0.05)
    assert value(result.metrics["rewards/margin"]) == pytest.approx(0.1)
    assert value(result.metrics["rewards/accuracy"]) == 1


def test_second_worked_pair():
    """beta = e = 0.1, log pi (-12, -15), log ref (-14, -13): h = 4; e = 0.1 0.553015, e = 0 0.513015; rewards +-0.2."""
    outputs, batch = given((-12.0, -15.0), (-14.0, -13.0))
    smooth = DPO(0.1, label_smoothing=0.1)(outputs, batch)
    assert smooth.sum.item() == pytest.approx(0.553015, abs=1e-6)
    assert DPO(0.1)(outputs, batch).sum.item() == pytest.approx(0.513015, abs=1e-6)
    assert value(smooth.metrics["rewards/margin"]) == pytest.approx(0.4)


def test_reference_free_ignores_the_reference_in_the_loss_and_not_in_the_rewards():
    """log pi (-10, -12), log ref (-11, -14): h = 2 instead of 2 - 3 = -1, rewards 0.1 (1) and 0.1 (2)."""
    outputs, batch = given(POLICY, (-11.0, -14.0))
    result = DPO(0.1, reference_free=True)(outputs, batch)
    assert result.sum.item() == pytest.approx(math.log(1 + math.exp(-0.2)))
    assert value(result.metrics["rewards/chosen"]) == pytest.approx(0.1)
    assert value(result.metrics["rewards/rejected"]) == pytest.approx(0.2)
    assert value(result.metrics["rewards/accuracy"]) == 0


def test_soft_labels_and_ties():
    """p = 0.75: 0.75 * 0.644397 + 0.25 * 0.744397 = 0.669397; a tie, p = 0.5: 0.694397, least at h = 0."""
    soft = DPO(0.05)(*given(POLICY, REFERENCE, p=(0.75,)))
    assert soft.sum.item() == pytest.approx(0.669396660, abs=1e-6)
    tie = DPO(0.05)(*given(POLICY, REFERENCE, p=(0.5,)))
    assert tie.sum.item() == pytest.approx(0.694396660, abs=1e-6)
    assert tie.metrics["rewards/accuracy"] == (0, 0)
    assert DPO(0.05)(*given((-10.0, -10.0), REFERENCE, p=(0.5,))).sum.item() == pytest.approx(math.log(2))


def test_equal_rewards_are_half_right():
    """Before the first update policy and reference agree: margin 0, accuracy 0.5, neither 0 nor 1."""
    result = DPO(0.1)(*given((-3.0, -4.0, -5.0, -6.0), (-3.0, -4.0, -5.0, -6.0), p=(1.0, 0.0)))
    assert value(result.metrics["rewards/accuracy"]) == 0.5
    assert result.sum.item() == pytest.approx(2 * math.log(2))


VARIANTS = [
    DPO(0.3),
    DPO(0.3, label_smoothing=0.2),
    DPO(0.3, loss="ipo"),
    DPO(0.3, loss="robust"),
    DPO(0.3, importance=True, sft=0.1),
]


@drawn(
    st.sampled_from(VARIANTS),
    st.lists(st.floats(-20, 0), min_size=4, max_size=4),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_swapping_the_answers_swaps_the_label(objective, numbers, p):
    """(a, b) with p is the same example as (b, a) with 1 - p, for every variant, in loss and in every metric."""
    a, b, ra, rb = numbers
    one = objective(*given((a, b), (ra, rb), p=(p,)))
    other = objective(*given((b, a), (rb, ra), p=(1 - p,)))
    assert one.sum.item() == pytest.approx(other.sum.item(), rel=1e-9, abs=1e-9)
    if p != 0.5:
        for name, (total, count) in one.metrics.items():
            assert (float(total), float(count)) == pytest.approx([float(x) for x in other.metrics[name]]), name


def test_the_gradient_reaches_both_answers_with_opposite_signs():
    """d/dh -log s(b h) = -b s(-b h): at h = 2, b = 0.05 that is -0.05 * 0.475021 for the chosen, plus for the other."""
    outputs, batch = given(POLICY, REFERENCE)
    DPO(0.05)(outputs, batch).sum.backward()
    slope = 0.05 / (1 + math.exp(0.1))
    assert outputs.logps_E.grad.tolist() == pytest.approx([-slope, slope])
    outputs, batch = given(POLICY, REFERENCE)
    DPO(0.05, importance=True)(outputs, batch).sum.backward()
    assert outputs.logps_E.grad.tolist() == pytest.approx([-slope / math.e, slope / math.e])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"loss": "hinge"}, "hinge"),
        ({"label_smoothing": 0.6}, "label_smoothing"),
        ({"sft": -1.0}, "sft"),
        ({"loss": "ipo", "importance": True}, "no effect"),
    ],
)
def test_refuses_values_that_mean_nothing(arguments, message):
    with pytest.raises(UserError, match=message):
        DPO(**arguments)


def test_sum_over_pairs_and_tokens():
    """Two pairs, several tokens each: sums add, the weight is the number of pairs, drift is per scored token."""
    outputs, batch = given((-10.0, -12.0, -3.0, -2.0), (-11.0, -11.0, -3.0, -2.0), p=(1.0, 1.0), tokens=[2, 1, 4, 3])
    result = DPO(0.05)(outputs, batch)
    assert result.sum.item() == pytest.approx(0.644396660 + math.log(2), abs=1e-6)
    assert DPO(0.05).weight(batch) == 2
    assert result.metrics["drift/token"] == (pytest.approx(0.0), torch.tensor(10))
