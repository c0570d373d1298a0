"""One decode step of Llama-type models with fewer, larger operations: the same weights, the same arithmetic.

For models of a few million parameters a step is a few hundred operations of some microseconds, and much of its time
goes into calling modules. Here a layer is about twenty calls. On a CPU the weights that meet the same input are laid
side by side, transposed, for one product each, and large ones in oneDNN's blocked layout (a copy per run of the loop,
for models small enough). Whether the numbers are those of the model's own modules is proved once per model (`decode`);
a model that is no such Llama, or whose layers somebody wrapped, steps through its modules.

Shape suffixes: N rows, X features, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from trueline.sample.cache import Cache

Tensor = torch.Tensor
Part = Callable[[Tensor], Tensor]

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
PACKED_BYTES = 1 << 30  # larger models are not copied: their products take longer than any call
# Weights of so many numbers outgrow a core's own cache, and there the blocked layout wins: 1.3 to 2 times as fast at 8
# to 64 rows. Below, a plain product of the transposed weight is as fast or faster. Measured on CPU.
BLOCKED_FROM = 1 << 19


class Attending(Protocol):
    """What a pass attends through: what each layer was told of its window and scale, and its attention."""

    @property
    def told(self) -> list[tuple[int | None, float]]: ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's norms and products; `heads` query heads of `width` numbers."""

    norm: Part
    qkv: Part
    out: Part
    norm_mlp: Part
    gate_up: Part
    down: Part
    heads: int
    width: int


@dataclass(frozen=True, eq=False)
class Lean:
    """The step of one model, for as long as its weights do not change."""

    embed: nn.Module
    rotary: nn.Module
    layers: tuple[_Layer, ...]
    norm: Part
    head: Part

    def __call__(self, ids_N: Tensor, positions_N: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
        """Logits [N, V] after one new token per row, and the final-norm hidden states [N, D] they are read from."""
        h = self.states(ids_N, positions_N, cache)
        return self.head(h), h

    def states(self, ids_N: Tensor, positions_N: Tensor, cache: Attending) -> Tensor:
        """Final-norm hidden states [N, D] of tokens that see what `cache` shows them."""
        h = self.embed(ids_N)
        cos, sin = (x.transpose(0, 1) for x in self.rotary(h, positions_N[None]))
        half = cos.shape[-1] // 2
        # rotate_half(x) * sin, with its sign moved into sin: one concatenation and no negation per layer.
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for layer, (window, scale) in zip(self.layers, cache.told, strict=True):
            qkv = layer.qkv(layer.norm(h)).view(ids_N.numel(), -1, layer.width)
            keys = (qkv.shape[1] - layer.heads) // 2
            turned, value = qkv[:, : layer.heads + keys], qkv[:, layer.heads + keys :]
            swapped = torch.cat([turned[..., half:], turned[..., :half]], -1)
            turned = torch.addcmul(turned * cos, swapped, sin)
            query, key = turned[:, : layer.heads, None], turned[:, layer.heads :, None]
            h = h + layer.out(cache.attend(query, key, value[:, :, None], scale, window).flatten(1))
            gate, up = layer.gate_up(layer.norm_mlp(h)).chunk(2, -1)
            h = h + layer.down(F.silu(gate).mul_(up))
        return self.norm(h)


def of(model: Any) -> Lean | None:
    """The lean step of `model`, from its weights as they are now; None where it has none."""
    if type(model).__name__ not in FAMILY or not type(model).__module__.startswith("transformers."):
        return None
    if getattr(model.config, "hidden_act", "") not in ("silu", "swish"):
        return None
    products = [module for layer in model.model.layers for module in _products(layer)] + [model.lm_head]
    # Adapters wrap a product and pass its weight on as theirs; hooks and patched forwards come between.
    if any(type(m) is not nn.Linear for m in products) or type(model.model.embed_tokens) is not nn.Embedding:
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules()):
        return None
    size = sum(m.weight.numel() * m.weight.element_size() for m in products)
    pack = products[0].weight.device.type == "cpu" and size <= PACKED_BYTES
    layers = []
    for layer in model.model.layers:
        q, k, v, out, gate, up, down = _products(layer)
        layers.append(
            _Layer(
                _norm(layer.input_layernorm),
                _product([q, k, v], pack),
                _product([out], pack),
                _norm(layer.post_attention_layernorm),
                _product([gate, up], pack),
                _product([down], pack),
                q.out_features // layer.self_attn.head_dim,
                layer.self_attn.head_dim,
            )
        )
    head = _product([model.lm_head], pack)
    return Lean(model.model.embed_tokens, model.model.rotary_emb, tuple(layers), _norm(model.model.norm), head)


def _products(layer: Any) -> tuple[Any, ...]:
    a, mlp = layer.self_attn, layer.mlp
    return a.q_proj, a.k_proj, a.v_proj, a.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj


def _norm(module: Any) -> Part:
    """Root-mean-square norm; where its arithmetic is already float32, with half the calls of torch's."""
    weight, eps = module.weight, module.variance_epsilon
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return lambda x: F.rms_norm(x, weight.shape, weight, eps)
    floor, share = torch.tensor(eps), 1 / weight.numel()

    def norm(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * torch.addcmul(floor, length, length, value=share).rsqrt_()).mul_(weight)

    return norm


def _product(modules: list[nn.Linear], pack: bool) -> Part:
    """x [N, X] -> the modules' outputs side by side."""
    if not pack:
        return modules[0] if len(modules) == 1 else lambda x: torch.cat([m(x) for m in modules], -1)
    weight = torch.cat([m.weight for m in modules])
    bias = None
    if any(m.bias is not None for m in modules):
        bias = torch.cat([m.weight.new_zeros(m.out_features) if m.bias is None else m.bias for m in modules])
    if weight.numel() >= BLOCKED_FROM and weight.dtype == torch.float32 and _blocks():
        linear = torch.ops.mkldnn._linear_pointwise
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight)
        return lambda x: linear(x, blocked, bias, "none", [], "")
    turned = weight.t().contiguous()
    if bias is None:
        return lambda x: torch.mm(x, turned)
    return lambda x: torch.addmm(bias, x, turned)


def _blocks() -> bool:
    """Whether this torch has oneDNN's products with weights laid out beforehand."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
