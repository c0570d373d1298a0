"""How to train, as one value: part of a policy's identity, refused where it means nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.train import schedules
from trueline.train.optimizers import AdamW, Decay, DecayTo, Optimizer, ParameterGroup, check_decay_to


@dataclass(frozen=True)
class Recurrence:
    """Train over contiguous streams of documents, each row going on where the row before it in its stream ended.

    segment: tokens of a row; gradients end with it. memory: earlier tokens of the stream that a row sees. The rows of
    an optimiser step are the streams, documents are laid end to end and lengths do not matter. For models with a memory
    (`lswt`). Source: Dai et al. 2019 (Transformer-XL).
    """

    segment: int = 2048
    memory: int = 2048

    def __post_init__(self) -> None:
        for name in ("segment", "memory"):
            if getattr(self, name) < 1:
                raise UserError(f"Recurrence({name}=...)", f"got {getattr(self, name)}", "at least 1 token")


@dataclass(frozen=True)
class Settings:
    """How to train: part of a policy's identity.

    epochs: passes over the rows. batch_size: examples per optimiser step. lr: peak learning rate. schedule: "cosine",
    "linear" or "constant". warmup: share of all steps (below 1) or number of steps. floor: share of the peak rate that
    the schedule ends at. weight_decay: decoupled, lr * weight_decay of a parameter per step. decay_to: "zero", or
    "start", the weights that the run began with (heads, being new, decay to zero). no_decay: parts of the names of
    parameters that do not decay; None spares what has fewer than two axes (norms, biases). parameter_groups:
    those with a rate and decay of their own. max_grad_norm: global L2 norm that gradients are clipped to, 0 leaves
    them. seed: of the data's order, of new parameters, of dropout. recurrence: train over streams, None over rows by
    themselves. order: of an epoch's rows: "fresh" shuffles them; "together" shuffles prompts and leaves the rows of one
    prompt next to each other, so that a step of many answers computes their prompt once; "composed" shuffles, as DPO's
    reference implementation, what the epoch before left.
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
    floor: float = added(0.0)
    decay_to: DecayTo = added("zero")
    no_decay: tuple[str, ...] | None = added(None)
    parameter_groups: tuple[ParameterGroup, ...] = added(())
    recurrence: Recurrence | None = added(None)
    order: Literal["fresh", "together", "composed"] = added("fresh")

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0), ("max_grad_norm", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UserError(f"train({name}=...)", f"got {value}", f"a number of at least {least}")
        schedules.warmup_steps(self.warmup, 1)
        schedules.multiplier(self.schedule, 0, 1, 0)
        if not 0 <= self.floor < 1:
            raise UserError("train(floor=...)", f"got {self.floor}", "a share of the peak rate, from 0 to below 1")
        if self.floor and self.schedule == "constant":
            raise UserError("train(floor=...)", 'has no effect with schedule="constant"', "", "Leave one of them out.")
        check_decay_to("train", self.decay_to)
        if self.order not in ("fresh", "together", "composed"):
            raise UserError("train(order=...)", f'got "{self.order}"', '"fresh", "together" or "composed"')
        if self.order != "fresh" and self.recurrence is not None:
            raise UserError(
                f'train(order="{self.order}")', "streams are read in one order", "", "Leave one of them out."
            )
        decaying = self.weight_decay or any(group.weight_decay for group in self.parameter_groups)
        for name, given in (("decay_to", self.decay_to != "zero"), ("no_decay", self.no_decay is not None)):
            if given and not decaying:
                got = f"has no effect with weight_decay={self.weight_decay:g}"
                raise UserError(f"train({name}=...)", got, "", "Give a weight_decay, or leave it out.")

    @property
    def decay(self) -> Decay:
        """What parameters decay by and to, where no group of their own says otherwise."""
        return Decay(self.weight_decay, self.decay_to, self.no_decay)
