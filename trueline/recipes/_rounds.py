"""What a method's rounds bought, told: the answers to held-out prompts after each, and what the last one obeys.

Used by `quark`, `alt` and the tour; how the rounds are trained stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trueline.conditions.protocol import Condition, asking
from trueline.evaluate.control import Controlled, control
from trueline.evaluate.fluency import fluency
from trueline.evaluate.qualities import Written, qualities
from trueline.evaluate.report import Arm, report
from trueline.evaluate.rounds import Rounds, rounds
from trueline.feedback.judge import judge
from trueline.recipes._setups import Setup
from trueline.sample.draw import draw
from trueline.store import Groups, Policy, Report
from trueline.train.score import score
from trueline.train.views import All, AsAsked, Demonstrations


@dataclass(frozen=True)
class Step:
    """A method after one of its rounds: the policy, and the condition that asks it for the best."""

    policy: Policy
    condition: Condition


def answers(setup: Setup, policy: Policy, condition: Condition | None, label: str) -> Groups:
    """What `policy` says to the held-out prompts when it is asked so, and what that is worth."""
    sampling = replace(setup.preset.asked, seed=setup.seed)
    said = draw(setup.engine(policy), setup.questions, sampling, condition=condition, label=f"answers-{label}")
    return judge(said, setup.gold, label=f"graded-{label}")


def arm(setup: Setup, name: str, step: Step, answered: Groups, reference: Policy) -> Arm:
    """An arm of the report, with the divergence of the asked policy from the bare reference on its own answers."""
    own = score(step.policy, AsAsked(answered), chat=setup.chat, label=f"logps-{name}")
    theirs = score(
        reference, Demonstrations(answered, All()), chat=setup.chat, label=f"logps-{name}-by-{reference.label}"
    )
    return Arm(name, answered, step.policy, own, theirs)


def course(setup: Setup, name: str, steps: Sequence[Step], fluent: bool = False) -> Rounds:
    """The answers to the held-out prompts at the start and after each round; with their fluency under the start."""
    started = answers(setup, setup.start, None, "start")
    made = [answers(setup, x.policy, x.condition, f"{name}-{i}") for i, x in enumerate(steps, 1)]
    every = (started, *made)
    return Rounds(name, every, tuple(fluency(x, setup.start, setup.chat) for x in every) if fluent else ())


def reported(title: str, setup: Setup, name: str, steps: Sequence[Step], classes: Sequence[str]) -> Report:
    """A method beside its start: the last round's answers, the curve of all rounds, and whether each class comes out as
    it is asked for; classes: what they are called."""
    told = course(setup, name, steps, fluent=True)
    first, last, final = told.samples[0], told.samples[-1], steps[-1]
    asked = [
        answers(setup, final.policy, asking(final.condition, k), f"{name}-class-{k}")
        for k in range(1, final.condition.classes)
    ]
    arms = (Arm("start", first, setup.start), arm(setup, name, final, last, setup.start))
    measured = qualities((Written("start", first, told.fluency[0]), Written(name, last, told.fluency[-1])))
    also = (rounds((told,)), control((Controlled(name, (last, *asked), tuple(classes)),)), measured)
    return report(title, arms, baseline="start", also=also)
