"""Picks: which of a prompt's described answers are trained. Each class its share, short answers first.

    Everything()                    all of them, as Quark trains its whole pool
    PerClass(2)                     two of each class, as ALT-RM and Quark on TL;DR
    PerPrompt(8)                    eight of each prompt, spread over the classes, as ALT-LMC and ALT-LMU

The order within a class is random, from the pool's seed, the prompt and the class alone: what else is in the pool, and
in which order, changes nothing. Answers of fewer than `shorter_than` tokens come first; it is a preference, no filter.
An answer's tokens are those that its engine sampled, without the one that ended it; where an engine gives none, a token
is taken to be worth `words` words.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from trueline.errors import UserError
from trueline.records import Completion


@dataclass(frozen=True, eq=False)
class Candidates:
    """The described answers of one prompt.

    ranks: of each its class, `NO_CLASS` for words without a class, None where its critic abstained. lengths: tokens of
    each, None where they are not known; words: words of each. classes: how many there are. key: of the random order.
    """

    ranks: Sequence[int | None]
    lengths: Sequence[int | None]
    words: Sequence[int]
    classes: int
    key: str

    def of(self, rank: int, shorter_than: int = 0, words: float = 1.0) -> list[int]:
        """The members of a class in random order, those that are shorter first."""
        members = shuffled([i for i, r in enumerate(self.ranks) if r == rank], f"{self.key}\0{rank}")
        return sorted(members, key=lambda i: self.length(i, words) >= shorter_than) if shorter_than else members

    def length(self, index: int, words: float) -> int:
        """Tokens of an answer, from its words where they are not known."""
        known = self.lengths[index]
        return math.ceil(self.words[index] / words) if known is None else known


def shuffled(members: Sequence[int], key: str) -> list[int]:
    """`members` in an order that `key` alone decides; more members do not change how the others are ordered.

    >>> shuffled([0, 1, 2], "a") == [i for i in shuffled([0, 1, 2, 3], "a") if i != 3]
    True
    """
    return sorted(members, key=lambda i: hashlib.sha256(f"{key}\0{i}".encode()).digest())


def tokens_of(completion: Completion) -> int | None:
    """Tokens of an answer without the one that ended it; None where its engine gave none."""
    if completion.tokens is None:
        return None
    return max(0, len(completion.tokens) - (completion.stopped == "stop"))


@runtime_checkable
class Picker(Protocol):
    """Which of a prompt's described answers are trained: their indices, in the order in which they become examples."""

    def __call__(self, found: Candidates) -> list[int]: ...

    def expected(self, answers: float, classes: int) -> float:
        """How many of a prompt's `answers` it takes, for the plan."""
        ...


@dataclass(frozen=True)
class Everything:
    """Every described answer, in the order in which they were sampled; those in no class too."""

    def __call__(self, found: Candidates) -> list[int]:
        return [index for index, rank in enumerate(found.ranks) if rank is not None]

    def expected(self, answers: float, classes: int) -> float:
        """All of them."""
        return answers


@dataclass(frozen=True)
class PerClass:
    """`n` answers of each class, or as many as it has, the best class first (ALT's pool for rewards)."""

    n: int
    shorter_than: int = 64
    words: float = 0.75

    def __post_init__(self) -> None:
        check_pick("PerClass", self.n, self.shorter_than, self.words)

    def __call__(self, found: Candidates) -> list[int]:
        orders = [found.of(rank, self.shorter_than, self.words) for rank in range(found.classes)]
        return [index for order in orders for index in order[: self.n]]

    def expected(self, answers: float, classes: int) -> float:
        """n of each class."""
        return min(answers, self.n * classes)


@dataclass(frozen=True)
class PerPrompt:
    """`n` answers of each prompt: n div classes of each class (ALT's pools for labels and critiques).

    fill: what becomes of the places that a class too small, and the remainder of the division, leave free. "none": they
    stay free, so that no class gets more than its share, as in the authors' long runs. "class": they go to the other
    answers that have a class, one of each class in turn, the best first. "ordered": they go to the answers not yet
    taken in the order in which they were sampled, whatever their class and length, those in no class too, as the
    authors' released code has it.
    """

    n: int
    shorter_than: int = 64
    fill: Literal["none", "class", "ordered"] = "none"
    words: float = 0.75

    def __post_init__(self) -> None:
        check_pick("PerPrompt", self.n, self.shorter_than, self.words)
        if self.fill not in ("none", "class", "ordered"):
            raise UserError("PerPrompt(fill=...)", f"got {self.fill!r}", '"none", "class" or "ordered"')

    def __call__(self, found: Candidates) -> list[int]:
        orders = [found.of(rank, self.shorter_than, self.words) for rank in range(found.classes)]
        share = self.n // found.classes
        taken = [index for order in orders for index in order[:share]]
        if self.fill == "class":
            rest = sorted(
                (place, rank, index) for rank, order in enumerate(orders) for place, index in enumerate(order[share:])
            )
            free = [index for _, _, index in rest]
        elif self.fill == "ordered":
            known = set(taken)
            free = [i for i, rank in enumerate(found.ranks) if rank is not None and i not in known]
        else:
            free = []
        return taken + free[: self.n - len(taken)]

    def expected(self, answers: float, classes: int) -> float:
        """n, or what is there."""
        return min(answers, self.n if self.fill != "none" else self.n // classes * classes)


def check_pick(name: str, n: int, shorter_than: int, words: float) -> None:
    """Refuse numbers that pick nothing."""
    if not isinstance(n, int) or n < 1:
        raise UserError(f"{name}(n=...)", f"got {n!r}", "a whole number of answers, 1 or more")
    if not isinstance(shorter_than, int) or shorter_than < 0:
        raise UserError(f"{name}(shorter_than=...)", f"got {shorter_than!r}", "tokens; 0: length does not matter")
    if not words > 0:
        raise UserError(f"{name}(words=...)", f"got {words!r}", "words to a token, above 0")
