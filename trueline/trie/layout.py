"""Which attention calls a trie needs, planned once per batch and reused by every layer.

A token attends to its own path and nothing else. In preorder a node's subtree is contiguous, so one call per node with
queries [start, stop), keys [start, end) and a *top-left* causal mask is exactly "own tokens causal, descendants see
all". The partial results along a root-to-leaf path are merged by log-sum-exp (`nodewise`). Calls of the same *level*
never share a query, so a level merges at once. Short leaves of a level run as one padded batch, because a call has a
price of its own. Three things bend this plan:

* A sliding window of w tokens (a query at depth p sees keys of depth p-w+1 to p) drops the queries that see nothing of
  a node and masks the rest where it bites; long nodes are cut into blocks, one level further down each. A window that
  reaches over the whole trie plans like none.
* In the last layer only the states that somebody reads matter (the rows that predict a scored token, a sequence's last
  token): queries before the first one that is read are left out. In training on answers that is most of the prompt.
* Nodes are cut where either of these begins.

Nothing here computes; `nodewise` and `flex` do.

Shape suffixes: T trie tokens, M nodes, K states that are read, n queries of a call, m its keys.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

# A windowed call masks at most n x BLOCK pairs, so a long context costs no more than its window.
BLOCK = 512
# Above SHORT tokens a leaf's own call is no longer dominated by its overhead (measured on CPU: batching 240 leaves of 2
# to 8 tokens halves their layer's attention). WASTE bounds the padding of a batch of leaves.
SHORT = 64
WASTE = 1.25


@dataclass(frozen=True, eq=False)
class Call:
    """One attention call: queries (a slice, or indices where a window leaves gaps), keys, and how they see each other.

    keep: bool [n, m] or None; without it `causal` says whether the top-left causal rule holds or all is seen.
    """

    queries: slice | torch.Tensor
    keys: slice
    causal: bool = True
    keep: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Leaves:
    """Short leaves of one level as a padded batch, each causal in itself.

    gather: trie index [batch * longest] of every cell, padding included (any token: nobody looks at it); real: the
    cells that are tokens, in the order of `tokens`, their trie indices; padding: bool [batch * longest].
    """

    batch: int
    gather: torch.Tensor
    real: torch.Tensor
    tokens: torch.Tensor
    padding: torch.Tensor


@dataclass(frozen=True, eq=False)
class Level:
    """Calls with disjoint queries. rows: the trie indices of all their queries in turn; None: all tokens, in order."""

    calls: tuple[Call | Leaves, ...]
    rows: slice | torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The levels of one layer; `complete` unless some token is nobody's key, because nobody reads what sees it."""

    levels: tuple[Level, ...]
    complete: bool


@dataclass(eq=False)
class Layout:
    """A trie as attention sees it: nodes [M, 4] (start, end, stop, parent), depth of each token, and what is read of
    it.

    `read` are the trie indices of the states that somebody reads, ascending [K]. `made` holds the plans made so far.
    """

    nodes: np.ndarray
    positions: np.ndarray
    read: np.ndarray
    device: torch.device
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def tokens(self) -> int:
        """Trie tokens."""
        return int(self.positions.size)

    def effective(self, window: int | None) -> int | None:
        """The window, or None where it hides nothing from anybody."""
        return None if window is None or window > int(self.positions.max(initial=0)) else window

    def plan(self, window: int | None, last: bool = False) -> Plan:
        """The levels of calls under a sliding window (None: unlimited), for the last layer or one before it; cached."""
        name = (self.effective(window), last and 0 < self.read.size < self.tokens)
        if name not in self.made:
            self.made[name] = _plan(self, *name)
        plan: Plan = self.made[name]
        return plan


@dataclass(frozen=True)
class _Piece:
    """A call while it is planned: query indices, keys [start, end), and whether the window bites."""

    queries: np.ndarray
    start: int
    end: int
    masked: bool

    @property
    def alone(self) -> bool:
        """Are the queries the keys themselves?"""
        return not self.masked and self.queries.size == self.end - self.start and self.queries[0] == self.start


