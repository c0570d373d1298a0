"""The clipped loss, worked by hand, and what an algorithm refuses to be."""

from __future__ import annotations

import math

import pytest
import torch

from tests.train.objectives.given import value
from trueline.errors import UserError
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.protocol import Batch, Objective
from trueline.train.online.gae import GAE
from trueline.train.online.grpo import GRPO
from trueline.train.online.ppo import KL, PPO
from trueline.train.online.rloo import RLOO
from trueline.trie import Outputs, Sequence, build


def batch_of(logps, given, tokens=None, values=None):
    """Outputs and a batch of answers of so many tokens each (default: one), in float64."""
    tokens = tokens or [1] * len(logps)
    seq_E = torch.tensor([i for i, k in enumerate(tokens) for _ in range(k)])
    outputs = Outputs(torch.tensor(logps, dtype=torch.float64, requires_grad=True), seq_E, len(tokens))
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        build([Sequence.of([1], [2] * k) for k in tokens]), [""] * len(tokens), torch.tensor(tokens), none, none,
        torch.zeros(0), given={name: torch.tensor(x, dtype=torch.float64) for name, x in given.items()},
    )  # fmt: skip
    if values is not None:
        batch.values_E = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return outputs, batch


def test_the_ratio_is_clipped_only_where_that_makes_the_loss_worse():
    """r = p / p_old with p_old = 1/2, clip 0.2. p = 0.7, A = 1: max(-1.4, -1.2) = -1.2, no gradient. p = 0.7, A = -1:
    max(1.4, 1.2) = 1.4. p = 0.3, A = 1: r = 0.6, max(-0.6, -0.8) = -0.6. p = 0.3, A = -1: max(0.6, 0.8) = 0.8, none. p
    = 0.5, A = 2: -2. Together -1.6; two of five clipped. The gradient by log p is -A r where it is not."""
    logps = [math.log(p) for p in (0.7, 0.7, 0.3, 0.3, 0.5)]
    given = {"logps": [math.log(0.5)] * 5, "advantages": [1.0, -1.0, 1.0, -1.0, 2.0]}
    outputs, batch = batch_of(logps, given)
    loss = PPO(RLOO())(outputs, batch)
    loss.sum.backward()
    assert loss.sum.item() == pytest.approx(-1.2 + 1.4 - 0.6 + 0.8 - 2.0)
    assert value(loss.metrics["policy/clipped"]) == pytest.approx(2 / 5)
    assert outputs.logps_E.grad.tolist() == pytest.approx([0, 1.4, -0.6, 0, -2])
    moved = sum(r - 1 - math.log(r) for r in (1.4, 1.4, 0.6, 0.6, 1.0)) / 5
    assert value(loss.metrics["policy/moved"]) == pytest.approx(moved)


def test_the_value_may_not_leave_what_it_was_by_more_than_its_clip():
    """V_old 0, R 1, clip 0.2. V = 0.5: max(0.25, 0.64) / 2 = 0.32, without a gradient. V = 0.1: both 0.81, / 2 = 0.405.
    V = -0.5: max(2.25, 1.44) / 2 = 1.125. Unclipped, V = 0.5 costs 0.125. Advantages 0: the policy costs nothing."""
    given = {"logps": [0.0] * 3, "advantages": [0.0] * 3, "values": [0.0] * 3, "returns": [1.0] * 3}
    outputs, batch = batch_of([0.0] * 3, given, values=[0.5, 0.1, -0.5])
    loss = PPO(value_weight=0.1)(outputs, batch)
    loss.sum.backward()
    assert loss.sum.item() == pytest.approx(0.1 * (0.32 + 0.405 + 1.125))
    assert batch.values_E.grad.tolist() == pytest.approx([0, -0.09, -0.15])
    assert value(loss.metrics["value/loss"]) == pytest.approx((0.125 + 0.405 + 1.125) / 3)
    assert value(loss.metrics["value/clipped"]) == pytest.approx(1 / 3)
    outputs, batch = batch_of([0.0], {n: x[:1] for n, x in given.items()}, values=[0.5])
    assert PPO(value_clip=0.0)(outputs, batch).sum.item() == pytest.approx(0.125)


