"""The tour: every step from a pretrained model to a report that says what the feedback bought, offline, in minutes.

The embedded town stands in for the world: its teacher writes demonstrations, its oracle compares answers, its tables
grade them exactly. Exchange the parts and the same pipeline runs on yours (`recipes/align.py`).
"""

from __future__ import annotations

from typing import Literal

from trueline import world
from trueline.evaluate.duel import duel
from trueline.evaluate.report import Arm, report
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import Policy, Report
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.score import score
from trueline.train.stage import train
from trueline.train.views import All, Demonstrations, Pairs


def tour(
    *,
    base: Literal["tiny", "small"] = "tiny",
    demonstrations: int = 64,
    prompts: int = 1024,
    samples: int = 4,
    held_out: int = 400,
    beta: float = 0.1,
    noise: float = 0.1,
    position_bias: float = 0.2,
    seed: int = 0,
) -> Report:
    """Align the town's model by SFT on a teacher and DPO on a critic, and report what each bought in gold reward.

    Args:
        base: which of the town's pretrained models to start from (about 0.5 and 2 million parameters).
        demonstrations: prompts that the teacher answers for SFT.
        prompts: prompts whose sampled answers the critic compares for DPO.
        samples: answers sampled per prompt; each is compared with the next.
        held_out: prompts, apart from the others, on which all policies are judged.
        beta: DPO's inverse temperature: larger keeps the policy nearer to SFT.
        noise: share of the critic's verdicts that are tossed, from 0 to 1.
        position_bias: how far the critic favours the answer shown first, from 0 to 1; both orders are asked.
        seed: of prompts, sampling and training.
    """
    critic = Compare(by=world.Oracle(noise=noise, position_bias=position_bias, seed=seed), pairs="adjacent")
    impartial = Compare(by=world.Oracle(seed=seed))

    start = world.base(base)
    taught = draw(world.Teacher(), world.prompts(demonstrations, seed=seed, split="sft"), label="taught")
    sft = train(start, Demonstrations(taught), SFT(), epochs=2, lr=5e-4, max_length=256, seed=seed, label="sft")

    asked = world.prompts(prompts, seed=seed, split="train", label="asked")
    compared = judge(draw(sft, asked, Sampling(n=samples, seed=seed), label="drawn"), critic, label="compared")
    decided = Pairs(compared, ties="drop")
    objective = DPO(beta=beta, sft=0.05)
    dpo = train(sft, decided, objective, epochs=1, lr=2e-4, max_length=256, seed=seed, label="dpo")

    questions = world.prompts(held_out, seed=seed, split="test", label="held-out")

    def arm(name: str, policy: Policy) -> Arm:
        answers = draw(policy, questions, Sampling(seed=seed), label=f"answers-{name}")
        said = Demonstrations(answers, All())
        own, reference = (score(x, said, label=f"logps-{name}-by-{x.label}") for x in (policy, sft))
        return Arm(name, judge(answers, world.Gold(), label=f"graded-{name}"), policy, own, reference)

    arms = (arm("base", start), arm("SFT", sft), arm("DPO", dpo))
    duels = tuple(duel(x.samples, arms[1].samples, impartial, label=f"{x.name}-vs-SFT") for x in (arms[0], arms[2]))
    return report("What feedback bought in the town", arms, duels, baseline="SFT")
