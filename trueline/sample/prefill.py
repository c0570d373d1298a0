"""Prompts, read before anything is written: one pass over their trie, whose keys and values are kept.

The first pass goes through the model's own modules, which say what each layer's window and scale are; later ones of a
model whose steps are lean go around them, as its steps do (`lean`). Both are proved with the loop (`decode.proved`).

Shape suffixes: P prompts, T tokens of their trie, V vocabulary, K key heads, H query heads, D head width.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch

from trueline import trie as tokens
from trueline.sample.cache import Cache, Prefilled
from trueline.sample.lean import Lean
from trueline.trie import attention as tries
from trueline.trie import nodewise

Tensor = torch.Tensor

LAST = frozenset({"last_hidden"})


def prefill(model: Any, cache: Cache, batch: tokens.Trie, step: Any = None) -> tuple[Tensor, Prefilled]:
    """Logits after each prompt of a trie [P, V], and the keys and values of all its tokens.

    step: how the model takes its steps; a lean one reads prompts too, once the layers have told what they are.
    """
    path = tries.path(model)
    if isinstance(step, Lean) and cache.told and path.kernel in nodewise.KERNELS:
        return _lean(step, cache, batch, nodewise.KERNELS[path.kernel])
    inputs: dict[str, Any] = {"input_ids": batch.tokens_T[None], "position_ids": batch.positions_T[None]}
    keep = _keeps(type(tries.core(model)))
    if keep:
        inputs["logits_to_keep"] = batch.last_N
    cache.capturing, cache.captured, cache.told = True, [], []
    try:
        with tries.passing(batch.layout(LAST), path.kernel, path.last) as given:
            logits = model(**inputs, trie=given, slots=cache, use_cache=False).logits[0]
    finally:
        cache.capturing = False
    done = Prefilled(cache.captured, {int(w) for w in given.windows if w is not None})
    cache.captured = []
    return (logits if keep else logits[batch.last_N]), done


def _keeps(kind: Any) -> bool:
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


@dataclass(eq=False)
class _Trie:
    """What a lean pass attends through: the trie's own tokens, whose keys and values [K, T, D] it keeps."""

    told: list[tuple[int | None, float]]
    layout: Any
    kernel: nodewise.Kernel
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [T, 1, H, D] of queries [T, H, 1, D], keys and values [T, K, 1, D]."""
        q_HTD, k_KTD, v_KTD = (x[:, :, 0].transpose(0, 1).contiguous() for x in (query, key, value))
        self.layers.append((k_KTD, v_KTD))
        plan = self.layout.plan(window, False)
        return nodewise.attend(q_HTD[None], k_KTD[None], v_KTD[None], plan, self.kernel, scale)[0].unsqueeze(1)


def _lean(step: Lean, cache: Cache, batch: tokens.Trie, kernel: nodewise.Kernel) -> tuple[Tensor, Prefilled]:
    seen = _Trie(cache.told, batch.layout(LAST), kernel)
    hidden_TD = step.states(batch.tokens_T, batch.positions_T, seen)
    windows = {window for window, _ in cache.told if window is not None}
    return step.head(hidden_TD.index_select(0, batch.last_N)), Prefilled(seen.layers, windows)
