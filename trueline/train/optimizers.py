"""Optimisers as values: configuration and identity in one; `build` gives torch's.

A new one is a new frozen dataclass with a `build`, here or in a user's own file. Learning rate and weight decay
belong to the run (`train(lr=..., weight_decay=...)`), an optimiser's own constants to its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Optimizer(Protocol):
    """Builds torch's optimiser over parameter groups that already carry their weight decay."""

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), torch's fused kernel."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop without momentum, as the DPO and RLAIF studies train (torch's defaults)."""

    alpha: float = 0.99
    eps: float = 1e-8

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        import torch

        return torch.optim.RMSprop(groups, lr=lr, alpha=self.alpha, eps=self.eps, foreach=True)


def parameter_groups(named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay, vectors (norms, biases) do not."""
    trainable = [p for _, p in named if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2]
    plain = [p for p in trainable if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
