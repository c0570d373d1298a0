"""What a pass gives besides log-probs: the divergence from a reference, and the states that predict scored tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as drawn
from hypothesis import settings as limits

from tests.tries import exact_norms, sequences, tiny
from trueline import trie
from trueline.trie import Against, Sequence, attention, build
from trueline.trie.outputs import Outputs

KL = frozenset({"kl"})
MODELS = {name: exact_norms(tiny(name, torch.float64)) for name in ("llama", "mistral, window 7")}
THEIRS = exact_norms(tiny("qwen2", torch.float64, seed=3)).requires_grad_(False).eval()


def plainly(model, reference, listed):
    """kl_E sequence by sequence, over all logits that the two models return."""
    parts = []
    for s in listed:
        ids = torch.from_numpy(s.ids)[None]
        at = s.scored.nonzero()[0] - 1
        ours = F.log_softmax(model(input_ids=ids, use_cache=False).logits[0, at], -1)
        theirs = F.log_softmax(reference(input_ids=ids, use_cache=False).logits[0, at], -1).detach()
        parts.append((theirs.exp() * (theirs - ours)).sum(-1))
    return torch.cat(parts)


def gradients(model, value):
    model.zero_grad()
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype)
    (value * weights).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@limits(max_examples=5, deadline=None)
@drawn(sequences())
def test_divergence_over_a_trie_equals_one_sequence_at_a_time(listed):
    """Values and the gradient of every parameter to 1e-10; the reference, of another architecture, gets none."""
    for model in MODELS.values():
        outputs = trie.forward(model, build(listed, min_shared=1), KL, chunk=2, against=Against(THEIRS))
        wanted = plainly(model, THEIRS, listed)
        torch.testing.assert_close(outputs.kl_E, wanted, rtol=1e-10, atol=1e-10)
        assert outputs.seq_E.numel() == outputs.kl_E.numel() == outputs.logps_E.numel()
        got, expected = gradients(model, outputs.kl_E), gradients(model, plainly(model, THEIRS, listed))
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-10)
    assert not any(p.grad is not None for p in THEIRS.parameters())


def test_divergence_from_itself_is_nothing():
    model = MODELS["llama"]
    listed = [Sequence.of(range(20), range(k, k + 5)) for k in (20, 40)]
    outputs = trie.forward(model, build(listed), KL, against=Against(model))
    assert outputs.kl_E.abs().max() < 1e-12
    torch.testing.assert_close(outputs.logps_E, trie.forward(model, build(listed)).logps_E)


def padded(model, headless=False):
    """The model as if it could not run over tries; `headless`: nor hand out what its output head reads."""
    attention.enable(model)
    setattr(model, attention.MARK, attention.Path("", not headless, "for this test"))
    return model


@pytest.mark.parametrize("theirs", [False, True], ids=["reads its head", "gives logits only"])
@pytest.mark.parametrize("ours", [False, True], ids=["reads its head", "gives logits only"])
def test_models_that_run_padded_give_the_same(ours, theirs):
    """Also where one side's logits are not simply those of its head."""
    listed = [Sequence.of(range(20), range(k, k + 5)) for k in (20, 40, 21)]
    want = frozenset({"kl", "scored_hidden", "last_hidden"})
    model, other = (exact_norms(tiny(name, torch.float64, seed=5)) for name in ("llama", "qwen2"))
    wanted = trie.forward(model, build(listed), want, against=Against(other))
    got = trie.forward(padded(model, ours), build(listed), want, against=Against(padded(other, theirs)))
    for name in ("logps_E", "kl_E", "last_hidden_ND", "scored_hidden_SD"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=1e-10, atol=1e-10)


def test_scored_states_are_those_the_output_head_reads():
    """Each scored token's log-prob follows from the state at state_E; nothing else is needed of the pass."""
    model = MODELS["llama"]
    listed = [Sequence.of(range(20), range(k, k + 5)) for k in (20, 40, 21)]
    batch = build(listed)
    outputs = trie.forward(model, batch, frozenset({"scored_hidden"}))
    assert outputs.logps_E.numel() == 0 and outputs.scored_hidden_SD.shape[0] == batch.state_S.numel()
    logps_EV = F.log_softmax(model.lm_head(outputs.scored_hidden_SD[batch.state_E]), -1)
    targets = batch.target_R[batch.entry_row_E]
    torch.testing.assert_close(
        logps_EV.gather(1, targets[:, None])[:, 0], trie.forward(model, batch).logps_E, rtol=1e-10, atol=1e-10
    )


def test_sums_per_sequence():
    """Values 1, 2, 4 of sequences 0, 0, 2 of three: 3, 0, 4."""
    outputs = Outputs(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    assert outputs.logps_N.tolist() == outputs.summed(outputs.logps_E).tolist() == [3.0, 0.0, 4.0]
    assert outputs.counts_N.tolist() == [2, 0, 1]
