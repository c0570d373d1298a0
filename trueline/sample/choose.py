"""From logits to tokens: the sampling distribution, and random numbers that depend on nothing but what they are for.

Every number is a function of (seed, prompt, which of its answers, which token), so that an answer does not depend on
what else is drawn beside it, on the order, or on where a killed run went on. A token is read off the distribution's
cumulative sum by one such number.

Shape suffixes: N rows, V vocabulary, k the slice of likeliest tokens that is looked at, B blocks of a row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from trueline.errors import UserError
from trueline.sample.protocol import Sampling

Tensor = torch.Tensor

SLICE = 64  # likeliest tokens that top-p looks at first
BLOCK = 64  # tokens that are looked at together, before one block of them is looked into


def stream(seed: int, prompt: str, index: int) -> int:
    """The 64-bit key of the random numbers of answer `index` to a prompt, by its id."""
    text = f"{seed}\0{prompt}\0{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def uniforms(keys_N: np.ndarray, counts_N: np.ndarray) -> np.ndarray:
    """Number `counts_N` of each stream, float64 in (0, 1).

    SplitMix64 (Steele, Lea and Flood 2014), whose state is a counter: any number of a stream is had without the ones
    before it.
    """
    with np.errstate(over="ignore"):
        z = keys_N + (counts_N.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


@dataclass(frozen=True)
class Chooser:
    """Draws one token per row as `sampling` says. ends: tokens that end an answer. banned: those never drawn."""

    sampling: Sampling
    ends: tuple[int, ...]
    banned: tuple[int, ...] = ()

    def __call__(self, logits_NV: Tensor, keys_N: np.ndarray, counts_N: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens (int64) and their natural log-probs at temperature 1, both [N].

        counts_N: how many tokens each answer has already.
        """
        logps_NV = torch.log_softmax(logits_NV, -1, torch.promote_types(logits_NV.dtype, torch.float32))
        allowed_NV = self._allowed(logps_NV, counts_N)
        if self.sampling.greedy:
            token_N = likeliest(allowed_NV)
        else:
            u_N = torch.from_numpy(uniforms(keys_N, counts_N)).to(logps_NV.device, logps_NV.dtype)
            token_N = self._draw(allowed_NV, u_N, normal=allowed_NV is logps_NV)
        logp_N = logps_NV.gather(1, token_N[:, None])[:, 0]
        if not bool(torch.isfinite(logp_N).all()):
            raise UserError(
                "the model", "its logits are not finite numbers", "a model that computes",
                "Its weights are broken, as after a training that diverged: train again at a lower learning rate.",
            )  # fmt: skip
        return token_N, logp_N

    def _allowed(self, logits_NV: Tensor, counts_N: np.ndarray) -> Tensor:
        """Without banned tokens, and in rows that are still too short without those that end an answer."""
        short_N = counts_N < self.sampling.min_tokens
        if not self.banned and not (self.ends and short_N.any()):
            return logits_NV
        allowed_NV = logits_NV.clone()
        if self.banned:
            allowed_NV[:, torch.tensor(self.banned, device=logits_NV.device)] = float("-inf")
        if self.ends and short_N.any():
            rows = torch.from_numpy(np.flatnonzero(short_N)).to(logits_NV.device)
            ends = torch.tensor(self.ends, device=logits_NV.device)
            allowed_NV[rows[:, None], ends] = float("-inf")
        return allowed_NV

    def _draw(self, logits_NV: Tensor, u_N: Tensor, normal: bool) -> Tensor:
        """normal: the logits are log-probs, of the whole vocabulary."""
        if self.sampling.temperature != 1:
            logits_NV = logits_NV / self.sampling.temperature
        vocabulary = logits_NV.shape[-1]
        if 0 < self.sampling.top_k < vocabulary:
            top_Nk, token_Nk = logits_NV.topk(self.sampling.top_k)
            p_Nk = nucleus(torch.softmax(top_Nk, -1), self.sampling.top_p)
            return token_Nk.gather(1, invert(p_Nk, u_N)[:, None])[:, 0]
        p_NV = logits_NV.exp() if normal and self.sampling.temperature == 1 else torch.softmax(logits_NV, -1)
        return self._draw_nucleus(p_NV, u_N) if self.sampling.top_p < 1 else invert_blocks(p_NV, u_N)

    def _draw_nucleus(self, p_NV: Tensor, u_N: Tensor) -> Tensor:
        """Top-p from a slice of likeliest tokens where it holds the whole set, from the vocabulary elsewhere."""
        top_p = self.sampling.top_p
        p_Nk, among_Nk = p_NV.topk(min(SLICE, p_NV.shape[-1]))
        drawn_N = invert(nucleus(p_Nk, top_p), u_N)
        token_N = among_Nk.gather(1, drawn_N[:, None])[:, 0]
        wide = torch.nonzero(p_Nk.sum(-1) < top_p)[:, 0]
        if wide.numel() and p_NV.shape[-1] > SLICE:
            kept = wide_nucleus(p_NV.index_select(0, wide), top_p)
            token_N[wide] = invert_blocks(kept, u_N[wide])
        return token_N


