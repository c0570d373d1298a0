"""GAE, RLOO, GRPO and whitening, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.online.told import rollout
from trueline.errors import UserError
from trueline.train.online.gae import GAE
from trueline.train.online.grpo import GRPO
from trueline.train.online.protocol import Advantage, whiten
from trueline.train.online.rloo import RLOO


def test_gae_of_two_answers_laid_end_to_end():
    """gamma 1, lam 1/2. Rewards (0, 0, 1), values (0.2, 0.4, 0.6): deltas 0.2, 0.2, 0.4, advantages 0.4, 0.4, 0.4,
    returns 0.6, 0.8, 1. Then one token, reward -1, value 0.5: nothing of the first answer runs into it: -1.5, return
    -1."""
    told = rollout([3, 1], [0, 0], values=[0.2, 0.4, 0.6, 0.5])
    found = GAE(gamma=1.0, lam=0.5, whiten=False)(np.array([0, 0, 1.0, -1.0]), told)
    assert found.advantages_E == pytest.approx([0.4, 0.4, 0.4, -1.5])
    assert found.returns_E == pytest.approx([0.6, 0.8, 1.0, -1.0])


def test_gae_discounts():
    """gamma 0.9, lam 0.5, rewards (1, 2), values (0.5, 1): deltas 1 + 0.9 - 0.5 = 1.4 and 2 - 1 = 1, so A_1 = 1.4 +
    0.45 * 1 = 1.85."""
    found = GAE(0.9, 0.5, whiten=False)(np.array([1.0, 2.0]), rollout([2], [0], values=[0.5, 1.0]))
    assert found.advantages_E == pytest.approx([1.85, 1.0])


def test_gae_without_bootstrapping_is_what_is_still_to_come():
    """lam 1 and gamma 1: advantage is the sum of the rewards from here on, less the value."""
    told = rollout([3], [0], values=[0.5, 0.1, 0.2])
    found = GAE(1.0, 1.0, whiten=False)(np.array([-0.1, -0.2, 1.0]), told)
    assert found.advantages_E == pytest.approx([0.7 - 0.5, 0.8 - 0.1, 1.0 - 0.2])
    assert found.returns_E == pytest.approx([0.7, 0.8, 1.0])


def test_returns_are_taken_before_whitening():
    """Advantages (1, 3, 5) over three answers of one token: whitened -1, 0, 1, returns as they were."""
    told = rollout([1, 1, 1], [0] * 3, values=[0, 0, 0])
    found = GAE()(np.array([1.0, 3.0, 5.0]), told)
    assert found.advantages_E == pytest.approx([-1, 0, 1])
    assert found.returns_E == pytest.approx([1, 3, 5])


def slow_gae(rewards, values, gamma, lam):
    """The double sum of the paper (equation 16), token by token."""
    n = len(rewards)
    values = [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


numbers = st.floats(-2, 2, allow_nan=False)


@given(
    st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=5),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_gae_equals_the_papers_sum_for_any_lengths(answers, gamma, lam):
    flat = [pair for answer in answers for pair in answer]
    told = rollout([len(a) for a in answers], [0] * len(answers), values=[v for _, v in flat])
    found = GAE(gamma, lam, whiten=False)(np.array([r for r, _ in flat]), told)
    wanted = [x for a in answers for x in slow_gae([r for r, _ in a], [v for _, v in a], gamma, lam)]
    assert found.advantages_E == pytest.approx(wanted, abs=1e-9)


def test_rloo_leaves_each_answer_out_of_its_own_baseline():
    """Rewards 1, 2, 6 to one prompt: 1 - 4, 2 - 3.5, 6 - 1.5; the other prompt's 5 and 1: 4 and -4. The reward is
    summed over tokens (the second answer's is 2.5 - 0.5), the advantage every token's."""
    told = rollout([1, 2, 1, 1, 1], [0] * 5, group=[0, 0, 0, 1, 1])
    found = RLOO()(np.array([1.0, -0.5, 2.5, 6.0, 5.0, 1.0]), told)
    assert found.advantages_E == pytest.approx([-3, -1.5, -1.5, 4.5, 4, -4])
    assert found.returns_E is None


def test_an_answer_left_alone_has_no_advantage():
    told = rollout([1, 1, 1], [0] * 3, group=[0, 1, 1])
    rewards_E = np.array([7.0, 1.0, 3.0])
    assert RLOO()(rewards_E, told).advantages_E == pytest.approx([0, -2, 2])
    assert GRPO()(rewards_E, told).advantages_E[0] == 0


def test_grpo_divides_by_the_groups_deviation():
    """1, 2, 6: mean 3, deviation sqrt(7) = 2.6458: -2, -1, 3 over 2.6459; without `scale` the differences alone. A
    group of equals has 0."""
    told = rollout([1, 1, 1, 1, 1], [0] * 5, group=[0, 0, 0, 1, 1])
    rewards_E = np.array([1.0, 2.0, 6.0, 4.0, 4.0])
    assert GRPO()(rewards_E, told).advantages_E == pytest.approx(
        [-2 / 2.645851, -1 / 2.645851, 3 / 2.645851, 0, 0], abs=1e-6
    )
    assert GRPO(scale=False)(rewards_E, told).advantages_E == pytest.approx([-2, -1, 3, 0, 0])


def test_whitening_counts_real_tokens_only():
    """1, 3, 5: mean 3, unbiased variance 4. Laid end to end there is no padding to count: three numbers are three."""
    assert whiten(np.array([1.0, 3.0, 5.0])) == pytest.approx([-1, 0, 1])
    assert whiten(np.array([1.0, 3.0, 5.0]), shift=False) == pytest.approx([2, 3, 4])
    assert whiten(np.array([4.0])) == [0.0]
    assert whiten(np.array([2.0, 2.0])) == pytest.approx([0, 0])


@pytest.mark.parametrize("rule", [GAE(), RLOO(), GRPO()])
def test_rules_are_rules(rule):
    assert isinstance(rule, Advantage)
    assert rule.name in ("ppo", "rloo", "grpo")


@pytest.mark.parametrize("name", ["gamma", "lam"])
def test_refuses_what_is_no_share(name):
    with pytest.raises(UserError, match=rf"GAE\({name}="):
        GAE(**{name: 1.5})
