"""Learning rates, step by step."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.train.schedules import multiplier, warmup_steps


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_two_warm_up_steps_of_six(schedule, expected):
    """Rising by thirds, then 1 and on towards 0 at step 6: cosine (1 + cos(pi k / 4)) / 2 for k = 0..3."""
    assert [multiplier(schedule, step, 6, 2) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_warm_up_is_a_share_below_one_and_steps_from_one_on():
    """A tenth of 25 steps is 3 (rounded up); 5 is 5 steps; never more than there are."""
    assert [warmup_steps(w, 25) for w in (0.0, 0.1, 1, 5, 100)] == [0, 3, 1, 5, 25]


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert multiplier("cosine", 0, 10, 0) == 1.0
    assert multiplier("constant", 0, 1, 1) == 0.5


def test_refusals():
    with pytest.raises(UserError, match='Did you mean "cosine"'):
        multiplier("cosin", 0, 1, 0)
    with pytest.raises(UserError, match="warmup"):
        warmup_steps(-0.1, 10)
