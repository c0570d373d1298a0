"""ConditionalLM: the token mean of three terms, what it asks of the loop, steered weights, and a policy that learns
which class is which."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.train import tiny
from tests.train.objectives.given import given, value
from trueline import trie
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.train.fit import fit
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.kl import KLToReference
from trueline.train.objectives.protocol import Adapting, Objective
from trueline.train.objectives.sft import SFT
from trueline.train.objectives.sum import Sum
from trueline.train.rows import Row
from trueline.train.settings import Settings


def three_answers():
    """Answers of 1, 2 and 3 tokens: sums of NLL 2, 3, 4; of KL 0.3, 0.2, 0.1; of entropy 1.5, 1, 0.5."""
    tokens = [1, 2, 3]
    outputs, batch = given((-2.0, -3.0, -4.0), p=(), tokens=tokens)
    batch.chosen_P = batch.rejected_P = batch.chosen_P[:0]

    def spread(sums):
        each = [total / k for total, k in zip(sums, tokens, strict=True) for _ in range(k)]
        return torch.tensor(each, dtype=torch.float64, requires_grad=True)

    outputs.kl_E, outputs.entropy_E = spread((0.3, 0.2, 0.1)), spread((1.5, 1.0, 0.5))
    return outputs, batch


def test_a_token_mean_of_three_terms():
    """Sums 9, 0.6 and 3 over 6 tokens: (9 + 0.05 * 0.6 - 0.06 * 3) / 6 = 1.475."""
    outputs, batch = three_answers()
    objective = ConditionalLM()
    result = objective(outputs, batch)
    assert result.sum.item() / objective.weight(batch) == pytest.approx(1.475)
    found = {name: value(pair) for name, pair in result.metrics.items()}
    assert found == pytest.approx(
        {"nll": 1.5, "kl/token": 0.1, "kl/answer": 0.2, "entropy/token": 0.5, "entropy/answer": 1.0}
    )
    result.sum.backward()
    assert outputs.kl_E.grad.tolist() == pytest.approx([0.05] * 6)
    assert outputs.entropy_E.grad.tolist() == pytest.approx([-0.06] * 6)


def test_reports_by_class():
    """Classes 0, 2 and none: NLL 2 over 1 token and 4 over 3; a class that is not there is not reported."""
    outputs, batch = three_answers()
    batch.ranks = (0, -1, 2)
    found = {name: value(pair) for name, pair in ConditionalLM()(outputs, batch).metrics.items() if "class" in name}
    assert found == pytest.approx({"nll/class 0": 2.0, "nll/class 2": 4 / 3, "kl/class 0": 0.3, "kl/class 2": 0.1 / 3})


def test_asks_for_what_it_reads():
    base = {"logps", "reference_model", "stripped", "entropy"}
    assert ConditionalLM().needs == base
    assert ConditionalLM(strip=False, direction="reverse").needs == base - {"stripped"} | {"reverse"}
    assert ConditionalLM(kl=0).needs == {"logps", "entropy"}
    assert ConditionalLM(kl=0, entropy=0).needs == {"logps"}
    assert isinstance(ConditionalLM(), Objective) and isinstance(ConditionalLM(), Adapting)
    assert not isinstance(SFT(), Adapting) and ConditionalLM().begin() == {}


@pytest.mark.parametrize(
    "arguments",
    [{"kl": -1.0}, {"entropy": float("nan")}, {"direction": "both"}, {"kl": 0, "direction": "reverse"},
     {"kl": 0, "strip": False}],
)  # fmt: skip
def test_refuses_what_means_nothing(arguments):
    with pytest.raises(UserError, match=next(reversed(arguments))):
        ConditionalLM(**arguments)


def test_in_a_sum_one_reference_is_compared_with_in_one_way():
    together = Sum((ConditionalLM(strip=False), 1.0), (KLToReference(), 0.0))
    assert {"reference_model", "entropy"} <= together.needs
    with pytest.raises(UserError, match="different directions, or over different prompts"):
        Sum((ConditionalLM(), 1.0), (KLToReference(), 1.0))
    with pytest.raises(UserError, match="own weights are steered"):
        Sum((ConditionalLM(kl=Adaptive(0.1, 3.0)), 1.0), (DPH(), 1.0))


CLASSES = 3


def described(n=24, seed=0):
    """Answers of one to four tokens of their class, behind a condition that names it, to prompts of random tokens."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(n):
        rank = number % CLASSES
        prompt = rng.integers(20, 56, rng.integers(5, 20))
        answer = [10 + rank] * rng.integers(1, 5) + [tiny.END]
        sequences = (trie.Sequence.of([3 + rank, *prompt], answer),)
        bare = (trie.Sequence.of(prompt, answer),)
        cost = trie.size(sequences) + trie.size(bare)
        out.append(Row(sequences, (True,), f"row-{number}", cost=cost, rank=rank, reference=bare))
    return out


