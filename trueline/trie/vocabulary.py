"""From hidden states to log-probs of targets: the output head on scored rows only, in chunks.

Logits of rows that nobody scores never exist. For an ordinary linear head one autograd function does it all: a chunk's
softmax is kept for backward while it fits in `KEEP` bytes and computed again beyond, so memory is bounded and small
batches do not pay for it. The gradient of log p(t) with respect to the logits is onehot(t) - p, so with an upstream
gradient g per row, dh = g (W[t] - p W) and dW = sum of g h at t, less p^T (g h): the products take p as it stands.

Any other head (LoRA on it, quantised, soft-capped logits) runs as the model's own module, chunk by chunk, under
activation checkpointing.

With a `Reference`, another model's states and head, the divergence of the two next-token distributions is read off the
same logits: of KL(q || p) = sum of q (log q - log p) the gradient with respect to the logits is p - q.

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


@dataclass(frozen=True, eq=False)
class Reference:
    """What another model says of the next token at the same states: what its head reads there, the head, and what
    becomes of its logits. Nothing of it is trained."""

    hidden_SD: Tensor
    head: torch.nn.Module
    after: After

    def at(self, index: slice | Tensor) -> Reference:
        """Some of the states."""
        return Reference(self.hidden_SD[index], self.head, self.after)

    def logps(self) -> Tensor:
        """log q of every token, float32 (float64 for float64 states) [S, V]."""
        with torch.no_grad():
            logits = self.after(self.head(self.hidden_SD))
            return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


def logps(
    hidden_SD: Tensor, head: torch.nn.Module, after: After, row_state_R: Tensor, target_R: Tensor, chunk: int = 0
) -> Tensor:
    """Log-prob of each row's target, in float32 (float64 for float64 states); differentiable.

    `chunk` is how many states meet the vocabulary at once; 0 chooses by vocabulary and device.
    """
    if target_R.numel() == 0:
        return nothing(hidden_SD)
    pieces = _pieces(hidden_SD, head, row_state_R, chunk)
    linear = _linear(hidden_SD, head, after)
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
        for a, b, low, high in _pieces(hidden_SD, head, row_state_R, chunk):
            logits = after(head(hidden_SD[a:b]))
            logps_SV = _log_softmax_(logits.to(torch.promote_types(logits.dtype, torch.float32)))
            state, target = row_state_R[low:high] - a, target_R[low:high]
            logps_R[low:high] = logps_SV[state, target]
            # A maximum is ten times as fast as its place, which matters only where the target reaches it.
            hit = (logps_R[low:high] >= logps_SV.amax(-1)[state]).nonzero()[:, 0]
            greedy_R[low + hit] = logps_SV[state[hit]].argmax(-1) == target[hit]
    return logps_R, greedy_R


def logps_and_kl(
    hidden_SD: Tensor,
    head: torch.nn.Module,
    after: After,
    row_state_R: Tensor,
    target_R: Tensor,
    reference: Reference,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """`logps`, and KL(reference || policy) of the next token at each state, in nats [S]; both differentiable.

    The whole vocabulary counts. Neither side's probabilities ever exist for more than `chunk` states at once, but for
    those that fit into `KEEP`, which backward need not compute again.
    """
    if hidden_SD.shape[0] == 0:
        return nothing(hidden_SD), nothing(hidden_SD)
    pieces = _pieces(hidden_SD, head, row_state_R, chunk)
    linear = _linear(hidden_SD, head, after)
    with torch.no_grad():
        other = _linear(reference.hidden_SD, reference.head, reference.after)
    if linear is not None and other is not None:
        return _LinearBoth.apply(
            *linear, *(None if x is None else x.detach() for x in other), row_state_R, target_R, pieces
        )
    parts = []
    for a, b, low, high in pieces:
        inputs = (head, after, hidden_SD[a:b], row_state_R[low:high] - a, target_R[low:high], reference.at(slice(a, b)))
        run = _chunk_of_both
        parts.append(checkpoint(run, *inputs, use_reentrant=False) if torch.is_grad_enabled() else run(*inputs))
    logps, kl = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(kl)


def nothing(hidden_SD: Tensor) -> Tensor:
    """No log-prob at all, yet part of the graph."""
    return hidden_SD.new_zeros(0, dtype=torch.promote_types(hidden_SD.dtype, torch.float32)) + 0 * hidden_SD.sum()


def _pieces(
    hidden_SD: Tensor, head: torch.nn.Module, row_state_R: Tensor, chunk: int
) -> list[tuple[int, int, int, int]]:
    """States a to b, and their rows low to high, that meet the vocabulary together."""
    weight = getattr(head, "weight", None)
    vocabulary = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else 32_000
    chunk = chunk or max(64, (1 << (22 if hidden_SD.device.type == "cpu" else 25)) // vocabulary)
    cuts = [*range(0, hidden_SD.shape[0], chunk), hidden_SD.shape[0]]
    rows = torch.searchsorted(row_state_R, torch.tensor(cuts, device=row_state_R.device)).tolist()
    return list(zip(cuts, cuts[1:], rows, rows[1:], strict=False))


def _linear(hidden_SD: Tensor, head: torch.nn.Module, after: After) -> tuple[Tensor, Tensor, Tensor | None] | None:
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


def _chunk_of_both(
    head: torch.nn.Module, after: After, hidden: Tensor, row_state: Tensor, target: Tensor, reference: Reference
) -> tuple[Tensor, Tensor]:
    logits = after(head(hidden))
    logps = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return logps[row_state, target], divergence(reference.logps(), logps)


def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """KL(q || p) over the last axis of log q (`theirs`) and log p (`ours`); a token that q never says counts 0."""
    q = theirs.exp()
    return (q * (theirs - ours)).masked_fill(q == 0, 0.0).sum(-1)


def _log_softmax_(logits: Tensor) -> Tensor:
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
            logps = _log_softmax_(F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide))
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
                _add_product(dweight_VD, p, scaled_SD[a:b], -1)
        if dweight_VD is not None:
            hidden_RD = hidden_SD.index_select(0, row_state_R).to(wide) * grad_R.unsqueeze(1)
            dweight_VD = dweight_VD.index_add_(0, target_R, hidden_RD).to(weight_VD.dtype)
        if dbias_V is not None:
            dbias_V = dbias_V.index_add_(0, target_R, grad_R).to(weight_VD.dtype)
        return dhidden_SD, dweight_VD, dbias_V, None, None, None


def _add_product(total_VD: Tensor, p: Tensor, scaled: Tensor, sign: int) -> None:
    """total += sign * p^T scaled, in the wide type of `total`."""
    if total_VD.dtype == p.dtype:
        total_VD.addmm_(p.t(), scaled, alpha=sign)
    else:
        total_VD.add_(p.t() @ scaled, alpha=sign)


class _LinearBoth(torch.autograd.Function):
    """Log-probs of targets and KL(q || p), from one softmax a state: p - q takes the place of p in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        their_hidden_SD: Tensor,
        their_weight_VD: Tensor,
        their_bias_V: Tensor | None,
        row_state_R: Tensor,
        target_R: Tensor,
        pieces: list[tuple[int, int, int, int]],
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden_SD.dtype, torch.float32)
        out_R = torch.empty(target_R.shape[0], dtype=wide, device=hidden_SD.device)
        kl_S = torch.empty(hidden_SD.shape[0], dtype=wide, device=hidden_SD.device)
        room = KEEP if any(ctx.needs_input_grad[:3]) else 0
        kept: list[Tensor | None] = []
        for a, b, low, high in pieces:
            ours = _log_softmax_(F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide))
            theirs = _log_softmax_(F.linear(their_hidden_SD[a:b], their_weight_VD, their_bias_V).to(wide))
            out_R[low:high] = ours[row_state_R[low:high] - a, target_R[low:high]]
            kl_S[a:b] = divergence(theirs, ours)
            room -= 2 * ours.nbytes
            kept += [ours.exp_(), theirs.exp_()] if room >= 0 else [None, None]
        saved = (hidden_SD, weight_VD, bias_V, their_hidden_SD, their_weight_VD, their_bias_V, row_state_R, target_R)
        ctx.save_for_backward(*saved, *kept)
        ctx.pieces = pieces
        return out_R, kl_S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_VD, bias_V, *theirs, row_state_R, target_R = ctx.saved_tensors[:8]
        kept = ctx.saved_tensors[8:]
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_R, grad_S = grads
        wide = grad_S.dtype
        of_p_S = grad_S.index_add(0, row_state_R, grad_R, alpha=-1)
        dhidden_SD = torch.empty_like(hidden_SD) if need_hidden else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=wide) if need_weight else None
        dbias_V = torch.zeros(weight_VD.shape[0], dtype=wide, device=weight_VD.device) if need_bias else None
        for (a, b, low, high), p, q in zip(ctx.pieces, kept[::2], kept[1::2], strict=True):
            if p is None:
                p = F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide).softmax(-1)
                q = F.linear(theirs[0][a:b], theirs[1], theirs[2]).to(wide).softmax(-1)
            dlogits = p * of_p_S[a:b].unsqueeze(1)
            dlogits.addcmul_(q, grad_S[a:b].unsqueeze(1), value=-1)
            dlogits.index_put_((row_state_R[low:high] - a, target_R[low:high]), grad_R[low:high], accumulate=True)
            if dbias_V is not None:
                dbias_V += dlogits.sum(0)
            dlogits = dlogits.to(weight_VD.dtype)
            if dhidden_SD is not None:
                dhidden_SD[a:b] = dlogits @ weight_VD
            if dweight_VD is not None:
                _add_product(dweight_VD, dlogits, hidden_SD[a:b], 1)
        dweight_VD = None if dweight_VD is None else dweight_VD.to(weight_VD.dtype)
        dbias_V = None if dbias_V is None else dbias_V.to(weight_VD.dtype)
        return dhidden_SD, dweight_VD, dbias_V, *[None] * 6
