"""The tour: every step from a pretrained model to a report that says what the feedback bought, offline, in minutes.

The embedded town stands in for the world: its teacher writes demonstrations, its oracle compares answers, its tables
grade them exactly. Exchange the parts and the same pipeline runs on yours (`recipes/align.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from trueline.conditions.critiques import Critiques
from trueline.conditions.labels import Labels
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import Condition
from trueline.conditions.tokens import QuantileTokens
from trueline.evaluate.best import best
from trueline.evaluate.duel import duel
from trueline.evaluate.report import Arm, report
from trueline.evaluate.rounds import rounds
from trueline.heads import Head
from trueline.recipes import almost
from trueline.recipes._rounds import arm, course
from trueline.recipes._setups import GRADES, Method, small, town
from trueline.recipes._study import in_town
from trueline.recipes._town import Materials
from trueline.recipes.quark import learn
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.store import Report
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sum import Sum
from trueline.train.views import Pairs

ASKED: tuple[tuple[str, Method, Condition], ...] = (
    ("Quark", "quark", QuantileTokens(scope="global")),
    ("ALT-RM", "rm", QuantilePhrases(scope="global")),
    ("ALT-LMC", "lmc", Labels(GRADES, ". ")),
    ("ALT-LMU", "lmu", Critiques()),
)
"""Methods that learn every answer behind what was said of it, and ask for the best."""


def tour(
    *,
    base: Literal["tiny", "small"] = "tiny",
    demonstrations: int = 64,
    prompts: int = 1024,
    samples: int = 4,
    held_out: int = 400,
    n: int = 4,
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
        n: candidates of which the preference head keeps the best.
        beta: DPO's inverse temperature: larger keeps the policy nearer to SFT.
        noise: share of the critic's verdicts that are tossed, from 0 to 1.
        position_bias: how far the critic favours the answer shown first, from 0 to 1; both orders are asked.
        seed: of prompts, sampling and training.
    """
    of = Materials(base, demonstrations, prompts, samples, held_out, noise, position_bias, seed)
    pairs = Pairs(of.compared, ties="drop")
    # As many questions as the comparisons take: (samples - 1) pairs, each in two orders, per prompt.
    budget = replace(small(), rounds=2, sampling=Sampling(n=samples - 1))

    dpo = of.fit(of.sft, pairs, DPO(beta=beta, sft=0.05), lr=2e-4, label="dpo")
    objective = Sum(DPO(beta=beta, sft=0.05), DPH(loss="contrastive"))
    both = of.fit(of.sft, pairs, objective, head=Head(), lr=5e-4, epochs=2, label="dpo-dph")
    candidates = draw(HF(both, heads=True), of.questions, Sampling(n=n, seed=seed), label="candidates")
    kept = best(candidates, f"{both.name}/", n)

    # No teacher and no critic: by contrast of what the pretrained models write, on an eighth of the prompts.
    study = in_town(base, max(8, prompts // 8), max(8, prompts // 4), 1, held_out, samples, 0.1, 8, 8, seed)
    contrast = almost.learn(study)

    taught = of.arm("SFT", of.sft)
    asked = {name: (town(of, method, budget), condition) for name, method, condition in ASKED}
    learned = {name: learn(setup, condition, name.lower()) for name, (setup, condition) in asked.items()}
    courses = {name: course(asked[name][0], name, steps) for name, steps in learned.items()}
    others = (
        of.arm("base", of.start),
        of.arm("DPO", dpo),
        of.arm("DPH", both),
        Arm(f"best of {n}", of.graded(kept, "best"), both),
        *(arm(asked[name][0], name, steps[-1], courses[name].samples[-1], of.sft) for name, steps in learned.items()),
        of.arm("self-play", contrast.taught),
        of.arm("ALMoST", contrast.tuned[0]),
    )
    duels = tuple(
        duel(other.samples, taught.samples, of.impartial, label=f"{other.samples.label}-vs-SFT") for other in others
    )
    title, also = "What feedback bought in the town", (rounds(tuple(courses.values())),)
    return report(title, (others[0], taught, *others[1:]), duels, baseline="SFT", also=also)
