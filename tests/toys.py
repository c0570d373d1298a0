"""Small honest stages for the tests of the pipeline: prompts, answers that are their prompt reversed, a toy training.

`python -m tests.toys STORE WHAT` makes one of them in a process of its own, slowly enough to be killed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueline.fingerprint import added
from trueline.pipeline import Work, make, shards, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, Policy, Prompts


@stage(Prompts, label="asked", estimate=lambda n, **_: {"prompts": n})
def ask(work: Work, n: int, seed: int = 0) -> None:
    """`n` prompts."""
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"question {seed} {i}") for i in range(n)])
    work.count("prompts", n)


@dataclass(frozen=True)
class Backwards:
    """Answers by reversing the question; refuses every `refuse`-th (0: none)."""

    times: int = 1
    refuse: int = 0
    shout: bool = added(False)


@stage(
    Groups,
    label="answered",
    estimate=lambda prompts, how, **_: {"samples": how.times * prompts.count["prompts"]},
)
def answer(work: Work, prompts: Prompts, how: Backwards = Backwards(), slow: float = 0.0) -> None:
    """Each prompt with `times` answers; drops what is refused."""

    def process(batch: Sequence[Prompt]) -> list[Group]:
        out = []
        for prompt in batch:
            time.sleep(slow)
            number = int(prompt.text.split()[-1])
            if how.refuse and number % how.refuse == 0:
                work.drop("refused", prompt)
                continue
            text = prompt.text[::-1].upper() if how.shout else prompt.text[::-1]
            out.append(Group(prompt, (Completion(text),) * how.times))
            work.count("samples", how.times)
        return out

    shards(work, list(prompts.read()), process, size=4)


@stage(Policy, label="trained", estimate=lambda groups, steps, **_: {"train_tokens": steps})
def learn(work: Work, groups: Groups, steps: int, slow: float = 0.0) -> None:
    """Sums hashes over `steps` steps, with a checkpoint every fifth: exact resume is visible in the sum."""
    checkpoint = work.scratch / "checkpoint.json"
    state: dict[str, Any] = {"step": 0, "total": 0}
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
        work.restore(state["work"])
    texts = [group.prompt.text for group in groups.read()]
    with work.progress(steps, "steps", done=state["step"]) as meter:
        for step in range(state["step"] + 1, steps + 1):
            time.sleep(slow)
            state["total"] = (state["total"] * 31 + len(texts[step % len(texts)]) + step) % 1_000_003
            work.log({"step": step, "total": state["total"]})
            work.count("train_tokens")
            if step % 7 == 0:
                work.drop("a seventh", {"step": step})
            if step % 5 == 0:
                partial = checkpoint.with_suffix(".tmp")
                partial.write_text(json.dumps({**state, "step": step, "work": work.state()}))
                partial.replace(checkpoint)
            meter.advance()
    (work.dir / "model.json").write_text(json.dumps(state["total"]))


def main(store: str, slow: float) -> None:
    """Make the toy recipe."""
    samples = answer(ask(40), Backwards(times=2, refuse=9), slow=slow)
    make(learn(samples, 60, slow=slow), store=store)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
