"""Self-play slow enough to be killed: `python -m tests.sample.playing STORE` makes it and logs whom it asked."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trueline.feedback.protocol import meter
from trueline.feedback.shape import WellFormed
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.recipes._self_play import self_play
from trueline.records import Completion, Feedback, Prompt, write_jsonl
from trueline.sample.protocol import Sampling
from trueline.store import Groups, Prompts

SAID = (
    "Ada does it.",
    "Well, nobody does.",
    "Ada does it, and her brother helps her.",
    "Ada does it, and her sister helps her.",
)
ASKED = ("And where is the old mill?", "May I go there on foot?", "When do they open?")


@stage(Prompts, name="numbered", estimate=lambda n, **_: {"prompts": n})
def numbered(work: Work, n: int) -> None:
    """`n` questions that begin with their number."""
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"{i}. Who does it?") for i in range(n)]))


class Slow:
    """An engine that says one of some texts, and writes down that it was asked."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def said(self, what, prompts):
        time.sleep(0.02)
        if self.log:
            with open(self.log, "a") as file:
                file.writelines(f"{what} {prompt.id}\n" for prompt in prompts)


@dataclass(frozen=True)
class Answering(Slow):
    log: str = ""
    name = "answering"

    def generate(self, prompts, sampling):
        self.said("answer", prompts)
        meter("tokens_said", len(prompts))
        return [[Completion(SAID[i % 4], author=self.name) for i in range(sampling.n)] for _ in prompts]

    def logprobs(self, prompts, completions):
        return [[(0.0,) for _ in given] for given in completions]


@dataclass(frozen=True)
class Asking(Slow):
    """Says nothing to every seventh prompt; asks something else in every turn."""

    log: str = ""
    name = "asking"

    def generate(self, prompts, sampling):
        self.said("ask", prompts)
        return [[Completion(self.next(prompt), author=self.name)] for prompt in prompts]

    def logprobs(self, prompts, completions):
        return [[(0.0,) for _ in given] for given in completions]

    def next(self, prompt):
        number = int(prompt.messages[0].content.split(".")[0])
        return ASKED[len(prompt.messages) // 2 - 1] if number % 7 else ""


@dataclass(frozen=True)
class Longest:
    """A reward that likes what is long, and counts who spoke before."""

    log: str = ""
    name = "longest"

    def calls(self, groups, completions):
        return completions

    def __call__(self, groups):
        if self.log:
            with open(self.log, "a") as file:
                file.writelines(f"score {group.prompt.id}\n" for group in groups)
        return [g.with_feedback(Feedback(self.name, score=len(c.text) / 10) for c in g.completions) for g in groups]


def dialogues(log: str = "") -> Groups:
    """The artefact that the test kills."""
    return self_play(
        numbered(18), Answering(log), Longest(log), Asking(log), turns=3, sampling=Sampling(n=4, seed=5),
        fit=WellFormed(least=5), min_quantile=0.1,
    )  # fmt: skip


if __name__ == "__main__":
    store = Path(sys.argv[1])
    make(dialogues(str(store / "asked.log")), store=store, machine=Machine(shard=3))
