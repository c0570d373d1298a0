"""Keys and values of the answers being written, and the attention that reads them.

One `Cache` serves one run of the decode loop. It holds what each answer sees in two places:

* *slots*: a row of columns per answer, filled from column 0: the tail of its prompt, then its own tokens. Rows have
  their own lengths, so nothing is padded or moved when answers start and end at different times; a full set of columns
  is enlarged.
* *segments*: a stretch of prompt that many answers share, held once. All their queries meet it in one product; the
  partial results merge by log-sum-exp.

The model is called without a cache of its own (`use_cache=False`, one new token per row, its position given); its
layers reach `attend` through transformers' attention interface, in the order in which they run. The same calls over a
trie of prompts only capture keys and values, and attend as `trueline.trie.attention` does.

Shape suffixes: S slots in use, K key heads, G query heads per key head, C columns, L columns in use, D head width, T
tokens of a trie of prompts, P tokens of a segment, W rows admitted at once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trueline.trie import attention as tries

Tensor = torch.Tensor

NAME = "trueline_decode"
STEP = 64  # columns are made in multiples of this
AHEAD = 256  # columns at most that are made for tokens not written yet
# Bytes per layer that reading the slots in four runs must save, on a CPU: about what the calls of three runs cost.
SAVED = 1 << 20


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros and not whatever was in memory: a masked column still enters the products, where NaN would stay NaN.

    On a CPU by numpy, which leaves the zeroing to the system, page by page as they are used, and asks for large ones.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), np.uint8)).view(like.dtype).view(shape)


@dataclass(eq=False)
class Segment:
    """A stretch of prompt shared by several answers.

    layers: keys and values [K, P, D] per layer. rows: the slots that see it; None: all in use, in order.
    """

    layers: list[tuple[Tensor, Tensor]]
    rows: Tensor | None = None


@dataclass(eq=False)
class Prefilled:
    """What a pass over a trie of prompts left: keys and values [K, T, D] per layer, and the windows its layers have."""

    layers: list[tuple[Tensor, Tensor]]
    windows: set[int]

    def segment(self, start: int, end: int) -> Segment:
        """Trie tokens [start, end) as a segment of its own."""
        return Segment([(k[:, start:end].contiguous(), v[:, start:end].contiguous()) for k, v in self.layers])


@dataclass(eq=False)
class Cache:
    """Slots and segments.

    tokens: how many an answer may get. `capturing` is set while prompts are read; `told` are then the window and the
    scale of each layer. `layer` is the layer that attends next.
    """

    rows: int
    device: torch.device
    tokens: int = 0
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    columns: int = 0
    segments: list[Segment] = field(default_factory=list)
    capturing: bool = False
    captured: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    told: list[tuple[int | None, float]] = field(default_factory=list)
    layer: int = 0
    step: _Step | None = None

    @property
    def column(self) -> int:
        """Bytes of keys and values in one column of one layer; 0 where reading them costs less than a call."""
        if self.device.type != "cpu" or not self.layers:
            return 0
        return sum(x.shape[1] * x.shape[3] * x.element_size() for x in self.layers[0])

    def unsorted(self, held: np.ndarray) -> float:
        """Columns that a step reads, over those that it would read if the slots were in order of length."""
        return columns(runs(held, self.column)) / columns(runs(np.sort(held), self.column))

    # --- slots -------------------------------------------------------------------------------------------------------

    def ensure(self, columns: int) -> None:
        """Have at least so many columns in the slots of all layers."""
        if columns <= self.columns:
            return
        columns = max(-(-columns // STEP) * STEP, min(2 * self.columns, self.columns + 1024))
        for index, old in enumerate(self.layers):
            new = tuple(_zeros((self.rows, x.shape[1], columns, x.shape[3]), x) for x in old)
            for fresh, kept in zip(new, old, strict=True):
                fresh[:, :, : self.columns] = kept
            self.layers[index] = (new[0], new[1])
        self.columns = columns

    def admit(self, slots: np.ndarray, cells: list[np.ndarray], source: Prefilled) -> None:
        """Put the prompt tokens `cells` (indices into the trie that `source` was made from) into the slots."""
        if not self.layers:
            self.layers = [
                (k.new_zeros(self.rows, k.shape[0], 0, k.shape[2]), v.new_zeros(self.rows, v.shape[0], 0, v.shape[2]))
                for k, v in source.layers
            ]
        sizes = np.array([c.size for c in cells])
        self.ensure(int(sizes.max()) + 1 + min(self.tokens, AHEAD))
        if not sizes.sum():
            return
        token_at = np.concatenate(cells)
        slot_at = np.repeat(slots, sizes)
        column_at = np.concatenate([np.arange(n) for n in sizes])
        for (k_SKCD, v_SKCD), (k_KTD, v_KTD) in zip(self.layers, source.layers, strict=True):
            heads, length = k_KTD.shape[:2]
            head = np.arange(heads)
            take = self._tensor((head[:, None] * length + token_at).ravel())
            put = self._tensor(((slot_at * heads + head[:, None]) * self.columns + column_at).ravel())
            for slots_SKCD, given in ((k_SKCD, k_KTD), (v_SKCD, v_KTD)):
                rows = given.reshape(-1, given.shape[-1]).index_select(0, take)
                slots_SKCD.view(-1, slots_SKCD.shape[-1]).index_copy_(0, put, rows)

    def move(self, sources: np.ndarray, targets: np.ndarray, columns: int) -> None:
        """Copy slots, up to `columns`."""
        take, put = self._tensor(sources), self._tensor(targets)
        for layer in self.layers:
            for x_SKCD in layer:
                x_SKCD[:, :, :columns].index_copy_(0, put, x_SKCD[:, :, :columns].index_select(0, take))

    def begin_step(self, held: np.ndarray) -> None:
        """The next model call gives one token to each of the first slots, which hold so many tokens each."""
        self.ensure(int(held.max()) + 1)
        self.layer = 0
        self.step = _Step(self, held)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """Keep the new keys and values [S, K, 1, D] of the next layer; attention output [S, 1, K * G, D]."""
        assert self.step is not None
        k_SKCD, v_SKCD = self.layers[self.layer]
        self.layer += 1
        put = self.step.put(key.shape[1])
        k_SKCD.view(-1, k_SKCD.shape[-1]).index_copy_(0, put, key.reshape(-1, key.shape[-1]))
        v_SKCD.view(-1, v_SKCD.shape[-1]).index_copy_(0, put, value.reshape(-1, value.shape[-1]))
        size, heads = key.shape[:2]
        q_SKGD = query.reshape(size, heads, -1, query.shape[-1])
        out = q_SKGD.new_empty(size * heads, q_SKGD.shape[2], v_SKCD.shape[-1])
        parts: list[_Part] = []
        for run in self.step.runs:
            rows = slice(run.start * heads, run.stop * heads)
            k = k_SKCD.view(-1, *k_SKCD.shape[2:])[rows, : run.length]
            v = v_SKCD.view(-1, *v_SKCD.shape[2:])[rows, : run.length]
            q = q_SKGD[run.start : run.stop].flatten(0, 1)
            scores = _scores(self.step.bias(run, heads, window, q.dtype), q, k, scale)
            if self.segments:
                parts.append(_part(scores, v))
            else:
                torch.bmm(torch.softmax(scores, -1), v, out=out[rows])
        if self.segments:
            own = (_joined([p.out for p in parts]), _joined([p.top for p in parts]), _joined([p.total for p in parts]))
            out = self._with_segments(_Part(*(x.unflatten(0, (size, -1)) for x in own)), q_SKGD, scale).to(v_SKCD.dtype)
        return out.view(size, 1, -1, out.shape[-1])

    def _with_segments(self, own: _Part, q_SKGD: Tensor, scale: float) -> Tensor:
        """Merge what the rows see in their slots with what they see in segments."""
        for segment in self.segments:
            k_KPD, v_KPD = segment.layers[self.layer - 1]
            rows = segment.rows
            q_nKGD = q_SKGD if rows is None else q_SKGD.index_select(0, rows)
            n, heads, groups = q_nKGD.shape[:3]
            q_KnD = q_nKGD.transpose(0, 1).reshape(heads, n * groups, -1)
            part = _part(_scores(None, q_KnD, k_KPD, scale), v_KPD)
            part = _Part(
                *(x.unflatten(1, (n, groups)).transpose(0, 1) for x in (part.out, part.top, part.total))
            )  # fmt: skip
            if rows is None:
                own = _merge(own, part)
            else:
                merged = _merge(_Part(*(x.index_select(0, rows) for x in (own.out, own.top, own.total))), part)
                for whole, some in zip(
                    (own.out, own.top, own.total), (merged.out, merged.top, merged.total), strict=True
                ):
                    whole.index_copy_(0, rows, some)
        return own.out.div_(own.total)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


@dataclass(frozen=True)
class Run:
    """Neighbouring slots [start, stop) that are read together, `length` columns each."""

    start: int
    stop: int
    length: int


def runs(held: np.ndarray, column: int) -> list[Run]:
    """The slots as runs of about equal length, so that short answers do not read what long ones hold.

    Quarters of the slots where that saves enough of the columns, of `column` bytes each, else all in one: each run has
    calls of its own.
    """
    whole = [Run(0, held.size, int(held.max()) + 1)]
    if held.size < 4:
        return whole
    ends = [held.size * quarter // 4 for quarter in range(5)]
    parts = [Run(a, b, int(held[a:b].max()) + 1) for a, b in itertools.pairwise(ends)]
    saved = held.size * whole[0].length - columns(parts)
    return parts if saved * column >= SAVED else whole


def columns(read: list[Run]) -> int:
    """How many columns the runs read."""
    return sum(run.length * (run.stop - run.start) for run in read)


@dataclass(eq=False)
class _Step:
    """What all layers of one step share: where new keys go, and which columns each row sees."""

    cache: Cache
    held: np.ndarray

    def __post_init__(self) -> None:
        self.runs = runs(self.held, self.cache.column)
        self._put: dict[int, Tensor] = {}
        self._bias: dict[tuple[Run, int, int | None, torch.dtype], Tensor | None] = {}

    def put(self, heads: int) -> Tensor:
        """Flat index of (slot, head, column) for the new token of each slot."""
        if heads not in self._put:
            at = (np.arange(self.held.size)[:, None] * heads + np.arange(heads)) * self.cache.columns
            self._put[heads] = self.cache._tensor((at + self.held[:, None]).ravel())
        return self._put[heads]

    def bias(self, run: Run, heads: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """0 or -inf [slots of the run * K, 1, L]; None where all rows see all columns."""
        known = (run, heads, window, dtype)
        if known not in self._bias:
            held, column = self.held[run.start : run.stop, None], np.arange(run.length)
            seen = column <= held
            if window is not None:
                seen &= column > held - window
            bias = None
            if not seen.all():
                flat = np.repeat(np.where(seen, np.float32(0), np.float32("-inf")), heads, axis=0)
                bias = self.cache._tensor(flat).to(dtype).unsqueeze(1)
            self._bias[known] = bias
        return self._bias[known]


@dataclass(frozen=True, eq=False)
class _Part:
    """Attention over some of the keys: out, not yet divided by `total`, the sum of exp(score - top)."""

    out: Tensor
    top: Tensor
    total: Tensor


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scores(bias: Tensor | None, q: Tensor, k: Tensor, scale: float) -> Tensor:
    if bias is None:
        return torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale)


def _part(scores: Tensor, v: Tensor) -> _Part:
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    return _Part(torch.bmm(weights.to(v.dtype), v).to(scores.dtype), top, total)


def _merge(a: _Part, b: _Part) -> _Part:
    top = torch.maximum(a.top, b.top)
    left, right = (a.top - top).exp_(), (b.top - top).exp_()
    return _Part(
        (a.out * left).addcmul_(b.out, right),
        top,
        (a.total * left).addcmul_(b.total, right),
    )


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    slots: Cache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls while we decode: heads first in, tokens first out."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert slots is not None
    scale = kwargs.get("scaling")
    told = (kwargs.get("sliding_window"), query.shape[-1] ** -0.5 if scale is None else float(scale))
    if slots.capturing:
        slots.captured.append((key[0], value[0]))
        slots.told.append(told)
        return ALL_ATTENTION_FUNCTIONS[tries.NAME](module, query, key, value, attention_mask, **kwargs)
    query, key = query.to(value.dtype), key.to(value.dtype)
    return slots.attend(query, key, value, told[1], told[0]), None