def _plan(layout: Layout, window: int | None, last: bool) -> Plan:
    levels: list[list[_Piece]] = []
    below: list[int] = []
    for start, end, stop, parent in layout.nodes.tolist():
        first = start
        if last:
            at = int(np.searchsorted(layout.read, start))
            first = int(layout.read[at]) if at < layout.read.size else stop
        cuts = {start, end, *((first,) if start < first < end - 1 else ())}
        if window is not None:
            cuts.update(range(start, end, BLOCK))
        level = 0 if parent < 0 else below[parent]
        ordered = sorted(cuts)
        for a, b in itertools.pairwise(ordered):
            piece = _piece(layout.positions, a, b, max(a, first), stop, window)
            if piece.queries.size:
                levels.extend([] for _ in range(level + 1 - len(levels)))
                levels[level].append(piece)
            level += 1
        below.append(level)
    keys = sum(piece.end - piece.start for pieces in levels for piece in pieces)
    return Plan(tuple(_level(layout, pieces, window) for pieces in levels if pieces), keys == layout.tokens)


def _piece(positions: np.ndarray, start: int, end: int, first: int, stop: int, window: int | None) -> _Piece:
    """Keys [start, end) and those of the queries [first, stop) that see any of them."""
    queries = np.arange(first, stop)
    if window is None:
        return _Piece(queries, start, end, False)
    queries = queries[positions[first:stop] < positions[end - 1] + window]
    farthest = positions[queries].max(initial=0)
    return _Piece(queries, start, end, bool(farthest >= positions[start] + window))


def _level(layout: Layout, pieces: list[_Piece], window: int | None) -> Level:
    batches = _batches([piece for piece in pieces if piece.alone and piece.end - piece.start <= SHORT])
    batched = {piece.start for batch in batches for piece in batch}
    calls: list[Call | Leaves] = []
    rows: list[np.ndarray] = []
    for piece in pieces:
        if piece.start not in batched:
            calls.append(_call(layout, piece, window))
            rows.append(piece.queries)
    for batch in batches:
        leaves, tokens = _leaves(batch, layout.device)
        calls.append(leaves)
        rows.append(tokens)
    where = _where(np.concatenate(rows), layout.device)
    whole = isinstance(where, slice) and where.stop - where.start == layout.tokens
    return Level(tuple(calls), None if whole else where)


def _where(index: np.ndarray, device: torch.device) -> slice | torch.Tensor:
    """Indices as a slice where they are one run."""
    if (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return torch.from_numpy(index).to(device)


def _call(layout: Layout, piece: _Piece, window: int | None) -> Call:
    keys = slice(piece.start, piece.end)
    queries = _where(piece.queries, layout.device)
    # A run that begins with the first key is causal as it stands; one that begins at the last key or later sees all.
    first = int(piece.queries[0])
    if not piece.masked and isinstance(queries, slice) and (first == piece.start or first >= piece.end - 1):
        return Call(queries, keys, causal=first == piece.start)
    distance = layout.positions[piece.queries][:, None] - layout.positions[keys][None, :]
    keep = (distance >= 0) & (distance < (window or layout.tokens + 1))
    return Call(queries, keys, causal=False, keep=torch.from_numpy(keep).to(layout.device))


def _batches(leaves: list[_Piece]) -> list[list[_Piece]]:
    """Leaves of similar length together: at least two each, their padded area at most WASTE times their tokens."""
    batches: list[list[_Piece]] = []
    longest = area = 0
    for leaf in sorted(leaves, key=lambda piece: piece.start - piece.end):
        length = leaf.end - leaf.start
        if batches and (len(batches[-1]) + 1) * longest <= WASTE * (area + length):
            batches[-1].append(leaf)
            area += length
        else:
            batches.append([leaf])
            longest = area = length
    return [batch for batch in batches if len(batch) > 1]


def _leaves(batch: list[_Piece], device: torch.device) -> tuple[Leaves, np.ndarray]:
    starts = np.array([piece.start for piece in batch])
    lengths = np.array([piece.end - piece.start for piece in batch])
    cell = np.arange(int(lengths.max()))[None, :]
    inside = cell < lengths[:, None]
    gather = np.where(inside, starts[:, None] + cell, starts[:, None]).ravel()
    real = np.flatnonzero(inside)
    tokens = gather[real]
    tensors = [torch.from_numpy(x).to(device) for x in (gather, real, tokens, ~inside.ravel())]
    return Leaves(len(batch), *tensors), tokens
