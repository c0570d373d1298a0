"""The controller of a coefficient: worked steps, the cap, both signs."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.train.objectives.adaptive import Adaptive


def test_a_worked_step():
    """KL 4.5 against 3: an error of 0.5, capped to 0.2: 0.05 (1 + 0.2 * 32 / 2500) = 0.050128; 3.3: 0.1 counts."""
    kl = Adaptive(0.05, 3.0)
    assert kl.after(0.05, 4.5, 32) == pytest.approx(0.050128)
    assert kl.after(0.05, 3.3, 32) == pytest.approx(0.05 * (1 + 0.1 * 32 / 2500))
    assert kl.after(0.05, 3.0, 32) == 0.05
    assert kl.after(0.05, 0.0, 32) == pytest.approx(0.05 * (1 - 0.2 * 32 / 2500))


def test_a_bonus_moves_the_other_way():
    """Entropy 80 against 40, twice what is wanted: less of the bonus."""
    entropy = Adaptive(0.06, 40.0)
    assert entropy.after(0.06, 80.0, 32, bonus=True) == pytest.approx(0.06 * (1 - 0.2 * 32 / 2500))
    assert entropy.after(0.06, 36.0, 32, bonus=True) == pytest.approx(0.06 * (1 + 0.1 * 32 / 2500))


def test_a_step_beyond_the_horizon_turns_no_sign():
    assert Adaptive(0.05, 3.0, horizon=4).after(0.05, 0.0, 32) == 0.0


@pytest.mark.parametrize("given", [(0.0, 3.0, 2500), (0.05, -1.0, 2500), (0.05, 3.0, float("inf"))])
def test_refuses_numbers_that_steer_nothing(given):
    with pytest.raises(UserError, match="a number above 0"):
        Adaptive(*given)
