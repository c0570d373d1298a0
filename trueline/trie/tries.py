"""Token tries: the batch of every forward pass, in training, scoring, evaluation and reward reading alike.

Everything in alignment is one prefix with branches: chosen and rejected share a prompt, four endings share a context. A
`Trie` holds any list of token sequences with each distinct prefix token *once*, in depth-first preorder, its depth as
position id. One forward and one backward pass over it (`reading`) give every sequence's log-probs, hidden states and
gradients exactly: a shared token's contribution counts once per sequence that scores it.

Two answers of 3 tokens to a prompt of 20 that begin alike, [p0 .. p19, a, b, c] and [p0 .. p19, a, d, e]:

    tokens    p0 .. p19  a  b  c  d  e         25 instead of 46
    position   0 ..  19 20 21 22 21 22
    nodes     (start 0, end 21, stop 25, parent -1), (21, 23, 23, 0), (23, 25, 25, 0)
    rows      states 19, 20, 20, 21, 23 predict a, b, d, c, e; six entries, because both sequences score row 0

How a model runs over a trie is `reading`'s and `attention`'s business, text is `chat`'s, losses are `train`'s.

Shape suffixes: T trie tokens, M nodes, S states that predict something, R scored rows (distinct pairs of a state and
its target), E entries (a row as scored by one sequence), N sequences, L tokens of one sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trueline.trie.layout import Layout

MIN_SHARED = 16


@dataclass(frozen=True, eq=False)
class Sequence:
    """One token sequence and which of its tokens are targets.

    ids: int64 [L], L >= 1. scored: bool [L]; scored[t] says that the log-prob of token t given tokens 0..t-1 is wanted,
    so scored[0] is always False: nothing predicts the first token.
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
        if self.ids.min() < 0:
            raise ValueError(f"token ids are not negative; this sequence holds {self.ids.min()}")

    @classmethod
    def of(cls, prompt_ids: Iterable[int], answer_ids: Iterable[int]) -> Sequence:
        """Prompt then answer, scored on the answer's tokens."""
        prompt, answer = list(prompt_ids), list(answer_ids)
        return cls(np.array(prompt + answer, dtype=np.int64), np.arange(len(prompt) + len(answer)) >= len(prompt))

    def __len__(self) -> int:
        return int(self.ids.size)

    def key(self) -> bytes:
        """Bytes that sort as the ids do, a prefix before what it begins."""
        return prefix_key(self.ids)


@dataclass(eq=False)
class Trie:
    """Sequences as one batch.

    nodes [M, 4]: start, end, stop, parent: own tokens [start, end), subtree [start, stop), index of the parent or -1.
    state_S: trie indices of the states that predict something, ascending; row_state_R: which of them predicts row r's
    target_R, ascending. entry_row_E and entry_seq_E: for each scored token of each sequence, in the order of the
    sequences and their tokens, its row and its sequence. last_N: trie index of each sequence's last token; of the one
    before it where the last ones were left out (`ends` is False).
    """

    sequences: tuple[Sequence, ...]
    nodes: np.ndarray
    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    state_S: torch.Tensor
    row_state_R: torch.Tensor
    target_R: torch.Tensor
    entry_row_E: torch.Tensor
    entry_seq_E: torch.Tensor
    last_N: torch.Tensor
    ends: bool = True
    layouts: dict[frozenset[str], Layout] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """How many sequences the trie holds."""
        return len(self.sequences)

    @property
    def row_R(self) -> torch.Tensor:
        """Trie index of the state that predicts target_R."""
        return self.state_S[self.row_state_R]

    @property
    def state_E(self) -> torch.Tensor:
        """Which of the states state_S predicts each scored token of each sequence."""
        return self.row_state_R[self.entry_row_E]

    def __len__(self) -> int:
        """Trie tokens: what a forward pass costs."""
        return self.tokens_T.numel()

    def to(self, device: torch.device | str) -> Trie:
        """This trie with its tensors on `device`."""
        if self.tokens_T.device == torch.device(device):
            return self
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, layouts={}, **moved)

    def layout(self, want: frozenset[str]) -> Layout:
        """What attention needs to know of this trie; made once, with the plans that layers have asked for."""
        if want not in self.layouts:
            read = [self.state_S] * bool(want & {"logps", "kl", "scored_hidden"})
            read += [self.last_N] * bool(want & {"last_hidden", "last_states"})
            # Asked for every token, the last layer may leave none out.
            read += [torch.arange(len(self), device=self.last_N.device)] * ("states" in want)
            read_K = torch.cat(read or [self.state_S[:0]]).unique()
            arrays = (self.nodes, self.positions_T.cpu().numpy(), read_K.cpu().numpy())
            self.layouts[want] = Layout(*arrays, device=self.tokens_T.device)
        return self.layouts[want]


@dataclass(frozen=True)
class _Node:
    """Tokens [depth, end) of the sorted sequence `low`, shared by those after it; the sequences `enders` end here."""

    low: int
    depth: int
    end: int
    parent: int
    enders: range


