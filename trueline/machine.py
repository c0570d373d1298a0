"""Values that say *where* and *how fast*, never *what*: they are excluded from every artefact's identity by their type.

Anything that inherits `Runtime` is left out of fingerprints (`store.fingerprint`) and only recorded. The machine in
force is a context variable, so that no stage passes it on by hand; a stage may override it with its own `machine=`
argument.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


class Runtime:
    """Marker: a value of this type never enters a fingerprint."""


@dataclass(frozen=True)
class Machine(Runtime):
    """What to run on.

    device: "auto" (CUDA, else CPU), "cpu", "cuda" or "cuda:N".
    processes: training processes; more than one starts an accelerate process group for the stage.
    micro_tokens: trie tokens per forward and backward pass (after sharing); bounds memory, changes no result.
    sample_rows: sequences decoded at once.
    precision: "auto" (bf16 where the device multiplies in it, else fp32), "fp32" or "bf16".
    gradient_checkpointing: recompute each layer in the backward pass: less memory, a third more time, same result.
    threads: CPU threads of torch; 0 leaves the choice to torch.
    checkpoint_steps: optimiser steps between two checkpoints of a training; 0: none.
    shard: groups per shard of `draw` and `judge`; a killed run loses at most the unfinished one.
    tracker: "" or a tracker that accelerate knows ("tensorboard", "wandb").
    """

    device: str = "auto"
    processes: int = 1
    micro_tokens: int = 8192
    sample_rows: int = 64
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    threads: int = 0
    checkpoint_steps: int = 50
    shard: int = 64
    tracker: str = ""

    def __post_init__(self) -> None:
        least = {"processes": 1, "micro_tokens": 1, "sample_rows": 1, "threads": 0, "checkpoint_steps": 0, "shard": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {bound}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f'precision is "{self.precision}"; "auto", "fp32" or "bf16"')


_current: contextvars.ContextVar[Machine | None] = contextvars.ContextVar("machine", default=None)


def current() -> Machine:
    """The machine in force; a default `Machine()` where none was set."""
    return _current.get() or Machine()


@contextlib.contextmanager
def using(machine: Machine) -> Iterator[Machine]:
    """Put `machine` in force for a block."""
    token = _current.set(machine)
    try:
        yield machine
    finally:
        _current.reset(token)


def device(machine: Machine | None = None) -> str:
    """The torch device string that `machine` (default: the one in force) asks for."""
    import torch

    wanted = (machine or current()).device
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
