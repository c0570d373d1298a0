"""Two processes train what one does: the same loss curve, the same weights to rounding."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import folders
from tests.train.town import Praised, town
from trueline import models
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.train.batches import share
from trueline.train.fit import buckets
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.kl import KLToReference
from trueline.train.objectives.sft import SFT
from trueline.train.objectives.sum import Sum
from trueline.train.optimizers import LaProp
from trueline.train.stage import train
from trueline.train.views import Pairs


def logged(policy, store):
    (folder,) = (store / "policy").glob(policy.name)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    """Answers behind conditions with steered weights, beside a reference of bare prompts (a token mean, whose weight
    differs from batch to batch); a token mean, two pair means and a divergence in one sum; and a reward model whose
    output embedding has no gradient. The last batch of an epoch holds one example, so that one process has nothing to
    do."""
    start = models.pretrained(folders.folder(tmp_path / "tiny"))
    groups = town(9)
    settings = {"lr": 1e-3, "epochs": 2, "batch_size": 4, "weight_decay": 0.1}
    steered = ConditionalLM(kl=Adaptive(0.05, 0.5, 50), entropy=Adaptive(0.06, 10.0, 50))
    behind = train(start, Praised(groups), steered, **settings | {"epochs": 3, "batch_size": 17})
    parts = (SFT(), 0.5), (DPO(), 1.0), (DPH(), 1.0), (KLToReference(), 0.1)
    joint = train(behind, Pairs(groups), Sum(*parts), reference=start, optimizer=LaProp(), decay_to="start", **settings)
    reward = train(joint, Pairs(groups), BradleyTerry(), **settings)
    stores = tmp_path / "one", tmp_path / "two"
    for store, processes in zip(stores, (1, 2), strict=True):
        make(reward, store=store, machine=Machine(device="cpu", processes=processes, threads=1, micro_tokens=200))
    for policy in (behind, joint, reward):
        (one, weights), (two, others) = (logged(policy, store) for store in stores)
        assert [row["step"] for row in two] == list(range(1, 7))
        for name in ("loss", "grad_norm"):
            assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4, abs=1e-5)
        for name in ("kl/coefficient", "entropy/coefficient"):
            assert [row.get(name, 0) for row in two] == pytest.approx([row.get(name, 0) for row in one], rel=1e-5)
        for name in ("examples", "tokens", "lr"):
            assert [row[name] for row in two] == [row[name] for row in one]
        for name in weights:
            # By norm: Adam moves an element whose gradient is rounding noise by a full step either way.
            assert (others[name] - weights[name]).norm() <= 1e-3 * weights[name].norm(), name
        for name in ("rewards/margin", "dph/rewards/margin", "dpo/rewards/margin", "kl/token", "nll/class 1"):
            assert two[0].get(name) == pytest.approx(one[0].get(name), abs=1e-4)


@pytest.mark.slow
def test_four_processes_give_it_too(tmp_path):
    """Pairs in steps of four, one for each process; the last step of an epoch leaves three without any."""
    start = models.pretrained(folders.folder(tmp_path / "tiny"))
    policy = train(start, Pairs(town(9)), DPO(), lr=1e-3, batch_size=4)
    found = []
    for processes in (1, 4):
        machine = Machine(device="cpu", processes=processes, threads=1, micro_tokens=200)
        make(policy, store=tmp_path / str(processes), machine=machine)
        found.append(logged(policy, tmp_path / str(processes)))
    (one, weights), (four, others) = found
    for name in ("loss", "grad_norm", "rewards/margin"):
        assert [row[name] for row in four] == pytest.approx([row[name] for row in one], rel=1e-4, abs=1e-5)
    assert [row["tokens"] for row in four] == [row["tokens"] for row in one]
    for name in weights:
        assert (others[name] - weights[name]).norm() <= 1e-3 * weights[name].norm(), name


class Priced:
    def __init__(self, cost):
        self.cost = cost


def test_rows_are_dealt_by_cost():
    """Costs 9, 5, 4, 4: one process takes 9, the other 5 and 4; at 9 to 9 the last 4 goes to the first."""
    rows = [Priced(4), Priced(9), Priced(4), Priced(5)]
    dealt = [share(rows, [0, 1, 2, 3], process, 2) for process in (0, 1)]
    assert dealt == [[1, 2], [3, 0]]
    assert share(rows, [0, 1, 2, 3], 0, 1) == [1, 3, 0, 2]
    assert share(rows, [2], 1, 2) == []


def test_gradients_travel_in_buckets():
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 4, 10, 1, 1)]
    assert [[p.numel() for p in bucket] for bucket in buckets(parameters, 8)] == [[3, 4], [10], [1, 1]]
