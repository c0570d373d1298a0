"""Exact attention over a trie, one call per node, merged by log-sum-exp, with its gradient.

Forward: each call gives a partial output and its log-sum-exp; two partial results of the same queries merge as out =
lerp(out_a, out_b, sigmoid(lse_b - lse_a)), lse = logaddexp(lse_a, lse_b). Backward never differentiates the merge: a
flash backward that is given the *final* output and the *merged* log-sum-exp computes the probabilities under the whole
path, so the gradients of every call are exact, add up for queries, and stand alone for keys and values, each of which
belongs to one call.

Two kernels know one call: `FLASH`, PyTorch's CPU flash attention (fp64, fp32, bf16, fp16), and `PLAIN`, matrix
products on any device. On CUDA `flex` does the same with one FlexAttention call.

Shape suffixes: H query heads, K key heads (grouped-query attention where K < H), T trie tokens, n queries and m keys
of one call, D head width; kernels take [batch, heads, tokens, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trueline.trie.layout import Call, Leaves, Plan

Tensor = torch.Tensor


@dataclass(frozen=True)
class Kernel:
    """One attention call and its backward.

    forward(q, k, v, causal, keep, scale) -> out, lse.
    backward(grad, q, k, v, out, lse, causal, keep, scale) -> dq, dk, dv, where out and lse may come from a softmax
    over more keys than these. causal: the top-left rule; keep: bool [n, m] in its stead; neither: every query sees
    every key.
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def _bias(keep: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if keep is None else torch.zeros_like(keep, dtype=dtype).masked_fill_(~keep, float("-inf"))


def _flash_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=_bias(keep, q.dtype), scale=scale
    )
    return out, lse


def _flash_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    keep: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal, attn_mask=_bias(keep, q.dtype), scale=scale
    )
    return dq, dk, dv


def _probabilities(
    q: Tensor, k: Tensor, causal: bool, keep: Tensor | None, scale: float, lse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax weights [b, K, H/K, n, m] (under `lse` if given) and their log-sum-exp [b, K, H/K, n]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    grouped = q.to(wide).unflatten(1, (k.shape[1], -1))
    scores = grouped @ k.to(wide).unsqueeze(2).transpose(-1, -2) * scale
    if causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf"))
    lse = scores.logsumexp(-1) if lse is None else lse.unflatten(1, (k.shape[1], -1))
    return (scores - lse.unsqueeze(-1)).exp(), lse


def _plain_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, keep: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    weights, lse = _probabilities(q, k, causal, keep, scale, None)
    out = weights @ v.to(weights.dtype).unsqueeze(2)
    return out.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


def _plain_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    keep: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    weights, _ = _probabilities(q, k, causal, keep, scale, lse)
    wide, heads = weights.dtype, (k.shape[1], -1)
    grad, out, grouped = (x.to(wide).unflatten(1, heads) for x in (grad, out, q))
    dv = (weights.transpose(-1, -2) @ grad).sum(2)
    dweights = grad @ v.to(wide).unsqueeze(2).transpose(-1, -2)
    dscores = weights * (dweights - (grad * out).sum(-1, keepdim=True)) * scale
    dq = (dscores @ k.to(wide).unsqueeze(2)).flatten(1, 2)
    dk = (dscores.transpose(-1, -2) @ grouped).sum(2)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


FLASH = Kernel(_flash_forward, _flash_backward)
PLAIN = Kernel(_plain_forward, _plain_backward)
KERNELS = {"flash": FLASH, "plain": PLAIN}


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, kernel: Kernel, scale: float) -> Tensor:
    """Attention output [1, T, H, D of v] of q [1, H, T, D], k [1, K, T, D], v over the trie that `plan` is for."""
    out_THD = _Nodewise.apply(*(x[0].transpose(0, 1) for x in (q, k, v)), plan, kernel, scale)
    return out_THD.unsqueeze(0)


def _heads_first(x_nHD: Tensor, batch: int = 1) -> Tensor:
    """[batch * n, H, D] as a kernel wants it, [batch, H, n, D], without a copy."""
    return x_nHD.unflatten(0, (batch, -1)).transpose(1, 2)


def _tokens_first(x: Tensor) -> Tensor:
    """[batch, H, n, ...] as [batch * n, H, ...]."""
    return x.transpose(1, 2).flatten(0, 1)


def _take(x: Tensor, rows: slice | Tensor | None) -> Tensor:
    if rows is None:
        return x
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows)