def trained(objective, machine=None, excluded=(), epochs=2, dtype=torch.float64, **changes):
    """History and weights of a random policy beside a random reference of the same tokens, or of fewer."""
    model, other = tiny.model(dtype=dtype), tiny.model(seed=1, dtype=dtype, **changes).eval().requires_grad_(False)
    settings = Settings(lr=3e-3, epochs=epochs, batch_size=8, warmup=0.0)
    beside = other if "reference_model" in objective.needs else None
    history = fit(model, described(), objective, settings, reference_model=beside, excluded=excluded, machine=machine)
    return history, tiny.weights(model)


STEERED = ConditionalLM(kl=Adaptive(0.05, 0.5, 50), entropy=Adaptive(0.06, 10.0, 50))


@pytest.mark.parametrize("objective", [ConditionalLM(0.5, 0.1, "reverse"), STEERED], ids=["fixed", "steered"])
def test_micro_batches_change_nothing(objective):
    """Neither the weights nor what steers them."""
    (whole, weights), (parts, others) = (trained(objective, Machine(micro_tokens=n)) for n in (100_000, 1))
    for one, other in zip(whole, parts, strict=True):
        for name in ("loss", "nll", "kl/token", "entropy/token", "nll/class 1", *objective.begin()):
            assert other[name] == pytest.approx(one[name], rel=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-6, atol=1e-8)


def test_steered_weights_follow_what_was_reported():
    """Each step's weight is the last one's, moved by the last step's own KL and entropy per answer."""
    history, _ = trained(STEERED)
    assert (history[0]["kl/coefficient"], history[0]["entropy/coefficient"]) == (0.05, 0.06)
    for before, after in itertools.pairwise(history):
        for name, weight, bonus in (("kl", STEERED.kl, False), ("entropy", STEERED.entropy, True)):
            wanted = weight.after(before[f"{name}/coefficient"], before[f"{name}/answer"], 8, bonus)
            assert after[f"{name}/coefficient"] == pytest.approx(wanted, rel=1e-6)
    assert history[-1]["kl/coefficient"] != 0.05


def test_learns_which_class_is_which():
    """From ln 64 = 4.2 a token to nearly nothing; after another prompt the condition still decides."""
    model = tiny.model()
    settings = Settings(lr=1e-2, epochs=25, batch_size=12)
    last = fit(model, described(48), ConditionalLM(kl=0, entropy=0.0), settings)[-1]
    assert last["nll"] < 0.2 and {"kl/token", "entropy/token"}.isdisjoint(last)
    model.eval()
    for rank in range(CLASSES):
        logits = model(torch.tensor([[3 + rank, *range(30, 40)]])).logits[0, -1]
        assert logits[10 : 10 + CLASSES].argmax() == rank


def test_added_tokens_are_left_out_of_the_divergence():
    """A reference of 56 tokens beside a policy of 64; and one of 64 that does not know two of them."""
    smaller, _ = trained(ConditionalLM(), epochs=1, vocab_size=56, excluded=tuple(range(56, 64)), dtype=torch.float32)
    assert smaller[0]["kl/token"] > 0
    whole, _ = trained(ConditionalLM(), epochs=1, dtype=torch.float32)
    padded, _ = trained(ConditionalLM(), epochs=1, excluded=(40, 63), dtype=torch.float32)
    assert padded[0]["nll"] == whole[0]["nll"] and padded[0]["kl/token"] != whole[0]["kl/token"]
    for excluded, size, got in (((), 56, "it has 56 tokens"), ((40, 63), 64, "it does not know 2 tokens")):
        with pytest.raises(UserError, match=got):
            trained(ConditionalLM(strip=False), excluded=excluded, vocab_size=size)


def test_the_entropy_bonus_holds_a_policy_open():
    open_, _ = trained(ConditionalLM(0, 1.0), epochs=8)
    closed, _ = trained(ConditionalLM(0, 0.0), epochs=8)
    assert open_[-1]["nll"] > closed[-1]["nll"] and "entropy/token" not in closed[-1]
    assert open_[-1]["entropy/token"] > 3.5  # of ln 64 = 4.16 at most


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_holds_a_policy_near_its_reference(direction):
    near, _ = trained(ConditionalLM(5.0, 0.0, direction), epochs=8)
    far, _ = trained(ConditionalLM(1e-9, 0.0, direction), epochs=8)
    assert near[-1]["kl/token"] < 0.5 * far[-1]["kl/token"]
