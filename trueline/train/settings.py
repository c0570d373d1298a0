"""How to train, as one value: part of a policy's identity, refused where it means nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trueline.errors import UserError
from trueline.train import schedules
from trueline.train.optimizers import AdamW, Optimizer


@dataclass(frozen=True)
class Settings:
    """How to train: part of a policy's identity.

    epochs: passes over the rows. batch_size: examples per optimiser step. lr: peak learning rate. schedule: "cosine",
    "linear" or "constant". warmup: share of all steps (below 1) or number of steps. weight_decay: decoupled, of
    matrices only. max_grad_norm: global L2 norm that gradients are clipped to, 0 leaves them. seed: of the data's
    order, of new parameters, of dropout.
    """

    lr: float = 1e-5
    epochs: int = 1
    batch_size: int = 32
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: Optimizer = field(default_factory=AdamW)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0), ("max_grad_norm", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UserError(f"train({name}=...)", f"got {value}", f"a number of at least {least}")
        schedules.warmup_steps(self.warmup, 1)
        schedules.multiplier(self.schedule, 0, 1, 0)
