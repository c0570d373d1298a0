"""The output head on scored rows: chunked, kept or computed again, and what models do to their logits afterwards."""

from __future__ import annotations

import pytest
import torch

from tests.tries import tiny
from trueline import trie
from trueline.trie import Sequence, build, vocabulary
from trueline.trie.vocabulary import After, logps

STATES = torch.tensor([0, 0, 1, 3, 3, 3, 4])
TARGETS = torch.tensor([2, 9, 0, 1, 1, 8, 10])
HEADS = {
    "linear": lambda: torch.nn.Linear(6, 11, bias=False),
    "with a bias": lambda: torch.nn.Linear(6, 11),
    "of two layers": lambda: torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 11)),
}


def run(head, after, **kwargs):
    torch.manual_seed(0)
    hidden = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    got = logps(hidden, head, after, STATES, TARGETS, **kwargs)
    above = torch.randn(got.shape, dtype=torch.float64)
    return got, torch.autograd.grad(got, [hidden, *head.parameters()], above)


def plain(head, after):
    torch.manual_seed(0)
    hidden = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    got = after(head(hidden)).log_softmax(-1)[STATES, TARGETS]
    above = torch.randn(got.shape, dtype=torch.float64)
    return got, torch.autograd.grad(got, [hidden, *head.parameters()], above)


@pytest.mark.parametrize("keep", [0, 200, 1 << 20], ids=["recomputed", "half kept", "kept"])
@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("after", [After(), After(0.25), After(2.0, 3.0)], ids=["plain", "scaled", "capped"])
@pytest.mark.parametrize("head", HEADS)
def test_equals_a_log_softmax_over_all_logits(head, after, chunk, keep, monkeypatch):
    """Two states predict several targets, one of them the same twice; state 2 predicts nothing."""
    monkeypatch.setattr(vocabulary, "KEEP", keep)
    torch.manual_seed(1)
    made = HEADS[head]().double()
    for got, wanted in zip(run(made, after, chunk=chunk), plain(made, after), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("after", [After(), After(2.0, 3.0)], ids=["plain", "capped"])
def test_greedy_is_the_first_of_the_likeliest(after, chunk):
    """Tokens 1 and 4 have the same weights, so that wherever both are likeliest, 1 is greedy and 4 is not."""
    torch.manual_seed(3)
    head = torch.nn.Linear(6, 11, bias=False).double()
    head.weight.data[4] = head.weight.data[1]
    hidden = torch.cat([head.weight.data[[1, 1, 2]] * 9, torch.randn(2, 6, dtype=torch.float64)])
    states, targets = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([1, 4, 1, 2, 7, 0])
    got, greedy = vocabulary.logps_and_greedy(hidden, head, after, states, targets, chunk)
    torch.testing.assert_close(got, logps(hidden, head, after, states, targets))
    assert greedy.tolist() == (head(hidden).argmax(-1)[states] == targets).tolist()
    assert greedy.tolist()[:4] == [True, False, True, True]


def test_frozen_parts_get_no_gradient():
    """A frozen head (LoRA elsewhere) costs no product for its weight; a frozen body none for the states."""
    head = torch.nn.Linear(6, 11).requires_grad_(False)
    hidden = torch.randn(5, 6, requires_grad=True)
    logps(hidden, head, After(), STATES, TARGETS).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    logps(hidden.detach(), head.requires_grad_(True), After(), STATES, TARGETS).sum().backward()
    assert head.weight.grad is not None


def test_half_precision_accumulates_in_float32():
    """bfloat16 weights over many chunks: as near to the exact gradient as one product in bfloat16 would be."""
    torch.manual_seed(0)
    states, targets = torch.arange(256), torch.randint(0, 11, (256,))
    hidden, head = torch.randn(256, 6), torch.nn.Linear(6, 11, bias=False)
    logps(hidden, head, After(), states, targets).sum().backward()
    exact, low = head.weight.grad, torch.nn.Linear(6, 11, bias=False).bfloat16()
    low.weight.data = head.weight.detach().bfloat16()
    logps(hidden.bfloat16(), low, After(), states, targets, chunk=2).sum().backward()
    assert low.weight.grad.dtype == torch.bfloat16
    assert (low.weight.grad - exact).norm() < 0.02 * exact.norm()


def test_logits_of_unscored_rows_never_exist():
    """1 of 41 states is scored: the head multiplies one row."""
    model, rows = tiny("llama"), []
    listed = [Sequence.of(range(40), [1])]
    trie.forward(model, build(listed))
    linear = torch.nn.functional.linear

    def counting(x, weight, bias=None):
        if weight is model.lm_head.weight:
            rows.append(x.shape[0])
        return linear(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary.F, "linear", counting)
        trie.forward(model, build(listed))
    assert rows == [1]


def test_after_reads_the_configuration():
    """Cohere multiplies, Granite divides, Falcon-H1 multiplies, Gemma 2 caps."""
    from transformers import Gemma2Config, GraniteConfig, LlamaConfig

    assert After.of(LlamaConfig()) == After(1.0, None)
    assert After.of(GraniteConfig(logits_scaling=4.0)) == After(0.25, None)
    assert After.of(Gemma2Config(final_logit_softcapping=30.0)) == After(1.0, 30.0)


def test_lora_on_the_output_head():
    """The adapted head runs as itself, chunk by chunk."""
    from peft import LoraConfig, get_peft_model

    from tests.tries import assert_equal_to_padded, exact_norms

    model = exact_norms(tiny("llama", torch.float64))
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    wrapped = get_peft_model(model, config).double()
    listed = [Sequence.of(range(20), range(tail, tail + 5)) for tail in (20, 30)]
    assert_equal_to_padded(wrapped, listed, 1e-10)
    assert any(
        "lm_head" in name and p.grad.abs().sum() > 0 for name, p in wrapped.named_parameters() if p.requires_grad
    )
