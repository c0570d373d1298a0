"""Generalised advantage estimation: what PPO reads off a value head (Schulman et al. 2016, arXiv 1506.02438).

Shape suffixes: N answers, L tokens of the longest, E tokens of all answers, end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.errors import UserError
from trueline.train.online.protocol import Advantages, Rollout, whiten


@dataclass(frozen=True)
class GAE:
    """A_t = d_t + gamma * lam * A_{t+1}, where d_t = r_t + gamma * V_{t+1} - V_t; returns are A_t + V_t.

    V_t is read before token t, and 0 behind the last one: an answer that was cut ends there too. whiten: advantages to
    mean 0 and variance 1 over all tokens of the iteration, after the returns were taken.

    Worked, gamma 1 and lam 0.5: rewards (0, 0, 1) and values (0.2, 0.4, 0.6) have d = (0.2, 0.2, 0.4), so A_3 = 0.4,
    A_2 = 0.2 + 0.5 * 0.4 = 0.4, A_1 = 0.2 + 0.5 * 0.4 = 0.4, and returns (0.6, 0.8, 1.0).
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    name = "ppo"
    values = True
    least = 1

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"GAE({name}=...)", f"got {getattr(self, name)}", "a share from 0 to 1")

    def __call__(self, rewards_E: np.ndarray, rollout: Rollout) -> Advantages:
        assert rollout.values_E is not None, "the loop reads the values that this rule needs"
        n, length = rollout.counts_N.size, int(rollout.counts_N.max())
        there_NL = np.arange(length) < rollout.counts_N[:, None]
        rewards_NL, values_NL, out_NL = (np.zeros((n, length + 1)) for _ in range(3))
        rewards_NL[:, :-1][there_NL], values_NL[:, :-1][there_NL] = rewards_E, rollout.values_E
        later_N: Any = np.zeros(n)
        for t in reversed(range(length)):
            # Behind an answer's end reward, value and advantage are all 0.
            delta_N = rewards_NL[:, t] + self.gamma * values_NL[:, t + 1] - values_NL[:, t]
            out_NL[:, t] = later_N = delta_N + self.gamma * self.lam * later_N
        advantages_E = out_NL[:, :-1][there_NL]
        returns_E = advantages_E + rollout.values_E
        return Advantages(whiten(advantages_E) if self.whiten else advantages_E, returns_E)
