"""Whole next-token distributions: their entropy, and their divergence from another model's, off one softmax a state.

With p the policy's distribution at a state and q the reference's, in nats:

    entropy              H = -sum of p log p                 dH/dlogits  = -p (log p + H)
    forward divergence   KL(q || p) = sum of q (log q - log p)           p - q
    reverse divergence   KL(p || q) = sum of p (log p - log q)           p (log p - log q - KL)

A divergence is over the tokens that both models have: the `excluded` ones never count, and both sides are renormalised
over the others, for the divergence alone. With c = log of the sum of p over those others, log p - c takes the place of
log p there, and excluded logits have no gradient from it.

For an ordinary linear head one autograd function gives everything that is asked for, in chunks of states, as
`vocabulary` does; what a chunk needs again in backward is kept while it fits in `vocabulary.KEEP` bytes and computed
again beyond. Any other head runs as the model's own module under activation checkpointing.

Shape suffixes: S states, R scored rows, D hidden width, V the policy's tokens, C the first tokens that both heads give,
X excluded tokens.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from trueline.trie import vocabulary
from trueline.trie.vocabulary import After, Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """What another model says of the next token at the same states: what its head reads there, the head, and what
    becomes of its logits. Nothing of it is trained.

    reverse: the divergence is KL(policy || reference), not KL(reference || policy). excluded: tokens that do not count;
    those that one of the two heads does not give never do.
    """

    hidden_SD: Tensor
    head: torch.nn.Module
    after: After
    reverse: bool = False
    excluded: tuple[int, ...] = ()

    def at(self, index: slice | Tensor) -> Reference:
        """Some of the states."""
        return Reference(self.hidden_SD[index], self.head, self.after, self.reverse, self.excluded)

    def logits(self) -> Tensor:
        """What it gives over its own tokens, without gradient."""
        with torch.no_grad():
            return self.after(self.head(self.hidden_SD))


class Read(NamedTuple):
    """Of each scored row its log-prob [R]; of each state, where they were asked for, the divergence from the reference
    and the entropy, in nats [S]."""

    logps_R: Tensor
    kl_S: Tensor | None
    entropy_S: Tensor | None


@dataclass(frozen=True, eq=False)
class Common:
    """The tokens that count in a divergence: of the first `n`, which both heads give, all but some.

    slices: those that count. inside_X: those of the first n that do not; outside_X: of the policy's, all that do not.
    """

    n: int
    slices: tuple[slice, ...]
    inside_X: Tensor
    outside_X: Tensor

    @classmethod
    def of(cls, ours: int, theirs: int, excluded: tuple[int, ...], device: torch.device) -> Common:
        """For heads of `ours` and `theirs` tokens."""
        n = min(ours, theirs)
        inside = sorted({token for token in excluded if token < n})
        edges = [-1, *inside, n]
        slices = tuple(slice(a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)
        all_out = torch.tensor([*inside, *range(n, ours)], dtype=torch.int64, device=device)
        return cls(n, slices, all_out[: len(inside)], all_out)

    @property
    def restricted(self) -> bool:
        """Whether any of the policy's tokens is left out."""
        return self.outside_X.numel() > 0

    def logps_(self, logits_SV: Tensor) -> Tensor:
        """log q over the first n tokens [S, C] of a reference's logits, the excluded ones without a share; finite. The
        logits are lost."""
        logits = logits_SV[:, : self.n]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.inside_X.numel():
            logits.index_fill_(-1, self.inside_X, -torch.inf)
        return finite_(vocabulary.log_softmax_(logits))

    def mass(self, p_SV: Tensor) -> Tensor:
        """The policy's probability of the tokens that count [S]: summed, since 1 less the others would lose digits."""
        return torch.stack([p_SV[:, part].sum(-1) for part in self.slices]).sum(0)


def finite_(logps: Tensor) -> Tensor:
    """A log-prob of minus infinity as the lowest number there is, in place: so that 0 times it is 0."""
    return logps.clamp_(min=torch.finfo(logps.dtype).min)


