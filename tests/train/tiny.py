"""A tiny random model and rows of random tokens: what the loop is tested with when text does not matter."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trueline import trie
from trueline.train.rows import Row
from trueline.trie import attention

END = 2


def model(seed=0, dtype=torch.float32, **changes):
    """A Llama of about 30 thousand parameters, in training mode, ready for tries."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    made = LlamaForCausalLM(LlamaConfig(**(sizes | changes))).to(dtype).train()
    return attention.enable(made) or made


def rows(n, answers=1, seed=0, prompt=(8, 30), answer=(3, 12), p=None):
    """`n` rows of one or two random answers to a random prompt."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(n):
        before = rng.integers(3, 64, rng.integers(*prompt))
        sequences = tuple(
            trie.Sequence.of(before, [*rng.integers(3, 64, rng.integers(*answer)), END]) for _ in range(answers)
        )
        chosen = 1.0 if p is None else p[number % len(p)]
        out.append(Row(sequences, (True,) * answers, f"row-{number}", chosen, cost=trie.size(sequences)))
    return out


def reference(loaded, given):
    """Summed log-probs of every row's answers under `loaded`."""
    with torch.no_grad():
        return {row.key: trie.forward(loaded, trie.build(row.sequences)).logps_N.tolist() for row in given}


def weights(loaded):
    """A copy of all parameters, by name."""
    return {name: p.detach().clone() for name, p in loaded.named_parameters()}
