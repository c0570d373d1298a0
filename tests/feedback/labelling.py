"""A labelling over HTTP that can be killed: python -m tests.feedback.labelling STORE URL PAIRS

The judge that the server plays prefers the longer answer; it mumbles about some questions once, about some always.
"""

from __future__ import annotations

import hashlib
import re
import sys

from trueline.feedback.annotator import Annotator
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.machine import Machine
from trueline.machine import using as on
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.sample.served import Connection, OpenAI
from trueline.store import Groups, using

CONCURRENCY, SHARD = 16, 1000
SHOWN = re.compile(
    r"Question number (\d+)\?.*\[ANSWER A\]\n(.*)\n\[END OF ANSWER A\].*\[ANSWER B\]\n(.*)\n\[END OF", re.S
)


@stage(Groups, name="numbered_pairs", estimate=lambda n, **_: {"groups": n, "samples": 2 * n})
def numbered_pairs(work: Work, n: int) -> None:
    """Two answers of different length to each of n questions."""
    lengths = [(3 + i % 5, 3 + i // 5 % 5 + 6 * (i % 5 == i // 5 % 5)) for i in range(n)]
    answers = [tuple(Completion(f"{side} " * length) for side, length in zip("pq", of, strict=True)) for of in lengths]
    groups = [Group(Prompt.of(f"Question number {i}?"), pair) for i, pair in enumerate(answers)]
    write_jsonl(work.dir / "groups.jsonl", groups)
    work.count("groups", n)


def mumbles(number: int) -> int:
    """About how many requests of a question the judge mumbles: of 100 questions once about one, always about one."""
    share = hashlib.sha256(str(number).encode()).digest()[0] / 256
    return 0 if share >= 0.02 else 9 if share < 0.01 else 1


def say(body: dict, index: int) -> str:
    """The reply of the judge."""
    text = body["messages"][-1]["content"]
    number, first, second = SHOWN.search(text).groups()
    asked = re.search(r"\((\d) of 3\)$", text, re.MULTILINE)
    if mumbles(int(number)) >= (int(asked[1]) if asked else 1):
        return "Both have their merits."
    return "A" if len(first) > len(second) else "B"


def labelled(url: str, pairs: int, **more: int) -> Groups:
    """The artefact. more: settings of the connection."""
    waits = {"timeout_s": 2.0, "backoff_s": 0.02, "longest_s": 0.5, "retries": 12}
    reach = Connection(url + "/v1", concurrency=CONCURRENCY, **waits, **more)
    return judge(numbered_pairs(pairs), Compare(Annotator(OpenAI("judge", reach)), orders=1))


if __name__ == "__main__":
    with using(sys.argv[1]), on(Machine(shard=SHARD)):
        make(labelled(sys.argv[2], int(sys.argv[3])))
