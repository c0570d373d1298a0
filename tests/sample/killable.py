"""A drawing slow enough to be killed: `python -m tests.sample.killable STORE MODEL` makes it."""

from __future__ import annotations

import sys

from tests.sample.given import questions
from trueline.machine import Machine
from trueline.models import pretrained
from trueline.pipeline import make
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import Groups


def drawn(model: str) -> Groups:
    """The artefact that the test kills."""
    return draw(pretrained(model), questions(60), Sampling(n=2, max_tokens=24, seed=4))


if __name__ == "__main__":
    make(drawn(sys.argv[2]), store=sys.argv[1], machine=Machine(shard=3))
