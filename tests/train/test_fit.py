"""The loop: it learns, and nothing but the settings decides what it learns."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.train import tiny
from trueline.errors import UserError
from trueline.heads import Head
from trueline.machine import Machine
from trueline.train.fit import fit, out_of_memory
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.optimizers import AdamW, RMSprop
from trueline.train.rows import order, plan, together
from trueline.train.settings import Settings


def trained(objective, settings, machine=None, answers=1, n=12, dtype=torch.float32, **changes):
    """A fresh tiny model trained on `n` rows: (rows logged, its weights)."""
    model, data = tiny.model(dtype=dtype, **changes), tiny.rows(n, answers, p=(1.0, 0.0, 0.5))
    reference = tiny.reference(model, data) if "reference" in objective.needs else None
    heads = Head().build(model, 0).to(dtype) if "reward" in objective.needs else None
    history = fit(model, data, objective, settings, reference=reference, heads=heads, machine=machine)
    found = tiny.weights(model)
    if heads is not None:
        found["head"] = heads.out.weight.detach()
    return history, found


def test_sft_learns_its_rows_by_heart():
    history, _ = trained(SFT(), Settings(lr=1e-2, epochs=40, batch_size=12, warmup=0.0, schedule="constant"))
    assert len(history) == 40
    assert history[0]["loss"] == pytest.approx(math.log(64), abs=0.2)
    assert history[-1]["loss"] < 1.0


def test_dpo_moves_the_margin_and_starts_at_ln_2():
    settings = Settings(lr=3e-3, epochs=10, batch_size=6, warmup=0.0)
    history, _ = trained(DPO(), settings, answers=2)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    # The reference was scored row by row: its sums differ from the batch's in the last digits, either way.
    assert history[0]["rewards/margin"] == pytest.approx(0, abs=1e-5)
    assert history[-1]["rewards/accuracy"] == 1.0
    assert history[-1]["rewards/margin"] > 0.1


def test_a_reward_head_learns_to_rank():
    history, found = trained(BradleyTerry(), Settings(lr=3e-3, epochs=10, batch_size=6), answers=2)
    assert history[-1]["rewards/accuracy"] == 1.0
    assert history[-1]["loss"] < history[0]["loss"]
    fresh = Head().build(tiny.model(), 0).out.weight
    assert not torch.equal(found["head"], fresh)


@pytest.mark.parametrize("objective", [SFT(), SFT("sequence"), DPO(), BradleyTerry()])
def test_micro_batches_change_nothing(objective):
    """One micro-batch of 6 rows, or 6 of one row: the same curve and the same weights, in float64 to 1e-9.

    Token means make this hard: rows differ in length, so a mean of micro-batch means would be another loss.
    """
    settings = Settings(lr=1e-3, epochs=2, batch_size=6)
    answers = 2 if "pairs" in objective.needs else 1
    whole, one = trained(objective, settings, Machine(micro_tokens=100_000), answers, dtype=torch.float64)
    parts, other = trained(objective, settings, Machine(micro_tokens=1), answers, dtype=torch.float64)
    assert [row["loss"] for row in whole] == pytest.approx([row["loss"] for row in parts], rel=1e-6)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-7, atol=1e-9)


def test_gradient_checkpointing_changes_nothing():
    settings = Settings(lr=1e-3, epochs=1, batch_size=6)
    _, one = trained(DPO(), settings, answers=2, dtype=torch.float64)
    _, other = trained(DPO(), settings, Machine(gradient_checkpointing=True), answers=2, dtype=torch.float64)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-7, atol=1e-9)


def test_a_seed_fixes_everything_and_the_callers_random_numbers_are_left_alone():
    settings = Settings(lr=1e-3, epochs=2, batch_size=5)
    _, one = trained(SFT(), settings)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    model, data = tiny.model(), tiny.rows(12)
    torch.manual_seed(123)
    fit(model, data, SFT(), settings)
    assert torch.equal(torch.rand(3), expected)
    other = tiny.weights(model)
    assert all(torch.equal(one[name], other[name]) for name in other)
    _, third = trained(SFT(), Settings(lr=1e-3, epochs=2, batch_size=5, seed=1))
    assert any(not torch.equal(one[name], third[name]) for name in third)


def test_what_is_logged():
    """10 rows in batches of 4 are 3 steps, the last of 2 rows; the learning rate peaks after the warm-up."""
    history, _ = trained(DPO(), Settings(lr=1e-3, epochs=2, batch_size=4, warmup=2), answers=2, n=10)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["examples"] for row in history] == [4, 4, 2, 4, 4, 2]
    assert [row["epoch"] for row in history] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert history[2]["lr"] == pytest.approx(1e-3) == max(row["lr"] for row in history)
    for row in history:
        assert row["grad_norm"] > 0
        assert row["tokens"] / row["trie_tokens"] == pytest.approx(row["sharing"])
        assert row["rewards/margin"] == pytest.approx(row["rewards/chosen"] - row["rewards/rejected"], abs=1e-5)


@dataclass(frozen=True)
class Plain:
    """A user's own optimiser: gradient descent."""

    def build(self, groups, lr):
        return torch.optim.SGD(groups, lr=lr)


