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
from trueline.store import Groups, Policy, Report
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations, Pairs


def tour(
    *,
    base: Literal["tiny", "small"] = "tiny",
    demonstrations: int = 256,
    prompts: int = 512,
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
    judgement = Compare(by=world.Oracle(seed=seed))

    start = world.base(base)
    taught = draw(world.Teacher(), world.prompts(demonstrations, seed=seed, split="sft"), Sampling(), label="taught")
    sft = train(start, Demonstrations(taught), SFT(), epochs=3, lr=1e-3, seed=seed, label="sft")

    drawn = draw(sft, world.prompts(prompts, seed=seed, split="train"), Sampling(n=samples, seed=seed), label="drawn")
    compared = judge(drawn, critic, label="compared")
    dpo = train(sft, Pairs(compared), DPO(beta=beta), epochs=1, lr=2e-4, seed=seed, label="dpo")

    questions = world.prompts(held_out, seed=seed, split="test")

    def answers(policy: Policy, name: str) -> Groups:
        return judge(draw(policy, questions, Sampling(seed=seed), label=name), world.Gold(), label=f"{name}-graded")

    policies = {"base": start, "SFT": sft, "DPO": dpo}
    graded = {name: answers(policy, name) for name, policy in policies.items()}
    duels = tuple(duel(graded[name], graded["SFT"], judgement, label=f"{name}-vs-SFT") for name in ("base", "DPO"))
    arms = tuple(Arm(name, graded[name], policies[name]) for name in policies)
    return report("What feedback bought in the town", arms, duels, baseline="SFT")
