"""The last layer computes only what somebody reads.

After the last attention nothing mixes tokens any more, so the feed-forward block of the last layer, most of that
layer's arithmetic, runs on the states that predict a scored token (or end a sequence) and on no other; attention
leaves out the queries before them (`layout`). The rows nobody reads come out as noise and are never looked at. Which
layer is the last is seen, not guessed, and the numbers are proved with the rest of the model (`attention`).

Shape suffixes: T trie tokens, K states that are read, D hidden width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A decoder layer, its attention and its feed-forward block."""

    layer: torch.nn.Module
    attention: torch.nn.Module
    mlp: torch.nn.Module

    @classmethod
    def around(cls, model: torch.nn.Module, attention: torch.nn.Module) -> LastLayer | None:
        """The layer of `model` that holds `attention` directly and an `mlp` beside it; None where there is no such."""
        for layer in model.modules():
            mlp = getattr(layer, "mlp", None)
            if isinstance(mlp, torch.nn.Module) and any(child is attention for child in layer.children()):
                return cls(layer, attention, mlp)
        return None

    def recomputed(self) -> bool:
        """Does backward run this layer again? Then it must find it as forward did: whole."""
        return bool(getattr(self.layer, "gradient_checkpointing", False)) and self.layer.training

    @contextlib.contextmanager
    def only(self, read_K: torch.Tensor) -> Iterator[None]:
        """Within the block the feed-forward part runs on the tokens `read_K`; the others get zeros."""
        before = self.mlp.__dict__.get("forward")
        whole = self.mlp.forward

        def forward(hidden_1TD: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            out_1KD = whole(hidden_1TD.index_select(1, read_K), *args, **kwargs)
            return out_1KD.new_zeros(hidden_1TD.shape).index_copy(1, read_K, out_1KD)

        self.mlp.__dict__["forward"] = forward
        try:
            yield
        finally:
            self.mlp.__dict__.pop("forward")
            if before is not None:
                self.mlp.__dict__["forward"] = before
