"""Token tries: the batch of every forward pass, in training, scoring, evaluation and reward reading alike.

Everything in alignment is one prefix with branches: chosen and rejected share a prompt, four endings share a context. A
`Trie` holds any list of token sequences with each distinct prefix token *once*, in depth-first preorder, its depth as
position id. One forward and one backward pass over it (`forward`) give every sequence's log-probs, hidden states and
gradients exactly: a shared token's contribution counts once per sequence that scores it.

Two answers of 3 tokens to a prompt of 20 that begin alike, [p0 .. p19, a, b, c] and [p0 .. p19, a, d, e]:

    tokens    p0 .. p19  a  b  c  d  e         25 instead of 46
    position   0 ..  19 20 21 22 21 22
    nodes     (start 0, end 21, stop 25, parent -1), (21, 23, 23, 0), (23, 25, 25, 0)
    rows      states 19, 20, 20, 21, 23 predict a, b, d, c, e; six entries, because both sequences score row 0

How attention runs over a trie is `attention`'s business, text is `chat`'s, losses are `train`'s.

Shape suffixes: T trie tokens, M nodes, S states that predict something, R scored rows (distinct pairs of a state and
its target), E entries (a row as scored by one sequence), N sequences, L tokens of one sequence, D hidden width, V
vocabulary.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from trueline.trie import attention, states, vocabulary
from trueline.trie.layout import Layout
from trueline.trie.outputs import Outputs as Outputs

LOGPS: frozenset[str] = frozenset({"logps"})
WANTED = frozenset({"logps", "greedy", "kl", "last_hidden", "scored_hidden"}) | states.STATES
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
        return _key(self.ids)


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


def _key(ids: np.ndarray) -> bytes:
    return ids.astype(">i8").tobytes()


def in_token_order(ids: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """Order of the sequences by their ids, and how many tokens each shares with the one before it (0 for the first)."""
    keys = [_key(of) for of in ids]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shared = [0, *(_shared(ids[a], ids[b]) for a, b in itertools.pairwise(order))]
    return order, shared[: len(order)]


def _shared(a: np.ndarray, b: np.ndarray) -> int:
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


def pack(costs: Iterable[int | Iterable[Sequence]], micro_tokens: int) -> list[list[int]]:
    """Cut examples, in order, into micro-batches of at most `micro_tokens` trie tokens each.

    Each example is given as its trie tokens (`size`) or as its sequences; sequences are counted by what they *add* to
    the batch, so that a prefix shared between examples is paid for once per batch. Returns indices; an example above
    the budget stands alone.
    """
    batches: list[list[int]] = []
    held: list[tuple[bytes, np.ndarray]] = []
    room = 0
    for index, example in enumerate(costs):
        given = None if isinstance(example, int) else list(example)
        cost = example if isinstance(example, int) else _added(held, given or [])
        if cost > room or not batches:
            batches.append([])
            room, held = micro_tokens, []
            cost = _added(held, given) if given is not None else cost
        batches[-1].append(index)
        room -= cost
    return batches


def _added(held: list[tuple[bytes, np.ndarray]], sequences: list[Sequence]) -> int:
    """Tokens that `sequences` add to the trie of the sorted `held`; they are put there."""
    added = 0
    for sequence in sequences:
        key = sequence.key()
        at = bisect.bisect_left(held, key, key=lambda item: item[0])
        near = [_shared(held[i][1], sequence.ids) for i in (at - 1, at) if 0 <= i < len(held)]
        added += len(sequence) - max(near, default=0)
        held.insert(at, (key, sequence.ids))
    return added


def forward(model: Any, trie: Trie, want: frozenset[str] = LOGPS, chunk: int = 0, reference: Any = None) -> Outputs:
    """Log-probs (and what else `want` names: "logps", "last_hidden", "scored_hidden", "last_states", "states") of every
    sequence, differentiable; with "greedy" beside "logps", not differentiable. "kl" is the divergence from
    `reference`, a model of the same vocabulary that runs over the same trie without gradient; log-probs come with it.

    The only forward pass of training and scoring. `model` is a causal language model of transformers, plain or wrapped
    (PEFT, data-parallel); the first call on a model proves it over a tiny trie (`attention.enable`), and one that fails
    runs padded here, with the same results. `chunk` bounds how many states meet the vocabulary at once (0: chosen).
    """
    if unknown := want - WANTED:
        raise ValueError(f"a forward pass gives {sorted(WANTED)}, not {sorted(unknown)}")
    if not trie.ends and want - {"logps", "greedy"}:
        raise ValueError("this trie was built without the last tokens, so it has log-probs only")
    path = attention.path(model)
    trie = trie.to(next(model.parameters()).device)
    theirs = beside(reference, trie) if "kl" in want else None
    want = want | LOGPS if theirs is not None else want
    if not path.head:
        return padded_forward(model, trie, want, theirs)
    after = attention.after(model)
    if path.kernel:
        inputs = {"input_ids": trie.tokens_T[None], "position_ids": trie.positions_T[None]}
        rows = (trie.state_S, trie.row_state_R, trie.target_R, trie.last_N)
        read = _Reader(*rows, want, after, chunk, theirs, trie.state_S)
        with attention.passing(trie.layout(want), path.kernel, path.last) as given:
            logps_R, last_ND = read.run(model, {**inputs, "trie": given})
        rows_E = trie.entry_row_E[slice(None if "logps" in want else 0)]
        greedy_E = None if read.greedy_R is None else read.greedy_R.index_select(0, rows_E)
        logps_E = logps_R.index_select(0, rows_E)
        kl_E = None if read.kl_S is None else read.kl_S.index_select(0, trie.state_E)
        picked = (*read.picked(), kl_E, read.scored_SD)
        return Outputs(logps_E, trie.entry_seq_E[: logps_E.numel()], trie.n, last_ND, greedy_E, *picked)
    ids_NL, real_NL = _pad(trie.sequences, trie.tokens_T.device)
    seq_E, at_E = _entries(trie.sequences, trie.tokens_T.device)
    length = ids_NL.shape[1]
    last_N = torch.arange(trie.n, device=ids_NL.device) * length + real_NL.sum(1) - 1
    rows_E = torch.arange(seq_E.numel(), device=seq_E.device)
    target_E = ids_NL[seq_E, at_E]
    row_T = states.padded_rows(trie) if want & {"states", "scored_hidden"} else None
    scored_S = None if row_T is None else row_T[trie.state_S]
    theirs = None if theirs is None else theirs.at(trie.state_E)
    read = _Reader(seq_E * length + at_E - 1, rows_E, target_E, last_N, want, after, chunk, theirs, scored_S)
    logps_E, last_ND = read.run(model, {"input_ids": ids_NL})
    picked = (*read.picked(row_T), read.kl_S, read.scored_SD)
    return Outputs(logps_E, seq_E[: logps_E.numel()], trie.n, last_ND, read.greedy_R, *picked)


def beside(reference: Any, trie: Trie) -> vocabulary.Reference:
    """What `reference` says at the trie's states state_S, as its head can be asked for it; without gradient."""
    with torch.no_grad():
        if attention.path(reference).head:
            hidden_SD = forward(reference, trie, frozenset({"scored_hidden"})).scored_hidden_SD
            assert hidden_SD is not None
            head = attention.core(reference).get_output_embeddings()
            return vocabulary.Reference(hidden_SD, head, attention.after(reference))
        # Its logits are not its head's: they are kept as they are.
        ids_NL, _ = _pad(trie.sequences, next(reference.parameters()).device)
        logits_XV = reference(input_ids=ids_NL, use_cache=False).logits.flatten(0, 1)
        rows_S = states.padded_rows(trie)[trie.state_S]
        return vocabulary.Reference(logits_XV[rows_S], torch.nn.Identity(), vocabulary.After())


