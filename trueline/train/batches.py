"""From rows to micro-batches: which rows go together, and the tensors an objective sees.

An optimiser step means a fixed number of examples, whatever the memory and the number of processes; how its rows are
cut into micro-batches is decided here, by trie tokens, and changes no result. Rows that begin alike go together, so
that ninety-six answers to one prompt pay for it once under each condition, and once more for a reference that sees
none.

Shape suffixes: N sequences, H heads, X probes (tokens that heads are read at, besides the last one).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from trueline import trie
from trueline.errors import UserError
from trueline.train.objectives.protocol import Batch
from trueline.trie.packing import pack_beside
from trueline.trie.tries import common, prefix_key

if TYPE_CHECKING:
    from trueline.train.rows import Row

Reference = Mapping[str, Sequence[float]]
"""Key of an example -> summed log-prob of each of its answers under the reference."""


@dataclass(frozen=True)
class Probing:
    """What an objective over labels reads: the attributes of these `heads`, at up to `probes` tokens of each answer.

    seed: of the draw, together with the answer itself, so that it depends on neither micro-batches nor processes.
    """

    heads: tuple[str, ...]
    probes: int
    seed: tuple[int, ...]


def share(rows: Sequence[Row], indices: np.ndarray, process: int, processes: int) -> list[int]:
    """The rows of one optimiser step that `process` works on: dealt by cost, dearest first, to whoever has least."""
    dearest_first = sorted((int(i) for i in indices), key=lambda i: (-rows[i].cost, i))
    if processes == 1:
        return dearest_first
    loads = [0] * processes
    mine = []
    for index in dearest_first:
        lightest = loads.index(min(loads))
        loads[lightest] += rows[index].cost
        if lightest == process:
            mine.append(index)
    return mine


def micro_batches(
    rows: Sequence[Row],
    indices: Sequence[int],
    micro_tokens: int,
    reference: Reference | None,
    probing: Probing | None = None,
) -> list[Batch]:
    """One process' batches of an optimiser step, each of at most `micro_tokens` trie tokens (one row at least), a
    reference's own trie included."""
    mine = [rows[i] for i in indices]
    order = beginning_alike(mine)
    if order is None:
        groups = trie.pack([row.cost for row in mine], micro_tokens)
    else:
        mine = [mine[i] for i in order]
        groups = pack_beside(((row.sequences, row.reference) for row in mine), micro_tokens)
    return [collate([mine[i] for i in group], reference, probing) for group in groups]


def beginning_alike(rows: Sequence[Row]) -> list[int] | None:
    """The rows by bare prompt, then by what the policy sees; None where no two share enough to gain from a trie."""
    if len(rows) < 2:
        return None

    def keys(row: Row) -> tuple[bytes, bytes]:
        first = row.sequences[0]
        bare = row.reference[0] if row.reference else first
        return prefix_key(bare.ids[: int(bare.scored.argmax())]), first.key()

    order = sorted(range(len(rows)), key=lambda i: keys(rows[i]))
    for a, b in itertools.pairwise(order):
        pairs = [(rows[a].sequences[0], rows[b].sequences[0]), *zip(rows[a].reference, rows[b].reference, strict=False)]
        if any(common(one.ids, other.ids) >= trie.MIN_SHARED for one, other in pairs):
            return order
    return None


def collate(rows: Sequence[Row], reference: Reference | None = None, probing: Probing | None = None) -> Batch:
    """One micro-batch of rows, on the CPU."""
    sequences = [s for row in rows for s in row.sequences]
    sizes = np.array([len(row.sequences) for row in rows])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pairs = np.flatnonzero(sizes == 2)
    labels = [row.p for row in rows if len(row.sequences) == 2]
    logps = None
    if reference is not None:
        logps = torch.tensor([x for row in rows for x in reference[row.key]], dtype=torch.float64)
    batch = Batch(
        trie=trie.build(sequences),
        keys=[row.key for row in rows],
        counts_N=torch.tensor([int(s.scored.sum()) for s in sequences]),
        chosen_P=torch.from_numpy(starts[pairs]),
        rejected_P=torch.from_numpy(starts[pairs] + 1),
        p_P=torch.tensor(labels, dtype=torch.float32),
        reference_logps_N=logps,
        reference_trie=trie.build([s for row in rows for s in row.reference]) if rows[0].reference else None,
        ranks=tuple(row.rank for row in rows for _ in row.sequences),
        given={name: torch.from_numpy(np.concatenate([row.given[name] for row in rows])) for name in rows[0].given},
    )
    if probing is not None:
        probe(batch, rows, probing)
    return batch


