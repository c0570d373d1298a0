"""Attention over a conversation's turns on top of a model's states: what `heads.AttentionPooler` builds.

Self attention gathers each turn at its tokens; cross attention lets a token look at the ends of the turns before its
own, nearer turns first. Both follow from what stands before a token and from nothing after it, so a token that several
sequences share is computed once, and a turn that several share is attended once.

Rows are trie tokens; where a mask is drawn for each sequence (dropout of layers), rows are the tokens of each sequence.
Turns of like length form a batch, right-padded: nothing causal looks at the padding.

Shape suffixes: N sequences, T trie tokens, X rows, B turns of a batch, L their padded length, E earlier ends of turns,
H attention heads, K width of a head, D hidden width.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trueline.errors import UserError
from trueline.heads import AttentionPooler, ModelShape
from trueline.trie.states import paths

if TYPE_CHECKING:
    from trueline.heads.readout import LayerPool
    from trueline.trie import Trie
    from trueline.trie.outputs import Outputs

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Turns of like length, padded to the longest.

    rows_BL: the row of each cell (0 where padded). ends_BE: the rows of the end-of-turn tokens that stand before the
    turn's last token, and back_BE how many turns before it. sees_BLE: whether a cell sees that end.
    """

    rows_BL: Tensor
    ends_BE: Tensor
    back_BE: Tensor
    sees_BLE: Tensor


@dataclass(frozen=True, eq=False)
class Turns:
    """The turns of a trie's sequences. cell_X: where each row stands among the flattened cells of all batches."""

    batches: tuple[Batch, ...]
    cell_X: Tensor


@dataclass(frozen=True, eq=False)
class Turn:
    """One turn: its rows, and the rows of the ends before its last token, how many turns back, and where in the turn
    (negative: before it)."""

    rows: np.ndarray
    ends: np.ndarray
    back: np.ndarray
    at: np.ndarray


def split(rows: np.ndarray, ids: np.ndarray, start_id: int, end_id: int) -> list[Turn]:
    """The turns of one sequence, each from its opening token to before the next one's."""
    number_L = np.cumsum(ids == start_id)
    end_at = np.flatnonzero(ids == end_id)
    cuts = [0, *(np.flatnonzero(np.diff(number_L)) + 1).tolist(), ids.size]
    out = []
    for low, high in itertools.pairwise(cuts):
        before = end_at[end_at < high - 1]
        out.append(Turn(rows[low:high], rows[before], number_L[low] - number_L[before], before - low))
    return out


def arrange(listed: list[Turn], n: int, device: torch.device) -> Turns:
    """Distinct turns in batches of like length; `n` rows in all."""
    # A turn's last row tells the whole path to it.
    distinct = list({int(turn.rows[-1]): turn for turn in listed}.values())
    buckets: dict[int, list[Turn]] = {}
    for turn in distinct:
        buckets.setdefault(int(turn.rows.size - 1).bit_length(), []).append(turn)
    cell_X = np.zeros(n, np.int64)
    batches, first = [], 0
    for bucket in buckets.values():
        longest = max(turn.rows.size for turn in bucket)
        most = max(turn.ends.size for turn in bucket)
        rows_BL, ends_BE = np.zeros((len(bucket), longest), np.int64), np.zeros((len(bucket), most), np.int64)
        back_BE, sees_BLE = np.zeros((len(bucket), most)), np.zeros((len(bucket), longest, most), bool)
        for b, turn in enumerate(bucket):
            rows_BL[b, : turn.rows.size] = turn.rows
            cell_X[turn.rows] = first + b * longest + np.arange(turn.rows.size)
            ends_BE[b, : turn.ends.size], back_BE[b, : turn.ends.size] = turn.ends, turn.back
            # A token sees itself anyway: ends strictly before it.
            sees_BLE[b, :, : turn.ends.size] = turn.at[None, :] < np.arange(longest)[:, None]
        first += len(bucket) * longest
        arrays = (rows_BL, ends_BE, back_BE.astype(np.float32), sees_BLE)
        batches.append(Batch(*(torch.from_numpy(array).to(device) for array in arrays)))
    return Turns(tuple(batches), torch.from_numpy(cell_X).to(device))


