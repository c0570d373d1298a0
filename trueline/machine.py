"""Values that say *where* and *how fast*, never *what*: they are excluded from every artefact's identity by their type.

Anything that inherits `Runtime` is left out of fingerprints (`store.fingerprint`) and only recorded. The machine in
force is a context variable, so that no stage passes it on by hand; a stage may override it with its own `machine=`
argument.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trueline.errors import UserError, closest


class Runtime:
    """Marker: a value of this type never enters a fingerprint."""


@dataclass(frozen=True)
class Ray(Runtime):
    """A Ray cluster that the shards of `draw` and `judge` are spread over; all its nodes see the store's folder.

    address: of the cluster ("auto": the one this machine belongs to); "" starts one on this machine, for each stage.
    workers: processes that make shards, each with its own copy of the engine or critic; 0: none, shards are made here.
    cpus: cores that Ray keeps for each worker. gpus: GPUs that it keeps for each.
    """

    address: str = ""
    workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("workers", "cpus", "gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 0")


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
    memory: what a device has, as in "80GB", where that is not what this machine has; "any" checks nothing before a run.
    ray: a Ray cluster that draws and judges.
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
    memory: str = ""
    ray: Ray = Ray()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Machine:
        """From what `dataclasses.asdict` gave."""
        return cls(**{**fields, "ray": Ray(**fields.get("ray", {}))})

    def __post_init__(self) -> None:
        least = {"processes": 1, "micro_tokens": 1, "sample_rows": 1, "threads": 0, "checkpoint_steps": 0, "shard": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {bound}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f'precision is "{self.precision}"; "auto", "fp32" or "bf16"')


def read(path: Path) -> dict[tuple[str, ...], Any]:
    """A machine's file (TOML): what it says, by path, as `--machine.ray.workers` is ("machine", "ray", "workers").

    Raises `UserError` for a file that is none, a name that is no field, and a value of another type than the field's.
    """
    import tomllib

    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--on {path}", str(error), "a TOML file such as: processes = 2") from None
    return dict(_fields(said, Machine(), ("machine",), f"--on {path}"))


def _fields(
    said: Mapping[str, Any], default: Any, at: tuple[str, ...], where: str
) -> Iterator[tuple[tuple[str, ...], Any]]:
    known = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    for name, value in said.items():
        if name not in known:
            raise UserError(where, f"unknown name {name!r}", "", closest(name, list(known)))
        meant = known[name]
        if dataclasses.is_dataclass(meant) and isinstance(value, dict):
            yield from _fields(value, meant, (*at, name), where)
            continue
        value = float(value) if isinstance(meant, float) and type(value) is int else value
        if type(value) is not type(meant):
            raise UserError(where, f"{name} = {value!r}", f"a value like {meant!r}")
        yield (*at, name), value


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
