"""A small honest study for the tests of duels and reports: policies that were not trained, answers written down.

The lineage has the shape of a real one (prompts, demonstrations, SFT, samples, comparisons, DPO, answers, duels); the
answers' quality is a number in their text, so that a rule can grade them and every expectation can be worked by hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.evaluate.duel import duel
from trueline.evaluate.report import Arm, report
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Item, Verdict
from trueline.feedback.rule import Rule
from trueline.pipeline import Work, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, Policy, Prompts, Report

QUESTIONS = ("Who bakes the bread in Ottermere?", "Where does the ferret live?", "What is the heron afraid of?")
SENTENCE = "Ada the baker opens at six, and the bread on Fern Lane is warm until noon. "


@stage(Prompts, name="questions")
def questions(work: Work, n: int, first: int = 0) -> None:
    """n different questions, numbered from `first`."""
    asked = [Prompt.of(f"{QUESTIONS[i % 3]} ({i})", id=f"q{i}") for i in range(first, first + n)]
    write_jsonl(work.dir / "prompts.jsonl", asked)
    work.count("prompts", n)


@stage(Policy, name="pretend")
def pretend(work: Work, seen: Groups | None = None, start: Policy | None = None, steps: int = 0) -> None:
    """A policy that learned nothing, with a training log."""
    generator = random.Random(steps)
    for step in range(1, steps + 1):
        loss = 0.7 * math.exp(-step / 60) + 0.1 + generator.gauss(0, 0.03)
        rise = 1 - math.exp(-step / 50)
        sides = {"rewards/chosen": 0.6 * rise, "rewards/rejected": -0.5 * rise, "rewards/margin": 1.1 * rise}
        work.log({"step": step, "lr": 1e-3, "loss": loss, "rewards/accuracy": 0.5 + 0.3 * rise, **sides})
    (work.dir / "config.json").write_text("{}")
    work.count("train_tokens", 300 * steps)


@stage(Groups, name="written")
def written(work: Work, policy: Policy, prompts: Prompts, quality: float, wordy: int = 1, n: int = 1) -> None:
    """Answers whose quality (a number in the text) is spread around `quality`, `wordy` sentences long on average."""
    generator = random.Random(f"{quality} {wordy} {n}")
    groups = []
    for prompt in prompts.read():
        answers = []
        for _ in range(n):
            marks = min(1.0, max(0.0, generator.gauss(quality, 0.25)))
            text = f"{SENTENCE * generator.randint(1, 2 * wordy)}[{marks:.2f}]"
            cut = generator.random() < 0.05
            answers.append(Completion(text, policy.name, stopped="length" if cut else "stop"))
        groups.append(Group(prompt, tuple(answers)))
    write_jsonl(work.dir / "groups.jsonl", groups)
    work.count("samples", n * len(groups))


def marks(text: str) -> float | None:
    """The number in brackets at the end."""
    return float(text[text.rindex("[") + 1 : -1]) if text.endswith("]") else None


@dataclass(frozen=True)
class Reader:
    """Prefers the answer with the higher marks, and leans to the first and to the longer one."""

    position: float = 0.1
    length: float = 0.0
    name: str = "reader"

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        return [self._verdict(a, b) for _, a, b in items]

    def _verdict(self, a: str, b: str) -> Verdict:
        first, second = marks(a), marks(b)
        if first is None or second is None:
            return Verdict(None, "I cannot say.")
        lean = 4 * (first - second) + self.position + self.length * math.tanh((len(a) - len(b)) / 80)
        return Verdict(1 / (1 + math.exp(-lean)), "Output (a)" if lean > 0 else "Output (b)")


def study(n: int = 120, dpo: float = 0.68, wordy: int = 1, length: float = 0.0) -> Report:
    """base, SFT and DPO on n prompts; DPO's answers of quality `dpo`, `wordy` times as long."""
    asked = questions(n, label="prompts")
    base = pretend(label="tiny")
    taught = written(base, asked, 0.9, label="taught")
    sft = pretend(taught, base, steps=90, label="sft")
    drawn = written(sft, asked, 0.5, n=4, label="drawn")
    critic = Compare(Reader(position=0.8), pairs="adjacent")
    trained = pretend(judge(drawn, critic, label="compared"), sft, steps=160, label="dpo")
    qualities = {"base": (base, 0.3, 1), "SFT": (sft, 0.5, 1), "DPO": (trained, dpo, wordy)}
    tested = questions(n, first=1000, label="held-out")
    graded = {
        name: judge(
            written(policy, tested, quality, long, label=name.lower()), Rule(marks), label=f"{name.lower()}-graded"
        )
        for name, (policy, quality, long) in qualities.items()
    }
    by = Compare(Reader(length=length))
    duels = tuple(duel(graded[name], graded["SFT"], by, label=f"{name.lower()}-vs-sft") for name in ("base", "DPO"))
    arms = tuple(Arm(name, graded[name], qualities[name][0]) for name in qualities)
    return report("What feedback bought in the town", arms, duels)
