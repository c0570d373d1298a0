"""Groups and prompts to train on, made by stages that any process can import; and a training to be killed."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trueline import models
from trueline.machine import Machine
from trueline.pipeline import make, stage
from trueline.records import Completion, Feedback, Group, Preference, Prompt, write_jsonl
from trueline.store import Groups, Prompts
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.stage import train
from trueline.train.views import Answer, Demonstrations, Example

NAMES = ["Ada", "Bert", "Clara", "Dora", "Emil", "Frieda", "Gustav", "Hanna"]


@stage(Groups, estimate=lambda n, **_: {"groups": n, "samples": 2 * n})
def town(work, n: int, broken: int = 0) -> None:
    """Questions with a good and a rude answer; `broken` of them with two equal ones."""
    rows = []
    for number in range(n):
        name = NAMES[number % len(NAMES)]
        texts = (f"{name} bakes it, and gladly.", "Go away." if number >= broken else f"{name} bakes it, and gladly.")
        group = Group(Prompt.of(f"Who bakes bread number {number}?"), tuple(Completion(t) for t in texts))
        group = group.with_feedback([Feedback("gold", 1.0), Feedback("gold", 0.0)])
        rows.append(group.with_preferences([Preference(0, 1, 1.0, "gold")]))
    write_jsonl(work.dir / "groups.jsonl", rows)
    work.count("groups", n)
    work.count("samples", 2 * n)


@stage(Prompts, estimate=lambda n, **_: {"prompts": n})
def texts(work, n: int) -> None:
    """Plain documents."""
    write_jsonl(work.dir / "prompts.jsonl", (Prompt.of(f"{NAMES[i % 8]} bakes bread number {i}.") for i in range(n)))
    work.count("prompts", n)


@dataclass(frozen=True)
class Praised(Demonstrations):
    """Every answer behind words that say whether it is the good or the rude one."""

    def examples(self):
        for group in self.groups.read():
            for rank, (completion, said) in enumerate(zip(group.completions, ("Good. ", "Rude. "), strict=True)):
                yield Example(group.prompt.messages, (Answer.of(completion),), condition=said, rank=rank)


def study(folder: str):
    """A training of 60 steps, long enough to be killed in the middle: all that a checkpoint has to hold."""
    start = models.pretrained(folder)
    lora = models.LoRA(r=4, dropout=0.1)
    objective = ConditionalLM(kl=Adaptive(0.05, 0.5, 100), entropy=Adaptive(0.06, 10.0, 100))
    settings = {"lr": 1e-3, "epochs": 6, "batch_size": 8, "warmup": 0.2}
    return train(start, Praised(town(40)), objective, lora=lora, label="killed", **settings)


if __name__ == "__main__":
    make(study(sys.argv[1]), machine=Machine(device="cpu", threads=1, checkpoint_steps=7, micro_tokens=300))
