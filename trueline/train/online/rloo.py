"""Leave-one-out advantages: an answer against the other answers to its prompt (Ahmadian et al. 2024, arXiv 2402.14740;
Kool et al. 2019).

Shape suffixes: N answers, E tokens of all answers, end to end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueline.train.online.protocol import Advantages, Rollout, whiten


@dataclass(frozen=True)
class RLOO:
    """A = R - the mean R of the other answers to the same prompt, the same for every token; R is the answer's whole
    reward. No value head. whiten: advantages to mean 0 and variance 1 over all tokens of the iteration.

    An answer that is left alone, since its critic said nothing of the others, has advantage 0.

    Worked: rewards 1, 2 and 6 to one prompt: 1 - 4 = -3, 2 - 3.5 = -1.5, 6 - 1.5 = 4.5.
    """

    whiten: bool = False
    name = "rloo"
    values = False
    least = 2

    def __call__(self, rewards_E: np.ndarray, rollout: Rollout) -> Advantages:
        reward_N = rollout.summed(rewards_E)
        size_N = np.bincount(rollout.group_N)[rollout.group_N]
        total_N = np.bincount(rollout.group_N, weights=reward_N)[rollout.group_N]
        others_N = (total_N - reward_N) / np.maximum(size_N - 1, 1)
        advantages_E = np.where(size_N > 1, reward_N - others_N, 0.0)[rollout.seq_E]
        return Advantages(whiten(advantages_E) if self.whiten else advantages_E)
