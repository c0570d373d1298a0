"""What an advantage rule is, and the answers that it is given: numbers of tokens, laid end to end, no padding.

A rule is a frozen dataclass in a file of its own; adding one is adding a file. What tokens are rewarded with is
`rewards`' business, what an advantage is used for the loss's.

Shape suffixes: N answers, E tokens of all answers, end to end, G prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

EPSILON = 1e-8
"""Under the root of a variance that is divided by."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """The scored answers of one iteration.

    counts_N: tokens of each answer, its end-of-turn included. group_N: number of its prompt. ended_N: whether it ended
    by itself. scores_N: what the critic said. logps_E: log-prob of each token under the policy that wrote it, at
    temperature 1, and reference_E under the reference. values_E: what the value head read before each token, where the
    rule needs it. entropy_E: of the policy's next token there.
    """

    counts_N: np.ndarray
    group_N: np.ndarray
    ended_N: np.ndarray
    scores_N: np.ndarray
    logps_E: np.ndarray
    reference_E: np.ndarray
    values_E: np.ndarray | None = None
    entropy_E: np.ndarray | None = None

    @cached_property
    def seq_E(self) -> np.ndarray:
        """The answer of each token."""
        return np.repeat(np.arange(self.counts_N.size), self.counts_N)

    @cached_property
    def last_N(self) -> np.ndarray:
        """Where each answer's last token lies."""
        return np.cumsum(self.counts_N) - 1

    def summed(self, value_E: np.ndarray) -> np.ndarray:
        """A number of each token, summed per answer, [N]."""
        return np.bincount(self.seq_E, weights=value_E, minlength=self.counts_N.size)


@dataclass(frozen=True, eq=False)
class Advantages:
    """How much better than expected each token turned out, and what its value should have been (None: no values)."""

    advantages_E: np.ndarray
    returns_E: np.ndarray | None = None


@runtime_checkable
class Advantage(Protocol):
    """From rewards of tokens to their advantages.

    name: what a policy trained so is called. values: whether it reads a value head. least: answers to a prompt that it
    needs.
    """

    @property
    def name(self) -> str: ...

    @property
    def values(self) -> bool: ...

    @property
    def least(self) -> int: ...

    def __call__(self, rewards_E: np.ndarray, rollout: Rollout) -> Advantages: ...


def whiten(x: np.ndarray, shift: bool = True) -> np.ndarray:
    """x to mean 0 and variance 1; without `shift` the mean stays what it is. A single number is only shifted.

    The variance is the unbiased one, over the tokens that there are: padding never counts.

    [1, 3, 5]: mean 3, variance 4, whitened [-1, 0, 1], without the shift [2, 3, 4].
    """
    mean = x.mean() if x.size else 0.0
    centred = x - mean
    if x.size > 1:
        centred = centred / np.sqrt(x.var(ddof=1) + EPSILON)
    return centred if shift else centred + mean