class _Nodewise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, plan: Any, kernel: Kernel, scale: float
    ) -> Tensor:
        wide = torch.promote_types(q_THD.dtype, torch.float32)
        out_THD: Tensor | None = None
        lse_TH: Tensor | None = None
        for level in plan.levels:
            parts = [_call(kernel, call, q_THD, k_TKD, v_TKD, scale) for call in level.calls]
            out = parts[0][0] if len(parts) == 1 else torch.cat([part[0] for part in parts])
            lse = parts[0][1] if len(parts) == 1 else torch.cat([part[1] for part in parts])
            if level.rows is None and out_THD is None:
                out_THD, lse_TH = out.to(wide), lse
                continue
            if out_THD is None or lse_TH is None:
                out_THD = out.new_zeros((q_THD.shape[0], *out.shape[1:]), dtype=wide)
                lse_TH = lse.new_full((q_THD.shape[0], lse.shape[1]), float("-inf"))
            _merge(out_THD, lse_TH, out.to(wide), lse, level.rows)
        assert out_THD is not None
        assert lse_TH is not None
        out_THD = out_THD.to(q_THD.dtype)
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, lse_TH)
        ctx.plan, ctx.kernel, ctx.scale = plan, kernel, scale
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        q_THD, k_TKD, v_TKD = saved[:3]
        grad_THD = grads[0].contiguous()
        dq = q_THD.new_zeros(q_THD.shape) if ctx.plan.levels[0].rows is not None else q_THD.new_empty(0)
        dk, dv = (x.new_empty(x.shape) if ctx.plan.complete else x.new_zeros(x.shape) for x in (k_TKD, v_TKD))
        for depth, level in enumerate(ctx.plan.levels):
            parts = []
            for call in level.calls:
                part, key_part, value_part = _call_backward(ctx.kernel, call, grad_THD, saved, ctx.scale)
                keys = call.keys if isinstance(call, Call) else call.tokens
                dk[keys], dv[keys] = key_part, value_part
                parts.append(part)
            rows_grad = parts[0] if len(parts) == 1 else torch.cat(parts)
            if level.rows is None and depth == 0:
                dq = rows_grad
            elif isinstance(level.rows, torch.Tensor):
                dq.index_add_(0, level.rows, rows_grad)
            else:
                _take(dq, level.rows).add_(rows_grad)
        return dq, dk, dv, None, None, None


def _merge(out_THD: Tensor, lse_TH: Tensor, out: Tensor, lse: Tensor, rows: slice | Tensor | None) -> None:
    """Fold a partial result of some rows into the running one, in place."""
    old, old_lse = _take(out_THD, rows), _take(lse_TH, rows)
    old.lerp_(out, (lse - old_lse).sigmoid_().unsqueeze(-1))
    new_lse = torch.logaddexp(old_lse, lse)
    if isinstance(rows, torch.Tensor):
        out_THD.index_copy_(0, rows, old)
        lse_TH.index_copy_(0, rows, new_lse)
    else:
        old_lse.copy_(new_lse)


def _call(
    kernel: Kernel, call: Call | Leaves, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [n, H, D] and log-sum-exp [n, H] of one call."""
    if isinstance(call, Call):
        q, k, v = _take(q_THD, call.queries), k_TKD[call.keys], v_TKD[call.keys]
        out, lse = kernel.forward(*(_heads_first(x) for x in (q, k, v)), call.causal, call.keep, scale)
        return _tokens_first(out), _tokens_first(lse)
    padded = (_heads_first(x.index_select(0, call.gather), call.batch) for x in (q_THD, k_TKD, v_TKD))
    out, lse = kernel.forward(*padded, True, None, scale)
    return _tokens_first(out).index_select(0, call.real), _tokens_first(lse).index_select(0, call.real)


def _call_backward(
    kernel: Kernel, call: Call | Leaves, grad_THD: Tensor, saved: tuple[Tensor, ...], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one call's queries [n, H, D], keys and values [m, K, D]."""
    q_THD, k_TKD, v_TKD, out_THD, lse_TH = saved
    if isinstance(call, Call):
        grad, q, out = (_heads_first(_take(x, call.queries)) for x in (grad_THD, q_THD, out_THD))
        k, v = (_heads_first(x[call.keys]) for x in (k_TKD, v_TKD))
        lse = _take(lse_TH, call.queries).t().unsqueeze(0)
        dq, dk, dv = kernel.backward(grad, q, k, v, out, lse, call.causal, call.keep, scale)
        return _tokens_first(dq), _tokens_first(dk), _tokens_first(dv)
    every = (grad_THD, q_THD, k_TKD, v_TKD, out_THD)
    grad, q, k, v, out = (_heads_first(x.index_select(0, call.gather), call.batch) for x in every)
    # A padded query must weigh nothing: an infinite log-sum-exp makes its probabilities exactly zero.
    lse = lse_TH.index_select(0, call.gather).masked_fill_(call.padding.unsqueeze(-1), float("inf"))
    lse = lse.unflatten(0, (call.batch, -1)).transpose(1, 2)
    gradients = kernel.backward(grad, q, k, v, out, lse, True, None, scale)
    dq, dk, dv = (_tokens_first(x).index_select(0, call.real) for x in gradients)
    return dq, dk, dv
