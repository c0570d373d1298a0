"""A judging by Perspective to be killed: `python -m tests.feedback.scoring STORE ADDRESS` makes it."""

from __future__ import annotations

import sys

from trueline.feedback.judge import judge
from trueline.feedback.perspective import Access, Perspective
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups

TEXTS = 60


@stage(Groups, name="scoring_answers")
def answers(work: Work) -> None:
    """Two continuations of each of 30 prompts, all different."""
    rows = [
        Group(Prompt.of(str(i)), (Completion("Ab" * (i + 1)), Completion("a" * (i + 1)))) for i in range(TEXTS // 2)
    ]
    write_jsonl(work.dir / "groups.jsonl", rows)


def judged(address: str) -> Groups:
    """The artefact that the test kills; one request at a time."""
    return judge(answers(), Perspective(access=Access(address, per_second=200, concurrency=1, wait=0.01)))


if __name__ == "__main__":
    make(judged(sys.argv[2]), store=sys.argv[1], machine=Machine(shard=10))