def test_divergence_in_the_loss_is_k3():
    """log p_ref - log p = ln 2 - ln 1: 2 - ln 2 - 1 = 0.3069; at the same probability 0. With weight 0.5 and A = 0 the
    loss is 0.1534; the coefficient of the iteration takes the place of the first one."""
    given = {"logps": [0.0, 0.0], "advantages": [0.0, 0.0], "reference": [math.log(2), 0.0]}
    outputs, batch = batch_of([0.0, 0.0], given)
    algorithm = PPO(GRPO(), kl=0.5, kl_in="loss")
    k3 = 1 - math.log(2)
    assert algorithm(outputs, batch).sum.item() == pytest.approx(0.5 * k3)
    batch.coefficients = {KL: 2.0}
    assert algorithm(outputs, batch).sum.item() == pytest.approx(2 * k3)
    assert value(algorithm(outputs, batch).metrics["policy/kl"]) == pytest.approx(k3 / 2)


def test_tokens_or_answers_are_averaged():
    """Answers of 3 and 1 tokens with A = 1, ratios 1: tokens -4 of 4; answers -1 - 1 of 2, so that the short one's
    token counts three times as much as one of the long one's."""
    given = {"logps": [0.0] * 4, "advantages": [1.0] * 4}
    for reduction, total, weight, first, last in (("tokens", -4, 4, -1, -1), ("answers", -2, 2, -1 / 3, -1)):
        outputs, batch = batch_of([0.0] * 4, given, tokens=[3, 1])
        algorithm = PPO(RLOO(), reduction=reduction)
        loss = algorithm(outputs, batch)
        loss.sum.backward()
        assert (loss.sum.item(), algorithm.weight(batch)) == pytest.approx((total, weight))
        assert outputs.logps_E.grad[[0, 3]].tolist() == pytest.approx([first, last])


def test_entropy_is_a_bonus():
    outputs, batch = batch_of([0.0, 0.0], {"logps": [0.0, 0.0], "advantages": [0.0, 0.0]})
    outputs.entropy_E = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert PPO(RLOO(), entropy=0.1)(outputs, batch).sum.item() == pytest.approx(-0.4)


def test_needs_follow_the_rule():
    assert PPO().needs == {"logps", "rollout", "values"}
    assert PPO(RLOO(), entropy=0.1).needs == {"logps", "rollout", "entropy"}
    assert isinstance(PPO(), Objective)
    assert [PPO(rule).name for rule in (GAE(), RLOO(), GRPO())] == ["ppo", "rloo", "grpo"]


def test_the_divergences_weight_moves_once_per_iteration():
    """Target 6, horizon 10,000, 256 answers at KL 9: error 0.5, of which 0.2 count: 0.05 * (1 + 0.2 * 256 / 10,000). An
    estimate below 0 counts as 0; a number stays what it is."""
    steered = PPO(kl=Adaptive(0.05, 6.0, 10_000.0))
    assert steered.next_kl(0.05, 9.0, 256) == pytest.approx(0.05 * (1 + 0.2 * 0.0256))
    assert steered.next_kl(0.05, -1.0, 256) == pytest.approx(0.05 * (1 - 0.2 * 0.0256))
    assert (PPO(kl=0.1).first_kl, PPO(kl=0.1).next_kl(0.1, 99.0, 256)) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"advantage": "gae"}, r"PPO\(advantage"),
        ({"epochs": 0}, r"PPO\(epochs"),
        ({"clip": 0.0}, r"PPO\(clip"),
        ({"kl": -0.1}, r"PPO\(kl"),
        ({"missing_eos": float("nan")}, r"PPO\(missing_eos"),
        ({"kl_in": "nowhere"}, '"reward" or "loss"'),
        ({"scale": "ref"}, '"none" or "batch" or "running"'),
        ({"reduction": "mean"}, '"tokens" or "answers"'),
        ({"advantage": RLOO(), "value_weight": 0.1}, "has no value head"),
        ({"advantage": GRPO(), "value_clip": 0.0}, "has no value head"),
    ],
)
def test_refuses_what_has_no_meaning_or_no_effect(fields, match):
    with pytest.raises(UserError, match=match):
        PPO(**fields)
