"""Recipes as graphs: `@stage` turns a function into an inert call, `make` materialises what the calls stand for.

    @stage(Groups, rev=1, estimate=lambda prompts, sampling, **_: {"samples": sampling.n * prompts.count["prompts"]})
    def draw(work: Work, policy: Policy, prompts: Prompts, sampling: Sampling) -> None:
        ...                                     # writes work.dir / "groups.jsonl"

    samples = draw(policy, prompts, Sampling(n=4))      # nothing happens: a Groups handle
    make(samples)                                       # policy, prompts and samples are made where they are missing

What enters an identity is `fingerprint`'s business, where things lie `store`'s, what a plan looks like `plan`'s.
Stages run in the calling process; one declared `distributed` gets a process group of its own (`worker`) when its
machine has more than one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import inspect
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from trueline import machine as machines
from trueline import store as stores
from trueline.errors import UserError, closest
from trueline.fingerprint import (
    File,
    call_site,
    canonical,
    inside,
    is_runtime,
    kinds,
    name_of,
    same,
    snapshot,
    source_hash,
)
from trueline.machine import Machine
from trueline.pipeline import memory
from trueline.pipeline.failures import explained
from trueline.pipeline.loading import PREFIX
from trueline.pipeline.planning import missing, plan, show, upstream, why
from trueline.pipeline.runs import Run
from trueline.progress import Screen, screen
from trueline.store import Artifact, Store
from trueline.work import Work, shards, write_atomic

__all__ = ["Run", "Stage", "Work", "make", "missing", "plan", "shards", "show", "stage", "upstream", "why"]

A = TypeVar("A", bound=Artifact)
Body = Callable[..., None]
Estimate = Callable[..., dict[str, int]]

_RESERVED = ("machine", "label")
_VERSIONS = ("trueline", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy")


class Stage(Generic[A]):
    """A function that makes one kind of artefact; calling it returns a handle and does nothing."""

    def __init__(
        self, kind: type[A], body: Body, name: str, rev: int, label: str, estimate: Estimate | None, distributed: bool
    ) -> None:
        functools.update_wrapper(self, body)
        self.kind, self.body, self.name, self.rev, self.label = kind, body, name, rev, label
        self.estimate, self.distributed = estimate, distributed
        self.signature, self.added = _signature(body, name)

    def __call__(self, *args: Any, machine: Machine | None = None, label: str | None = None, **kwargs: Any) -> A:
        """The inert handle on what the body would make of these arguments."""
        return self.handle(self._bind(args, kwargs), machine=machine, label=label)

    def handle(self, inputs: dict[str, Any], *, machine: Machine | None = None, label: str | None = None) -> A:
        """The handle for arguments that are bound already."""
        self._check_kinds(inputs)
        identity = {}
        for name, value in inputs.items():
            annotation = self.signature.parameters[name].annotation
            if is_runtime(value, annotation, self.body.__globals__):
                continue
            if name in self.added and same(value, self.added[name]):
                continue
            identity[name] = canonical(value, f"argument {name} of {self.name}()")
        return self.kind(
            stage=self.name,
            rev=self.rev,
            inputs=inputs,
            identity=identity,
            label=label or self.label,
            function=self.body,
            estimate=self.estimate,
            distributed=self.distributed,
            machine=machine,
        )

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            known = [*self.signature.parameters, *_RESERVED]
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                got, cure = f"{self.name}() has no argument {unknown[0]!r}", closest(unknown[0], known)
            else:
                got, cure = f"{self.name}(): {error}", f"Its arguments: {', '.join(known)}."
            raise UserError(call_site(), got, "", cure) from None
        bound.apply_defaults()
        return {name: snapshot(value) for name, value in bound.arguments.items()}

    def _check_kinds(self, inputs: dict[str, Any]) -> None:
        """Refuse an artefact of another kind than the annotation names."""
        for name, value in inputs.items():
            if not isinstance(value, Artifact):
                continue
            allowed = kinds(self.signature.parameters[name].annotation, self.body.__globals__)
            handles = [k for k in allowed if isinstance(k, type) and issubclass(k, Artifact)]
            if handles and not isinstance(value, tuple(handles)):
                wanted = " or ".join(k.__name__ for k in handles)
                raise UserError(call_site(), f"argument {name} of {self.name}() is {value!r}", f"it takes {wanted}")

    def __repr__(self) -> str:
        return f"<stage {self.name} -> {self.kind.__name__}>"


def stage(
    kind: type[A],
    *,
    rev: int = 1,
    label: str = "",
    name: str = "",
    estimate: Estimate | None = None,
    distributed: bool = False,
) -> Callable[[Body], Stage[A]]:
    """Turn `body(work, ...)` into a call that returns an inert handle of `kind`.

    rev: raise it by hand when the body's results change for the same arguments. label: for people (default: the
    name); a call may give another with `label=`. name: part of the identity (default: the function's name, with its
    module's where it is not ours). estimate: given the bound arguments as keywords, what this stage will add or use
    ("prompts", "samples", "groups", "critic_calls", "train_tokens"). distributed: the body runs in a process group
    when its machine has several processes.

    Every such call takes `machine=` and `label=` besides the body's own arguments; neither is part of the identity.
    """

    def decorate(body: Body) -> Stage[A]:
        called = name or name_of(body).replace("<locals>.", "")
        return Stage(kind, body, called, rev, label or called.rpartition(".")[2], estimate, distributed)

    return decorate


def _signature(body: Body, name: str) -> tuple[inspect.Signature, dict[str, Any]]:
    """The call's signature (the body's without `work`) and what the absence of each `added` argument meant."""
    first, *parameters = inspect.signature(body).parameters.values()
    meant: dict[str, Any] = {}
    for index, parameter in enumerate(parameters):
        if parameter.name in _RESERVED:
            raise TypeError(f"stage {name}: every stage takes {parameter.name}=; the body reads it from {first.name}")
        default = parameter.default
        if isinstance(default, dataclasses.Field):
            meant[parameter.name] = default.metadata["absent"]
            default = default.default
            parameters[index] = parameter.replace(default=default)
        if isinstance(default, list | dict | set | bytearray):
            raise UserError(
                call_site(), f"argument {parameter.name} of {name}() has a default that can change ({default!r})",
                "a default is part of an identity", "Use a tuple, or None.",
            )  # fmt: skip
        if default is not inspect.Parameter.empty:
            canonical_default(default, parameter.name, name)
    return inspect.Signature(parameters), meant


def canonical_default(default: Any, parameter: str, name: str) -> None:
    """Refuse, where the stage is defined, a default without identity."""
    if not isinstance(default, machines.Runtime):
        canonical(default, f"the default of argument {parameter} of {name}()")


# --- making ----------------------------------------------------------------------------------------------------------


def make(
    *roots: Artifact,
    store: Store | str | Path | None = None,
    machine: Machine | None = None,
    on: Screen | None = None,
    run: Run | None = None,
) -> Any:
    """Make `roots` and what they need, where it is missing; returns the root, or all of them as a tuple.

    store, machine: what to put in force (default: what is). on: where progress goes. run: where to write down the plan
    and links to what was made.
    """
    on = on or screen()
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(stores.using(store if store is not None else stores.current()))
        stack.enter_context(machines.using(machine or machines.current()))
        chosen.create()
        planned = plan(*roots)
        if run is not None:
            run.begin(planned, roots)
        for row in planned.rows:
            if row.memory is not None:
                memory.check(row.artifact.name, row.memory, row.artifact.machine or machines.current())
            if row.status == "have":
                on.have(row.artifact.name)
        for index, row in enumerate(planned.to_make, 1):
            with on.stage(row.artifact.name, index, len(planned.to_make)):
                _make_one(chosen, row.artifact, on)
            record = row.artifact.record
            on.made(row.artifact.name, record["seconds"], record["counts"])
        if run is not None:
            run.end()
    return roots[0] if len(roots) == 1 else roots


def _make_one(store: Store, artifact: Artifact, on: Screen) -> None:
    with store.lock(artifact, waiting=lambda who: on.console.print(f"{artifact.name}: waits for {who}")):
        if store.find(artifact) is not None:
            return
        _check_unchanged(artifact)
        with explained(artifact, store, artifact.machine or machines.current()):
            part = store.begin(artifact)
            if not (part / "record.json").exists():
                _run(artifact, part, on)
            store.finish(artifact, part)


def _check_unchanged(artifact: Artifact) -> None:
    """A file or a value that changed since the recipe was written would be recorded as what it is no more."""
    for name, form in artifact.identity_inputs.items():
        if canonical(artifact.inputs[name], f"argument {name}") != form:
            raise UserError(
                artifact.written, f"argument {name} of {artifact.stage}() changed after the recipe was read", "",
                "Run the command again.",
            )  # fmt: skip


def _run(artifact: Artifact, part: Path, on: Screen) -> None:
    machine = artifact.machine or machines.current()
    work = Work(part, machine, artifact, on)
    started = time.monotonic()
    with machines.using(machine), _threads(machine):
        if artifact.distributed and machine.processes > 1:
            from trueline.pipeline.worker import launch

            launch(work)
        else:
            if machine.ray.workers:
                from trueline.pipeline import spread

                if artifact.stage in spread.STAGES:
                    work.over = spread.spread(work)
            call(artifact, work)
    record = _record(artifact, work, time.monotonic() - started)
    write_atomic(part / "record.json", msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def call(artifact: Artifact, work: Work) -> None:
    """Run the body of an artefact's stage with its inputs."""
    signature = inspect.signature(artifact.function)
    bound = inspect.BoundArguments(signature, {next(iter(signature.parameters)): work, **artifact.inputs})
    artifact.function(*bound.args, **bound.kwargs)