def probe(batch: Batch, rows: Sequence[Row], probing: Probing) -> None:
    """Give the batch its labels, and the tokens that heads are read at."""
    laid = batch.trie
    # Entry e is the e-th scored token, sequence after sequence; the state that predicts it is the token before.
    states = laid.row_state_R[laid.entry_row_E].numpy()
    before = laid.state_S.numel()
    first_entry = np.concatenate([[0], np.cumsum([int(s.scored.sum()) for s in laid.sequences])])
    seqs, ats, weights, labels = [], [], [], []
    keys = [f"{row.key}/{number}" for row in rows for number in range(len(row.sequences))]
    given = [row.labels for row in rows for _ in row.sequences]
    for n, (sequence, key) in enumerate(zip(laid.sequences, keys, strict=True)):
        places, at = turn(sequence)
        drawn = draw(places, probing.probes, (*probing.seed, zlib.crc32(key.encode())))
        where = [before + n if at[i] < 0 else states[first_entry[n] + at[i]] for i in drawn]
        seqs += [n] * len(drawn)
        ats += where
        weights.append(places[drawn] / places[drawn].sum())
        labels.append([given[n].get(name, np.nan) for name in probing.heads])
    batch.heads = probing.heads
    batch.labels_NH = torch.tensor(labels, dtype=torch.float32)
    batch.probe_seq_X, batch.probe_at_X = torch.tensor(seqs), torch.tensor(ats)
    batch.probe_weight_X = torch.from_numpy(np.concatenate(weights)).to(torch.float32)


def turn(sequence: trie.Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Positions (from 1) in its turn of the tokens of an answer that can be read, and where their states lie.

    Where: the number of the scored token that the state predicts, among the sequence's own; -1 for the last token. An
    end-of-turn that is there to be read but not scored leaves the token before it out.
    """
    scored = np.flatnonzero(sequence.scored)
    start = int(scored[0]) if scored.size else len(sequence) - 1
    after_first = scored[1:] if scored.size else scored
    places = np.append(after_first - start, len(sequence) - start)
    return places, np.append(np.arange(1, 1 + after_first.size), -1)


def draw(places: np.ndarray, most: int, seed: tuple[int, ...]) -> np.ndarray:
    """Indices of up to `most` places, ascending: the last, and others by chances proportional to their positions."""
    others = places.size - 1
    n = min(most - 1, others)
    chosen = np.arange(others)
    if n < others:
        chances = places[:-1] / places[:-1].sum()
        chosen = np.sort(np.random.default_rng(seed).choice(others, size=n, replace=False, p=chances))
    return np.append(chosen, others)


def to(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with its tensors on `device`."""
    if torch.device(device).type == "cpu":
        return batch
    for name in (
        "trie", "reference_trie", "counts_N", "chosen_P", "rejected_P", "p_P", "reference_logps_N", "labels_NH",
        "probe_seq_X", "probe_at_X", "probe_weight_X",
    ):  # fmt: skip
        value = getattr(batch, name)
        if value is not None:
            wide = isinstance(value, torch.Tensor) and value.dtype == torch.float64
            # Apple's GPUs have no float64.
            value = value.float() if wide and torch.device(device).type == "mps" else value
            setattr(batch, name, value.to(device))
    batch.given = {name: value.to(device) for name, value in batch.given.items()}
    return batch


def check_pairs(rows: Sequence[Row], needs: frozenset[str]) -> None:
    """Refuse rows of one answer for an objective over pairs, and pairs for one over single answers."""
    wanted = 2 if "pairs" in needs else 1
    if any(len(row.sequences) != wanted for row in rows):
        view = "Pairs" if wanted == 2 else "Demonstrations"
        other = 1 if wanted == 2 else 2
        raise UserError("the training examples", f"they hold {other} answers each", f"{wanted}", f"Use {view}(...).")


def check_reference(rows: Sequence[Row], reference: Reference) -> None:
    """Every row has its reference log-probs."""
    missing = sum(row.key not in reference for row in rows)
    if missing:
        cure = "Score them with the same max_length and long as the training."
        raise UserError("the reference log-probs", f"{missing} of {len(rows)} rows have none", "one per row", cure)


def check_stripped(rows: Sequence[Row], needs: frozenset[str]) -> None:
    """Refuse rows without bare prompts for an objective whose reference reads those."""
    if "stripped" in needs and not all(row.reference for row in rows):
        cure = "Encode them with Encoder(stripped=True)."
        raise UserError("the training rows", "they hold no bare prompts", "those that the reference reads", cure)


def check_labels(rows: Sequence[Row], heads: Sequence[str]) -> None:
    """Refuse to train heads for whose attribute no row has a score."""
    found = sorted({name for row in rows for name in row.labels})
    for name in heads:
        if name not in found:
            wanted = f"scores of one of {', '.join(found)}" if found else "scores of attributes"
            cure = "Name the heads after attributes of the view Rated(...), or those to train in Steer(attributes=...)."
            raise UserError("the training examples", f'none has a score for the head "{name}"', wanted, cure)
