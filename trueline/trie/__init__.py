"""Token tries: the batch of every forward pass, training and reading alike.

`tries` builds one from token sequences and runs a model over it; `layout` is its geometry, `attention` (by `nodewise`
or `flex`) the exact attention over it, `vocabulary` the way from hidden states to log-probs, `passes` many sequences
cut into tries, without gradient.
"""

from trueline.trie.outputs import (
    Outputs,
)
from trueline.trie.tries import (
    LOGPS,
    MIN_SHARED,
    Sequence,
    Trie,
    build,
    forward,
    in_token_order,
    pack,
    padded_forward,
    size,
)

__all__ = [
    "LOGPS",
    "MIN_SHARED",
    "Outputs",
    "Sequence",
    "Trie",
    "build",
    "forward",
    "in_token_order",
    "pack",
    "padded_forward",
    "size",
]
