"""One artefact made by a process group of its own: `launch` starts it, `python -m trueline.pipeline.worker` is
a member.

What a worker must know travels as JSON, never as a pickle: the artefact and everything upstream of it, with stages,
classes and functions by module and name, and values by their fields (`encode`, `decode`). A worker builds the same
handles anew and compares fingerprints before it does anything; what cannot be rebuilt (a stage of a notebook, a class
inside a function) is refused before anything starts.

The processes come from `accelerate launch` and hold the whole model each; sharded parameters (FSDP, DeepSpeed) are not
wired (docs/scale.md). The one that started them keeps the lock, shows the progress, and finishes the artefact; when it
dies, however it dies, the workers see their standard input end and die with it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, cast

import msgspec

from trueline import machine as machines
from trueline import store as stores
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.pipeline import Stage, call, loading, upstream
from trueline.progress import Follower, ToFile
from trueline.store import Artifact
from trueline.work import Work, write_atomic

TAG = "~"
_CURE = "Define it at the top of a module that can be imported, or run with one process."


# --- the artefact as JSON --------------------------------------------------------------------------------------------


def encode(root: Artifact) -> dict[str, Any]:
    """`root` and what is upstream of it, JSON-able; raises `UserError` for what no other process could rebuild."""
    handles = [
        {
            "fingerprint": artifact.fingerprint,
            "stage": _reference(_stage_of(artifact), artifact),
            "inputs": {name: _pack(value, artifact) for name, value in artifact.inputs.items()},
            "label": artifact.label,
        }
        for artifact in upstream(root)
    ]
    return {"artifacts": handles}


def decode(spec: Mapping[str, Any]) -> Artifact:
    """The handle that `encode` was given; raises `UserError` if it does not come out as the same artefact."""
    known: dict[str, Artifact] = {}
    made: Artifact | None = None
    for entry in spec["artifacts"]:
        stage = cast("Stage[Artifact]", _resolve(entry["stage"]))
        inputs = {name: _unpack(value, known) for name, value in entry["inputs"].items()}
        made = known[entry["fingerprint"]] = stage.handle(inputs, label=entry["label"])
        if made.fingerprint != entry["fingerprint"]:
            raise UserError(
                made.name, "its inputs come out differently in another process", "inputs are rebuilt from their fields",
                "Let no field depend on where the recipe runs.",
            )  # fmt: skip
    if made is None:
        raise ValueError("a specification names at least one artefact")
    return made


def _stage_of(artifact: Artifact) -> tuple[Any, str]:
    """(module, name) under which the artefact's stage can be found again."""
    module = sys.modules[artifact.function.__module__]
    for name, value in vars(module).items():
        if isinstance(value, Stage) and value.body is artifact.function:
            return module, name
    raise UserError(
        artifact.name, f"the stage {artifact.stage} does not stand at the top of its module",
        "another process has to import it", _CURE,
    )  # fmt: skip


def _reference(found: tuple[Any, str], artifact: Artifact) -> dict[str, str]:
    module, name = found
    if "<locals>" in name or "<lambda>" in name:
        raise UserError(
            artifact.name, f"{name} is defined inside a function", "another process has to import it", _CURE
        )
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" and file is None:
        raise UserError(artifact.name, f"{name} is defined interactively", "another process has to import it", _CURE)
    if module.__name__ == "__main__" or loading.from_file(module):
        return {"file": os.path.abspath(str(file)), "name": name}
    return {"module": module.__name__, "name": name}


def _resolve(reference: Mapping[str, str]) -> Any:
    if "file" in reference:
        module = loading.load_file(Path(reference["file"]))
    else:
        module = importlib.import_module(reference["module"])
    return functools.reduce(getattr, reference["name"].split("."), module)


