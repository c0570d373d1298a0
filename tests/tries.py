"""Tiny random models of every family, random tries, and the comparison of a trie pass with its padded twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from trueline import trie
from trueline.trie import Sequence

VOCABULARY = 61
BOTH = frozenset({"logps", "last_hidden"})

WIDTHS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FOUR_HEADS = {**WIDTHS, "num_key_value_heads": 4}
SPECIAL = {"bos_token_id": None, "eos_token_id": None}

# family -> (class of transformers, configuration); every one of these must run over tries.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", WIDTHS),
    "qwen2": ("Qwen2", WIDTHS),
    "mistral, window 7": ("Mistral", {**WIDTHS, "head_dim": 8, "sliding_window": 7}),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **SPECIAL},
    ),
    "gpt_neox": ("GPTNeoX", {key: value for key, value in WIDTHS.items() if key != "num_key_value_heads"}),
    "gemma3, window 7": ("Gemma3", {**WIDTHS, "head_dim": 8, "sliding_window": 7, "num_hidden_layers": 3}),
}
# More that must: windows and no soft cap (Gemma 2), scaled logits, a bias on the head, value heads narrower than keys.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2, window 7": (
        "Gemma2",
        {**WIDTHS, "head_dim": 8, "sliding_window": 7, "attn_logit_softcapping": None},
    ),
    "cohere, scaled logits": ("Cohere", {**WIDTHS, "logit_scale": 0.25}),
    "granite, scaled logits": ("Granite", {**WIDTHS, "logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    "phi, bias on the head": ("Phi", FOUR_HEADS),
}


def tiny(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A random model of a family in train mode, without dropout."""
    import transformers

    name, fields = {**FAMILIES, **OTHERS}[family]
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**fields)
    for field in ("attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_dropout", "hidden_dropout"):
        if hasattr(config, field):
            setattr(config, field, 0.0)
    if family == "cohere, scaled logits":
        config.tie_word_embeddings = True
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).train()


def exact_norms(model: Any) -> Any:
    """The model with its RMS norms in full precision: transformers' round to float32 whatever the dtype."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _rms_norm(module)
    return model


def _rms_norm(module: Any) -> Any:
    eps = getattr(module, "variance_epsilon", None) or module.eps
    plus_one = "Gemma" in type(module).__name__

    def forward(x: torch.Tensor) -> torch.Tensor:
        scale = module.weight + 1 if plus_one else module.weight
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * scale

    return forward


@st.composite
def sequences(draw: Any, most: int = 6, longest: int = 14, vocabulary: int = VOCABULARY) -> list[Sequence]:
    """Sequences of which each may go on from a cut of an earlier one, scored anywhere; at least one token is scored."""
    given: list[Sequence] = []
    token = st.integers(0, vocabulary - 1)
    for _ in range(draw(st.integers(1, most))):
        stem: list[int] = []
        if given and draw(st.booleans()):
            base = draw(st.sampled_from(given)).ids.tolist()
            stem = base[: draw(st.integers(1, len(base)))]
        ids = stem + draw(st.lists(token, min_size=0 if len(stem) > 1 else 2, max_size=longest))
        scored = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        given.append(Sequence(np.array(ids), np.array([False, *scored[1:-1], True])))
    return given


def gradients(model: Any, outputs: trie.Outputs) -> dict[str, torch.Tensor]:
    """Gradient of a fixed mixture of all outputs with respect to every parameter that trains."""
    mix = np.random.default_rng(0)
    logps = outputs.logps_N
    loss = logps @ torch.from_numpy(mix.normal(size=outputs.n)).to(logps)
    if outputs.last_hidden_ND is not None:
        loss = loss + (outputs.last_hidden_ND * torch.from_numpy(mix.normal(size=outputs.last_hidden_ND.shape))).sum()
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_equal_to_padded(model: Any, given: list[Sequence], tolerance: float) -> trie.Outputs:
    """Log-probs, last hidden states and the gradient of every parameter, trie against padded, relative to `tolerance`.

    A parameter's difference is measured against its own gradient, or against a thousandth of the largest one where its
    own is nothing but rounding.
    """
    ours, plain = trie.forward(model, trie.build(given, min_shared=1), BOTH), trie.padded_forward(model, given, BOTH)
    torch.testing.assert_close(ours.logps_E, plain.logps_E, rtol=tolerance, atol=tolerance, check_dtype=False)
    torch.testing.assert_close(ours.last_hidden_ND, plain.last_hidden_ND, rtol=tolerance, atol=tolerance)
    assert ours.seq_E.tolist() == plain.seq_E.tolist()
    got, wanted = gradients(model, ours), gradients(model, plain)
    assert got.keys() == wanted.keys()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        difference = float((got[name] - gradient).norm())
        assert difference <= tolerance * max(float(gradient.norm()), 1e-3 * largest), name
    return ours
