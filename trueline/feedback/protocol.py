"""What a critic is and what a comparer is: the two ways of saying something about answers.

A `Critic` takes groups and returns them with feedback or preferences added; it is what `judge` runs. A `Comparer`
says which of two answers to one prompt is better, in the order shown; it is what `Compare` and `duel` ask. Both are
frozen dataclasses: the value is its own configuration and its own identity, and one that holds a `Policy` makes it a
parent of whatever it judges.

Nothing here imports torch or knows where records live; any package may import this one.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from trueline.errors import UserError
from trueline.records import Feedback, Group, Prompt

SHAPE, FIT = "shape", "fit"
"""Who says that an answer is not to be used (the critic `WellFormed`), and its label for one that is."""

Item = tuple[Prompt, str, str]
"""One question to a comparer: the prompt, the answer shown first, the answer shown second."""


@runtime_checkable
class Critic(Protocol):
    """Says something of every completion of every group.

    Returns the same groups in the same order, each with feedback or preferences *added*; `judge` refuses a critic
    that drops, reorders or rewrites. An abstention is a `Feedback` or `Preference` whose values are None.

    `name` is what the feedback is signed with. `calls` is what judging that many groups with that many completions in
    all will ask of whoever is behind the critic (a model, an API, an oracle): an upper estimate for the plan, 0 where
    nobody is asked. A critic may also have `survey(groups)`: it is shown all groups before the first is judged, and
    raises `UserError` for those that it cannot judge.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, groups: Sequence[Group]) -> list[Group]: ...

    def calls(self, groups: int, completions: int) -> int: ...


@dataclass(frozen=True)
class Verdict:
    """One answer of a comparer.

    `p` is the probability that the answer shown FIRST is better (0.5 a tie, None an abstention: nothing that could be
    read as a verdict); `raw` is the reply it was read from.
    """

    p: float | None
    raw: str = ""

    def __post_init__(self) -> None:
        if self.p is not None and not 0.0 <= self.p <= 1.0:
            raise ValueError(f"a verdict is a probability between 0 and 1, not {self.p}")


@runtime_checkable
class Comparer(Protocol):
    """Says which of two answers is better, in the order they are shown.

    A comparer is one-sided and may be biased by position; whoever asks decides how many orders to show. It is a
    function of the item: the same prompt and the same two texts in the same order may be answered from a cache. One
    that keeps what it is told itself says so (`remembers`, True), and one that is a context manager is open meanwhile.
    """

    @property
    def name(self) -> str: ...

    def compare(self, items: Sequence[Item]) -> list[Verdict]: ...


def held_open(critic: Critic) -> contextlib.AbstractContextManager[Any]:
    """What to judge within: a critic that is a context manager, open; nothing for another."""
    return critic if isinstance(critic, contextlib.AbstractContextManager) else contextlib.nullcontext()


def require_critic(critic: Critic, where: str) -> None:
    """Raise `UserError` for what is no critic; a bare comparer is told how to become one."""
    if not callable(critic) or not callable(getattr(critic, "calls", None)):
        cure = "Wrap it: Compare(by=...)." if hasattr(critic, "compare") else ""
        raise UserError(where, f"got {critic!r}", "a critic: a frozen dataclass with name, calls(...) and a call", cure)


ONE_SIDED = 0.5
"""The share of flips from which on a critic follows the position more than the answers."""


def one_sided(critic: str, flips: int, decided: int) -> str | None:
    """What to warn of where so many of the pairs decided in both orders are flips; None for few, or few pairs.

    Worked: a judge that always says "first" flips every pair; one that tosses a coin flips half of them.
    """
    if decided < 10 or flips < ONE_SIDED * decided:
        return None
    return (
        f"{critic}: the two orders of {flips} of {decided} pairs ({flips / decided:.0%}) name different winners; "
        "it follows the position, or chance, more than the answers"
    )


def unfit(feedback: Sequence[Feedback], by: str = SHAPE) -> bool:
    """Whether critic `by` labelled a completion, and not as fit: it is to be passed over. Its last word counts.

    >>> unfit((Feedback("shape", label="short"),)), unfit((Feedback("shape", label="fit"),)), unfit(())
    (True, False, False)
    """
    labels = [said.label for said in feedback if said.by == by and said.label is not None]
    return bool(labels) and labels[-1] != FIT


_meter: contextvars.ContextVar[Counter[str] | None] = contextvars.ContextVar("meter", default=None)


@contextlib.contextmanager
def metering() -> Iterator[Counter[str]]:
    """Collect what critics and engines `meter` inside the block, for the counts of a stage's record."""
    counter: Counter[str] = Counter()
    token = _meter.set(counter)
    try:
        yield counter
    finally:
        _meter.reset(token)


def meter(name: str, n: int = 1) -> None:
    """Count something where it happens.

    "critic_calls" counts every question whose answer was used, "cached" those of them answered from memory: the first
    is what the method needs, and equal in a run that was killed and resumed; the difference is what was paid this time.
    """
    counter = _meter.get()
    if counter is not None:
        counter[name] += n