def prefix_key(ids: np.ndarray) -> bytes:
    """Bytes that sort as the ids do, a prefix before what it begins."""
    return ids.astype(">i8").tobytes()


def in_token_order(ids: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """Order of the sequences by their ids, and how many tokens each shares with the one before it (0 for the first)."""
    keys = [prefix_key(of) for of in ids]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shared = [0, *(common(ids[a], ids[b]) for a, b in itertools.pairwise(order))]
    return order, shared[: len(order)]


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix."""
    n = min(a.size, b.size)
    differs = a[:n] != b[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n


def _nodes(lengths: list[int], shared: list[int], min_shared: int) -> Iterator[_Node]:
    """Nodes in preorder. `lengths` and `shared` are of the sorted sequences.

    Sorted sequences low..high-1 that share `end` tokens split where a neighbour shares no more than that; the node pays
    if writing its tokens once, and not once per branch, saves at least `min_shared`.
    """
    count = 0
    stack = [(0, len(lengths), 0, -1)] if lengths else []
    while stack:
        low, high, depth, parent = stack.pop()
        if high - low == 1:
            yield _Node(low, depth, lengths[low], parent, range(low, high))
            count += 1
            continue
        end = min(shared[low + 1 : high])
        cuts = [low, *(i for i in range(low + 1, high) if shared[i] == end), high]
        if end > depth and (end - depth) * (len(cuts) - 2) >= min_shared:
            enders = sum(1 for i in cuts[:-1] if lengths[i] == end)
            yield _Node(low, depth, end, parent, range(low, low + enders))
            depth, parent = end, count
            count += 1
            cuts = cuts[enders:]
        stack.extend((a, b, depth, parent) for a, b in reversed(list(itertools.pairwise(cuts))))


def build(sequences: Iterable[Sequence], min_shared: int = MIN_SHARED, ends: bool = True) -> Trie:
    """The trie of `sequences`; sharing that saves fewer than `min_shared` tokens is not worth a node.

    ends: False leaves out every sequence's last token: its log-prob is there all the same, its hidden state is not.
    """
    given = tuple(sequences)
    if not given:
        raise ValueError("a trie needs at least one sequence")
    ids = _standing(given, ends)
    order, shared = in_token_order(ids)
    nodes: list[list[int]] = []
    tokens: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    cells: list[np.ndarray] = [np.zeros(0, np.int64)] * len(given)
    paths: list[np.ndarray] = []
    start = 0
    for node in _nodes([len(ids[i]) for i in order], shared, min_shared):
        size = node.end - node.depth
        nodes.append([start, start + size, start + size, node.parent])
        tokens.append(ids[order[node.low]][node.depth : node.end])
        depths.append(np.arange(node.depth, node.end))
        before = paths[node.parent] if node.parent >= 0 else np.zeros(0, np.int64)
        paths.append(np.concatenate([before, np.arange(start, start + size)]))
        for ender in node.enders:
            cells[order[ender]] = paths[-1]
        start += size
    for node_row in reversed(nodes):
        if node_row[3] >= 0:
            nodes[node_row[3]][2] = max(nodes[node_row[3]][2], node_row[2])
    arrays = [torch.from_numpy(array) for array in _rows(given, cells)]
    state_S, row_state_R, target_R, entry_row_E, entry_seq_E, last_N = arrays
    return Trie(
        given,
        np.array(nodes, dtype=np.int64),
        torch.from_numpy(np.concatenate(tokens)),
        torch.from_numpy(np.concatenate(depths)),
        state_S,
        row_state_R,
        target_R,
        entry_row_E,
        entry_seq_E,
        last_N,
        ends,
    )


def _standing(given: Iterable[Sequence], ends: bool) -> list[np.ndarray]:
    """The ids of each sequence that stand in the trie."""
    return [s.ids if ends or len(s) == 1 else s.ids[:-1] for s in given]


def _rows(given: tuple[Sequence, ...], cells: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """state_S, row_state_R, target_R, entry_row_E, entry_seq_E, last_N; `cells` are each sequence's trie indices."""
    scored = [np.flatnonzero(s.scored) for s in given]
    state_E = np.concatenate([cell[at - 1] for cell, at in zip(cells, scored, strict=True)])
    target_E = np.concatenate([s.ids[at] for s, at in zip(given, scored, strict=True)])
    seq_E = np.repeat(np.arange(len(given)), [at.size for at in scored])
    vocabulary_size = int(target_E.max(initial=0)) + 1
    pair_R, row_E = np.unique(state_E * vocabulary_size + target_E, return_inverse=True)
    state_S, row_state_R = np.unique(pair_R // vocabulary_size, return_inverse=True)
    last_N = np.array([cell[-1] for cell in cells], dtype=np.int64)
    return state_S, row_state_R, pair_R % vocabulary_size, row_E, seq_E, last_N


def size(sequences: Iterable[Sequence], min_shared: int = MIN_SHARED) -> int:
    """Trie tokens that `build` would give, without building."""
    ids = _standing(sequences, True)
    order, shared = in_token_order(ids)
    return sum(node.end - node.depth for node in _nodes([len(ids[i]) for i in order], shared, min_shared))
