"""`Heads`: the module that reads named scalars off hidden states; what `heads.Head` builds.

Three parts, in the terms of the paper: aggregation (which hidden state), pooling (what it goes through), and one linear
output per name. The states come from `trie.forward`, which is asked for `Heads.want` and nothing more. Attention over a
conversation's turns is `turns`' business.

Shape suffixes: N sequences, H heads, D hidden width, T trie tokens, X any rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from trueline.errors import UserError
from trueline.heads import AttentionPooler, Head, Last, Layer, ModelShape, WeightedSum, layers_of
from trueline.trie.states import Layers

if TYPE_CHECKING:
    from trueline.heads.turns import TurnPooler
    from trueline.trie import Trie
    from trueline.trie.outputs import Outputs

Tensor = torch.Tensor

STD = 0.02


class Heads(nn.Module):
    """One number per name and sequence. `want` is what `trie.forward` has to be asked for."""

    def __init__(self, spec: Head, shape: ModelShape) -> None:
        super().__init__()
        self.spec, self.shape, self.names = spec, shape, spec.names
        self.aggregate = aggregation(spec, shape)
        self.want: frozenset[str] = frozenset({self.aggregate.want})
        self.pooler = pooler(spec, shape)
        self.out = nn.Linear(shape.width, len(spec.names), bias=spec.bias)
        self.apply(initialise)

    def forward(self, outputs: Outputs, batch: Trie) -> Tensor:
        """rewards_NH, read at each sequence's last token; float32 (the dtype of the heads' weights)."""
        return self.read(self.aggregate(outputs, batch, self.out.weight.dtype))

    def pool(self, hidden_XD: Tensor) -> Tensor:
        """rewards_XH of final-norm hidden states, wherever they stand: decoding and probes have them at hand.

        Raises `UserError` for heads that read other layers or other tokens too.
        """
        if not isinstance(self.aggregate, LastState):
            got = f"these read {type(self.spec.aggregate).__name__}"
            raise UserError("heads on final hidden states", got, "heads with aggregate=Last()", "Read them by a pass.")
        return self.read(hidden_XD.to(self.out.weight.dtype))

    def read(self, pooled_XD: Tensor) -> Tensor:
        """Pooler and outputs."""
        return self.out(self.pooler(pooled_XD))


# --- aggregation -----------------------------------------------------------------------------------------------------


class LastState(nn.Module):
    """The state that the output head reads, at the last token."""

    want = "last_hidden"

    def forward(self, outputs: Outputs, batch: Trie, dtype: torch.dtype) -> Tensor:
        assert outputs.last_hidden_ND is not None, "ask trie.forward for `heads.want`"
        return outputs.last_hidden_ND.to(dtype)


class LayerState(nn.Module):
    """One layer's state, or a learned sum of several, at the last token."""

    want = "last_states"

    def __init__(self, spec: Layer | WeightedSum, shape: ModelShape) -> None:
        super().__init__()
        self.layers = LayerPool(spec, shape)

    def forward(self, outputs: Outputs, batch: Trie, dtype: torch.dtype) -> Tensor:
        assert outputs.last_states is not None, "ask trie.forward for `heads.want`"
        return self.layers(outputs.last_states, dtype)


class LayerPool(nn.Module):
    """One of the layers' states, or a learned sum of some of them, row by row."""

    def __init__(self, spec: Layer | WeightedSum, shape: ModelShape) -> None:
        super().__init__()
        # Indices may count from the end; the count of states is the model's.
        self.chosen = [index % shape.states for index in layers_of(spec)]
        self.dropout = spec.dropout if isinstance(spec, WeightedSum) else 0.0
        self.layer_weights = nn.Parameter(torch.ones(len(self.chosen))) if isinstance(spec, WeightedSum) else None
        self.norm = nn.LayerNorm(shape.width) if spec.norm else nn.Identity()

    @property
    def dropping(self) -> bool:
        """Whether a row's sum depends on which sequence it is summed for."""
        return self.training and self.dropout > 0

    def forward(self, layers: Layers, dtype: torch.dtype, seq_X: Tensor | None = None) -> Tensor:
        """The pooled rows; seq_X: the sequence of each row (default: rows are sequences), which share a mask."""
        states = [layers[index].to(dtype) for index in self.chosen]
        if self.layer_weights is None:
            return self.norm(states[0])
        weight_K = torch.softmax(self.layer_weights, 0)
        if not self.dropping:
            return self.norm(sum((w * h for w, h in zip(weight_K, states, strict=True)), torch.zeros_like(states[0])))
        n = len(states[0]) if seq_X is None else int(seq_X.max()) + 1
        kept_NK = torch.rand(n, len(states), device=weight_K.device) >= self.dropout
        weight_NK = weight_K * kept_NK / (1 - self.dropout)
        weight_XK = weight_NK if seq_X is None else weight_NK[seq_X]
        return self.norm(sum((weight_XK[:, k, None] * h for k, h in enumerate(states)), torch.zeros_like(states[0])))


def aggregation(spec: Head, shape: ModelShape) -> LastState | LayerState | TurnPooler:
    """The module that gives each sequence's state."""
    if isinstance(spec.aggregate, Last):
        return LastState()
    if isinstance(spec.aggregate, AttentionPooler):
        from trueline.heads.turns import TurnPooler

        return TurnPooler(spec.aggregate, LayerPool(spec.aggregate.layers, shape), shape)
    return LayerState(spec.aggregate, shape)


# --- pooling ---------------------------------------------------------------------------------------------------------


class SwiGLU(nn.Module):
    """x * silu(g) of features (x, g): the first half is the value, the second the gate."""

    def forward(self, features: Tensor) -> Tensor:
        value, gate = features.chunk(2, dim=-1)
        return value * nn.functional.silu(gate)


def pooler(spec: Head, shape: ModelShape) -> nn.Sequential:
    """The layers of a pooler, dropout included."""
    dropout = nn.Dropout(spec.dropout)
    width, ffn = shape.width, shape.ffn
    if spec.pooler == "identity":
        return nn.Sequential(dropout)
    layers: list[nn.Module] = [nn.Linear(width, width)]
    if spec.pooler.startswith("swiglu"):
        layers = [nn.Linear(width, 2 * ffn), SwiGLU(), nn.Linear(ffn, width)]
    layers.append(nn.Tanh())
    return nn.Sequential(dropout, *layers) if spec.pooler.endswith("t5") else nn.Sequential(*layers, dropout)


def initialise(module: nn.Module) -> None:
    """Linear weights from N(0, 0.02), biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
