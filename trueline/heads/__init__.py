"""Preference heads: `spec` says what to build and keeps it in files, `readout` is the module, `turns` its attention
over the turns of a conversation. Nothing here imports torch before a head is built.
"""

from trueline.heads.spec import (
    SPEC,
    WEIGHTS,
    AttentionPooler,
    Head,
    Last,
    Layer,
    ModelShape,
    Pooler,
    WeightedSum,
    column,
    found_in,
    layers_of,
    names_in,
    open,
    require,
    rewards,
    save,
    shape_of,
)

__all__ = [
    "SPEC",
    "WEIGHTS",
    "AttentionPooler",
    "Head",
    "Last",
    "Layer",
    "ModelShape",
    "Pooler",
    "WeightedSum",
    "column",
    "found_in",
    "layers_of",
    "names_in",
    "open",
    "require",
    "rewards",
    "save",
    "shape_of",
]
