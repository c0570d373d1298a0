"""What each token of an answer is rewarded with: the critic's score at its last token, and its share of the divergence.

Shape suffixes: N answers, E tokens of all answers, end to end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trueline.train.online.protocol import Rollout, whiten

if TYPE_CHECKING:
    from trueline.train.online.ppo import PPO


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations of all scores so far; `add` takes in more (Chan et al. 1979).

    2 and 4, then 9: mean 3 and squares 2, then mean 5 and squares 9 + 1 + 16 = 26, deviation sqrt(13).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, x: np.ndarray) -> Moments:
        """These and the numbers of x."""
        if not x.size:
            return self
        mean, squares, count = float(x.mean()), float(((x - x.mean()) ** 2).sum()), self.count + x.size
        apart = mean - self.mean
        between = apart**2 * self.count * x.size / count
        return Moments(count, self.mean + apart * x.size / count, self.squares + squares + between)

    @property
    def deviation(self) -> float:
        """The standard deviation (unbiased); 0 for fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0


def of_answers(rollout: Rollout, algorithm: PPO, seen: Moments) -> tuple[np.ndarray, Moments]:
    """What each answer as a whole is worth [N], and the moments of all scores so far, these included.

    In this order: the penalty of an answer that did not end, in the critic's own units; division by a deviation; the
    bound. Scores are never shifted: what is subtracted from all changes an answer's worth against its length.
    """
    scores_N = rollout.scores_N - algorithm.missing_eos * ~rollout.ended_N
    seen = seen.add(scores_N)
    if algorithm.scale != "none":
        deviation = (seen if algorithm.scale == "running" else Moments().add(scores_N)).deviation
        scores_N = scores_N / deviation if deviation > 0 else scores_N
    if algorithm.max_reward:
        scores_N = np.clip(scores_N, -algorithm.max_reward, algorithm.max_reward)
    return scores_N, seen


def of_tokens(worth_N: np.ndarray, rollout: Rollout, algorithm: PPO, kl: float) -> np.ndarray:
    """rewards_E: the answer's worth at its last token (its end-of-turn, where it ended), and everywhere -kl * (log p -
    log p_ref) where the divergence is part of the reward.

    A token that the policy now finds likelier than the reference does costs; summed over an answer, the expectation of
    log p - log p_ref under the policy is KL(policy || reference).
    """
    rewards_E = np.zeros(rollout.logps_E.size)
    if algorithm.kl_in == "reward":
        rewards_E -= kl * (rollout.logps_E - rollout.reference_E)
    rewards_E[rollout.last_N] += worth_N
    return whiten(rewards_E, shift=False) if algorithm.whiten_rewards else rewards_E
