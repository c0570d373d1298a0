"""Sum: each part is what it is alone, whatever the micro-batches; what is watched trains nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.train import tiny
from tests.train.objectives.given import given, value
from tests.tries import exact_norms
from trueline import trie
from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.heads import Head
from trueline.machine import Machine
from trueline.pipeline import worker
from trueline.train import batches
from trueline.train.fit import divided, fit
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.kl import KLToReference
from trueline.train.objectives.orpo import ORPO
from trueline.train.objectives.protocol import Loss, name_of
from trueline.train.objectives.sft import SFT
from trueline.train.objectives.sum import Sum
from trueline.train.settings import Settings


@dataclass(frozen=True)
class Fixed:
    """A loss of given sums over given counts."""

    sums: tuple[float, ...]
    counts: tuple[float, ...]
    needs = frozenset({"logps"})

    def weight(self, batch):
        return self.counts

    def __call__(self, outputs, batch):
        return Loss(torch.tensor(self.sums), {"loss/pair": (self.sums[0], self.counts[0])})


def test_worked_number():
    """6 over 3 tokens and 1 over 2 pairs, weights 1 and 0.5: 2 + 0.25; what nothing counted towards is left out."""
    both = Sum((Fixed((6.0,), (3.0,)), 1.0), (Fixed((1.0, 9.0), (2.0, 0.0)), 0.5))
    outputs, batch = given((-1.0, -2.0))
    assert both.weight(batch) == (3.0, 2.0, 0.0)
    assert divided(both(outputs, batch).sum, both.weight(batch)).item() == 2.25


def test_needs_and_names():
    both = Sum((DPH(), 1.0), DPO(), (SFT(), 0.0))
    assert both.needs == {"reward", "pairs", "logps", "reference"}
    assert both.names == ("dph", "dpo", "sft") and name_of(both) == "dph+dpo"
    assert Sum(DPO(0.1), DPO(0.2)).names == ("dpo1", "dpo2")
    assert [weight for _, weight in both.parts] == [1.0, 1.0, 0.0]
    nested = Sum((Sum((DPH(), 2.0), (SFT(), 0.5)), 0.5), (DPO(), 1.0))
    assert nested == Sum((DPH(), 1.0), (SFT(), 0.25), (DPO(), 1.0))


def test_metrics_of_one_name_carry_their_part():
    outputs, batch = given((-10.0, -12.0), (-11.0, -11.0), rewards=(2.0, 0.5))
    metrics = Sum((DPH(), 1.0), (DPO(0.05), 1.0))(outputs, batch).metrics
    assert value(metrics["dph/rewards/margin"]) == pytest.approx(1.5)
    assert value(metrics["dpo/rewards/margin"]) == pytest.approx(0.1)
    assert "rewards/margin" not in metrics and "logps/chosen" in metrics


def test_sft_in_a_sum_learns_the_better_answers():
    """Log-probs (-4, -6, -9, -2) of 2, 3, 3 and 1 tokens, p = (1, 0.25): tokens 2 + 0.25 * 3 + 0.75 * 1 = 3.5, loss 4 +
    0.25 * 9 + 0.75 * 2 = 7.75; per sequence over two pairs."""
    outputs, batch = given((-4.0, -6.0, -9.0, -2.0), p=(1.0, 0.25), tokens=[2, 3, 3, 1])
    assert SFT()(outputs, batch).sum.item() == pytest.approx(7.75)
    assert SFT().weight(batch) == pytest.approx(3.5) and SFT("sequence").weight(batch) == 2
    assert value(SFT()(outputs, batch).metrics["nll"]) == pytest.approx(7.75 / 3.5)


@dataclass(frozen=True)
class Descent:
    """Gradient descent, so that steps add as losses do."""

    def build(self, groups, lr):
        return torch.optim.SGD(groups, lr=lr)


def moved(objective, machine=None):
    """How far one step of gradient descent on five pairs moves every parameter, in float64; the row that is logged."""
    model = exact_norms(tiny.model(dtype=torch.float64))
    data = tiny.rows(5, answers=2, p=(1.0, 0.0, 0.5, 0.8))
    heads = Head(pooler="bert").build(model, 0).double()
    named = {**dict(model.named_parameters()), **dict(heads.named_parameters())}
    before = {name: p.detach().clone() for name, p in named.items()}
    settings = Settings(lr=1e-2, batch_size=5, warmup=0.0, max_grad_norm=0.0, optimizer=Descent())
    # Against another model, so that the divergence has a gradient from the start.
    other = exact_norms(tiny.model(seed=1, dtype=torch.float64))
    (row,) = fit(
        model, data, objective, settings, reference=tiny.reference(other, data), heads=heads, reference_model=other,
        machine=machine,
    )  # fmt: skip
    return {name: p.detach() - before[name] for name, p in named.items()}, row


PARTS = [(SFT(), 0.7), (DPO(0.3), 0.5), (DPH(), 2.0), (ORPO(), 0.1), (KLToReference(0.3), 0.05)]


@dataclass(frozen=True)
class OnPairs:
    """An objective that does not ask for pairs, alone on pairs."""

    inner: SFT | KLToReference

    @property
    def needs(self):
        return self.inner.needs | {"pairs"}

    def weight(self, batch):
        return self.inner.weight(batch)

    def __call__(self, outputs, batch):
        return self.inner(outputs, batch)


@pytest.mark.parametrize("micro_tokens", [1, 100_000], ids=["one row at a time", "all at once"])
def test_each_part_is_what_it_is_alone(micro_tokens):
    """A mean over tokens, means over pairs, whole distributions: the steps of the parts, weighed and added, are the
    sum's step, to rounding; so is the loss. Rows differ in length, so a mean of micro-batch means would not add up."""
    total, row = moved(Sum(*PARTS), Machine(micro_tokens=micro_tokens))
    alone = [moved(part if "pairs" in part.needs else OnPairs(part)) for part, _ in PARTS]
    assert row["loss"] == pytest.approx(sum(w * r["loss"] for (_, w), (_, r) in zip(PARTS, alone, strict=True)))
    for name, step in total.items():
        wanted = sum(w * steps[name] for (_, w), (steps, _) in zip(PARTS, alone, strict=True))
        torch.testing.assert_close(step, wanted, rtol=1e-9, atol=1e-12)
    assert row["dph/rewards/margin"] == pytest.approx(alone[2][1]["rewards/margin"])


