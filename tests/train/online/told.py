"""Rollouts whose numbers are given, and a critic and a stage of prompts that any process can import."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from trueline import models
from trueline.machine import Machine
from trueline.pipeline import make, stage
from trueline.records import Feedback, Prompt, write_jsonl
from trueline.sample.protocol import Sampling
from trueline.store import Prompts
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.online.ppo import PPO
from trueline.train.online.protocol import Rollout
from trueline.train.online.stage import online

NAMES = ["Ada", "Bert", "Clara", "Dora", "Emil", "Frieda", "Gustav", "Hanna"]


def rollout(counts, scores, group=None, logps=None, reference=None, values=None, ended=None):
    """Answers of so many tokens each; what is not given is 0, one group, and ended."""
    tokens = sum(counts)

    def numbers(given):
        return np.zeros(tokens) if given is None else np.array(given, dtype=np.float64)

    return Rollout(
        counts_N=np.array(counts),
        group_N=np.array(group or [0] * len(counts)),
        ended_N=np.array(ended or [True] * len(counts), dtype=bool),
        scores_N=np.array(scores, dtype=np.float64),
        logps_E=numbers(logps),
        reference_E=numbers(reference),
        values_E=None if values is None else numbers(values),
    )


@stage(Prompts, estimate=lambda n, **_: {"prompts": n})
def questions(work, n: int) -> None:
    """Questions that render to enough tokens to be worth sharing."""
    texts = (f"Who of the town bakes the bread number {i}, {NAMES[i % 8]} or somebody else?" for i in range(n))
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(text) for text in texts])
    work.count("prompts", n)


@dataclass(frozen=True)
class Vowels:
    """Likes answers with many vowels. quiet: says nothing of answers of fewer letters."""

    quiet: int = 0
    name = "vowels"

    def calls(self, groups, completions):
        return completions

    def __call__(self, groups):
        def score(text):
            share = sum(letter in "aeiou" for letter in text.lower()) / max(1, len(text))
            return share if len(text) >= self.quiet else None

        return [g.with_feedback(Feedback("vowels", score=score(c.text)) for c in g.completions) for g in groups]


MACHINE = Machine(device="cpu", threads=1, checkpoint_steps=7, micro_tokens=300)


def study(folder: str, iterations: int = 7):
    """A run with every moving part: values, a steered divergence, running scores; four steps to an iteration."""
    algorithm = PPO(kl=Adaptive(0.05, 1.0, 100.0), epochs=2, entropy=0.01, missing_eos=0.1)
    return online(
        models.pretrained(folder), questions(10), Vowels(), algorithm, sampling=Sampling(n=2, max_tokens=8, seed=3),
        iterations=iterations, rollout=4, batch_size=4, lr=3e-3, snapshots=(2,), label="killed",
    )  # fmt: skip


if __name__ == "__main__":
    make(study(sys.argv[1]), machine=MACHINE)
