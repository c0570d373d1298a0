"""A judging slow enough to be killed: `python -m tests.feedback.killable STORE LOG` makes it, logging each question."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Item, Verdict
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups

PROMPTS, SHARD = 60, 4


@stage(Groups, name="numbers")
def numbers(work: Work, n: int) -> None:
    """Two answers of different length to each of n prompts."""
    groups = [Group(Prompt.of(str(i)), (Completion("a" * (i % 7)), Completion("b" * (i % 5)))) for i in range(n)]
    write_jsonl(work.dir / "groups.jsonl", groups)


@dataclass(frozen=True)
class Slow:
    """Prefers the longer answer, after a while; every question goes to the file that $QUESTIONS names."""

    name: str = "slow"

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        out = []
        with open(os.environ["QUESTIONS"], "a") as log:
            for prompt, first, second in items:
                time.sleep(0.002)
                log.write(f"{prompt.text} {first} {second}\n")
                out.append(Verdict(0.5 + (len(first) - len(second)) / 20, f"{first} or {second}"))
        return out


def judged() -> Groups:
    """The artefact that the test kills."""
    return judge(numbers(PROMPTS), Compare(Slow()))


if __name__ == "__main__":
    make(judged(), store=sys.argv[1], machine=Machine(shard=SHARD))
