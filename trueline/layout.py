"""Which attention calls a trie needs, planned once per batch and reused by every layer.

A token attends to its own path and nothing else. In preorder a node's subtree is contiguous, so one call per node with
queries [start, stop), keys [start, end) and a *top-left* causal mask is exactly "own tokens causal, descendants see
all". The partial results along a root-to-leaf path are merged by log-sum-exp (`nodewise`). Calls of the same *level*
never share a query, so a level merges at once. Long nodes are cut into blocks of keys, which is the same rule one
level further down and skips the upper triangle; short leaves of a level run as one padded batch, because a call has a
price of its own.

A sliding window of w tokens (a query at depth p sees keys of depth p-w+1 to p) drops the queries that see nothing of a
block and masks the rest where it bites; a window that reaches over the whole trie plans like none.

Nothing here computes; `nodewise` and `flex` do.

Shape suffixes: T trie tokens, M nodes, B batched leaves, n queries of a call, m its keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

# Measured on CPU: below BLOCK keys the smaller products cost more than the triangle saves; above SHORT tokens a call of
# its own is no longer dominated by its overhead. WASTE bounds the padding of a batch of leaves.
BLOCK = 256
SHORT = 64
WASTE = 1.25


@dataclass(frozen=True, eq=False)
class Call:
    """One attention call: queries (a slice, or indices where a window leaves gaps), keys, and how they see each other.

    keep: bool [n, m] or None: None is the top-left causal rule.
    """

    queries: slice | torch.Tensor
    keys: slice
    keep: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Leaves:
    """Short leaves of one level as a padded batch, each causal in itself.

    gather: trie index [B * longest] of every cell, padding included (any token: nobody looks at it); real: the cells
    that are tokens, in the order of `tokens`, their trie indices; padding: bool [B * longest].
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


@dataclass(eq=False)
class Layout:
    """A trie as attention sees it: nodes [M, 4] (start, end, stop, parent), depth of each token, and the plans made so
    far.

    `kernel` names what computes: "flash" (CPU), "plain" (anywhere) or "flex" (CUDA).
    """

    nodes: np.ndarray
    positions: np.ndarray
    device: torch.device
    kernel: str
    windows: set[int | None] = field(default_factory=set)
    made: dict[object, object] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Trie tokens."""
        return int(self.positions.size)

    def plan(self, window: int | None) -> tuple[Level, ...]:
        """The levels of calls under a sliding window (None: unlimited); cached."""
        if window is not None and window > int(self.positions.max(initial=0)):
            window = None
        if window not in self.made:
            self.made[window] = _plan(self, window)
        plan = self.made[window]
        assert isinstance(plan, tuple)
        return plan


def _plan(layout: Layout, window: int | None) -> tuple[Level, ...]:
    levels: list[list[tuple[np.ndarray | slice, slice, bool]]] = []
    first: list[int] = []
    for start, end, stop, parent in layout.nodes.tolist():
        level = 0 if parent < 0 else first[parent]
        pieces = max(1, -(-(end - start) // BLOCK))
        for cut in range(pieces):
            a, b = (start + (end - start) * i // pieces for i in (cut, cut + 1))
            levels.extend([] for _ in range(level + cut + 1 - len(levels)))
            levels[level + cut].append(_queries(layout.positions, a, b, stop, window))
        first.append(level + pieces)
    return tuple(_level(layout, pieces, window) for pieces in levels)


def _queries(
    positions: np.ndarray, start: int, end: int, stop: int, window: int | None
) -> tuple[np.ndarray | slice, slice, bool]:
    """Queries of the keys [start, end), the keys, and whether the window hides some key from some query."""
    if window is None:
        return slice(start, stop), slice(start, end), False
    depth = positions[start:stop]
    seen = np.flatnonzero(depth < positions[end - 1] + window)
    masked = bool(depth[seen].max() >= depth[0] + window)
    whole = seen.size == seen[-1] + 1
    return slice(start, start + seen.size) if whole else seen + start, slice(start, end), masked or not whole


def _level(layout: Layout, pieces: list[tuple[np.ndarray | slice, slice, bool]], window: int | None) -> Level:
    short = [
        keys
        for queries, keys, masked in pieces
        if not masked and queries == keys and keys.stop - keys.start <= SHORT and layout.kernel == "flash"
    ]
    batches = _batches(short)
    batched = {keys.start for batch in batches for keys in batch}
    calls: list[Call | Leaves] = []
    rows: list[np.ndarray] = []
    for queries, keys, masked in pieces:
        if keys.start in batched:
            continue
        index = np.arange(queries.start, queries.stop) if isinstance(queries, slice) else queries
        keep = None
        if masked:
            assert window is not None
            distance = layout.positions[index][:, None] - layout.positions[keys][None, :]
            keep = torch.from_numpy((distance >= 0) & (distance < window)).to(layout.device)
        where = queries if isinstance(queries, slice) else torch.from_numpy(queries).to(layout.device)
        calls.append(Call(where, keys, keep))
        rows.append(index)
    for batch in batches:
        leaves, tokens = _leaves(batch, layout.device)
        calls.append(leaves)
        rows.append(tokens)
    index = np.concatenate(rows)
    if index.size == layout.tokens and (np.diff(index) == 1).all():
        return Level(tuple(calls), None)
    if (np.diff(index) == 1).all():
        return Level(tuple(calls), slice(int(index[0]), int(index[-1]) + 1))
    return Level(tuple(calls), torch.from_numpy(index).to(layout.device))


def _batches(leaves: list[slice]) -> list[list[slice]]:
    """Leaves of similar length together: each batch at least two, its padded area at most WASTE times its tokens."""
    batches: list[list[slice]] = []
    area = 0
    for leaf in sorted(leaves, key=lambda s: s.start - s.stop):
        length = leaf.stop - leaf.start
        longest = batches[-1][0].stop - batches[-1][0].start if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= WASTE * (area + length):
            batches[-1].append(leaf)
            area += length
        else:
            batches.append([leaf])
            area = length
    return [batch for batch in batches if len(batch) > 1]


def _leaves(batch: list[slice], device: torch.device) -> tuple[Leaves, np.ndarray]:
    starts = np.array([s.start for s in batch])
    lengths = np.array([s.stop - s.start for s in batch])
    cell = np.arange(int(lengths.max()))[None, :]
    inside = cell < lengths[:, None]
    gather = np.where(inside, starts[:, None] + cell, starts[:, None]).ravel()
    real = np.flatnonzero(inside)
    tokens = gather[real]
    tensors = [torch.from_numpy(x).to(device) for x in (gather, real, tokens, ~inside.ravel())]
    return Leaves(len(batch), *tensors), tokens
