"""One pass of a model over a trie, and what is read where the hidden states reach its output head.

`forward` is the only forward pass of training and scoring; `padded_forward` is its plain twin, and the way of models
that attention cannot take over a trie. What is computed from the states at the head is `vocabulary`'s and
`distributions`' business, how attention runs over a trie `attention`'s.

A reference may run over a trie of its own (`Against`): the same answers after other prompts. Its states are aligned
with the policy's scored token by scored token, and each pair of states that belong together is compared once.

Shape suffixes: T trie tokens, S states that predict something, R scored rows (distinct pairs of a state and its
target), E entries (a row as scored by one sequence), N sequences, L tokens of one sequence, D hidden width, V
vocabulary, X all positions of a batch, M pairs of a policy's and a reference's state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from trueline.trie import attention, distributions, states, vocabulary
from trueline.trie.outputs import Outputs
from trueline.trie.tries import Sequence, Trie, build

LOGPS: frozenset[str] = frozenset({"logps"})
WHOLE = frozenset({"kl", "entropy"})
"""What is read of whole next-token distributions; log-probs come with it."""
WANTED = frozenset({"logps", "greedy", "last_hidden", "scored_hidden"}) | WHOLE | states.STATES


@dataclass(frozen=True, eq=False)
class Against:
    """What next-token distributions are compared with: another model, which runs beside without gradient.

    trie: what it runs over: of every sequence the same scored tokens, after whatever this model is to see before them;
    None is the policy's own trie. reverse: KL(policy || reference) instead of KL(reference || policy). excluded: tokens
    that the divergence leaves out, both sides renormalised over the others.
    """

    model: Any
    trie: Trie | None = None
    reverse: bool = False
    excluded: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is read at the output head: rows of the states state_S (trie indices), and which row and state each entry
    takes; theirs_S: which of the reference's states each is compared with, None in the order they are in."""

    state_S: torch.Tensor
    row_state_R: torch.Tensor
    target_R: torch.Tensor
    entry_row_E: torch.Tensor
    entry_state_E: torch.Tensor
    theirs_S: torch.Tensor | None = None

    @classmethod
    def of(cls, trie: Trie, other: Trie | None) -> _Rows:
        """Those of the trie itself; beside another trie, one state for each pair of states that some entry reads."""
        if other is None:
            return cls(trie.state_S, trie.row_state_R, trie.target_R, trie.entry_row_E, trie.state_E)
        if not torch.equal(trie.entry_seq_E, other.entry_seq_E):
            raise ValueError("the reference's sequences score other tokens than the policy's")
        many = other.state_S.numel()
        pair_M, entry_pair_E = torch.unique(trie.state_E * many + other.state_E, return_inverse=True)
        target_E = trie.target_R[trie.entry_row_E]
        tokens = int(target_E.max()) + 1 if target_E.numel() else 1
        row_R, entry_row_E = torch.unique(entry_pair_E * tokens + target_E, return_inverse=True)
        return cls(
            trie.state_S[pair_M // many], row_R // tokens, row_R % tokens, entry_row_E, entry_pair_E, pair_M % many
        )


def forward(
    model: Any, trie: Trie, want: frozenset[str] = LOGPS, chunk: int = 0, against: Against | None = None
) -> Outputs:
    """Log-probs (and what else `want` names: "logps", "last_hidden", "scored_hidden", "last_states", "states") of every
    sequence, differentiable; with "greedy" beside "logps", not differentiable. "entropy" is that of the whole
    next-token distribution at each scored token, "kl" its divergence from the reference `against`; log-probs come with
    both.

    The only forward pass of training and scoring. `model` is a causal language model of transformers, plain or wrapped
    (PEFT, data-parallel); the first call on a model proves it over a tiny trie (`attention.enable`), and one that fails
    runs padded here, with the same results. `chunk` bounds how many states meet the vocabulary at once (0: chosen).
    """
    if unknown := want - WANTED:
        raise ValueError(f"a forward pass gives {sorted(WANTED)}, not {sorted(unknown)}")
    if not trie.ends and want - {"logps", "greedy"}:
        raise ValueError("this trie was built without the last tokens, so it has log-probs only")
    if "greedy" in want and want & WHOLE:
        raise ValueError(f"greedy tokens come without {sorted(want & WHOLE)}")
    path = attention.path(model)
    trie = trie.to(next(model.parameters()).device)
    other, theirs = None, None
    if "kl" in want:
        if against is None:
            raise ValueError("a divergence needs the model it is from")
        other = None if against.trie is None else against.trie.to(trie.tokens_T.device)
        theirs = beside(against, other or trie)
    want = want | LOGPS if want & WHOLE else want
    if path.head and path.kernel:
        return _over_trie(model, trie, want, chunk, _Rows.of(trie, other), theirs)
    theirs = None if theirs is None else theirs.at((other or trie).state_E)
    return _padded(model, trie, want, chunk, theirs) if path.head else padded_forward(model, trie, want, theirs)


def _over_trie(
    model: Any, trie: Trie, want: frozenset[str], chunk: int, rows: _Rows, theirs: distributions.Reference | None
) -> Outputs:
    """A pass whose attention runs over the trie; `theirs` at its own states."""
    path = attention.path(model)
    inputs = {"input_ids": trie.tokens_T[None], "position_ids": trie.positions_T[None]}
    if theirs is not None and rows.theirs_S is not None:
        theirs = theirs.at(rows.theirs_S)
    given_rows = (rows.state_S, rows.row_state_R, rows.target_R, trie.last_N)
    read = _Reader(*given_rows, want, attention.after(model), chunk, theirs, trie.state_S)
    with attention.passing(trie.layout(want), path.kernel, path.last) as given:
        logps_R, last_ND = read.run(model, {**inputs, "trie": given})
    rows_E = rows.entry_row_E[slice(None if "logps" in want else 0)]
    logps_E = logps_R.index_select(0, rows_E)

    def of_entries(value: torch.Tensor | None, index_E: torch.Tensor) -> torch.Tensor | None:
        return None if value is None else value.index_select(0, index_E)

    last_states, all_states = read.picked()
    return Outputs(
        logps_E, trie.entry_seq_E[: logps_E.numel()], trie.n, last_ND, of_entries(read.greedy_R, rows_E), last_states,
        all_states, of_entries(read.kl_S, rows.entry_state_E), read.scored_SD,
        of_entries(read.entropy_S, rows.entry_state_E),
    )  # fmt: skip


def _padded(
    model: Any, trie: Trie, want: frozenset[str], chunk: int, theirs: distributions.Reference | None
) -> Outputs:
    """A padded pass of a model that hands out what its head reads; `theirs` for each entry."""
    ids_NL, real_NL = _pad(trie.sequences, trie.tokens_T.device)
    seq_E, at_E = _entries(trie.sequences, trie.tokens_T.device)
    length = ids_NL.shape[1]
    last_N = torch.arange(trie.n, device=ids_NL.device) * length + real_NL.sum(1) - 1
    rows_E = torch.arange(seq_E.numel(), device=seq_E.device)
    target_E = ids_NL[seq_E, at_E]
    row_T = states.padded_rows(trie) if want & {"states", "scored_hidden"} else None
    scored_S = None if row_T is None else row_T[trie.state_S]
    rows = (seq_E * length + at_E - 1, rows_E, target_E, last_N)
    read = _Reader(*rows, want, attention.after(model), chunk, theirs, scored_S)
    logps_E, last_ND = read.run(model, {"input_ids": ids_NL})
    picked = (*read.picked(row_T), read.kl_S, read.scored_SD, read.entropy_S)
    return Outputs(logps_E, seq_E[: logps_E.numel()], trie.n, last_ND, read.greedy_R, *picked)


def beside(against: Against, trie: Trie) -> distributions.Reference:
    """What the model of `against` says at the states state_S of `trie`, as its head can be asked for it; without
    gradient."""
    model, how = against.model, (against.reverse, against.excluded)
    with torch.no_grad():
        if attention.path(model).head:
            hidden_SD = forward(model, trie, frozenset({"scored_hidden"})).scored_hidden_SD
            assert hidden_SD is not None
            head = attention.core(model).get_output_embeddings()
            return distributions.Reference(hidden_SD, head, attention.after(model), *how)
        # Its logits are not its head's: they are kept as they are.
        ids_NL, _ = _pad(trie.sequences, next(model.parameters()).device)
        logits_XV = model(input_ids=ids_NL, use_cache=False).logits.flatten(0, 1)
        rows_S = states.padded_rows(trie)[trie.state_S]
        return distributions.Reference(logits_XV[rows_S], torch.nn.Identity(), vocabulary.After(), *how)


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
    theirs: distributions.Reference | None = None
    scored_S: torch.Tensor | None = None
    logps_R: torch.Tensor | None = None
    last_ND: torch.Tensor | None = None
    greedy_R: torch.Tensor | None = None
    kl_S: torch.Tensor | None = None
    entropy_S: torch.Tensor | None = None
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
        self.entropy_S = None if self.entropy_S is None else self.entropy_S + tie
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
        given = (states_SD, head, self.after, rows, targets)
        if "greedy" in self.want:
            self.logps_R, self.greedy_R = vocabulary.logps_and_greedy(*given, self.chunk)
        elif self.want & WHOLE:
            read = distributions.read(*given, self.theirs, "entropy" in self.want, self.chunk)
            self.logps_R, self.kl_S, self.entropy_S = read
        else:
            self.logps_R = vocabulary.logps(*given, self.chunk)
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
    theirs: distributions.Reference | None = None,
) -> Outputs:
    """The plain twin of `forward`: one right-padded batch, log-softmax over the logits that the model returns.

    "states" are those of the tokens of a trie: the one given, else `build(given)`. theirs: what the reference says
    where each entry is predicted.
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
    whole = distributions.of_logps(logps_EV, theirs, "entropy" in want)
    greedy_E = logits_EV.argmax(-1) == ids_NL[seq_E, at_E] if "greedy" in want else None
    if not want & {"last_hidden", "scored_hidden", *states.STATES}:
        return Outputs(logps_E, seq_E, trie.n, None, greedy_E, kl_E=whole[0], entropy_E=whole[1])
    final_XD = seen[-1].flatten(0, 1)
    last_N = torch.arange(trie.n, device=ids_NL.device) * ids_NL.shape[1] + real_NL.sum(1) - 1
    last_ND = final_XD.index_select(0, last_N) if "last_hidden" in want else None
    row_T = states.padded_rows(trie) if want & {"states", "scored_hidden"} else None
    scored_SD = final_XD[row_T[trie.state_S]] if row_T is not None and "scored_hidden" in want else None
    layers = states.flat(outputs.hidden_states, final_XD) if want & states.STATES else None
    picked = states.pick(layers, want, last_N, row_T)
    return Outputs(logps_E, seq_E, trie.n, last_ND, greedy_E, *picked, whole[0], scored_SD, whole[1])
