"""Recipes as graphs of stages: `stages` makes them, `planning` explains before anything is spent, `runs` links what was
made, `worker` makes one artefact in processes of its own, `spread` its shards on a Ray cluster, `memory` says what that
will hold, `loading` finds a recipe by name.
"""

from trueline.pipeline.planning import (
    missing,
    plan,
    show,
    upstream,
    why,
)
from trueline.pipeline.stages import (
    Body,
    Estimate,
    Stage,
    call,
    environment,
    make,
    stage,
)
from trueline.work import (
    Work,
    shards,
)

__all__ = [
    "Body",
    "Estimate",
    "Stage",
    "Work",
    "call",
    "environment",
    "make",
    "missing",
    "plan",
    "shards",
    "show",
    "stage",
    "upstream",
    "why",
]
