"""Where the score goes, which sign the divergence has, what an unfinished answer loses: worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.train.online.told import rollout
from trueline.train.online import rewards
from trueline.train.online.ppo import PPO

PLAIN = PPO(missing_eos=0.0, scale="none", max_reward=0.0)


def changed(**fields):
    return PPO(**{"missing_eos": 0.0, "scale": "none", "max_reward": 0.0, **fields})


def test_the_score_stands_at_the_last_token_of_its_answer():
    """Answers of 3 and 2 tokens, scores 1 and -1: 0, 0, 1 and 0, -1. The last token is the end-of-turn."""
    told = rollout([3, 2], [1.0, -1.0])
    assert rewards.of_tokens(told.scores_N, told, PLAIN, kl=0.1).tolist() == [0, 0, 1, 0, -1]


def test_a_token_that_became_likelier_than_under_the_reference_costs():
    """log p = -1, -2, log p_ref = -1.5, -1, kl 0.1: the first costs 0.1 * 0.5, the second gains 0.1 * 1, and the score
    2 is added to it; over the answer 2 - 0.1 * (-0.5) = 2.05."""
    told = rollout([2], [2.0], logps=[-1.0, -2.0], reference=[-1.5, -1.0])
    found = rewards.of_tokens(told.scores_N, told, PLAIN, kl=0.1)
    assert found == pytest.approx([-0.05, 2.1])
    assert found.sum() == pytest.approx(2.05)
    assert rewards.of_tokens(told.scores_N, told, changed(kl_in="loss"), kl=0.1).tolist() == [0, 2]


def test_an_unfinished_answer_loses_the_penalty_before_anything_is_scaled():
    """Scores 1, 3, the second cut, penalty 4: 1 and -1, whose deviation is sqrt(2): 0.7071 and -0.7071."""
    told = rollout([1, 1], [1.0, 3.0], ended=[True, False])
    found, _ = rewards.of_answers(told, changed(missing_eos=4.0), rewards.Moments())
    assert found.tolist() == [1, -1]
    found, _ = rewards.of_answers(told, changed(missing_eos=4.0, scale="batch"), rewards.Moments())
    assert found == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])


def test_running_scores_are_divided_by_the_deviation_of_all_so_far():
    """2 and 4: deviation sqrt(2). Then 9: of 2, 4, 9 it is sqrt(13). Nothing is subtracted."""
    algorithm = changed(scale="running")
    first, seen = rewards.of_answers(rollout([1, 1], [2.0, 4.0]), algorithm, rewards.Moments())
    assert first == pytest.approx([2 / math.sqrt(2), 4 / math.sqrt(2)])
    second, seen = rewards.of_answers(rollout([1], [9.0]), algorithm, seen)
    assert second == pytest.approx([9 / math.sqrt(13)])
    assert (seen.count, seen.mean, seen.squares) == pytest.approx((3, 5, 26))


def test_moments_are_those_of_all_numbers_together():
    x = np.random.default_rng(0).normal(3, 2, 50)
    seen = rewards.Moments()
    for part in np.split(x, [1, 7, 7, 30]):
        seen = seen.add(part)
    assert seen.mean == pytest.approx(x.mean())
    assert seen.deviation == pytest.approx(x.std(ddof=1))
    assert rewards.Moments().add(np.array([5.0])).deviation == 0


def test_scores_are_bounded_after_scaling_and_equal_ones_are_left():
    found, _ = rewards.of_answers(rollout([1, 1, 1], [-30.0, 5.0, 30.0]), changed(max_reward=10.0), rewards.Moments())
    assert found.tolist() == [-10, 5, 10]
    found, _ = rewards.of_answers(rollout([1, 1], [3.0, 3.0]), changed(scale="batch"), rewards.Moments())
    assert found.tolist() == [3, 3]


def test_whitened_rewards_keep_their_mean():
    """Rewards 0, 0, 3 of one answer: mean 1, variance 3: 1 - 0.5774, 1 - 0.5774, 1 + 1.1547."""
    told = rollout([3], [3.0])
    found = rewards.of_tokens(told.scores_N, told, changed(whiten_rewards=True), kl=0.0)
    assert found == pytest.approx([1 - 1 / math.sqrt(3), 1 - 1 / math.sqrt(3), 1 + 2 / math.sqrt(3)])