def read(
    hidden_SD: Tensor,
    head: torch.nn.Module,
    after: After,
    row_state_R: Tensor,
    target_R: Tensor,
    reference: Reference | None = None,
    entropy: bool = False,
    chunk: int = 0,
) -> Read:
    """Log-prob of each row's target; with a `reference` the divergence from it, and the `entropy`, of each state.

    float32 (float64 for float64 states), all differentiable. Neither side's probabilities ever exist for more than
    `chunk` states at once (0 chooses), but for those that are kept.
    """
    if hidden_SD.shape[0] == 0:
        none = vocabulary.nothing(hidden_SD)
        return Read(none, none if reference is not None else None, none if entropy else None)
    pieces = vocabulary.cut(hidden_SD, head, row_state_R, chunk)
    ours, theirs = vocabulary.as_linear(hidden_SD, head, after), None
    if reference is not None:
        with torch.no_grad():
            theirs = vocabulary.as_linear(reference.hidden_SD, reference.head, reference.after)
    if ours is not None and (reference is None or theirs is not None):
        common = None
        if reference is not None and theirs is not None:
            sizes = ours[1].shape[0], theirs[1].shape[0]
            common = Common.of(*sizes, reference.excluded, hidden_SD.device)
        plan = _Plan(pieces, entropy, common, reference is not None and reference.reverse)
        given = (None, None, None) if theirs is None else tuple(None if x is None else x.detach() for x in theirs)
        return Read(*_Linear.apply(*ours, *given, row_state_R, target_R, plan))
    parts = []
    for a, b, low, high in pieces:
        there = None if reference is None else reference.at(slice(a, b))
        inputs = (head, after, hidden_SD[a:b], row_state_R[low:high] - a, target_R[low:high], there, entropy)
        parts.append(checkpoint(_chunk, *inputs, use_reentrant=False) if torch.is_grad_enabled() else _chunk(*inputs))
    logps, kl, entropies = zip(*parts, strict=True)
    return Read(torch.cat(logps), *(None if x[0] is None else torch.cat(x) for x in (kl, entropies)))


def of_logps(logps_SV: Tensor, reference: Reference | None, entropy: bool) -> tuple[Tensor | None, Tensor | None]:
    """Divergence and entropy of log-probs over the whole vocabulary, by their definitions; differentiable."""
    if reference is None and not entropy:
        return None, None
    logps_SV = logps_SV.clamp(min=torch.finfo(logps_SV.dtype).min)
    entropy_S = -(logps_SV.exp() * logps_SV).sum(-1) if entropy else None
    if reference is None:
        return None, entropy_S
    with torch.no_grad():
        logits = reference.logits()
        common = Common.of(logps_SV.shape[-1], logits.shape[-1], reference.excluded, logits.device)
        theirs_SC = common.logps_(logits.clone())
    ours_SC = logps_SV[:, : common.n]
    if common.restricted:
        ours_SC = ours_SC.index_fill(-1, common.inside_X, torch.finfo(ours_SC.dtype).min)
        ours_SC = ours_SC - ours_SC.logsumexp(-1, keepdim=True)
    weight_SC = ours_SC.exp() if reference.reverse else theirs_SC.exp()
    kl_S = (weight_SC * (theirs_SC - ours_SC)).sum(-1)
    return -kl_S if reference.reverse else kl_S, entropy_S


