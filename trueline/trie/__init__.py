"""Token tries: the batch of every forward pass, training and reading alike.

`tries` builds one from token sequences, `packing` cuts examples into batches, `reading` runs a model over one; `layout`
is its geometry, `attention` (by `nodewise` or `flex`) the exact attention over it, `vocabulary` the way from hidden
states to log-probs, `distributions` to what is asked of whole distributions, `passes` many sequences cut into tries,
without gradient.
"""

from trueline.trie.outputs import (
    Outputs,
)
from trueline.trie.packing import (
    pack,
)
from trueline.trie.reading import (
    LOGPS,
    Against,
    forward,
    padded_forward,
)
from trueline.trie.tries import (
    MIN_SHARED,
    Sequence,
    Trie,
    build,
    in_token_order,
    size,
)

__all__ = [
    "LOGPS",
    "MIN_SHARED",
    "Against",
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
