"""Many sequences through one model, without gradient: in token order, cut into tries where that costs least.

For everything that only reads: log-probs, rewards. The cut is made by `packs`: a shared beginning stands once per trie,
and in as few tries as memory allows. Where only log-probs are asked for, the last token of a sequence is predicted and
no more, so it stands in no trie, and four options of one token are four rows of one state. Training has batches of its
own, whose order means something.

Shape suffixes: N sequences, E scored tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trueline import machine as machines
from trueline import models, trie
from trueline.trie import attention

if TYPE_CHECKING:
    from trueline.machine import Machine

# On a CPU a trie beyond this size is no faster, and its tensors leave the caches (measured; docs/performance.md).
AIM = 1024
# A larger trie is tried where every cut near the aim would compute again more than this share of what it cuts off.
COSTLY = 0.25


def packs(sequences: Sequence[trie.Sequence], most: int, aim: int = 0, ends: bool = True) -> list[list[int]]:
    """Indices of `sequences`, in token order, cut into tries of at most `most` tokens; a longer sequence stands alone.

    Tries have about `aim` tokens (0: as many as may be). A cut computes again what the sequences beside it share, so it
    is made where that is least in the second half of the room, and the room is doubled, up to `most`, while even that
    is more than a quarter of the trie. ends: whether last tokens stand in the trie, as for `trie.build`.

    Six sequences of 100 shared and 10 own tokens, in pairs that share 50 more, cut by aim 230: after the first pair
    (100 + 50 + 2 * 10 = 170), since a cut within a pair would compute 150 tokens again; but 100 is more than a quarter
    of 170, so with most = 1000 all three pairs share one trie.
    """
    ids = [s.ids if ends or len(s) == 1 else s.ids[:-1] for s in sequences]
    order, shared = trie.in_token_order(ids)
    own = np.array([ids[i].size for i in order], dtype=np.int64) - np.array(shared, dtype=np.int64)
    total = np.concatenate([[0], np.cumsum(own)])
    cuts = [0]
    while cuts[-1] < len(order):
        cuts.append(_cut(cuts[-1], total, np.array([*shared, 0], dtype=np.int64), most, aim or most))
    return [order[a:b] for a, b in itertools.pairwise(cuts)]


def _cut(start: int, total: np.ndarray, shared: np.ndarray, most: int, room: int) -> int:
    """Where the trie that begins with sequence `start` ends; `total` are running sums of the tokens each one adds."""
    # The first sequence adds all its tokens, those too that it shares with the one before the cut.
    size = total[start + 1 :] - total[start] + shared[start]
    while True:
        room = min(room, most)
        fits = max(int(np.searchsorted(size, room, side="right")), 1)
        if fits == size.size:
            return start + fits
        half = min(int(np.searchsorted(size, room / 2, side="right")), fits - 1)
        costs = shared[start + 1 + half : start + 1 + fits]
        best = half + costs.size - 1 - int(costs[::-1].argmin())
        if room == most or shared[start + 1 + best] <= COSTLY * size[best]:
            return start + 1 + best
        room *= 2


def passes(
    model: Any,
    sequences: Sequence[trie.Sequence],
    want: frozenset[str],
    machine: Machine | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[list[int], trie.Trie, trie.Outputs]]:
    """One pass per trie, without gradient: the indices of its sequences, the trie, and what came out.

    want: as for `trie.forward`. dtype: to compute in (autocast); None: the weights' own.
    """
    device = next(model.parameters()).device
    ends = bool(want - {"logps", "greedy"})
    most = (machine or machines.current()).micro_tokens
    if attention.path(model).kernel:
        parts = packs(sequences, most, AIM if device.type == "cpu" else 0, ends)
    else:  # a model that runs padded shares nothing
        parts = trie.pack([len(s) for s in sequences], most)
    for part in parts:
        with torch.inference_mode(), models.autocast(device, dtype):
            batch = trie.build((sequences[i] for i in part), ends=ends).to(device)
            yield part, batch, trie.forward(model, batch, want)


@dataclass(frozen=True, eq=False)
class Found:
    """Of N sequences: the summed log-prob of each (float64, natural log), how many tokens were scored, and whether
    every one of them is the likeliest (False everywhere unless it was asked for)."""

    logps_N: np.ndarray
    counts_N: np.ndarray
    greedy_N: np.ndarray


def logps(
    model: Any,
    sequences: Sequence[trie.Sequence],
    machine: Machine | None = None,
    dtype: torch.dtype | None = None,
    greedy: bool = False,
) -> Found:
    """Log-probs of the scored tokens of `sequences` under `model`, in their order."""
    n = len(sequences)
    found = Found(np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool))
    want = trie.LOGPS | {"greedy"} if greedy else trie.LOGPS
    for part, _, outputs in passes(model, sequences, want, machine, dtype):
        found.logps_N[part] = outputs.logps_N.cpu().numpy()
        found.counts_N[part] = outputs.counts_N.cpu().numpy()
        if outputs.greedy_E is not None:
            missed_N = torch.zeros(len(part), device=outputs.seq_E.device).index_add(
                0, outputs.seq_E, (~outputs.greedy_E).float()
            )
            found.greedy_N[part] = (missed_N == 0).cpu().numpy()
    return found