def _chunk(
    head: torch.nn.Module,
    after: After,
    hidden: Tensor,
    row_state: Tensor,
    target: Tensor,
    reference: Reference | None,
    entropy: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    logits = after(head(hidden))
    logps = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return logps[row_state, target], *of_logps(logps, reference, entropy)


class _Plan(NamedTuple):
    """What `_Linear` computes: over which pieces, the entropy or not, the divergence over `common` (None: not)."""

    pieces: list[tuple[int, int, int, int]]
    entropy: bool
    common: Common | None
    reverse: bool

    def second(self, logq_SC: Tensor) -> Tensor:
        """What backward reads of the reference, in place: q, or log q for the reverse direction."""
        return logq_SC if self.reverse else logq_SC.exp_()

    def divergence(self, ours_SV: Tensor, p_SV: Tensor | None, theirs_SC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KL and log of the policy's share of the tokens that count [S], and what backward reads of `theirs_SC`."""
        assert self.common is not None
        common, ours_SC = self.common, ours_SV[:, : self.common.n]
        log_mass_S = ours_SV.new_zeros(len(ours_SV))
        if common.restricted:
            assert p_SV is not None
            log_mass_S = common.mass(p_SV).log()
        if self.reverse:
            assert p_SV is not None
            apart_SC = (ours_SC - theirs_SC).index_fill_(-1, common.inside_X, 0.0)
            kl_S = apart_SC.mul_(p_SV[:, : common.n]).sum(-1) / log_mass_S.exp() - log_mass_S
            return kl_S, log_mass_S, theirs_SC
        q_SC = theirs_SC.exp()
        return theirs_SC.sub_(ours_SC).mul_(q_SC).sum(-1) + log_mass_S, log_mass_S, q_SC


class _Linear(torch.autograd.Function):
    """All that `read` gives, for linear heads: backward makes the gradient of a chunk's logits in one table."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        their_hidden_SD: Tensor | None,
        their_weight_VD: Tensor | None,
        their_bias_V: Tensor | None,
        row_state_R: Tensor,
        target_R: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        wide = torch.promote_types(hidden_SD.dtype, torch.float32)
        out_R = torch.empty(target_R.shape[0], dtype=wide, device=hidden_SD.device)
        kl_S, log_mass_S, entropy_S = (out_R.new_zeros(hidden_SD.shape[0]) for _ in range(3))
        room = vocabulary.KEEP if any(ctx.needs_input_grad[:3]) else 0
        kept: list[Tensor | None] = []
        for a, b, low, high in plan.pieces:
            ours = vocabulary.log_softmax_(F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide))
            out_R[low:high] = ours[row_state_R[low:high] - a, target_R[low:high]]
            finite_(ours)
            restricted = plan.common is not None and plan.common.restricted
            p = ours.exp() if plan.entropy or plan.reverse or restricted else None
            if plan.entropy and p is not None:
                entropy_S[a:b] = -(p * ours).sum(-1)  # not vecdot, which autocast would do in low precision
            second = None
            if plan.common is not None and their_hidden_SD is not None and their_weight_VD is not None:
                theirs = plan.common.logps_(F.linear(their_hidden_SD[a:b], their_weight_VD, their_bias_V))
                kl_S[a:b], log_mass_S[a:b], second = plan.divergence(ours, p, theirs)
            room -= ours.nbytes + (0 if second is None else second.nbytes)
            kept += [ours, second] if room >= 0 else [None, None]
        given = (hidden_SD, weight_VD, bias_V, their_hidden_SD, their_weight_VD, their_bias_V, row_state_R, target_R)
        ctx.save_for_backward(*given, kl_S, log_mass_S, entropy_S, *kept)
        ctx.plan = plan
        return out_R, kl_S if plan.common is not None else None, entropy_S if plan.entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_VD, bias_V, *theirs, row_state_R, target_R = ctx.saved_tensors[:8]
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        kept, plan = ctx.saved_tensors[11:], ctx.plan
        slopes = _Slopes.of(ctx.saved_tensors[8:11], grads, row_state_R, plan)
        grad_R = grads[0]
        assert grad_R is not None
        wide = grad_R.dtype
        dhidden_SD = torch.empty_like(hidden_SD) if need_hidden else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=wide) if need_weight else None
        dbias_V = torch.zeros(weight_VD.shape[0], dtype=wide, device=weight_VD.device) if need_bias else None
        for (a, b, low, high), ours, second in zip(plan.pieces, kept[::2], kept[1::2], strict=True):
            if ours is None:
                ours = finite_(vocabulary.log_softmax_(F.linear(hidden_SD[a:b], weight_VD, bias_V).to(wide)))
                if plan.common is not None:
                    second = plan.second(plan.common.logps_(F.linear(theirs[0][a:b], theirs[1], theirs[2])))
            dlogits = slopes.logits(ours, second, slice(a, b), plan)
            dlogits.index_put_((row_state_R[low:high] - a, target_R[low:high]), grad_R[low:high], accumulate=True)
            if dbias_V is not None:
                dbias_V += dlogits.sum(0)
            dlogits = dlogits.to(weight_VD.dtype)
            if dhidden_SD is not None:
                dhidden_SD[a:b] = dlogits @ weight_VD
            if dweight_VD is not None:
                vocabulary.add_product(dweight_VD, dlogits, hidden_SD[a:b], 1)
        dweight_VD = None if dweight_VD is None else dweight_VD.to(weight_VD.dtype)
        dbias_V = None if dbias_V is None else dbias_V.to(weight_VD.dtype)
        return dhidden_SD, dweight_VD, dbias_V, *[None] * 6


class _Slopes(NamedTuple):
    """The gradient of a state's logits, targets aside, is p (flat + steep log p - kl log q) for the reverse direction
    and p (flat + steep log p) - kl q for the forward one; for excluded tokens p (flat_out - entropy log p)."""

    flat_S: Tensor
    steep_S: Tensor
    kl_S: Tensor
    flat_out_S: Tensor
    entropy_S: Tensor

    @classmethod
    def of(
        cls, saved: tuple[Tensor, Tensor, Tensor], grads: tuple[Tensor | None, ...], row_state_R: Tensor, plan: _Plan
    ) -> _Slopes:
        """From divergence, log mass and entropy of the states, and the gradients of log-probs, divergence, entropy."""
        value_S, log_mass_S, entropy_S = saved
        grad_R, of_kl, of_entropy = grads
        none_S = torch.zeros_like(entropy_S)
        kl_S = none_S if of_kl is None else of_kl / log_mass_S.exp()
        bonus_S = none_S if of_entropy is None else of_entropy
        assert grad_R is not None
        flat_out_S = (-bonus_S * entropy_S).index_add(0, row_state_R, grad_R, alpha=-1)
        if plan.reverse:
            flat_S = flat_out_S - kl_S * (log_mass_S + value_S)
            return cls(flat_S, kl_S - bonus_S, kl_S, flat_out_S, bonus_S)
        # q adds to 1 over the tokens that count, p to its mass: only p's share is divided by it.
        return cls(flat_out_S + kl_S, -bonus_S, none_S if of_kl is None else of_kl, flat_out_S, bonus_S)

    def logits(self, ours_SV: Tensor, second_SC: Tensor | None, at: slice, plan: _Plan) -> Tensor:
        """The gradient of the logits of the states `at`, targets aside."""
        flat, steep, kl, flat_out, entropy = (x[at].unsqueeze(1) for x in self)
        p = ours_SV.exp()
        if plan.common is None or second_SC is None:
            return torch.addcmul(flat, ours_SV, steep).mul_(p)
        n, out_X = plan.common.n, plan.common.outside_X
        excluded = p[:, out_X] * torch.addcmul(flat_out, ours_SV[:, out_X], entropy, value=-1)
        if plan.reverse:
            dlogits = torch.addcmul(flat, ours_SV, steep)
            dlogits[:, :n].addcmul_(second_SC, kl, value=-1)
            dlogits.mul_(p)
        else:
            dlogits = torch.addcmul(flat, ours_SV, steep).mul_(p) if plan.entropy else p.mul_(flat)
            dlogits[:, :n].addcmul_(second_SC, kl, value=-1)
        if out_X.numel():
            dlogits[:, out_X] = excluded
        return dlogits
