"""One artefact in a process group of its own: two CPU processes, what travels to them, what happens when one fails."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from trueline.errors import UserError
from trueline.fingerprint import File
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.pipeline.loading import load_file
from trueline.pipeline.worker import decode, encode
from trueline.records import Prompt, write_jsonl
from trueline.store import Policy, Prompts, using

TWO = Machine(device="cpu", processes=2, threads=1)


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Scale:
    factor: float = 2.0
    seen: Prompts | None = None
    colour: Colour = Colour.RED
    few: tuple[Prompt, ...] = (Prompt.of("why?"),)
    table: tuple[tuple[str, float], ...] = (("a", float("inf")),)


def twice(text: str) -> str:
    return text * 2


@stage(Prompts)
def ask(work: Work, n: int) -> None:
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"q{i}") for i in range(n)])


@stage(Prompts)
def read_file(work: Work, file: File) -> None:
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(line) for line in file.path.read_text().splitlines()])


@stage(Policy, distributed=True)
def add_up(work: Work, prompts: Prompts, scale: Scale, function=twice, fail: str = "") -> None:
    """Every process adds rank + 1 and multiplies by the number of prompts; the first writes the sum down."""
    if fail == "mistake" and os.environ["RANK"] == "1":
        raise UserError("here", "a mistake", "none", "Mend it.")
    if fail == "defect":
        raise ZeroDivisionError("a defect")
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    total = torch.tensor([(accelerator.process_index + 1) * len(list(prompts.read())) * scale.factor])
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(total)
    with work.progress(1, "adding") as meter:
        meter.advance()
    work.count("train_tokens", int(total))
    work.log({"step": 1, "total": float(total)})
    work.note("processes", accelerator.num_processes)
    if work.main:
        (work.dir / "sum.txt").write_text(function(f"{float(total)} "))


def test_two_processes_make_one_artefact(tmp_path):
    """Three prompts, factor 2: (1 + 2) * 3 * 2 = 18 over two processes, 1 * 3 * 2 = 6 in one. The number of processes
    is where and how fast, so both have one fingerprint; this toy differs on purpose, so that the group can be seen."""
    handle = add_up(ask(3), Scale(seen=ask(3)))
    with using(tmp_path / "one"):
        make(handle, machine=Machine(device="cpu"))
        assert (handle.path / "sum.txt").read_text() == "6.0 6.0 "
        assert handle.record["notes"]["processes"] == 1
    with using(tmp_path / "two"):
        make(handle, machine=TWO)
        assert (handle.path / "sum.txt").read_text() == "18.0 18.0 "
        assert handle.record["notes"]["processes"] == 2
        assert handle.record["counts"] == {"train_tokens": 18}  # once, not once per process
        assert (handle.path / "metrics.jsonl").read_text() == '{"step":1,"total":18.0}\n'
        assert sorted(path.name for path in handle.path.iterdir()) == ["metrics.jsonl", "record.json", "sum.txt"]
        assert handle.record["machine"]["processes"] == 2


def test_a_mistake_in_a_worker_is_the_mistake_the_user_sees(tmp_path):
    with pytest.raises(UserError, match=r"^here: a mistake; none\. Mend it\.$"):
        make(add_up(ask(3), Scale(), fail="mistake"), store=tmp_path, machine=TWO)
    assert not list(tmp_path.glob("policy/*/record.json"))


def test_a_defect_in_a_worker_comes_with_its_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a defect"):
        make(add_up(ask(3), Scale(), fail="defect"), store=tmp_path, machine=TWO)


def test_what_travels_is_json_and_comes_out_as_the_same_artefact(tmp_path):
    """Enums, records, infinities, functions, files and parents inside dataclasses, rebuilt from names and fields."""
    (tmp_path / "a.txt").write_text("a")
    handle = add_up(ask(3), Scale(seen=ask(4)), label="sum")
    again = decode(json.loads(json.dumps(encode(handle))))
    assert (again, again.name, again.inputs) == (handle, handle.name, handle.inputs)
    read = read_file(File(tmp_path / "a.txt"))
    assert decode(json.loads(json.dumps(encode(read)))) == read


def test_what_no_other_process_can_import_is_refused_before_anything_starts():
    @stage(Policy, distributed=True)
    def local(work: Work) -> None: ...

    with pytest.raises(UserError, match=r"the stage .*local does not stand at the top of its module"):
        encode(local())

    @dataclass(frozen=True)
    class Local:
        n: int = 1

    with pytest.raises(UserError, match="Local is defined inside a function"):
        encode(add_up(ask(3), Local()))


def test_one_device_is_not_shared_by_two_processes(tmp_path):
    with pytest.raises(UserError, match="2 processes on 1 GPU; each needs its own"):
        make(add_up(ask(3), Scale()), store=tmp_path, machine=Machine(device="cuda:0", processes=2))


SLEEPER = """
import sys, time
from pathlib import Path
from trueline.machine import Machine
from trueline.pipeline import make, stage
from trueline.store import Policy

@stage(Policy, distributed=True)
def sleep(work, folder: str, seconds: float):
    (Path(folder) / "alive").write_text("")
    time.sleep(seconds)
    (Path(folder) / "woke").write_text("")

if __name__ == "__main__":
    make(sleep(sys.argv[1], 5.0), store=sys.argv[1], machine=Machine(device="cpu", processes=2))
"""


def test_workers_die_with_the_process_that_started_them(tmp_path):
    """kill -9 the starter while its workers sleep: none of them ever wakes, and the lock is free at once."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    starter = subprocess.Popen([sys.executable, tmp_path / "sleeper.py", tmp_path], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "alive").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "alive").exists()
    starter.kill()
    starter.wait()
    began = time.monotonic()
    module = load_file(tmp_path / "sleeper.py")
    handle = module.sleep(str(tmp_path), 5.0)  # run as a script and loaded from its path: one identity
    with using(tmp_path) as store:
        assert store.part(handle).exists()
        with store.lock(handle):
            assert time.monotonic() - began < 5
            time.sleep(max(0.0, 6 - (time.monotonic() - began)))
    assert not (tmp_path / "woke").exists()