class Shared(nn.Module):
    """A linear layer that all repeats share, with each repeat's own bias and low-rank factors beside it."""

    def __init__(self, inputs: int, outputs: int, spec: AttentionPooler) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.own_bias = nn.Parameter(torch.zeros(spec.repeats, outputs))
        self.scale, self.dropout = spec.lora_alpha / max(1, spec.lora_r), nn.Dropout(spec.lora_dropout)
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        if spec.lora_r:
            self.lora_a = nn.Parameter(torch.empty(spec.repeats, spec.lora_r, inputs))
            self.lora_b = nn.Parameter(torch.zeros(spec.repeats, outputs, spec.lora_r))
            for factor in self.lora_a.unbind():
                nn.init.kaiming_uniform_(factor.data, a=math.sqrt(5))

    def forward(self, x: Tensor, repeat: int) -> Tensor:
        out = self.linear(x) + self.own_bias[repeat]
        if self.lora_a is None or self.lora_b is None:
            return out
        low = F.linear(F.linear(self.dropout(x), self.lora_a[repeat]), self.lora_b[repeat])
        return out + self.scale * low


class Attention(nn.Module):
    """Queries, keys, values and output of one kind of attention; a learned query for all tokens where `register`."""

    def __init__(self, spec: AttentionPooler, shape: ModelShape, heads: int, register: bool) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.width = heads, width // heads
        self.query = None if register else Shared(width, width, spec)
        self.key, self.value, self.output = (Shared(width, width, spec) for _ in range(3))
        self.register: nn.Parameter | None = None
        self.own_register: nn.Parameter | None = None
        if register:
            self.register = nn.Parameter(torch.zeros(heads, self.width))
            self.own_register = nn.Parameter(torch.zeros(spec.repeats, heads, self.width))

    def split(self, x_XD: Tensor) -> Tensor:
        """x_XHK."""
        return x_XD.unflatten(-1, (self.heads, self.width))

    def project(self, x_XD: Tensor, repeat: int) -> tuple[Tensor, Tensor, Tensor]:
        """query_XHK, key_XHK, value_XHK."""
        key_XHK, value_XHK = self.split(self.key(x_XD, repeat)), self.split(self.value(x_XD, repeat))
        if self.query is not None:
            return self.split(self.query(x_XD, repeat)), key_XHK, value_XHK
        assert self.register is not None and self.own_register is not None
        return (self.register + self.own_register[repeat]).expand_as(key_XHK), key_XHK, value_XHK


