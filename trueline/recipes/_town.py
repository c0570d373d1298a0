"""What recipes in the town share: a policy taught by the teacher, its answers compared by a critic, and arms of the
report, graded exactly.

Each is two or three stage calls that would otherwise stand in every recipe; what a method adds stands in its own file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from trueline import world
from trueline.evaluate.report import Arm
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.sample.teach import teach
from trueline.store import Groups, Policy, Prompts
from trueline.train.objectives.sft import SFT
from trueline.train.score import score
from trueline.train.stage import train
from trueline.train.views import All, Demonstrations


@dataclass(frozen=True)
class Materials:
    """One seed's materials; every property and method gives inert handles, the same for the same values.

    demonstrations: prompts that the teacher answers. prompts: prompts whose answers are compared, `samples` to each.
    noise, position_bias: how the comparing critic errs. held_out: prompts that all arms answer.
    """

    base: str
    demonstrations: int
    prompts: int
    samples: int
    held_out: int
    noise: float
    position_bias: float
    seed: int

    @property
    def fit(self) -> Any:
        """`train`, with what all trainings in the town have in common."""
        return partial(train, max_length=256, seed=self.seed)

    @property
    def start(self) -> Policy:
        """The pretrained model."""
        return world.base(self.base)

    @property
    def sft(self) -> Policy:
        """The start, fine-tuned on the teacher's answers."""
        taught = teach(world.Teacher(), world.prompts(self.demonstrations, seed=self.seed, split="sft"))
        return self.fit(self.start, Demonstrations(taught), SFT(), epochs=2, lr=5e-4, label="sft")

    @property
    def compared(self) -> Groups:
        """Answers of the taught policy, each compared with the next in both orders."""
        oracle = world.Oracle(noise=self.noise, position_bias=self.position_bias, seed=self.seed)
        asked = world.prompts(self.prompts, seed=self.seed, split="train", label="asked")
        drawn = draw(self.sft, asked, Sampling(n=self.samples, seed=self.seed), label="drawn")
        return judge(drawn, Compare(by=oracle, pairs="adjacent"), label="compared")

    @property
    def questions(self) -> Prompts:
        """What every arm answers."""
        return world.prompts(self.held_out, seed=self.seed, split="test", label="held-out")

    @property
    def impartial(self) -> Compare:
        """A critic that never errs, for duels."""
        return Compare(by=world.Oracle(seed=self.seed), pairs="adjacent")

    def graded(self, answers: Groups, name: str) -> Groups:
        """The answers with their gold reward."""
        return judge(answers, world.Gold(), label=f"graded-{name}")

    def arm(self, name: str, policy: Policy) -> Arm:
        """One sample of `policy` to each question, graded, with its divergence from the taught policy."""
        answers = draw(policy, self.questions, Sampling(seed=self.seed), label=f"answers-{name}")
        said = Demonstrations(answers, All())
        own, reference = (score(x, said, label=f"logps-{name}-by-{x.label}") for x in (policy, self.sft))
        return Arm(name, self.graded(answers, name), policy, own, reference)
