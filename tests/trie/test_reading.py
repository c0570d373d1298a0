"""A reference over a trie of its own: the same answers after other prompts, aligned token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tries import exact_norms, tiny
from trueline import trie
from trueline.trie import Against, Sequence, attention, build
from trueline.trie.reading import _Rows

WANT = frozenset({"kl", "entropy"})
FAMILIES = ("llama", "gpt2")
MODELS = {name: exact_norms(tiny(name, torch.float64)) for name in FAMILIES}
THEIRS = exact_norms(tiny("qwen2", torch.float64, seed=3)).requires_grad_(False).eval()


def plainly(model, reference, ours, bare, reverse=False, excluded=()):
    """Log-probs, divergences and entropies sequence by sequence, over all logits of two padded-free passes."""
    parts = []
    for s, b in zip(ours, bare, strict=True):
        seen = [
            run(input_ids=torch.from_numpy(x.ids)[None], use_cache=False).logits[0, np.flatnonzero(x.scored) - 1]
            for run, x in ((model, s), (reference, b))
        ]
        both = [t for t in range(min(x.shape[-1] for x in seen)) if t not in excluded]
        p, q = seen[0][:, both].log_softmax(-1), seen[1][:, both].log_softmax(-1).detach()
        kl = (p.exp() * (p - q) if reverse else q.exp() * (q - p)).sum(-1)
        logps = F.log_softmax(seen[0], -1)
        targets = torch.from_numpy(s.ids[s.scored])
        parts.append((logps.gather(1, targets[:, None])[:, 0], kl, -(logps.exp() * logps).sum(-1)))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def gradients(model, values):
    model.zero_grad()
    loss = sum((x * torch.linspace(-1, 2 + k, x.numel(), dtype=x.dtype)).sum() for k, x in enumerate(values))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@st.composite
def conditioned(draw, most=6):
    """Answers to a few prompts, each after one of a few conditions and after the prompt alone."""
    ids = st.lists(st.integers(0, 60), min_size=1, max_size=9)
    prompts, conditions = draw(st.lists(ids, min_size=1, max_size=2)), draw(st.lists(ids, min_size=1, max_size=3))
    answers = draw(st.lists(ids, min_size=1, max_size=3))
    ours, bare = [], []
    for _ in range(draw(st.integers(1, most))):
        before, prompt, answer = (draw(st.sampled_from(x)) for x in ([[], *conditions], prompts, answers))
        ours.append(Sequence.of(before + prompt, answer))
        bare.append(Sequence.of(prompt, answer))
    return ours, bare


@settings(max_examples=6, deadline=None)
@given(conditioned(), st.booleans(), st.sampled_from([(), (5, 60)]))
def test_equals_two_passes_sequence_by_sequence(drawn, reverse, excluded):
    """Log-probs, divergence and entropy, and the gradient of every parameter, to 1e-10."""
    ours, bare = drawn
    for model in MODELS.values():
        against = Against(THEIRS, build(bare, min_shared=1), reverse, excluded)
        found = trie.forward(model, build(ours, min_shared=1), WANT, chunk=2, against=against)
        found = [found.logps_E, found.kl_E, found.entropy_E]
        for mine, wanted in zip(found, plainly(model, THEIRS, ours, bare, reverse, excluded), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
        got = gradients(model, found)
        expected = gradients(model, plainly(model, THEIRS, ours, bare, reverse, excluded))
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-10)


PROMPT = list(range(20, 40))


def two_conditions():
    """One answer under two conditions, and another that begins like it under the first."""
    answers = ([1, 2, 3], [1, 2, 3], [1, 2, 4])
    before = ([50, 51], [52], [50, 51])
    ours = [Sequence.of([*c, *PROMPT], a) for c, a in zip(before, answers, strict=True)]
    return ours, [Sequence.of(PROMPT, a) for a in answers]


def test_each_pair_of_states_is_compared_once():
    """Policy: 3 states per condition, the shared ones once; they meet 3 states of the reference, in 6 pairs. Beside a
    reference that shares nothing, the shared states of the policy stand for two pairs each: 9."""
    ours, bare = two_conditions()
    policy, theirs = build(ours, min_shared=1), build(bare, min_shared=1)
    assert (policy.state_S.numel(), theirs.state_S.numel()) == (6, 3)
    rows = _Rows.of(policy, theirs)
    assert rows.state_S.numel() == 6 and rows.theirs_S.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(rows.row_state_R[rows.entry_row_E], rows.entry_state_E)
    assert _Rows.of(policy, build(bare, min_shared=1000)).state_S.numel() == 9
    assert _Rows.of(policy, None).theirs_S is None


def test_a_reference_of_other_answers_is_refused():
    ours, bare = two_conditions()
    with pytest.raises(ValueError, match="other tokens than the policy's"):
        trie.forward(MODELS["llama"], build(ours), WANT, against=Against(THEIRS, build(bare[::-1][:2])))
    with pytest.raises(ValueError, match="the model it is from"):
        trie.forward(MODELS["llama"], build(ours), WANT)


def padded(model, headless=False):
    """The model as if it could not run over tries; `headless`: nor hand out what its output head reads."""
    attention.enable(model)
    setattr(model, attention.MARK, attention.Path("", not headless, "for this test"))
    return model


@pytest.mark.parametrize("theirs", [False, True], ids=["reads its head", "gives logits only"])
@pytest.mark.parametrize("ours", [False, True], ids=["reads its head", "gives logits only"])
def test_models_that_run_padded_give_the_same(ours, theirs):
    given_, bare = two_conditions()
    model, other = (exact_norms(tiny(name, torch.float64, seed=5)) for name in ("llama", "qwen2"))
    batch, beside = build(given_), build(bare)
    wanted = trie.forward(model, batch, WANT, against=Against(other, beside, True, (7,)))
    got = trie.forward(padded(model, ours), batch, WANT, against=Against(padded(other, theirs), beside, True, (7,)))
    for name in ("logps_E", "kl_E", "entropy_E"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=1e-10, atol=1e-10)


def test_lora_on_the_output_head():
    """The adapted head runs as itself, under checkpointing, with divergence and entropy."""
    from peft import LoraConfig, get_peft_model

    ours, bare = two_conditions()
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    wrapped = get_peft_model(exact_norms(tiny("llama", torch.float64)), config).double()
    found = trie.forward(wrapped, build(ours), WANT, chunk=2, against=Against(THEIRS, build(bare)))
    got = gradients(wrapped, [found.logps_E, found.kl_E, found.entropy_E])
    expected = gradients(wrapped, plainly(wrapped, THEIRS, ours, bare))
    assert got.keys() == expected.keys() and any("lm_head" in name for name in got)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-10)
