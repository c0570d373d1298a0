"""Token tries: the batch of every forward pass, in training, scoring, evaluation and reward reading alike.

Everything in alignment is one prefix with branches: chosen and rejected share a prompt, four endings share a context. A
`Trie` holds any list of token sequences with each distinct prefix token *once*, in depth-first preorder, its depth as
position id. One forward and one backward pass over it (`forward`) give every sequence's log-probs, hidden states and
gradients exactly: a shared token's contribution counts once per sequence that scores it.

How attention runs over a trie is `attention`'s business, text is `chat`'s, losses are `train`'s.

Shape suffixes: T trie tokens, M nodes, R scored rows (distinct pairs of a predicting state and its target), E entries (a
row as scored by one sequence), N sequences, L tokens of one sequence, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

LOGPS: frozenset[str] = frozenset({"logps"})


@dataclass(frozen=True, eq=False)
class Sequence:
    """One token sequence and which of its tokens are targets.

    ids: int64 [L], L >= 1. scored: bool [L]; scored[t] says that the log-prob of token t given tokens 0..t-1 is wanted, so
    scored[0] is always False: nothing predicts the first token.
    """

    ids: np.ndarray
    scored: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.ascontiguousarray(self.ids, dtype=np.int64))
        object.__setattr__(self, "scored", np.ascontiguousarray(self.scored, dtype=bool))
        if self.ids.ndim != 1 or self.ids.size == 0 or self.scored.shape != self.ids.shape:
            raise ValueError(f"a sequence needs L >= 1 ids and L flags, not {self.ids.shape} and {self.scored.shape}")
        if self.scored[0]:
            raise ValueError("the first token of a sequence has no prediction to score")

    @classmethod
    def of(cls, prompt_ids: Iterable[int], answer_ids: Iterable[int]) -> Sequence:
        """Prompt then answer, scored on the answer's tokens."""
        prompt, answer = list(prompt_ids), list(answer_ids)
        return cls(np.array(prompt + answer, dtype=np.int64), np.arange(len(prompt) + len(answer)) >= len(prompt))


@dataclass(eq=False)
class Trie:
    """Sequences as one batch.

    nodes [M, 4]: start, end, stop, parent: own tokens [start, end), subtree [start, stop), index of the parent or -1.
    row_R: trie index of the state that predicts target_R. entry_row_E and entry_seq_E: for each scored token of each
    sequence, in the order of the sequences and their tokens, its row and its sequence. last_N: trie index of each
    sequence's last token. n: number of sequences.
    """

    sequences: tuple[Sequence, ...]
    nodes: np.ndarray
    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    row_R: torch.Tensor
    target_R: torch.Tensor
    entry_row_E: torch.Tensor
    entry_seq_E: torch.Tensor
    last_N: torch.Tensor

    @property
    def n(self) -> int:
        """How many sequences the trie holds."""
        return len(self.sequences)

    def __len__(self) -> int:
        """Trie tokens: what a forward pass costs."""
        return self.tokens_T.numel()

    def to(self, device: torch.device | str) -> Trie:
        """This trie with its tensors on `device`."""
        names = ("tokens_T", "positions_T", "row_R", "target_R", "entry_row_E", "entry_seq_E", "last_N")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(eq=False)
class Outputs:
    """What one pass gives, in float32 (float64 for a float64 model), natural log.

    logps_E: log-prob of each scored token of each sequence; seq_E its sequence. logps_N: their sum per sequence; counts_N
    (int64) how many. last_hidden_ND: final-norm hidden state at each sequence's last token, where it was asked for.
    """

    logps_E: torch.Tensor
    seq_E: torch.Tensor
    n: int
    last_hidden_ND: torch.Tensor | None = None

    @property
    def logps_N(self) -> torch.Tensor:
        """Summed log-prob per sequence."""
        return self.logps_E.new_zeros(self.n).index_add(0, self.seq_E, self.logps_E)

    @property
    def counts_N(self) -> torch.Tensor:
        """Scored tokens per sequence."""
        return torch.bincount(self.seq_E, minlength=self.n)


