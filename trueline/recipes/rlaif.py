"""RLAIF, critically evaluated: is labelling preferences worth it, or would the same budget buy more as demonstrations?

One pool of prompts, an oracle asked once for each of them, spent in six ways:

    A  the weak teacher answers all                  D  the strong teacher answers all
    B  the weak teacher answers a share              E  the strong teacher answers a share
    C  B, then DPO on the critic's labels of the rest   F  E, then DPO on the critic's labels of the rest

C against A is the comparison that is usually shown; its critic is stronger than its teacher, so it is not a fair one.
D against C has one oracle for both, and C - B against F - E says what labels are worth once the teacher is as good as
the critic. Checkpoints are chosen on prompts apart from those that are reported.

Source: Sharma et al. 2024 (arXiv 2402.12366).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trueline import world
from trueline.evaluate.contrasts import Contrast, contrasts
from trueline.evaluate.duel import duel
from trueline.evaluate.report import Arm, report
from trueline.evaluate.select import select
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Comparer, Critic
from trueline.prompts.take import take, without
from trueline.sample.draw import draw
from trueline.sample.protocol import Engine, Sampling
from trueline.store import Groups, Policy, Prompts, Report
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations, Pairs

CONTRASTS = (
    Contrast("C - A: labels against weak demonstrations", ("C",), ("A",), "the critic is stronger than the teacher"),
    Contrast("D - C: demonstrations against labels", ("D",), ("C",)),
    Contrast("F - D: both against demonstrations", ("F",), ("D",)),
    Contrast("C - B: labels after the weak teacher", ("C",), ("B",)),
    Contrast("F - E: labels after the strong teacher", ("F",), ("E",)),
    Contrast("(C - B) - (F - E): what the weak teacher explains", ("C", "E"), ("B", "F")),
)


@dataclass(frozen=True)
class Contest:
    """What all arms have in common. first: the prompts that teachers answer in B and E. rest: the others. chosen_on:
    prompts on which checkpoints are chosen. questions: the held-out prompts. gold: what answers to both are scored by.
    """

    start: Policy
    pool: Prompts
    first: Prompts
    rest: Prompts
    chosen_on: Prompts
    questions: Prompts
    critic: Comparer
    gold: Critic
    beta: float
    sft_epochs: tuple[int, ...]
    dpo_epochs: tuple[int, ...]
    seed: int

    @property
    def fit(self) -> Any:
        """`train`, with what all arms have in common."""
        return partial(train, max_length=256, seed=self.seed)

    def taught(self, name: str, teacher: Engine, prompts: Prompts) -> Policy:
        """SFT on a teacher's answers, the best of its checkpoints."""
        demonstrations = Demonstrations(draw(teacher, prompts, Sampling(seed=self.seed), label=f"taught-{name}"))
        made = (
            self.fit(self.start, demonstrations, SFT(), lr=5e-4, epochs=n, label=f"{name}-{n}") for n in self.sft_epochs
        )
        return self.best(name, tuple(made))

    def labelled(self, name: str, policy: Policy) -> Policy:
        """DPO on the critic's labels of the policy's answers to the rest of the pool; the best of its checkpoints."""
        drawn = draw(policy, self.rest, Sampling(n=2, seed=self.seed), label=f"drawn-{name}")
        pairs = Pairs(judge(drawn, Compare(by=self.critic, orders=1), label=f"labelled-{name}"), ties="drop")
        objective = DPO(beta=self.beta, sft=0.05)
        made = (
            self.fit(policy, pairs, objective, lr=2e-4, epochs=n, max_dropped=0.5, label=f"{name}-{n}")
            for n in self.dpo_epochs
        )
        return self.best(name, tuple(made))

    def best(self, name: str, candidates: tuple[Policy, ...]) -> Policy:
        """The candidate whose answers to prompts of their own are worth most."""
        if len(candidates) == 1:
            return candidates[0]
        graded = tuple(self.graded(f"tried-{policy.label}", policy, self.chosen_on) for policy in candidates)
        return select(candidates, graded, label=name)

    def graded(self, name: str, policy: Policy, prompts: Prompts) -> Groups:
        """A policy's answers, scored."""
        return judge(
            draw(policy, prompts, Sampling(seed=self.seed), label=f"answers-{name}"), self.gold, label=f"graded-{name}"
        )


def rlaif(
    *,
    base: Literal["tiny", "small"] = "tiny",
    pool: int = 640,
    share: float = 0.1,
    weak: float = 0.5,
    strong: float = 1.0,
    noise: float = 0.1,
    position_bias: float = 0.0,
    held_out: int = 400,
    chosen_on: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Report:
    """Spend one oracle call per prompt in six ways, in the town, and report what each bought.

    Args:
        base: which of the town's pretrained models to start from.
        pool: prompts, each of which an oracle is asked about once.
        share: of the pool that a teacher answers before the rest is labelled.
        weak: quality of the weak teacher: the share of its answers that earn the full gold reward.
        strong: quality of the strong teacher.
        noise: share of the critic's labels that are tossed, from 0 to 1.
        position_bias: how far the critic favours the answer shown first, from 0 to 1.
        held_out: prompts that all arms are judged on.
        chosen_on: prompts, apart from those, on which checkpoints are chosen.
        beta: DPO's inverse temperature.
        seed: of prompts, sampling and training.
    """
    every = world.prompts(pool, seed=seed, split="train", label="pool")
    first = take(every, max(1, round(share * pool)), label="first")
    of = Contest(
        world.base(base), every, first, without(every, first, label="rest"),
        world.prompts(chosen_on, seed=seed, split="valid", label="chosen-on"),
        world.prompts(held_out, seed=seed, split="test", label="held-out"),
        world.Oracle(noise=noise, position_bias=position_bias, seed=seed), world.Gold(), beta, (2, 4), (1, 2), seed,
    )  # fmt: skip
    teachers = {"weak": world.Teacher(quality=weak), "strong": world.Teacher(quality=strong)}
    made = {}
    for full, some, tuned, teacher in (("A", "B", "C", teachers["weak"]), ("D", "E", "F", teachers["strong"])):
        made[full] = of.taught(full, teacher, of.pool)
        made[some] = of.taught(some, teacher, of.first)
        made[tuned] = of.labelled(tuned, made[some])
    graded = {name: of.graded(name, made[name], of.questions) for name in sorted(made)}
    judged_by = Compare(by=world.Oracle(seed=seed))
    duels = tuple(duel(graded[name], graded["A"], judged_by, label=f"{name}-vs-A") for name in graded if name != "A")
    arms = tuple(Arm(name, graded[name], made[name]) for name in graded)
    told = contrasts(tuple(graded.items()), CONTRASTS)
    return report("One oracle call per prompt, spent in six ways", arms, duels, baseline="A", also=(told,))
