"""A training killed with SIGKILL and run again ends with the same bytes as one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import folders
from tests.train import tiny
from trueline.errors import UserError
from trueline.train import checkpoints
from trueline.train.optimizers import AdamW, Decay, LaProp, RMSprop, built, parameter_groups

ROOT = Path(__file__).resolve().parents[2]


def started(folder, store):
    """The recipe in a process of its own, with its own store."""
    environment = {**os.environ, "TRUELINE_STORE": str(store), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.train.town", str(folder)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(process):
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()


def step_of(store):
    """Steps that the last checkpoint under way has seen."""
    from safetensors import safe_open

    for path in store.glob("policy/*.part/scratch/" + checkpoints.NAME):
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["state"])["step"]
    return 0


def kill_after(process, store, steps):
    """SIGKILL once a checkpoint of at least `steps` steps is there, a little into the steps after it."""
    while process.poll() is None and step_of(store) < steps:
        time.sleep(0.01)
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "the training ended before it could be killed"


def outcome(store):
    (policy,) = store.glob("policy/killed-*")
    rows = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    counts = json.loads((policy / "record.json").read_text())["counts"]
    return policy, [{k: v for k, v in row.items() if k != "seconds"} for row in rows], counts


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_twice_and_run_again_gives_the_same_bytes(tmp_path):
    """60 steps with LoRA and its dropout and with weights that are steered, checkpoints every 7: killed after 7 and
    after 28, then left alone."""
    folder = folders.folder(tmp_path / "tiny")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished(started(folder, whole))
    for steps in (7, 28):
        kill_after(started(folder, broken), broken, steps)
    assert 28 <= step_of(broken) < 60
    finished(started(folder, broken))
    (one, rows, counts), (other, again, recounted) = outcome(whole), outcome(broken)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert rows == again and [row["step"] for row in rows] == list(range(1, 61))
    assert len({row["kl/coefficient"] for row in rows}) > 50 and counts == recounted
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    assert not list(broken.glob("policy/*.part"))


@pytest.mark.parametrize("decay", [Decay(0.1), Decay(0.5, "start")], ids=["to zero", "to the start"])
@pytest.mark.parametrize("optimizer", [AdamW(), RMSprop(), LaProp()])
def test_a_checkpoint_holds_weights_and_optimizer_bit_for_bit(tmp_path, optimizer, decay):
    def steps(model, made, n):
        for _ in range(n):
            model(torch.arange(3, 13)[None], labels=torch.arange(3, 13)[None]).loss.backward()
            made.step()
            made.zero_grad()

    def fresh():
        model = tiny.model()
        parameters = dict(model.named_parameters())
        return model, parameters, built(optimizer, parameter_groups(parameters.items(), decay), 1e-2)

    model, parameters, made = fresh()
    steps(model, made, 3)
    checkpoints.save(tmp_path, {"step": 3}, parameters, made)
    steps(model, made, 2)
    other, again, rebuilt = fresh()
    assert checkpoints.restore(tmp_path, again, rebuilt)["step"] == 3
    steps(other, rebuilt, 2)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)


def test_an_unfinished_checkpoint_is_not_read_and_a_foreign_one_is_refused(tmp_path):
    model = tiny.model()
    parameters = dict(model.named_parameters())
    made = AdamW().build(parameter_groups(parameters.items(), 0.0), 1e-3)
    (tmp_path / (checkpoints.NAME + ".tmp")).write_bytes(b"half")
    assert checkpoints.restore(tmp_path, parameters, made) is None
    checkpoints.save(tmp_path, {"step": 1}, {"other": torch.nn.Parameter(torch.zeros(2))}, made)
    with pytest.raises(UserError, match="other parameters"):
        checkpoints.restore(tmp_path, parameters, made)
