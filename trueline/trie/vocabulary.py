"""From hidden states to log-probs of targets: the output head on scored rows only, in chunks.

Logits of rows that nobody scores never exist. For an ordinary linear head one autograd function does it all: a chunk's
softmax is kept for backward while it fits in `KEEP` bytes and computed again beyond, so memory is bounded and small
batches do not pay for it. The gradient of log p(t) with respect to the logits is onehot(t) - p, so with an upstream
gradient g per row, dh = g (W[t] - p W) and dW = sum of g h at t, less p^T (g h): the products take p as it stands.

Any other head (LoRA on it, quantised, soft-capped logits) runs as the model's own module, chunk by chunk, under
activation checkpointing.

What is asked of whole distributions, entropy and divergence from a reference, is `distributions`' business.

Shape suffixes: S states (rows of hidden width D that predict something), R scored rows: row r scores target_R[r] under
the state row_state_R[r] (ascending), V vocabulary, X all positions of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Tensor = torch.Tensor

KEEP = 256 << 20


@dataclass(frozen=True)
class After:
    """What a model does to the logits of its head: multiply by `scale`, then squash to softcap * tanh(x / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> After:
        """What `config` says: Cohere multiplies, Granite divides, Falcon-H1 multiplies, Gemma 2 caps."""
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(scale, float(softcap) if softcap else None)

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits that the model returns, from those of its head."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class Projected(torch.nn.Linear):
    """A linear head through a table narrower than the hidden states: `proj` first, then `weight` [V, table's width].

    `in_features` is the width of what comes in, the hidden states'.
    """

    def __init__(self, width: int, table: int, vocabulary: int) -> None:
        super().__init__(table, vocabulary, bias=False)
        self.in_features = width
        self.proj = torch.nn.Linear(width, table, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return F.linear(self.proj(x), self.weight)


@contextlib.contextmanager
def reading(head: torch.nn.Module, reader: Callable[[Tensor, torch.nn.Module], Tensor]) -> Iterator[None]:
    """Within the block, `head` gives what `reader(hidden, head)` returns; inside the reader the head is itself again.

    So the pass still goes through the outermost wrapper's own forward, which data-parallel wrappers need.
    """
    before = head.__dict__.get("forward")

    def restore() -> None:
        if before is None:
            head.__dict__.pop("forward", None)
        else:
            head.__dict__["forward"] = before

    def replaced(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        restore()
        return reader(hidden, head)

    head.__dict__["forward"] = replaced
    try:
        yield
    finally:
        restore()


def logps(
    hidden_SD: Tensor, head: torch.nn.Module, after: After, row_state_R: Tensor, target_R: Tensor, chunk: int = 0
) -> Tensor:
    """Log-prob of each row's target, in float32 (float64 for float64 states); differentiable.

    `chunk` is how many states meet the vocabulary at once; 0 chooses by vocabulary and device.
    """
    if target_R.numel() == 0:
        return nothing(hidden_SD)
    pieces = cut(hidden_SD, head, row_state_R, chunk)
    linear = as_linear(hidden_SD, head, after)
    if linear is not None:
        return _LinearLogps.apply(*linear, row_state_R, target_R, pieces)
    parts = []
    for a, b, low, high in pieces:
        inputs = (head, after, hidden_SD[a:b], row_state_R[low:high] - a, target_R[low:high])
        parts.append(checkpoint(_chunk, *inputs, use_reentrant=False) if torch.is_grad_enabled() else _chunk(*inputs))
    return torch.cat(parts)


def logps_and_greedy(
    hidden_SD: Tensor, head: torch.nn.Module, after: After, row_state_R: Tensor, target_R: Tensor, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """`logps`, and whether each row's target is the likeliest token (the first of equals), bool [R]; no gradient."""
    wide = torch.promote_types(hidden_SD.dtype, torch.float32)
    logps_R = torch.empty(target_R.shape[0], dtype=wide, device=hidden_SD.device)
    greedy_R = torch.zeros(target_R.shape[0], dtype=torch.bool, device=hidden_SD.device)
    with torch.no_grad():
        for a, b, low, high in cut(hidden_SD, head, row_state_R, chunk):
            logits = after(head(hidden_SD[a:b]))
            logps_SV = log_softmax_(logits.to(torch.promote_types(logits.dtype, torch.float32)))
            state, target = row_state_R[low:high] - a, target_R[low:high]
            logps_R[low:high] = logps_SV[state, target]
            # A maximum is ten times as fast as its place, which matters only where the target reaches it.
            hit = (logps_R[low:high] >= logps_SV.amax(-1)[state]).nonzero()[:, 0]
            greedy_R[low + hit] = logps_SV[state[hit]].argmax(-1) == target[hit]
    return logps_R, greedy_R


def nothing(hidden_SD: Tensor) -> Tensor:
    """No log-prob at all, yet part of the graph."""
    return hidden_SD.new_zeros(0, dtype=torch.promote_types(hidden_SD.dtype, torch.float32)) + 0 * hidden_SD.sum()


def cut(hidden_SD: Tensor, head: torch.nn.Module, row_state_R: Tensor, chunk: int) -> list[tuple[int, int, int, int]]:
    """States a to b, and their rows low to high, that meet the vocabulary together."""
    weight = getattr(head, "weight", None)
    vocabulary = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else 32_000
    chunk = chunk or max(64, (1 << (22 if hidden_SD.device.type == "cpu" else 25)) // vocabulary)
    cuts = [*range(0, hidden_SD.shape[0], chunk), hidden_SD.shape[0]]
    rows = torch.searchsorted(row_state_R, torch.tensor(cuts, device=row_state_R.device)).tolist()
    return list(zip(cuts, cuts[1:], rows, rows[1:], strict=False))


def as_linear(hidden_SD: Tensor, head: torch.nn.Module, after: After) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """States, weight and bias whose product are the logits, in the type to compute in; None for any other head."""
    if not isinstance(head, torch.nn.Linear) or type(head) not in (torch.nn.Linear, Projected) or after.softcap:
        return None
    if isinstance(head, Projected):
        hidden_SD = head.proj(hidden_SD)
    weight_VD: Tensor = head.weight
    bias: Tensor | None = head.bias
    if torch.is_autocast_enabled(hidden_SD.device.type):
        dtype = torch.get_autocast_dtype(hidden_SD.device.type)
        hidden_SD, weight_VD = hidden_SD.to(dtype), weight_VD.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if after.scale != 1.0:
        hidden_SD, bias = hidden_SD * after.scale, None if bias is None else bias * after.scale
    return hidden_SD, weight_VD, bias


def _chunk(head: torch.nn.Module, after: After, hidden: Tensor, row_state: Tensor, target: Tensor) -> Tensor:
    logits = after(head(hidden))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits, dim=-1)[row_state, target]


def log_softmax_(logits: Tensor) -> Tensor:
    """In place: a table of all tokens is not allocated twice."""
    return torch.log_softmax(logits, -1, out=logits)


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        row_state_R: Tensor,
        target_R: Tensor,
        pieces: list[tuple[int, int, int, int]],
    ) -> Tensor:
        wide = torch.promote_types(hidden_SD.dtype, torch.float32)
        out_R = torch.empty(target_R.shape[0], dtype=wide, device=hidden_SD.device)
        room = KEEP if any(ctx.needs_input_grad[:3]) else 0
        kept: list[Tensor | None] = []
        for a, b, low, high in pieces:
            logps = log_softmax_(F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide))
            out_R[low:high] = logps[row_state_R[low:high] - a, target_R[low:high]]
            room -= logps.nbytes
            kept.append(logps if room >= 0 else None)
        ctx.save_for_backward(hidden_SD, weight_VD, bias_V, row_state_R, target_R, *kept)
        ctx.pieces = pieces
        return out_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_VD, bias_V, row_state_R, target_R, *kept = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        wide = grads[0].dtype
        grad_R = grads[0]
        grad_S = grad_R.new_zeros(hidden_SD.shape[0]).index_add_(0, row_state_R, grad_R)
        scaled_SD = (hidden_SD * grad_S.unsqueeze(1)).to(hidden_SD.dtype) if need_weight else None
        dhidden_SD = torch.empty_like(hidden_SD) if need_hidden else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=wide) if need_weight else None
        dbias_V = torch.zeros(weight_VD.shape[0], dtype=wide, device=weight_VD.device) if need_bias else None
        for (a, b, low, high), logps in zip(ctx.pieces, kept, strict=True):
            if logps is None:
                logits = F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide)
                p = torch.softmax(logits, -1, out=logits)
            else:
                p = logps.exp()
            if dbias_V is not None:
                dbias_V -= grad_S[a:b] @ p
            p = p.to(weight_VD.dtype)
            if dhidden_SD is not None:
                dhidden = (p @ weight_VD).to(wide).mul_(-grad_S[a:b].unsqueeze(1))
                rows = row_state_R[low:high] - a
                onto = weight_VD.index_select(0, target_R[low:high]).to(wide) * grad_R[low:high].unsqueeze(1)
                dhidden_SD[a:b] = dhidden.index_add_(0, rows, onto)
            if dweight_VD is not None and scaled_SD is not None:
                add_product(dweight_VD, p, scaled_SD[a:b], -1)
        if dweight_VD is not None:
            hidden_RD = hidden_SD.index_select(0, row_state_R).to(wide) * grad_R.unsqueeze(1)
            dweight_VD = dweight_VD.index_add_(0, target_R, hidden_RD).to(weight_VD.dtype)
        if dbias_V is not None:
            dbias_V = dbias_V.index_add_(0, target_R, grad_R).to(weight_VD.dtype)
        return dhidden_SD, dweight_VD, dbias_V, None, None, None


def add_product(total_VD: Tensor, p: Tensor, scaled: Tensor, sign: int) -> None:
    """total += sign * p^T scaled, in the wide type of `total`."""
    if total_VD.dtype == p.dtype:
        total_VD.addmm_(p.t(), scaled, alpha=sign)
    else:
        total_VD.add_(p.t() @ scaled, alpha=sign)