def gradients(objective):
    """Which parameters get a gradient."""
    model, data = tiny.model(), tiny.rows(4, answers=2)
    heads = Head().build(model, 0)
    batch = batches.collate(data, tiny.reference(model, data))
    outputs = trie.forward(model, batch.trie, frozenset({"logps", "last_hidden"}))
    batch.rewards_NH, batch.heads = heads(outputs, batch.trie), heads.names
    loss = objective(outputs, batch)
    divided(loss.sum, objective.weight(batch)).backward()
    named = {**dict(model.named_parameters()), **{f"heads.{n}": p for n, p in heads.named_parameters()}}
    return {name for name, p in named.items() if p.grad is not None}, loss.metrics


def test_a_part_of_weight_zero_is_watched_and_trains_nothing():
    """Without DPO's weight the output embedding has no gradient, without DPH's the head has none; both are reported."""
    everything, _ = gradients(Sum((DPH(), 1.0), (DPO(), 1.0)))
    without_dpo, metrics = gradients(Sum((DPH(), 1.0), (DPO(), 0.0)))
    assert everything - without_dpo == {"lm_head.weight"}
    assert value(metrics["dpo/rewards/margin"]) == pytest.approx(0.0, abs=1e-5)
    without_dph, metrics = gradients(Sum((DPH(), 0.0), (DPO(), 1.0)))
    assert everything - without_dph == {"heads.out.weight"}
    assert "dph/rewards/accuracy" in metrics


def test_is_a_value_that_travels():
    """Its parts are its identity, and another process rebuilds it from its fields."""
    both = Sum((DPH(), 1.0), (DPO(), 0.5))
    assert fingerprint(both) == fingerprint(Sum(DPH(), (DPO(), 0.5))) != fingerprint(Sum(DPH(), DPO()))
    again = worker._unpack(worker._pack(both, None), {})
    assert again == both and hash(again) == hash(both)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "no part has a weight"),
        (((DPH(), 0.0), (DPO(), 0.0)), "no part has a weight"),
        (((DPH(), -1.0),), "weight"),
        (((DPH(), float("nan")),), "weight"),
        ((1.0, DPO()), "an objective"),
        ((DPH,), "an objective"),
    ],
)
def test_refuses_what_is_no_sum(parts, message):
    with pytest.raises(UserError, match=message):
        Sum(*parts)
