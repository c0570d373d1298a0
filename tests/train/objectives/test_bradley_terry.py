"""The reward model's loss on numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from tests.train.objectives.given import given, value
from trueline.errors import UserError
from trueline.train.objectives.bradley_terry import BradleyTerry


def test_equal_rewards_cost_ln_2_and_a_margin_its_logistic_loss():
    """r = (2, 0.5): -log s(1.5) = 0.201413; r = (1, 1): ln 2; centred with 0.1: + 0.1 (2.5^2) and + 0.1 (2^2)."""
    outputs, batch = given((-1.0, -1.0, -1.0, -1.0), p=(1.0, 1.0), rewards=(2.0, 0.5, 1.0, 1.0))
    result = BradleyTerry()(outputs, batch)
    assert result.sum.item() == pytest.approx(0.201413 + math.log(2), abs=1e-6)
    assert BradleyTerry().weight(batch) == 2
    assert value(result.metrics["rewards/accuracy"]) == 0.75
    assert value(result.metrics["rewards/margin"]) == 0.75
    centred = BradleyTerry(center=0.1)(outputs, batch)
    assert centred.sum.item() == pytest.approx(result.sum.item() + 0.625 + 0.4)


@pytest.mark.parametrize(("apart", "loss"), [(0, 0.693147), (1, 0.313262), (-1, 1.313262)])
def test_the_values_of_almosts_loss(apart, loss):
    """-log s(r_chosen - r_rejected): a difference of 0 costs ln 2, of 1 0.313262, of -1 1.313262."""
    outputs, batch = given((-1.0, -1.0), p=(1.0,), rewards=(0.5 + apart, 0.5))
    assert BradleyTerry()(outputs, batch).sum.item() == pytest.approx(loss, abs=1e-6)


def test_soft_preferences():
    """p = 0.8 at margin 1.5: 0.8 * 0.201413 + 0.2 * 1.701413 = 0.501413."""
    result = BradleyTerry()(*given((-1.0, -1.0), p=(0.8,), rewards=(2.0, 0.5)))
    assert result.sum.item() == pytest.approx(0.501413, abs=1e-6)


def test_refuses_a_negative_weight():
    with pytest.raises(UserError, match="center"):
        BradleyTerry(center=-0.1)
