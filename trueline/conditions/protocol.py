"""What a condition is, and the one place where it is put in front of a prompt.

    condition = QuantilePhrases.tldr()
    (said,) = condition.describe([group])                     one `Described` per completion: words, and a class
    condition.render(said[0])                                 "Good. input: "
    condition.ask(prompt)                                     "Excellent. input: "
    conditioned(prompt.messages, condition.ask(prompt))       what the policy is asked

A rendered condition travels beside the prompt, as `Completion.ask` and as a training example's `condition`; the prompt
stays bare. So nothing ever has to be stripped, and a prompt that holds the condition's own words loses none of its own.

Nothing here knows of sampling, training or tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from trueline.errors import UserError
from trueline.records import Feedback, Group, Message, Prompt

NO_CLASS = -1


@dataclass(frozen=True)
class Described:
    """What is said of one completion: in words, and its class (0 is the best; `NO_CLASS` has words but no class)."""

    text: str
    rank: int


@runtime_checkable
class Condition(Protocol):
    """Describes answers, and asks for them: a frozen dataclass, whose fields are its identity.

    target: the class that is asked for; 0, the best, unless `asking` changed it. classes: how many there are. tokens:
    what the vocabulary must have added, () where the condition is made of words. banned: tokens that are not drawn
    while the condition asks.
    """

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> int: ...

    @property
    def classes(self) -> int: ...

    @property
    def tokens(self) -> tuple[str, ...]: ...

    @property
    def banned(self) -> tuple[str, ...]: ...

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Per group and completion what is said of it; None where its critic abstained."""
        ...

    def ask(self, prompt: Prompt) -> str:
        """What is put in front of `prompt` to get an answer of the class `target`, rendered."""
        ...

    def render(self, described: Described) -> str:
        """What is put in front of the prompt of an answer to learn it, rendered as `ask` renders."""
        ...


C = TypeVar("C", bound=Condition)


def asking(condition: C, target: int) -> C:
    """The same condition, asking for the class `target`. Raises `UserError` for a class that it does not have."""
    check_target(condition.name, target, condition.classes)
    chosen: Any = condition
    return dataclasses.replace(chosen, target=target)


def renewed(condition: C, rounds: Sequence[Any]) -> C:
    """The condition that asks after these rounds of judged groups: as it was, but for one whose words come from what
    was said in them, which has a method `after`."""
    after = getattr(condition, "after", None)
    return condition if after is None else after(rounds)


def require_tokens(condition: Condition, opening_token: Callable[[str], int | None], policy: str) -> None:
    """Refuse a policy that would read a token of the condition as several.

    opening_token: the policy's token that a text is at the beginning of a message; None where it is none or several.
    """
    missing = [token for token in condition.tokens if opening_token(token) is None]
    if missing:
        where, got = f"{condition.name} with {policy}", f"it reads {missing[0]!r} not as one token"
        raise UserError(
            where, got, "a token for each of the condition's", "Start from extend(policy, condition.tokens)."
        )


def check_target(name: str, target: Any, classes: int) -> None:
    """Refuse a class to ask for that the condition `name` does not have."""
    if not isinstance(target, int) or isinstance(target, bool) or not 0 <= target < classes:
        raise UserError(f"{name}: target={target!r}", "there is no such class", f"0, the best, to {classes - 1}")


def check_texts(name: str, texts: Any, least: int = 1) -> None:
    """Refuse what is no tuple of at least `least` texts, none empty and no two the same but for case and space."""
    if not isinstance(texts, tuple) or len(texts) < least or not all(isinstance(x, str) and x.strip() for x in texts):
        raise UserError(name, f"got {texts!r}", f"a tuple of {least} texts or more, none of them empty")
    if len({folded(text) for text in texts}) < len(texts):
        raise UserError(name, f"got {texts!r}", "texts that differ in more than case and space")


def folded(text: str) -> str:
    """A text as it is compared with others: without surrounding space, runs of space as one, without case."""
    return " ".join(text.split()).casefold()


def last_said(group: Group, what: str, by: str = "") -> list[Feedback | None]:
    """Per completion the last feedback (by critic `by`; "" is any) whose field `what` is given; None where there is
    none."""
    out: list[Feedback | None] = []
    for said in group.feedback or ((),) * len(group.completions):
        given = [f for f in said if getattr(f, what) is not None and by in ("", f.by)]
        out.append(given[-1] if given else None)
    return out


def conditioned(messages: Sequence[Message], condition: str) -> tuple[Message, ...]:
    """`messages` with a rendered condition in front of the first one's content; as they are where it is "".

    >>> conditioned((Message("user", "Who bakes?"),), "Good. input: ")[0].content
    'Good. input: Who bakes?'
    """
    if not condition or not messages:
        return tuple(messages)
    first, *rest = messages
    return (msgspec.structs.replace(first, content=condition + first.content), *rest)
