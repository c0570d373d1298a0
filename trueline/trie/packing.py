"""Examples cut, in order, into micro-batches by what they add to a trie.

Shape suffixes: none.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

import numpy as np

from trueline.trie.tries import Sequence, common


class _Held:
    """The sequences of one trie, as far as it takes to say what another one adds."""

    def __init__(self) -> None:
        self.sorted: list[tuple[bytes, np.ndarray]] = []

    def add(self, sequences: Iterable[Sequence]) -> int:
        """Tokens that `sequences` add; they are held from here on."""
        added = 0
        for sequence in sequences:
            key = sequence.key()
            at = bisect.bisect_left(self.sorted, key, key=lambda item: item[0])
            near = [common(self.sorted[i][1], sequence.ids) for i in (at - 1, at) if 0 <= i < len(self.sorted)]
            added += len(sequence) - max(near, default=0)
            self.sorted.insert(at, (key, sequence.ids))
        return added


def pack(costs: Iterable[int | Iterable[Sequence]], micro_tokens: int) -> list[list[int]]:
    """Cut examples, in order, into micro-batches of at most `micro_tokens` trie tokens each.

    Each example is given as its trie tokens (`size`) or as its sequences; sequences are counted by what they *add* to
    the batch, so that a prefix shared between examples is paid for once per batch. Returns indices; an example above
    the budget stands alone.
    """
    return pack_beside(((example,) for example in costs), micro_tokens)


def pack_beside(costs: Iterable[Iterable[int | Iterable[Sequence]]], micro_tokens: int) -> list[list[int]]:
    """`pack` where each example stands in several tries at once (a policy's, a reference's), which share a budget."""
    batches: list[list[int]] = []
    held: list[_Held] = []
    room = 0
    for index, example in enumerate(costs):
        parts = [part if isinstance(part, int) else list(part) for part in example]
        held += [_Held() for _ in parts[len(held) :]]
        cost = _cost(held, parts)
        if cost > room or not batches:
            batches.append([])
            room, held = micro_tokens, [_Held() for _ in parts]
            cost = _cost(held, parts)
        batches[-1].append(index)
        room -= cost
    return batches


def _cost(held: list[_Held], parts: list[int | list[Sequence]]) -> int:
    """Tokens that the parts of an example add, each to a trie of its own; they are put there."""
    return sum(part if isinstance(part, int) else trie.add(part) for trie, part in zip(held, parts, strict=False))
