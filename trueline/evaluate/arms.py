"""What arms that are set beside each other must share: their prompts, and the critic that scored them.

An arm is a name and its groups. Numbers of two arms are compared on the prompts that both answered; which those are,
and how many were left out, is worked out here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trueline.errors import UserError
from trueline.evaluate.best import signer
from trueline.evaluate.results import choose_score
from trueline.records import Group, Message

Arms = Mapping[str, Sequence[Group]]


def common_prompts(arms: Arms, where: str, most: float) -> tuple[list[str], int]:
    """Ids of the prompts that every arm answered, in the first one's order, and how many others there are.

    most: the largest share of all prompts, from 0 to 1, that may lack an answer in some arm (as one whose prompts were
    too long once a condition stood in front of them). Raises `UserError` above it, and where one id stands for two
    conversations.
    """
    asked: dict[str, tuple[Message, ...]] = {}
    held = []
    for name, groups in arms.items():
        for group in groups:
            if asked.setdefault(group.prompt.id, group.prompt.messages) != group.prompt.messages:
                got = f"{name} was asked something else under the id {group.prompt.id}"
                cure = "Draw with condition=...: it is kept beside the prompt, which stays as it is."
                raise UserError(where, got, "the same prompts in every arm", cure)
        held.append({group.prompt.id for group in groups})
    both = set.intersection(*held) if held else set()
    other = len(asked) - len(both)
    if not both or other / len(asked) > most:
        sizes = ", ".join(f"{name} {len(ids)}" for name, ids in zip(arms, held, strict=True))
        got = f"{len(both)} of {len(asked)} prompts are in every arm ({sizes})"
        raise UserError(where, got, f"at least {1 - most:.0%}", "Draw the same prompts for all of them.")
    return [id for id in asked if id in both], other


def only(groups: Sequence[Group], prompts: Sequence[str]) -> list[Group]:
    """The groups of these prompts."""
    wanted = set(prompts)
    return [group for group in groups if group.prompt.id in wanted]


def scorers(arms: Arms, by: str, where: str) -> dict[str, str]:
    """The critic whose scores are read, as it signed in each arm.

    by: its name, or "" for the last one that scored every arm. Raises `UserError` for one that scored nothing in an
    arm, and where none scored all.
    """
    chosen = by or choose_score(list(arms.values()), "", list(arms))
    if not chosen:
        lacking = [name for name, groups in arms.items() if not any(s is not None for g in groups for s in g.scores())]
        got = f"no score on {', '.join(lacking)}" if lacking else "no critic scored every arm"
        raise UserError(where, got, "scores by one critic", "Run judge(samples, critic) on each first.")
    return {name: signer(groups, chosen, f"{where} on {name}") or chosen for name, groups in arms.items()}