def test_clipping_bounds_the_step():
    """A step of gradient descent moves the weights by lr * max_grad_norm = 0.1 * 0.01; the norm logged is unclipped."""
    settings = Settings(lr=0.1, batch_size=12, warmup=0.0, max_grad_norm=0.01, optimizer=Plain())
    before = tiny.weights(tiny.model())
    (row,), after = trained(SFT("sequence"), settings)
    moved = math.sqrt(sum((after[name] - before[name]).square().sum().item() for name in after))
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert row["grad_norm"] > 1
    (free,), _ = trained(SFT("sequence"), Settings(lr=0.1, batch_size=12, warmup=0.0, max_grad_norm=0.0))
    assert free["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)


def test_weight_decay_is_for_matrices_only():
    """No gradient reaches unused token embeddings, so one AdamW step only decays them, by lr * decay; norms stay."""
    settings = Settings(lr=0.1, batch_size=12, weight_decay=0.5, warmup=0.0, max_grad_norm=0.0)
    before = tiny.weights(tiny.model())
    _, after = trained(SFT(), settings)
    unused = after["model.embed_tokens.weight"][:2] / before["model.embed_tokens.weight"][:2]
    torch.testing.assert_close(unused, torch.full_like(unused, 0.95))


@pytest.mark.parametrize("optimizer", [AdamW(), AdamW(betas=(0.9, 0.95), eps=1e-6), RMSprop()])
def test_optimizers_are_values(optimizer):
    history, _ = trained(SFT(), Settings(lr=1e-3, epochs=4, batch_size=12, optimizer=optimizer))
    assert history[-1]["loss"] < history[0]["loss"]


def test_order_is_a_permutation_of_seed_and_epoch_that_can_be_entered_anywhere():
    assert sorted(order(100, 0, 0)) == list(range(100))
    assert list(order(100, 0, 0)) != list(order(100, 0, 1)) != list(order(100, 1, 1))
    whole = [list(x) for x in plan(10, 4, 3, seed=7)]
    assert [len(x) for x in whole] == [4, 4, 2] * 3
    for start in range(len(whole) + 1):
        assert [list(x) for x in plan(10, 4, 3, seed=7, start=start)] == whole[start:]


def test_rows_of_one_prompt_can_stay_together():
    """Prompts 0 1 2 with 3, 2 and 1 rows: whatever the order of the prompts, a prompt's rows follow each other."""
    prompts = [0, 1, 0, 2, 1, 0]
    seen = set()
    for epoch in range(20):
        rows = together(np.array(prompts), 5, epoch)
        assert sorted(rows) == list(range(6))
        runs = [prompt for prompt, _ in itertools.groupby(prompts[i] for i in rows)]
        assert len(runs) == 3
        assert [i for i in rows if prompts[i] == 0] == [0, 2, 5]
        seen.add(tuple(runs))
    assert len(seen) == 6
    whole = [list(x) for x in plan(6, 4, 3, 7, kind="together", prompts=prompts)]
    assert [len(x) for x in whole] == [4, 2] * 3
    assert [list(x) for x in plan(6, 4, 3, 7, start=3, kind="together", prompts=prompts)] == whole[3:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"schedule": "cosin"}, "cosine"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_refuses_settings_that_mean_nothing(changes, message):
    with pytest.raises(UserError, match=message):
        Settings(**changes)


def test_refuses_rows_that_do_not_fit_the_objective():
    model = tiny.model()
    with pytest.raises(UserError, match=r"Use Pairs"):
        fit(model, tiny.rows(2), DPO(), Settings(), reference={})
    with pytest.raises(UserError, match=r"Use Demonstrations"):
        fit(model, tiny.rows(2, answers=2), SFT(), Settings())
    with pytest.raises(UserError, match="2 of 2 rows have none"):
        fit(model, tiny.rows(2, answers=2), DPO(), Settings(), reference={})


def test_names_the_knobs_when_memory_runs_out():
    """The cure names what is not yet turned; an actual shortage needs a device of its own."""
    text = str(out_of_memory(3, 8000, Machine()))
    assert "training step 3" in text and "Lower machine.micro_tokens (now 8192), or set machine.gradient" in text
    assert "gradient_checkpointing" not in str(out_of_memory(3, 8000, Machine(gradient_checkpointing=True)))
    assert "micro_tokens" not in str(out_of_memory(3, 2000, Machine()))


def test_stops_at_a_loss_that_is_not_finite():
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("inf")
    with pytest.raises(UserError, match=r"training step 1: loss is nan; a finite number"):
        fit(model, tiny.rows(4), SFT(), Settings())