def build(sequences: Iterable[Sequence], min_shared: int = 16) -> Trie:
    """The trie of `sequences`; sharing that saves fewer than `min_shared` tokens is not worth a node."""
    given = tuple(sequences)
    lengths = np.array([s.ids.size for s in given], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if given else np.zeros(0, np.int64)
    nodes = np.stack([starts, starts + lengths, starts + lengths, np.full(len(given), -1)], axis=1)
    scored = [np.flatnonzero(s.scored) for s in given]
    row = np.concatenate([a + start - 1 for a, start in zip(scored, starts, strict=True)] or [np.zeros(0, np.int64)])
    target = np.concatenate([s.ids[a] for a, s in zip(scored, given, strict=True)] or [np.zeros(0, np.int64)])
    return Trie(
        sequences=given,
        nodes=nodes,
        tokens_T=torch.from_numpy(np.concatenate([s.ids for s in given] or [np.zeros(0, np.int64)])),
        positions_T=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths] or [np.zeros(0, np.int64)])),
        row_R=torch.from_numpy(row),
        target_R=torch.from_numpy(target),
        entry_row_E=torch.arange(row.size),
        entry_seq_E=torch.from_numpy(np.repeat(np.arange(len(given)), [a.size for a in scored])),
        last_N=torch.from_numpy(starts + lengths - 1),
    )


def size(sequences: Iterable[Sequence], min_shared: int = 16) -> int:
    """Trie tokens that `build` would give, without building."""
    return len(build(sequences, min_shared))


def pack(costs: Iterable[int], micro_tokens: int) -> list[list[int]]:
    """Cut examples, in order, into micro-batches of at most `micro_tokens` trie tokens each.

    `costs` are trie tokens per example (`size`). Returns indices; an example above the budget stands alone.
    """
    batches: list[list[int]] = []
    room = -1
    for index, cost in enumerate(costs):
        if cost > room or not batches:
            batches.append([])
            room = micro_tokens
        batches[-1].append(index)
        room -= cost
    return batches


def forward(model: Any, trie: Trie, want: frozenset[str] = LOGPS, chunk: int = 1024) -> Outputs:
    """Log-probs (and what else `want` names: "logps", "last_hidden") of every sequence, differentiable."""
    return padded_forward(model, trie.sequences, want)


def padded_forward(model: Any, sequences: Iterable[Sequence], want: frozenset[str] = LOGPS) -> Outputs:
    """The plain twin of `forward`: one right-padded batch, log-softmax over the logits the model itself returns."""
    given = tuple(sequences)
    device = next(model.parameters()).device
    length = max(s.ids.size for s in given)
    ids = np.zeros((len(given), length), np.int64)
    real = np.zeros((len(given), length), np.int64)
    for row, s in enumerate(given):
        ids[row, : s.ids.size] = s.ids
        real[row, : s.ids.size] = 1
    states: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    try:
        out = model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(real).to(device),
            use_cache=False,
        )
    finally:
        hook.remove()
    seq = np.repeat(np.arange(len(given)), [int(s.scored.sum()) for s in given])
    at = np.concatenate([np.flatnonzero(s.scored) for s in given])
    seq_E, at_E = torch.from_numpy(seq).to(device), torch.from_numpy(at).to(device)
    logits_EV = out.logits[seq_E, at_E - 1]
    logits_EV = logits_EV.to(torch.promote_types(logits_EV.dtype, torch.float32))
    target_E = torch.from_numpy(ids).to(device)[seq_E, at_E]
    logps_E = F.log_softmax(logits_EV, dim=-1).gather(1, target_E[:, None])[:, 0]
    last_ND = None
    if "last_hidden" in want:
        last = torch.tensor([s.ids.size - 1 for s in given], device=device)
        last_ND = states[0][torch.arange(len(given), device=device), last]
    return Outputs(logps_E, seq_E, len(given), last_ND)
