"""Hidden states of every layer out of one pass over a trie, against each sequence run alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.tries import FAMILIES, exact_norms, sequences, tiny
from trueline import trie
from trueline.trie import Sequence, attention, build, states

WANT = frozenset({"logps", "last_hidden", "last_states", "states"})
FEW = settings(max_examples=3, deadline=None)
LISTED = [Sequence.of(range(20), answer) for answer in ([1, 2, 3], [1, 2, 4, 5], [6])] + [Sequence.of([7, 8], [9])]


def alone(model, sequence):
    """What the model itself reports for one sequence: layers of [L, D]."""
    return [h[0] for h in model(torch.from_numpy(sequence.ids)[None], output_hidden_states=True).hidden_states]


def test_a_head_may_read_any_layer():
    """Two layers: states 0 (embeddings), 1 (raw) and 2 (after the final norm, what the output head reads)."""
    model, made = tiny("llama"), build(LISTED)
    outputs = trie.forward(model, made, WANT)
    assert [tuple(h.shape) for h in outputs.states] == [(len(made), 32)] * 3
    assert [tuple(h.shape) for h in outputs.last_states] == [(4, 32)] * 3
    torch.testing.assert_close(outputs.states[0], model.model.embed_tokens(made.tokens_T))
    torch.testing.assert_close(outputs.last_states[2], outputs.last_hidden_ND)
    torch.testing.assert_close(outputs.last_states[2], outputs.states[2][made.last_N])


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(sequences())
def test_equal_to_each_sequence_alone(family, listed):
    """In float64 to 1e-9, at every token: what the last layer leaves out for log-probs alone must not be missing."""
    model = exact_norms(tiny(family, torch.float64))
    made = build(listed, min_shared=1)
    outputs = trie.forward(model, made, WANT)
    for number, (sequence, path) in enumerate(zip(listed, states.paths(made), strict=True)):
        assert made.tokens_T[path].tolist() == sequence.ids.tolist()
        for layer, wanted_LD in enumerate(alone(model, sequence)):
            torch.testing.assert_close(outputs.states[layer][path], wanted_LD, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(outputs.last_states[layer][number], wanted_LD[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("want", [{"last_states"}, {"states"}, {"logps", "last_states"}])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral, window 7"])
def test_gradients_equal_the_padded_twins(family, want):
    """A shared token's state carries the gradient of all that is made of it."""
    model, made = exact_norms(tiny(family, torch.float64)), build(LISTED)
    found = []
    for run in (trie.forward, trie.padded_forward):
        outputs = run(model, made, frozenset(want))
        mix = np.random.default_rng(0)
        picked = [*(outputs.last_states or ()), *(outputs.states or ())]
        assert len(picked) == 3
        loss = sum((h * torch.from_numpy(mix.normal(size=tuple(h.shape)))).sum() for h in picked)
        model.zero_grad()
        (loss + outputs.logps_E.sum() if "logps" in want else loss).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-8, atol=1e-8, msg=name)


def test_a_model_on_the_padded_path_gives_them_too():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=2, use_mambapy=False)
    model = MambaForCausalLM(config).double()
    made = build(LISTED)
    outputs = trie.forward(model, made, WANT)
    assert not attention.path(model).kernel and len(outputs.states[0]) == len(made)
    for number, (sequence, path) in enumerate(zip(LISTED, states.paths(made), strict=True)):
        # Its own list ends with the normed state, and so does ours.
        for layer, wanted_LD in enumerate(alone(model, sequence)):
            torch.testing.assert_close(outputs.states[layer][path], wanted_LD)
            torch.testing.assert_close(outputs.last_states[layer][number], wanted_LD[-1])


def test_activations_computed_again_in_backward_change_nothing():
    model, made = exact_norms(tiny("llama", torch.float64)), build(LISTED)
    gradients = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        outputs = trie.forward(model, made, frozenset({"states"}))
        model.zero_grad()
        sum((h * (k + 1)).square().sum() for k, h in enumerate(outputs.states)).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_kept_or_computed_where_they_are_not_asked_for():
    """Log-probs alone: no layer is reported, and the last one still leaves out what nobody reads."""
    made = build(LISTED)
    assert states.asked(frozenset({"logps", "last_hidden"})) == {}
    outputs = trie.forward(tiny("llama"), made, frozenset({"logps", "last_hidden"}))
    assert outputs.states is None and outputs.last_states is None
    read = {want: made.layout(frozenset({want})).read.size for want in ("last_hidden", "last_states", "states")}
    assert read == {"last_hidden": 4, "last_states": 4, "states": len(made)}
