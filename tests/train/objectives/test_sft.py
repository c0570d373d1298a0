"""SFT: what the two reductions mean."""

from __future__ import annotations

import pytest

from tests.train.objectives.given import given, value
from trueline.errors import UserError
from trueline.train.objectives.sft import SFT


def test_token_mean_and_sequence_sum():
    """Answers of two and one tokens with log-probs (-2, -2) and (-2,): sum 6; per token 6/3, per sequence 6/2."""
    outputs, batch = given((-4.0, -2.0), tokens=[2, 1], p=())
    for objective, mean in [(SFT(), 2.0), (SFT("sequence"), 3.0)]:
        result = objective(outputs, batch)
        assert result.sum.item() == pytest.approx(6.0)
        assert result.sum.item() / objective.weight(batch) == pytest.approx(mean)
        assert value(result.metrics["nll"]) == pytest.approx(2.0)
        assert value(result.metrics["logps/answer"]) == pytest.approx(-3.0)


def test_refuses_an_unknown_reduction():
    with pytest.raises(UserError, match="mean"):
        SFT("mean")