def _pack(value: Any, artifact: Artifact) -> Any:
    """One value, tagged where JSON alone would lose what it is."""
    again = functools.partial(_pack, artifact=artifact)
    if isinstance(value, Artifact):
        return {TAG: "artifact", "fingerprint": value.fingerprint}
    if isinstance(value, Enum):
        return {TAG: "enum", "type": again(type(value)), "name": value.name}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        return {TAG: "bytes", "base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {TAG: "dict", "items": [[again(k), again(v)] for k, v in value.items()]}
    if type(value) in (list, tuple, set, frozenset):
        return {TAG: type(value).__name__, "items": [again(item) for item in value]}
    if isinstance(value, Path):
        return {TAG: "path", "path": str(value)}
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return {TAG: "named", **_reference((sys.modules[value.__module__], value.__qualname__), artifact)}
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {TAG: "partial", **{name: again(part) for name, part in parts.items()}}
    if isinstance(value, msgspec.Struct):
        return {TAG: "record", "type": again(type(value)), "value": msgspec.to_builtins(value)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: again(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {TAG: "object", "type": again(type(value)), "fields": fields}
    if isinstance(value, int | float | str):  # a subclass, such as numpy's float64: its value is what counts
        return again(next(kind for kind in (int, float, str) if isinstance(value, kind))(value))
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return again(value.item())
    raise UserError(
        artifact.name, f"a {type(value).__name__} among its inputs", "inputs travel by name and fields", _CURE
    )


def _unpack(form: Any, known: Mapping[str, Artifact]) -> Any:
    if not isinstance(form, dict):
        return form
    again = functools.partial(_unpack, known=known)
    containers: dict[str, Callable[[Any], Any]] = {
        "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict
    }  # fmt: skip
    tag = form[TAG]
    if tag in containers:
        items = [[again(k), again(v)] for k, v in form["items"]] if tag == "dict" else map(again, form["items"])
        return containers[tag](items)
    unpackers: dict[str, Callable[[], Any]] = {
        "artifact": lambda: known[form["fingerprint"]],
        "enum": lambda: again(form["type"])[form["name"]],
        "bytes": lambda: base64.b64decode(form["base64"]),
        "path": lambda: Path(form["path"]),
        "named": lambda: _resolve(form),
        "partial": lambda: functools.partial(again(form["function"]), *again(form["args"]), **again(form["keywords"])),
        "record": lambda: msgspec.convert(form["value"], again(form["type"])),
        "object": lambda: again(form["type"])(**{name: again(part) for name, part in form["fields"].items()}),
    }
    return unpackers[tag]()


# --- starting a group ------------------------------------------------------------------------------------------------


def launch(work: Work) -> None:
    """Make `work.artifact` in a process group of `work.machine.processes`; returns when all of it is done.

    Raises the `UserError` that a worker met, or `RuntimeError` with the end of the workers' log.
    """
    artifact, machine, scratch = cast(Artifact, work.artifact), work.machine, work.scratch
    _check_devices(machine)
    spec = {
        **encode(artifact), "store": str(stores.current().root), "part": str(work.dir),
        "machine": dataclasses.asdict(machine),
    }  # fmt: skip
    for name in ("result.json", "error.json", "progress.json"):
        (scratch / name).unlink(missing_ok=True)
    write_atomic(scratch / "spec.json", json.dumps(spec).encode())
    log = scratch / "worker.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            _command(scratch / "spec.json", machine.processes), stdin=subprocess.PIPE, stdout=out, stderr=out,
            env=_environment(machine), start_new_session=True,
        )  # fmt: skip
        try:
            code = _wait(process, Follower(scratch / "progress.json", work.on))
        finally:
            _end(process)
    if code == 0 and (scratch / "result.json").exists():
        return work.restore(json.loads((scratch / "result.json").read_bytes()))
    if (scratch / "error.json").exists():
        raise UserError(**json.loads((scratch / "error.json").read_bytes()))
    tail = "".join(deque(open(log, errors="replace"), maxlen=60))  # noqa: SIM115 (read to its end, closed with it)
    raise RuntimeError(f"the process group that made {artifact.name} ended with exit status {code}:\n{tail}")


def _check_devices(machine: Machine) -> None:
    here = 1
    if not machine.device.startswith("cuda:"):
        if machine.device == "cpu" or machines.device(machine) != "cuda":
            return
        import torch

        here = torch.cuda.device_count()
    if machine.processes > here:
        raise UserError(
            "machine.processes", f"{machine.processes} processes on {here} GPU{'s' if here > 1 else ''}",
            "each needs its own", 'Ask for fewer processes, or for the device "cuda" or "cpu".',
        )  # fmt: skip


def _command(spec: Path, processes: int) -> list[str]:
    # --multi_gpu is how accelerate says "several processes here"; without CUDA the body's Accelerator picks gloo.
    # Port 0: any free one, so that two trainings on one host do not meet.
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(processes), "--main_process_port", "0", "--mixed_precision", "no",
        "--dynamo_backend", "no", "-m", "trueline.pipeline.worker", str(spec),
    ]  # fmt: skip


def _environment(machine: Machine) -> dict[str, str]:
    threads = machine.threads or max(1, (os.cpu_count() or 1) // machine.processes)
    chosen = {"OMP_NUM_THREADS": str(threads)} if machine.threads or "OMP_NUM_THREADS" not in os.environ else {}
    return {**os.environ, **chosen, "PYTHONPATH": importable()}


def importable() -> str:
    """A PYTHONPATH by which a worker can import what the recipe could."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def _wait(process: subprocess.Popen[bytes], follower: Follower) -> int:
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.25)
            follower.poll()
    finally:
        follower.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let go of the group: closing its standard input ends the workers wherever they are."""
    if process.stdin is not None:
        process.stdin.close()
    for stop in (lambda: None, process.terminate, process.kill):
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


# --- being a member --------------------------------------------------------------------------------------------------


def main(spec_path: str) -> int:
    """One member of the group; returns its exit status."""
    threading.Thread(target=_die_with_the_starter, daemon=True).start()
    spec = json.loads(Path(spec_path).read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    scratch = Path(spec_path).parent
    machine = Machine.of(spec["machine"])
    with stores.using(spec["store"]), machines.using(machine):
        try:
            artifact = decode(spec)
            with stores.current().hold(artifact, rank):
                _use_own_gpu(machine)
                work = Work(Path(spec["part"]), machine, artifact, ToFile(scratch / "progress.json"), main=rank == 0)
                call(artifact, work)
                if work.main:
                    write_atomic(scratch / "result.json", msgspec.json.encode(work.state()))
        except UserError as error:
            with (
                contextlib.suppress(FileExistsError),
                open(scratch / "error.json", "x") as file,
            ):  # the first one counts
                json.dump(error.parts, file)
            return 2
        finally:
            _leave_group()
    return 0


def _die_with_the_starter() -> None:
    # Nothing is ever written to this pipe. It ends when the starter is gone, be it by kill -9, on every system. Read
    # past `sys.stdin`, whose lock a sleeping thread would hold when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(3)


def _use_own_gpu(machine: Machine) -> None:
    if machine.device != "cpu" and machines.device(machine) == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def _leave_group() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
