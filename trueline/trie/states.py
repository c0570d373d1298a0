"""Hidden states of every layer, taken out of one pass where it was asked for them.

Index 0 is what the first layer receives, the last index the state after the final norm, the one that the output head
reads; whatever the model's own class reports there. In between the outputs of the layers as they are, not normed:
transformers' models report layers + 1 states (the last layer's output is seen through the final norm alone), an LSWT
layers + 2 (it is there both ways).

Which states a head wants, and what it makes of them, is `heads`' business.

Shape suffixes: T trie tokens, N sequences, X rows of the flattened batch of one pass, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from trueline.trie import Trie

Layers = tuple[torch.Tensor, ...]

STATES = frozenset({"last_states", "states"})
"""What a pass can be asked for: the states of all layers at each sequence's last token, or at every trie token."""


def asked(want: frozenset[str]) -> dict[str, Any]:
    """The keyword arguments by which a model of transformers reports the states of its layers."""
    return {"output_hidden_states": True} if want & STATES else {}


def flat(reported: Sequence[torch.Tensor], final_XD: torch.Tensor) -> Layers:
    """What a model reported, as rows of the flattened batch, the final one as its output head read it."""
    return (*(layer.flatten(0, 1) for layer in reported[:-1]), final_XD)


def pick(
    layers: Layers | None, want: frozenset[str], last_N: torch.Tensor, row_T: torch.Tensor | None = None
) -> tuple[Layers | None, Layers | None]:
    """`Outputs.last_states` and `Outputs.states`; row_T: the row of each trie token where rows are not tokens."""
    if layers is None:
        return None, None
    last = tuple(layer.index_select(0, last_N) for layer in layers) if "last_states" in want else None
    if "states" not in want:
        return last, None
    return last, layers if row_T is None else tuple(layer.index_select(0, row_T) for layer in layers)


def paths(trie: Trie) -> list[np.ndarray]:
    """The trie indices of each sequence's tokens, in order."""
    starts = trie.nodes[:, 0]
    out = []
    for last in trie.last_N.tolist():
        at = int(np.searchsorted(starts, last, side="right")) - 1
        parts = [np.arange(starts[at], last + 1)]
        while (at := int(trie.nodes[at, 3])) >= 0:
            parts.append(np.arange(starts[at], trie.nodes[at, 1]))
        out.append(np.concatenate(parts[::-1]))
    return out


def padded_rows(trie: Trie) -> torch.Tensor:
    """row_T: where each trie token stands in the flattened, right-padded batch of the sequences.

    A shared token stands in several of them; any copy has its value and, for whatever is trained, its gradient.
    """
    longest = max(len(s) for s in trie.sequences)
    row_T = np.zeros(len(trie), np.int64)
    for number, path in enumerate(paths(trie)):
        row_T[path] = number * longest + np.arange(path.size)
    return torch.from_numpy(row_T).to(trie.tokens_T.device)
