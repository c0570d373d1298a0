"""Recurrent training: documents as contiguous streams, and the memory that each stream carries from step to step.

`pack` lays documents end to end and cuts the tape into as many streams as an optimiser step has rows; row b of step
t + 1 goes on where row b of step t ended. `Memory` does the forward pass of such a step: the model reads its segment
with what it remembers of the stream, and remembers the segment in turn, without its graph (truncated back-propagation
through time; Dai et al. 2019). Nothing marks where one document ends and another begins but their own tokens.

The loop, the objective and the optimiser are those of any training. Rows in another order would read on from the wrong
memory, so that order is checked and never shuffled.

Shape suffixes: B streams, S tokens of a segment, E scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trueline import trie
from trueline.errors import UserError
from trueline.train.rows import Row, order
from trueline.trie import attention, vocabulary

if TYPE_CHECKING:
    from trueline.train.objectives.protocol import Batch
    from trueline.train.settings import Recurrence


def key_of(stream: int, segment: int) -> str:
    """The key of a stream's segment."""
    return f"stream {stream} segment {segment}"


def place_of(key: str) -> tuple[int, int]:
    """(stream, segment) of a key."""
    _, stream, _, segment = key.split()
    return int(stream), int(segment)


def pack(rows: Sequence[Row], streams: int, segment: int, seed: int) -> list[Row]:
    """Rows of one sequence each as segments of `streams` contiguous streams: all first segments, all second ones, ...

    Documents follow each other in an order from `seed`. A segment is `segment` tokens read and `segment` predicted, so
    the last token of one is the first of the next; the last segments are shorter where the streams end. The fewer than
    `streams` tokens that are left over are not read. What is scored stays so, but for a stream's first token.

    Five tokens a b c d e in 2 streams by 1: [a b] [c d], then [b c] [d e].

    Raises `UserError` where there are fewer tokens than streams.
    """
    sequences = [rows[i].sequences[0] for i in order(len(rows), seed, 0)]
    ids = np.concatenate([s.ids for s in sequences])
    scored = np.concatenate([s.scored for s in sequences])
    length = (ids.size - 1) // streams
    if length < 1:
        cure = "Lower batch_size: it is the number of streams."
        raise UserError("train(recurrence=...)", f"{ids.size} tokens for {streams} streams", "at least 2 each", cure)
    out = []
    for number, start in enumerate(range(0, length, segment)):
        end = min(start + segment, length)
        for stream in range(streams):
            part = slice(stream * length + start, stream * length + end + 1)
            flags = scored[part].copy()
            flags[0] = False
            sequence = trie.Sequence(ids[part], flags)
            key = key_of(stream, number)
            out.append(Row((sequence,), (False,), key, whole=True, cost=len(sequence)))
    return out


def check(model: Any, processes: int) -> None:
    """Refuse models and machines that cannot train over streams."""
    where, inner = "train(recurrence=...)", attention.core(model)
    if not hasattr(inner, "new_cache"):
        cure = "Build one: trueline make pretrain --architecture lswt."
        raise UserError(where, f"{type(inner).__name__} has no memory to carry on", "an LSWT model", cure)
    if processes > 1:
        raise UserError(where, f"got {processes} processes", "one: a stream's memory stays where it is")


@dataclass(eq=False)
class Memory:
    """What each stream remembers, and the forward pass that reads and extends it."""

    recurrence: Recurrence
    rows: dict[int, list[tuple[torch.Tensor, ...]]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)

    def forward(self, model: Any, batch: Batch) -> trie.Outputs:
        """Log-probs of a micro-batch of segments, given all that their streams remember.

        Raises ValueError for a segment that does not follow the last one of its stream.
        """
        inner = attention.core(model)
        places = [place_of(key) for key in batch.keys]
        cache = inner.new_cache(self.recurrence.memory)
        for stream, segment in places:
            if segment and self.last.get(stream) != segment - 1:
                raise ValueError(f"segment {segment} of stream {stream} cannot follow {self.last.get(stream)}")
        if places[0][1]:
            cache.join([self.rows[stream] for stream, _ in places])
        outputs = self._pass(model, inner, batch.trie.sequences, cache)
        for (stream, segment), kept in zip(places, cache.split(), strict=True):
            self.rows[stream], self.last[stream] = kept, segment
        return outputs

    def _pass(self, model: Any, inner: Any, sequences: Sequence[trie.Sequence], cache: Any) -> trie.Outputs:
        device = next(model.parameters()).device
        ids_BS = torch.from_numpy(np.stack([s.ids for s in sequences])).to(device)
        seq_E, at_E = torch.from_numpy(np.stack([s.scored for s in sequences])).to(device).nonzero(as_tuple=True)
        read: list[torch.Tensor] = []

        def reader(hidden_BSD: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
            rows_E = torch.arange(seq_E.numel(), device=device)
            states_ED = hidden_BSD[seq_E, at_E - 1]
            read.append(vocabulary.logps(states_ED, head, attention.after(model), rows_E, ids_BS[seq_E, at_E]))
            return hidden_BSD[:1, :1, :1].clone()

        with vocabulary.reading(inner.get_output_embeddings(), reader):
            model(input_ids=ids_BS[:, :-1], past_key_values=cache, use_cache=True)
        return trie.Outputs(read[0], seq_E, len(sequences))

    def state(self) -> dict[str, torch.Tensor]:
        """All that is remembered, as named tensors: a training that goes on needs it."""
        return {
            f"{stream}/{self.last[stream]}/{layer}/{part}": tensor.clone()
            for stream, layers in self.rows.items()
            for layer, tensors in enumerate(layers)
            for part, tensor in enumerate(tensors)
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Remember what `state` gave."""
        found: dict[int, dict[int, list[torch.Tensor]]] = {}
        for stream, segment, layer, _ in sorted(tuple(map(int, name.split("/"))) for name in tensors):
            self.last[stream] = segment
            found.setdefault(stream, {}).setdefault(layer, [])
        for name in sorted(tensors, key=lambda name: tuple(map(int, name.split("/")))):
            stream, _, layer, _ = map(int, name.split("/"))
            found[stream][layer].append(tensors[name].to(device))
        self.rows = {stream: [tuple(layers[i]) for i in sorted(layers)] for stream, layers in found.items()}
