"""A run killed with SIGKILL and run again ends with the same bytes as one left alone; two processes end as one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import folders
from tests.train.online.told import MACHINE, study
from tests.train.test_resume import outcome, step_of
from trueline.pipeline import make

ROOT = Path(__file__).resolve().parents[3]


def started(folder, store):
    environment = {**os.environ, "TRUELINE_STORE": str(store), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.train.online.told", str(folder)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(process):
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()


def rollouts_of(store):
    return sorted(path.name for path in store.glob("policy/*.part/scratch/rollout-*.json"))


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    """7 iterations of 4 steps, a checkpoint after every second: killed after one of them, when answers beyond it are
    drawn already; then left alone."""
    folder = folders.folder(tmp_path / "tiny")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = started(folder, broken)
    while process.poll() is None and not (step_of(broken) >= 8 and rollouts_of(broken)):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "the run ended before it could be killed"
    assert step_of(broken) < 28 and rollouts_of(broken)
    finished(started(folder, broken))
    make(study(str(folder)), store=whole, machine=MACHINE)
    (one, rows, counts), (other, again, recounted) = outcome(whole), outcome(broken)
    for weights in ("model.safetensors", "snapshots/2/model.safetensors"):
        assert (one / weights).read_bytes() == (other / weights).read_bytes()
    assert rows == again and [row["iteration"] for row in rows] == list(range(1, 8))
    assert counts == recounted
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    assert not list(broken.glob("policy/*.part"))


def test_two_processes_do_what_one_does(tmp_path):
    """The same prompts, the same answers, the same rewards, all to rounding."""
    policy = study(str(folders.folder(tmp_path / "tiny")), iterations=3)
    found = []
    for processes in (1, 2):
        store = tmp_path / str(processes)
        make(policy, store=store, machine=dataclasses.replace(MACHINE, processes=processes))
        (folder,) = store.glob("policy/killed-*")
        found.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    one, two = found
    assert [row["step"] for row in two] == [row["step"] for row in one] == [4, 8, 12]
    for name in ("reward", "kl/answer", "length", "loss", "grad_norm", "value/explained", "kl/coefficient"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-3, abs=1e-4), name
