"""A drawing over HTTP that can be killed: python -m tests.sample.served.killable STORE URL"""

from __future__ import annotations

import sys

from trueline.machine import Machine
from trueline.machine import using as on
from trueline.pipeline import Work, make, stage
from trueline.records import Prompt, write_jsonl
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.sample.served import Connection, OpenAI
from trueline.store import Prompts, using

PROMPTS, CONCURRENCY = 100, 4


@stage(Prompts, name="numbered", estimate=lambda n, **_: {"prompts": n})
def numbered(work: Work, n: int) -> None:
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"Question number {i}?") for i in range(n)])
    work.count("prompts", n)


def drawn(url):
    engine = OpenAI("m", Connection(url + "/v1", concurrency=CONCURRENCY, backoff_s=0.02))
    return draw(engine, numbered(PROMPTS), Sampling(n=2, max_tokens=12, seed=3))


if __name__ == "__main__":
    with using(sys.argv[1]), on(Machine(shard=40)):
        make(drawn(sys.argv[2]))
