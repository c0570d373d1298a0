"""The LSWT model: a pre-norm decoder with a factorised tied table, reversed rotary positions and a re-rotated cache.

    E [V, d_vocab] -> projection -> LayerNorm -> L x (x + attention(LN(x)); x + feed-forward(LN(x))) -> LayerNorm ->
    projection -> logits against E

Positions count back: of T tokens, remembered ones included, token j stands at T - 1 - j and the newest at 0. Queries
and keys are rotated by angles of these positions at every call, after the cache; scores depend on distances only, so
nothing changes for a token as the text grows, and the oldest keys can be dropped without renumbering. A caller that
keeps rotated keys itself (a trie, a decode loop of its own) says `position_ids`, which are counted back from 0.

Attention goes through transformers' attention interface. The cache is `cache`'s business, the numbers are
`configuration`'s.

Shape suffixes: B rows, S new tokens, M remembered tokens, T = M + S, R registers, H heads, K head width, D model width,
V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

from trueline.lswt.cache import LSWTCache
from trueline.lswt.configuration import LSWTConfig
from trueline.trie.attention import Untrieable
from trueline.trie.vocabulary import Projected

Tensor = torch.Tensor
Memory = tuple[Tensor, ...]
Rotation = tuple[Tensor, Tensor, float]
"""cos and sin [B or 1, 1, T, K], and the factor that is already in both (1 without dynamic scaling)."""


def rotation(config: LSWTConfig, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
    """Angles position * base^(-2i/K), i = 0 .. K/2 - 1, each standing twice; in at least float32 until the end.

    With dynamic scaling and T tokens beyond rope_positions, s = T / rope_positions: the base grows by s^2 (to the
    power K / (K - 2)) and rotated vectors by rope_yarn_a ln(s) + rope_yarn_b.
    """
    wide = torch.promote_types(dtype, torch.float32)
    ntk, factor = config.rope_ntk_scale, 1.0
    if config.rope_dynamic and config.rope_positions is not None:
        excess = max(positions_BT.shape[-1] / config.rope_positions, 1.0)
        ntk, factor = ntk * excess**2, config.rope_yarn_a * math.log(excess) + config.rope_yarn_b
    base = config.rope_base if ntk == 1 else config.rope_base * ntk ** (config.d_key / (config.d_key - 2))
    exponents = torch.arange(0, config.d_key, 2, device=positions_BT.device, dtype=wide) / config.d_key
    angles = positions_BT.to(wide)[:, None, :, None] * base**-exponents
    angles = torch.cat([angles, angles], -1)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype), factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The halves of the last axis turned against each other: x cos + (-x2, x1) sin."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], -1) * sin


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, weights included; `attention_mask` is added to the scores."""
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class LSWTHeadNorm(nn.Module):
    """x / (rms(x) + eps) * weight, head by head; eps stands beside the root, not under it."""

    def __init__(self, heads: int, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, width))
        self.eps = eps

    def forward(self, x_BHTK: Tensor) -> Tensor:
        rms = torch.linalg.vector_norm(x_BHTK, dim=-1, keepdim=True) * x_BHTK.shape[-1] ** -0.5
        return x_BHTK / (rms + self.eps) * self.weight


