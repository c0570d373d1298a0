"""An engine that invents queries, slowly enough to be killed: `python -m tests.prompts.inventor STORE` makes some.

What it writes depends on the examples that it is shown, as a model's does.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trueline.feedback.protocol import meter
from trueline.pipeline import make
from trueline.prompts.invent import SAMPLING, invent
from trueline.records import Completion, Prompt
from trueline.sample.protocol import Sampling
from trueline.store import Prompts

ASK = ("How do I", "Where can one", "Who would", "Why did nobody", "When should we", "May I")
DO = ("paint", "sell", "bury", "repair", "carry", "borrow", "photograph", "weigh", "hide", "name")
WHAT = ("a boat", "two goats", "the old bridge", "some honey", "my violin", "a letter", "the tower clock", "wet coal")
WHERE = ("in winter", "after dinner", "on a mountain", "with a friend", "for less money", "before the war", "by night")
ENDS = ("?", " at all?", " these days?", "", " when it rains and the river rises?", " without any help from others?")


def query(text: str) -> str:
    """What is written after a text: a function of it."""
    rng = random.Random(hashlib.sha256(text.encode()).hexdigest())
    if rng.random() < 0.1:
        return rng.choice(("", "?!", "Hm", "x" * 260))
    ask, do, what, where, end = (rng.choice(of) for of in (ASK, DO, WHAT, WHERE, ENDS))
    name, other = ("".join(rng.choices("abdegiklmnorstu", k=5)) for _ in range(2))
    return f"{ask} {do} {what} {where} {name} {other}{end}"


@dataclass(frozen=True)
class Inventor:
    """Writes one query per text. seconds: that a call takes. log: a file that gets a line per text."""

    name: str = "inventor"
    seconds: float = 0.0
    log: str = ""

    def __enter__(self) -> Inventor:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Queries, each followed by another line unless that is a stop."""
        time.sleep(self.seconds)
        meter("calls", len(prompts))
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{p.id}\n" for p in prompts))
        return [[self._said(p.text + p.id * (i > 0), sampling, i) for i in range(sampling.n)] for p in prompts]

    def _said(self, text: str, sampling: Sampling, index: int) -> Completion:
        first = " " + query(f"{text}{sampling.seed}{index}")
        if "\n" in sampling.stop:
            return Completion(first, self.name)
        return Completion(f"{first}\nQuery: {query(first)}\nQuery: {query(first + '2')}", self.name, stopped="length")

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Zeros."""
        return [[(0.0,) for _ in given] for given in completions]


def invented(log: str, seconds: float) -> Prompts:
    """The artefact that the test kills."""
    return invent(Inventor(log=log, seconds=seconds), 40, batch=4, sampling=SAMPLING)


if __name__ == "__main__":
    make(invented(str(Path(sys.argv[1]) / "asked.log"), 0.05), store=sys.argv[1])
