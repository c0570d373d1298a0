"""What a method's rounds bought, told: the answers to held-out prompts after each, and what the last one obeys.

Used by `quark`, `alt` and the tour; how the rounds are trained stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def reported(
    title: str, setup: Setup, methods: Mapping[str, Sequence[Step]], classes: Mapping[str, Sequence[str]]
) -> Report:
    """The methods beside their start: the last round's answers, the curve of all rounds, and whether each class comes
    out as it is asked for; classes: what each method's are called."""
    started = answers(setup, setup.start, None, "start")
    courses, controlled, arms = [], [], [Arm("start", started, setup.start)]
    for name, steps in methods.items():
        made = [answers(setup, x.policy, x.condition, f"{name}-{i}") for i, x in enumerate(steps, 1)]
        every = (started, *made)
        courses.append(Rounds(name, every, tuple(fluency(x, setup.start, setup.chat) for x in every)))
        last = steps[-1]
        asked = [
            answers(setup, last.policy, asking(last.condition, k), f"{name}-class-{k}")
            for k in range(1, last.condition.classes)
        ]
        controlled.append(Controlled(name, (made[-1], *asked), tuple(classes[name])))
        arms.append(arm(setup, name, last, made[-1], setup.start))
    measured = qualities(tuple(Written(x.name, x.samples, fluency(x.samples, setup.start, setup.chat)) for x in arms))
    also = (rounds(tuple(courses)), control(tuple(controlled)), measured)
    return report(title, tuple(arms), baseline="start", also=also)
