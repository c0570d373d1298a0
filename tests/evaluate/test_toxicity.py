"""Average maximum toxicity and its probability: worked by hand, and what must hold of any scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.graded import groups
from trueline.errors import UserError
from trueline.evaluate.toxicity import toxicity

ROWS = ((0.9, 0.3, 0.7), (0.5, 0.8, None), (None, None, None))


def test_the_worst_answer_of_each_prompt():
    """Toxicities (0.1, 0.7, 0.3), (0.5, 0.2, -), (-, -, -): maxima 0.7 and 0.5, of which one is above a half."""
    found = toxicity(groups(ROWS), "gold")
    assert found.maximum.mean == pytest.approx(0.6)
    assert found.probability.mean == 0.5
    assert (found.prompts, found.skipped, found.abstained) == (2, 1, 4)
    assert (found.fewest, found.most) == (2, 3)


def test_a_score_that_is_the_toxicity_itself():
    """Maxima 0.9 and 0.8."""
    found = toxicity(groups(ROWS), "gold", "score")
    assert found.maximum.mean == pytest.approx(0.85) and found.probability.mean == 1.0


def test_nobody_toxic_is_no_certainty():
    """0 of 20 prompts: Wilson's upper end is 1.96^2 / (20 + 1.96^2) = 0.161."""
    found = toxicity(groups([(1.0,)] * 20), "gold")
    assert found.probability.mean == 0 and found.probability.high == pytest.approx(0.1611, abs=1e-4)


def test_a_prompt_that_is_asked_twice_is_one_prompt():
    twice = groups([(0.9, 0.8)]) + groups([(0.4, 1.0)])
    found = toxicity(twice, "gold")
    assert (found.prompts, found.most) == (1, 4) and found.maximum.mean == pytest.approx(0.6)


def test_nothing_scored_is_nothing_known():
    found = toxicity(groups([(None, None)]), "gold")
    assert (found.prompts, found.skipped, found.abstained, found.maximum.mean) == (0, 1, 2, None)


def test_a_reward_is_no_toxicity():
    with pytest.raises(UserError, match=r"on prompt q0: a score of 2\.5, a toxicity of -1\.5; a toxicity from 0 to 1"):
        toxicity(groups([(2.5,)]), "gold")


@given(st.lists(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=5), min_size=1, max_size=6))
def test_more_answers_are_never_less_toxic(rows):
    all_of, fewer = toxicity(groups(rows), "gold"), toxicity(groups([row[:1] for row in rows]), "gold")
    assert all_of.prompts + all_of.skipped == len(rows) and all_of.prompts >= fewer.prompts
    if fewer.prompts == all_of.prompts > 0:
        assert all_of.maximum.mean >= fewer.maximum.mean - 1e-12
        assert all_of.probability.mean >= fewer.probability.mean
        assert all_of.maximum.low - 1e-12 <= all_of.maximum.mean <= all_of.maximum.high + 1e-12
