"""Group-normalised advantages: an answer among the answers to its prompt (Shao et al. 2024, arXiv 2402.03300).

Shape suffixes: N answers, E tokens of all answers, end to end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueline.train.online.protocol import Advantages, Rollout

SMALL = 1e-4
"""Added to a group's deviation: a group whose answers are all worth the same has advantage 0."""


@dataclass(frozen=True)
class GRPO:
    """A = (R - mean R of the prompt's answers) / (their standard deviation + 1e-4), the same for every token; R is the
    answer's whole reward. No value head. scale: False leaves the deviation out (Liu et al. 2025, arXiv 2503.20783:
    dividing by it favours prompts that are nearly always or nearly never answered well).

    Worked: rewards 1, 2 and 6 to one prompt: mean 3, variance (4 + 1 + 9) / 2 = 7, so -2, -1 and 3 over 2.6458.
    """

    scale: bool = True
    name = "grpo"
    values = False
    least = 2

    def __call__(self, rewards_E: np.ndarray, rollout: Rollout) -> Advantages:
        reward_N, group_N = rollout.summed(rewards_E), rollout.group_N
        size_N = np.bincount(group_N)[group_N]
        centred_N = reward_N - np.bincount(group_N, weights=reward_N)[group_N] / size_N
        if self.scale:
            squares_N = np.bincount(group_N, weights=centred_N**2)[group_N]
            centred_N = centred_N / (np.sqrt(squares_N / np.maximum(size_N - 1, 1)) + SMALL)
        return Advantages(centred_N[rollout.seq_E])