def likeliest(logits_NV: Tensor) -> Tensor:
    """`argmax`, the first of equals: the largest of each block, then the best block. Torch's own takes 4 to 8 times as
    long on a CPU, where only finding a maximum, and not its place, is vectorised."""
    x_NBb = blocks(logits_NV, float("-inf"))
    n, _, size = x_NBb.shape
    block_N = x_NBb.amax(-1).argmax(-1)
    x_Nb = x_NBb.gather(1, block_N[:, None, None].expand(n, 1, size))[:, 0]
    return block_N * size + x_Nb.argmax(-1)


def blocks(x_NV: Tensor, filler: float) -> Tensor:
    """A vocabulary's rows cut into blocks of `BLOCK`, the last filled up."""
    missing = -x_NV.shape[1] % BLOCK
    if missing:
        x_NV = torch.nn.functional.pad(x_NV, (0, missing), value=filler)
    return x_NV.reshape(len(x_NV), -1, BLOCK)


def nucleus(p_Nk: Tensor, top_p: float) -> Tensor:
    """Probabilities in falling order, those outside the smallest set that reaches `top_p` set to 0.

    A token is in the set when those before it do not reach `top_p` yet; the first always is.
    """
    if top_p >= 1:
        return p_Nk
    before_Nk = p_Nk.cumsum(-1) - p_Nk
    outside = before_Nk >= top_p
    outside[:, :1] = False
    return p_Nk.masked_fill(outside, 0.0)


def wide_nucleus(p_NV: Tensor, top_p: float) -> Tensor:
    """`nucleus` of probabilities in any order, without sorting them.

    The bits of floats that are not negative grow with the floats: 31 halvings find the largest threshold whose tokens
    reach `top_p`. Of tokens that tie at the threshold those with the lower index are kept, as many as it takes.
    """
    if p_NV.dtype != torch.float32:
        p_NV = p_NV.float()
    bits_NV = p_NV.view(torch.int32)
    low = torch.zeros(p_NV.shape[0], 1, dtype=torch.int32, device=p_NV.device)
    high = bits_NV.amax(-1, keepdim=True) + 1
    wanted = torch.clamp(p_NV.sum(-1, keepdim=True) * (1 - 1e-6), max=top_p)
    for _ in range(31):
        middle = low + (high - low) // 2
        reaches = (p_NV * (bits_NV >= middle)).sum(-1, keepdim=True) >= wanted
        low, high = torch.where(reaches, middle, low), torch.where(reaches, high, middle)
    above_NV = bits_NV > low
    ties_NV = bits_NV == low
    missing_N1 = wanted - (p_NV * above_NV).sum(-1, keepdim=True)
    before_NV = (ties_NV.cumsum(-1) - 1) * low.view(torch.float32)
    return p_NV * (above_NV | (ties_NV & (before_NV < missing_N1)))


def invert(p_Nk: Tensor, u_N: Tensor) -> Tensor:
    """The index at which the cumulative sum of weights (not normalised) passes the share u of their total."""
    cumulative_Nk = p_Nk.cumsum(-1)
    at_N = (cumulative_Nk <= u_N[:, None] * cumulative_Nk[:, -1:]).sum(-1)
    # Rounding may leave the last weights of a row without room; the last one above 0 then takes it.
    last_N = p_Nk.shape[1] - 1 - (p_Nk > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.minimum(at_N, last_N)


def invert_blocks(p_NV: Tensor, u_N: Tensor) -> Tensor:
    """`invert` over a whole vocabulary: first the block of tokens, then the token in it."""
    p_NBb = blocks(p_NV, 0.0)
    n = len(p_NBb)
    sums_NB = p_NBb.sum(-1)
    block_N = invert(sums_NB, u_N)
    cumulative_NB = sums_NB.cumsum(-1)
    chosen = block_N[:, None]
    before_N = (cumulative_NB - sums_NB).gather(1, chosen)[:, 0]
    inside_N = (u_N * cumulative_NB[:, -1] - before_N) / sums_NB.gather(1, chosen)[:, 0]
    p_Nb = p_NBb.gather(1, block_N[:, None, None].expand(n, 1, BLOCK))[:, 0]
    return block_N * BLOCK + invert(p_Nb, inside_N.clamp(0, 1))