class TurnPooler(nn.Module):
    """Repeats of self attention, cross attention and a gated feed-forward block; the last token's state."""

    want = "states"
    slope_H: Tensor

    def __init__(self, spec: AttentionPooler, layers: LayerPool, shape: ModelShape) -> None:
        super().__init__()
        heads = spec.attention_heads or shape.attention_heads
        if shape.width % heads:
            cure = f"Choose attention_heads, a divisor of {shape.width}."
            raise UserError("AttentionPooler(attention_heads=...)", f"{heads} heads of {shape.width}", "", cure)
        self.start_id, self.end_id = shape.turn
        self.layers = layers
        self.self_attention = Attention(spec, shape, heads, spec.self_type == "pool")
        self.cross_attention = Attention(spec, shape, heads, False)
        self.up, self.gate = (Shared(shape.width, shape.ffn, spec) for _ in range(2))
        self.down = Shared(shape.ffn, shape.width, spec)
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(3)) for _ in range(spec.repeats)
        )
        self.norm = nn.LayerNorm(shape.width) if spec.norm else nn.Identity()
        slope_H = 2.0 ** (-torch.arange(1, heads + 1) * spec.alibi_slope / heads)
        self.register_buffer("slope_H", slope_H, persistent=False)

    def forward(self, outputs: Outputs, batch: Trie, dtype: torch.dtype) -> Tensor:
        """The state of each sequence's last token, [N, D]."""
        assert outputs.states is not None, "ask trie.forward for `heads.want`"
        rows, seq_X, token_X = self.rows(batch)
        layers = outputs.states if token_X is None else tuple(h.index_select(0, token_X) for h in outputs.states)
        x_XD = self.layers(layers, dtype, seq_X)
        ids = [sequence.ids for sequence in batch.sequences]
        listed = [t for r, i in zip(rows, ids, strict=True) for t in split(r, i, self.start_id, self.end_id)]
        turns = arrange(listed, len(x_XD), x_XD.device)
        last_N = torch.tensor([int(r[-1]) for r in rows], device=x_XD.device)
        for repeat, norms in enumerate(self.norms):
            assert isinstance(norms, nn.ModuleList)
            x_XD = x_XD + self.within(norms[0](x_XD), turns, repeat)
            x_XD = x_XD + self.across(norms[1](x_XD), turns, repeat)
            y_XD = norms[2](x_XD)
            x_XD = x_XD + self.down(self.up(y_XD, repeat) * F.silu(self.gate(y_XD, repeat)), repeat)
        return self.norm(x_XD.index_select(0, last_N))

    def rows(self, batch: Trie) -> tuple[list[np.ndarray], Tensor | None, Tensor | None]:
        """The rows of each sequence's tokens; each row's sequence and trie token, where rows are not tokens."""
        tokens = paths(batch)
        if not self.layers.dropping:
            return tokens, None, None
        device = batch.tokens_T.device
        sizes = [path.size for path in tokens]
        seq_X = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device)
        rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        return rows, seq_X, torch.from_numpy(np.concatenate(tokens)).to(device)

    def within(self, x_XD: Tensor, turns: Turns, repeat: int) -> Tensor:
        """Causal self attention within each turn, biased by the distance in tokens."""
        attention = self.self_attention
        query_XHK, key_XHK, value_XHK = attention.project(x_XD, repeat)
        found = []
        for batch in turns.batches:
            query, key, value = (y[batch.rows_BL].transpose(1, 2) for y in (query_XHK, key_XHK, value_XHK))
            at_L = torch.arange(batch.rows_BL.shape[1], device=x_XD.device)
            distance_LL = at_L[None, :] - at_L[:, None]
            bias_HLL = self.slope_H[:, None, None].to(x_XD) * distance_LL
            bias_HLL = bias_HLL.masked_fill(distance_LL > 0, -torch.inf)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_HLL[None])
            found.append(out.transpose(1, 2).flatten(0, 1))
        out_XD = torch.cat(found).index_select(0, turns.cell_X).flatten(1)
        return attention.output(out_XD, repeat)

    def across(self, x_XD: Tensor, turns: Turns, repeat: int) -> Tensor:
        """Attention to the ends of turns before a token and to itself, biased by the distance in turns."""
        attention = self.cross_attention
        query_XHK, key_XHK, value_XHK = attention.project(x_XD, repeat)
        query_XHK = query_XHK / math.sqrt(attention.width)
        own_XH = (query_XHK * key_XHK).sum(-1)
        found = []
        for batch in turns.batches:
            score_BHLE = torch.einsum("blhk,behk->bhle", query_XHK[batch.rows_BL], key_XHK[batch.ends_BE])
            bias_BHE = self.slope_H[None, :, None].to(x_XD) * -batch.back_BE[:, None, :].to(x_XD)
            score_BHLE = (score_BHLE + bias_BHE[:, :, None]).masked_fill(~batch.sees_BLE[:, None], -torch.inf)
            own_BHL1 = own_XH[batch.rows_BL].transpose(1, 2)[..., None]
            share_BHLE = torch.softmax(torch.cat([score_BHLE, own_BHL1], -1), -1)
            out_BLHK = torch.einsum("bhle,behk->blhk", share_BHLE[..., :-1], value_XHK[batch.ends_BE])
            out_BLHK = out_BLHK + share_BHLE[..., -1].transpose(1, 2)[..., None] * value_XHK[batch.rows_BL]
            found.append(out_BLHK.flatten(0, 1))
        out_XD = torch.cat(found).index_select(0, turns.cell_X).flatten(1)
        return attention.output(out_XD, repeat)