@dataclass(eq=False)
class _Reader:
    """Reads the final hidden states, where the model hands them to its output head, by rows of the flattened batch."""

    state_S: torch.Tensor
    row_state_R: torch.Tensor
    target_R: torch.Tensor
    last_N: torch.Tensor
    want: frozenset[str]
    after: vocabulary.After
    chunk: int
    reference: vocabulary.Reference | None = None
    scored_S: torch.Tensor | None = None
    logps_R: torch.Tensor | None = None
    last_ND: torch.Tensor | None = None
    greedy_R: torch.Tensor | None = None
    kl_S: torch.Tensor | None = None
    scored_SD: torch.Tensor | None = None
    final_XD: torch.Tensor | None = None
    layers: states.Layers | None = None

    def run(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One pass of the outermost model, whose logits are a single number of no meaning."""
        with vocabulary.reading(attention.core(model).get_output_embeddings(), self._read):
            outputs = model(**inputs, use_cache=False, **states.asked(self.want))
        given = outputs.logits
        if self.final_XD is not None:
            self.layers = states.flat(outputs.hidden_states, self.final_XD)
        assert self.logps_R is not None
        if not given.requires_grad:
            return self.logps_R, self.last_ND
        # Sharding wrappers gather their weights for backward when the gradient reaches what their forward *returned*.
        tie = given.sum() * 0
        self.kl_S = None if self.kl_S is None else self.kl_S + tie
        self.scored_SD = None if self.scored_SD is None else self.scored_SD + tie
        return self.logps_R + tie, None if self.last_ND is None else self.last_ND + tie

    def _read(self, hidden: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
        hidden_XD = hidden.flatten(0, 1)
        if "last_hidden" in self.want:
            self.last_ND = hidden_XD.index_select(0, self.last_N)
        if self.want & states.STATES:
            self.final_XD = hidden_XD
        if "scored_hidden" in self.want and self.scored_S is not None:
            self.scored_SD = hidden_XD.index_select(0, self.scored_S)
        state_S, rows, targets = self.state_S, self.row_state_R, self.target_R
        if "logps" not in self.want:
            state_S, rows, targets = state_S[:0], rows[:0], targets[:0]
        states_SD = hidden_XD.index_select(0, state_S)
        given = (states_SD, head, self.after, rows, targets, self.chunk)
        if "greedy" in self.want:
            self.logps_R, self.greedy_R = vocabulary.logps_and_greedy(*given)
        elif self.reference is not None:
            self.logps_R, self.kl_S = vocabulary.logps_and_kl(*given[:-1], self.reference, self.chunk)
        else:
            self.logps_R = vocabulary.logps(*given)
        return (states_SD if state_S.numel() else hidden_XD)[None, :1, :1].clone()

    def picked(self, row_T: torch.Tensor | None = None) -> tuple[states.Layers | None, states.Layers | None]:
        """The states of all layers that were asked for."""
        return states.pick(self.layers, self.want, self.last_N, row_T)


def _pad(sequences: tuple[Sequence, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and which of them are real, int64 [N, L]."""
    length = max(len(s) for s in sequences)
    ids = np.zeros((len(sequences), length), np.int64)
    real = np.zeros((len(sequences), length), np.int64)
    for row, s in enumerate(sequences):
        ids[row, : len(s)] = s.ids
        real[row, : len(s)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(real).to(device)


def _entries(sequences: tuple[Sequence, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence and token number of each scored token."""
    at = [np.flatnonzero(s.scored) for s in sequences]
    seq = np.repeat(np.arange(len(sequences)), [a.size for a in at])
    return torch.from_numpy(seq).to(device), torch.from_numpy(np.concatenate(at)).to(device)


def padded_forward(
    model: Any,
    given: Iterable[Sequence] | Trie,
    want: frozenset[str] = LOGPS,
    reference: vocabulary.Reference | None = None,
) -> Outputs:
    """The plain twin of `forward`: one right-padded batch, log-softmax over the logits that the model returns.

    "states" are those of the tokens of a trie: the one given, else `build(given)`.
    """
    # No attention mask: nothing causal looks at what comes later, and without one attention keeps its fast kernels.
    trie = given if isinstance(given, Trie) else build(given)
    ids_NL, real_NL = _pad(trie.sequences, next(model.parameters()).device)
    seen: list[torch.Tensor] = []
    head = attention.core(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) if head is not None else None
    try:
        outputs = model(input_ids=ids_NL, use_cache=False, **states.asked(want))
    finally:
        if hook is not None:
            hook.remove()
    seq_E, at_E = _entries(trie.sequences, ids_NL.device)
    logits_EV = outputs.logits[seq_E, at_E - 1]
    logits_EV = logits_EV.to(torch.promote_types(logits_EV.dtype, torch.float32))
    logps_EV = F.log_softmax(logits_EV, dim=-1)
    logps_E = logps_EV.gather(1, ids_NL[seq_E, at_E][:, None])[:, 0]
    kl_E = None if reference is None else vocabulary.divergence(reference.at(trie.state_E).logps(), logps_EV)
    greedy_E = logits_EV.argmax(-1) == ids_NL[seq_E, at_E] if "greedy" in want else None
    if not want & {"last_hidden", "scored_hidden", *states.STATES}:
        return Outputs(logps_E, seq_E, trie.n, None, greedy_E, kl_E=kl_E)
    final_XD = seen[-1].flatten(0, 1)
    last_N = torch.arange(trie.n, device=ids_NL.device) * ids_NL.shape[1] + real_NL.sum(1) - 1
    last_ND = final_XD.index_select(0, last_N) if "last_hidden" in want else None
    row_T = states.padded_rows(trie) if want & {"states", "scored_hidden"} else None
    scored_SD = final_XD[row_T[trie.state_S]] if row_T is not None and "scored_hidden" in want else None
    layers = states.flat(outputs.hidden_states, final_XD) if want & states.STATES else None
    picked = states.pick(layers, want, last_N, row_T)
    return Outputs(logps_E, seq_E, trie.n, last_ND, greedy_E, *picked, kl_E, scored_SD)