class LSWTAttention(nn.Module):
    """Multi-head attention over what is remembered and what is new."""

    def __init__(self, config: LSWTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.scaling, self.is_causal, self.num_key_value_groups = config.d_key**-0.5, True, 1
        self.attention_dropout = config.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.d_model, config.d_model, bias=config.enable_bias) for _ in range(4)
        )
        self.q_norm, self.k_norm = (
            LSWTHeadNorm(config.n_heads, config.d_key) if config.qk_norm else nn.Identity() for _ in range(2)
        )
        if config.registers:
            shape = (config.n_heads, config.registers, config.d_key)
            self.register_keys, self.register_values = (
                nn.Parameter(torch.empty(shape)),
                nn.Parameter(torch.empty(shape)),
            )

    def heads(self, x_BTD: Tensor) -> Tensor:
        """[B, H, T, K]"""
        return x_BTD.unflatten(-1, (self.config.n_heads, -1)).transpose(1, 2)

    def remembered(self, x_BSD: Tensor, memory: Memory, keep: bool) -> tuple[Tensor, Tensor, Memory]:
        """Keys and values [B, H, T, K] before norm and rotation, and what of the new tokens is to be remembered."""
        inputs = len(memory) == 1 or (not memory and self.config.recompute_kv and self.training)
        source = torch.cat([memory[0][:, 0], x_BSD], 1) if len(memory) == 1 else x_BSD
        key, value = self.heads(self.k_proj(source)), self.heads(self.v_proj(source))
        fresh = (x_BSD[:, None],) if inputs else (key, value)
        if len(memory) == 2:
            key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
        return key, value, fresh if keep else ()

    def forward(
        self,
        x_BSD: Tensor,
        memory: Memory,
        turn: Rotation,
        attention_mask: Tensor | None,
        keep: bool,
        **kwargs: Any,
    ) -> tuple[Tensor, Memory]:
        """What attention adds to the stream, and what of the new tokens is to be remembered."""
        cos, sin, factor = turn
        new = x_BSD.shape[1]
        query = rotate(self.q_norm(self.heads(self.q_proj(x_BSD))), cos[:, :, -new:], sin[:, :, -new:])
        key, value, fresh = self.remembered(x_BSD, memory, keep)
        key = rotate(self.k_norm(key), cos, sin)
        if self.config.registers:
            rows = key.shape[0]
            key = torch.cat([(self.register_keys * factor).to(key.dtype).expand(rows, -1, -1, -1), key], 2)
            value = torch.cat([self.register_values.to(value.dtype).expand(rows, -1, -1, -1), value], 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        out, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.o_proj(out.flatten(2)), fresh


class LSWTMLP(nn.Module):
    """The feed-forward block: value times SiLU of the gate (the halves of one product), or GELU; biases always."""

    def __init__(self, config: LSWTConfig) -> None:
        super().__init__()
        self.gated = config.gated_ffn
        self.up_proj = nn.Linear(config.d_model, config.d_ffn * (2 if self.gated else 1))
        self.down_proj = nn.Linear(config.d_ffn, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_proj(x)
        if not self.gated:
            return self.down_proj(F.gelu(x))
        value, gate = x.chunk(2, -1)
        return self.down_proj(value * F.silu(gate))


class LSWTBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and feed-forward, each over the normed stream and added to it.

    It reads its memory and says what is new of it, and changes nothing, so that backward can run it again.
    """

    def __init__(self, config: LSWTConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.self_attn = LSWTAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.mlp = LSWTMLP(config)
        self.dropout = nn.Dropout(config.output_dropout)

    def forward(self, x_BSD: Tensor, **kwargs: Any) -> tuple[Tensor, Memory]:
        added, fresh = self.self_attn(self.attn_norm(x_BSD), **kwargs)
        x_BSD = x_BSD + self.dropout(added)
        return x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD))), fresh


class LSWTPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What the two models share: their configuration, what they support, how weights start."""

    config_class = LSWTConfig
    config: LSWTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LSWTBlock",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LSWTHeadNorm):
            init.ones_(module.weight)
        if isinstance(module, LSWTAttention) and self.config.registers:
            for x in (module.register_keys, module.register_values):
                init.normal_(x, mean=0.0, std=self.config.d_key**-0.5)

    def new_cache(self, length_cache: int = 0) -> LSWTCache:
        """An empty memory that keeps `length_cache` tokens (0: all)."""
        return LSWTCache(self.config, length_cache)


class LSWTModel(LSWTPreTrainedModel):
    """From token ids to hidden states after the last norm."""

    def __init__(self, config: LSWTConfig) -> None:
        super().__init__(config)
        config.check()
        self.embedding = nn.Embedding(config.vocab_size, config.d_vocab)
        self.input_proj = nn.Linear(config.d_vocab, config.d_model, bias=False)
        self.input_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.layers = nn.ModuleList([LSWTBlock(config, index) for index in range(config.n_layers)])
        self.output_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The table."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Another table, as resizing makes one."""
        self.embedding = value

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: LSWTCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of new tokens.

        attention_mask: 1 for tokens, 0 for padding, [B, all tokens so far]; None: no padding, or padding on the right,
        which nothing looks at. position_ids: for calls without a cache that keep rotated keys themselves; with a cache
        its order counts. inputs_embeds: rows of the table, [B, S, d_vocab]. hidden_states, where asked for: L + 2
        entries: the normed input, the stream after each block as it is, and the last one normed.

        Raises ValueError for a cache of another kind: it would hold rotated keys.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x_BSD = self.input_norm(self.input_proj(self.embedding(input_ids) if inputs_embeds is None else inputs_embeds))
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = self.new_cache(self.config.rope_positions or 0)
        if past_key_values is not None and not isinstance(past_key_values, LSWTCache):
            raise ValueError(f"LSWT remembers in an LSWTCache, not in a {type(past_key_values).__name__}")
        if self.config.rope_dynamic and "trie" in kwargs:
            raise Untrieable("its rotation depends on the length of the whole text (rope_dynamic)")
        mask = self.mask(x_BSD, attention_mask, past_key_values, position_ids)
        given: dict[str, Any] = {"turn": self.turn(x_BSD, past_key_values, position_ids), "attention_mask": mask}
        states, fresh = [x_BSD], []
        for index, layer in enumerate(self.layers):
            memory = past_key_values.layers[index].tensors if past_key_values is not None else ()
            x_BSD, new = layer(x_BSD, memory=memory, keep=past_key_values is not None, **given, **kwargs)
            states.append(x_BSD)
            fresh.append(new)
        if past_key_values is not None:
            for held, new in zip(past_key_values.layers, fresh, strict=True):
                held.extend(new)
        x_BSD = self.output_norm(x_BSD)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutputWithPast(
            last_hidden_state=x_BSD,
            past_key_values=past_key_values,
            hidden_states=(*states, x_BSD) if wanted else None,
        )

    def turn(self, x_BSD: Tensor, cache: LSWTCache | None, position_ids: Tensor | None) -> Rotation:
        """The rotation of all tokens of a call, remembered ones first."""
        if cache is None and position_ids is not None:
            positions = -position_ids
        else:
            total = (cache.held if cache is not None else 0) + x_BSD.shape[1]
            positions = torch.arange(total - 1, -1, -1, device=x_BSD.device)[None]
        return rotation(self.config, positions, x_BSD.dtype)

    def mask(
        self, x_BSD: Tensor, attention_mask: Tensor | None, cache: LSWTCache | None, position_ids: Tensor | None
    ) -> Tensor | None:
        """transformers' causal mask over remembered and new tokens, with the registers' columns before it."""
        mask: Tensor | None = create_causal_mask(
            config=self.config,
            inputs_embeds=x_BSD,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids if cache is None else None,
            allow_is_causal_skip=not self.config.registers,
        )
        if mask is None or not self.config.registers:
            return mask
        return F.pad(mask, (self.config.registers, 0), value=True if mask.dtype == torch.bool else 0.0)


class LSWTForCausalLM(LSWTPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The language model: `LSWTModel` and the table read backwards."""

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}

    def __init__(self, config: LSWTConfig) -> None:
        super().__init__(config)
        self.model = LSWTModel(config)
        # A head of ours that reads hidden states reads what comes in here: d_model wide, after the last norm.
        self.lm_head = Projected(config.d_model, config.d_vocab, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The table."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Another table, as resizing makes one."""
        self.model.embedding = value

    def get_output_embeddings(self) -> Projected:
        """What turns hidden states into logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Another table, as resizing makes one; the projection stays."""
        self.lm_head.weight = new_embeddings.weight
        self.lm_head.out_features = new_embeddings.weight.shape[0]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # `generate` would otherwise hand in a cache that takes rotated keys; without one, the model makes its own.
        return False

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: LSWTCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, V], and the loss where `labels` are given (-100: not counted).

        logits_to_keep: only the last so many positions, or those of a tensor; the rest as of `LSWTModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )
