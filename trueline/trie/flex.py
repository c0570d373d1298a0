"""Exact attention over a trie on CUDA: one FlexAttention call per layer with a block mask.

Token k is seen by token q exactly if k <= q < stop[k], where stop[k] is the end of the subtree of k's node; a sliding
window adds depth[q] - depth[k] < window. The block mask is computed from the nodes, block by block: neither it nor
anything here is ever of size tokens x tokens.

Shape suffixes: H query heads, K key heads, T trie tokens, D head width, N blocks of `TILE` tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trueline.trie.layout import Layout

Tensor = torch.Tensor

TILE = 128


def subtree_ends(layout: Layout) -> np.ndarray:
    """For each token, where the subtree of its node ends [T]."""
    ends = np.zeros(layout.tokens, np.int64)
    for start, end, stop, _ in layout.nodes.tolist():
        ends[start:end] = stop
    return ends


def tiles(layout: Layout, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles (queries by keys, bool [N, N]) are seen in part, and which are seen whole."""
    count = -(-layout.tokens // TILE)
    starts = np.arange(count) * TILE
    lasts = np.minimum(starts + TILE, layout.tokens) - 1
    ends, depths = subtree_ends(layout), layout.positions
    reach_most, reach_least = np.maximum.reduceat(ends, starts), np.minimum.reduceat(ends, starts)
    below = starts[:, None] > starts[None, :]
    some = below & (reach_most[None, :] > starts[:, None])
    whole = below & (reach_least[None, :] > lasts[:, None])
    if window is not None:
        deep, shallow = np.maximum.reduceat(depths, starts), np.minimum.reduceat(depths, starts)
        some &= shallow[:, None] - deep[None, :] < window
        whole &= deep[:, None] - shallow[None, :] < window
    # A last tile that sticks out over the end must stay masked, or its keys past the end would be read.
    whole[:, lasts - starts + 1 < TILE] = False
    whole[lasts - starts + 1 < TILE, :] = False
    return (some & ~whole) | np.eye(count, dtype=bool), whole


def mask_mod(layout: Layout, window: int | None) -> Callable[..., Tensor]:
    """The rule of one (query, key) pair, over index tensors."""
    ends_T = torch.from_numpy(subtree_ends(layout)).to(layout.device)
    depths_T = torch.from_numpy(layout.positions).to(layout.device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_T[key])

    if window is None:
        return sees
    near = window

    def sees_near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(batch, head, query, key) & (depths_T[query] - depths_T[key] < near)

    return sees_near


def block_mask(layout: Layout, window: int | None) -> Any:
    """The BlockMask of a trie under a window; cached in the layout."""
    from torch.nn.attention.flex_attention import BlockMask

    if window is not None and window > int(layout.positions.max(initial=0)):
        window = None
    name = ("flex", window)
    if name not in layout.made:
        partly, whole = (torch.from_numpy(x).to(layout.device) for x in tiles(layout, window))
        lists = [_lists(partly), _lists(whole)]
        layout.made[name] = BlockMask.from_kv_blocks(
            *lists[0], *lists[1], BLOCK_SIZE=TILE, mask_mod=mask_mod(layout, window), seq_lengths=(layout.tokens,) * 2
        )
    return layout.made[name]


def _lists(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of key tiles per query tile [1, 1, N] and their indices, first ones first [1, 1, N, N]."""
    count = seen.sum(-1, dtype=torch.int32)
    order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return count[None, None].contiguous(), order[None, None].contiguous()


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None) -> Tensor:
    """Attention output [1, T, H, D of v] of q [1, H, T, D], k [1, K, T, D], v over the trie of `layout`."""
    out = _compiled()(q, k, v, block_mask=block_mask(layout, window), scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)
