"""The lean step says what the model's own modules say, and is found out where it would not."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests import tries as families
from tests.sample.test_decode import PROMPTS, written
from trueline.sample import decode, lean
from trueline.sample.protocol import Sampling
from trueline.trie import attention

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS = {
    "llama": ("Llama", {}),
    "tied embeddings": ("Llama", {"tie_word_embeddings": True}),
    "biases everywhere": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "one key head": ("Llama", {"num_key_value_heads": 1}),
    "a key head each": ("Llama", {"num_key_value_heads": 4}),
    "heads wider than the model": ("Mistral", {"head_dim": 16, "sliding_window": None}),
    "positions scaled as Llama 3": ("Llama", {"rope_parameters": LLAMA3}),
    "positions scaled by YaRN": ("Llama", {"rope_parameters": YARN}),
    "mistral, window 7": ("Mistral", {"sliding_window": 7}),
    "qwen2, biases": ("Qwen2", {}),
    "qwen2, a window in the second layer": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7,
                                                      "max_window_layers": 1}),
}  # fmt: skip


def model(variant="llama", **changed):
    """A random model with every parameter away from its beginning, biases and norms too."""
    name, fields = VARIANTS[variant]
    config = getattr(transformers, f"{name}Config")(**{**families.WIDTHS, **fields, **changed})
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.mul_(3).add_(0.1 * torch.randn(parameter.shape))
    return attention.enable(made)


def both(made, **fields):
    """Answers by lean steps and by the model's modules, from the same random numbers."""
    sampling = Sampling(**{"n": 9, "max_tokens": 7, **fields})
    out = []
    for step in (lean.of, lambda _: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lean, "of", step)
            out.append(written(made, sampling, ends=(7,), rows=20, prompts=PROMPTS[1:6]))
    return out


def same(ours, plain):
    assert [a.tokens for a in ours] == [a.tokens for a in plain]
    logps = [torch.tensor([logp for a in answers for logp in a.logps]) for answers in (ours, plain)]
    torch.testing.assert_close(*logps, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_step_of_the_modules(variant):
    """Nine answers to each prompt, some over shared segments: the same tokens, log-probs to float tolerance."""
    made = model(variant)
    assert decode.proved(made) == decode.Proof(holds=True, lean=True)
    same(*both(made))


@pytest.mark.parametrize("bias", [False, True])
def test_large_products_have_a_layout_of_their_own(bias, monkeypatch):
    """As if every weight were large: oneDNN's blocked layout, with a bias and without."""
    monkeypatch.setattr(lean, "BLOCKED_FROM", 1)
    same(*both(model("biases everywhere" if bias else "llama")))


def test_models_too_large_to_copy_keep_their_weights(monkeypatch):
    monkeypatch.setattr(lean, "PACKED_BYTES", 0)
    same(*both(model("qwen2, biases")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_proved_too(dtype):
    made = model().to(dtype)
    assert decode.proved(made) == decode.Proof(holds=True, lean=True)
    assert all(answer.tokens for answer in written(made, Sampling(max_tokens=3)))


def test_changed_weights_are_seen_by_the_next_run():
    """Proved once, then trained on: the copies of the first run are not used again."""
    made = model()
    assert decode.proved(made).lean
    before, _ = both(made, n=1, temperature=0)
    for parameter in made.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    ours, plain = both(made, n=1, temperature=0)
    same(ours, plain)
    assert [a.tokens for a in ours] != [a.tokens for a in before]


def test_a_model_that_computes_otherwise_steps_through_its_modules():
    """Its configuration says silu, its blocks use gelu: the loop holds, the lean step does not."""
    made = model()
    for layer in made.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert lean.of(made) is not None
    assert decode.proved(made) == decode.Proof(holds=True, lean=False)


def test_models_that_somebody_wrapped_have_no_lean_step():
    hooked, adapted = model(), model()
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    from trueline.models import LoRA

    assert lean.of(hooked) is None
    assert lean.of(attention.core(LoRA(r=2).wrap(adapted))) is None
    assert lean.of(model(hidden_act="gelu")) is None
    assert lean.of(families.tiny("gpt2")) is None
    assert len(written(hooked, Sampling(max_tokens=4))) == len(PROMPTS)