@contextlib.contextmanager
def _threads(machine: Machine) -> Iterator[None]:
    if not machine.threads:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the record ------------------------------------------------------------------------------------------------------


def _record(artifact: Artifact, work: Work, seconds: float) -> dict[str, Any]:
    """What `record.json` holds: the identity, and what is only recorded."""
    return {
        "name": artifact.name,
        "kind": artifact.kind,
        "stage": artifact.stage,
        "rev": artifact.rev,
        "label": artifact.label,
        "fingerprint": artifact.fingerprint,
        "inputs": artifact.identity_inputs,
        "parents": {parent.fingerprint: parent.name for parent in artifact.parents},
        "counts": dict(work.counts),
        "notes": work.notes,
        "seconds": round(seconds, 3),
        "runs": stores.begun(work.dir).get(
            "runs", 1
        ),  # more than one: stopped between, and `seconds` is the last one's
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {str(file.path.absolute()): file.sha256 for file in inside(artifact.inputs, File)},
        "machine": dataclasses.asdict(work.machine),
        "runtime": [repr(value) for value in inside(artifact.inputs, machines.Runtime)],
        "function": f"{artifact.function.__module__.removeprefix(PREFIX)}:{artifact.function.__qualname__}",
        "source": source_hash(artifact.function),
        "environment": environment(),
    }


@functools.cache
def environment() -> dict[str, Any]:
    """Host, platform, versions and git commit of the working directory; recorded, never part of an identity."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"host": socket.gethostname(), "platform": sys.platform, "versions": versions, "git": _git()}


def _git() -> dict[str, Any] | None:
    def ask(*command: str) -> str:
        return subprocess.run(
            ["git", *command], capture_output=True, text=True, check=True, timeout=10, stdin=subprocess.DEVNULL
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
