"""What critics share that score a text by itself: the continuation alone, whatever it was the answer to.

An empty text has no score: a policy that is paid for saying nothing learns to. What is installed decides the numbers of
a critic from another package, so its version is part of the identity.
"""

from __future__ import annotations

import abc
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.errors import UserError
from trueline.feedback.protocol import meter
from trueline.records import Feedback, Group

EMPTY = "nothing to score"
EXTRA = "critics"


@dataclass(frozen=True)
class TextCritic(abc.ABC):
    """A critic that gives every completion's text a number."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the feedback is signed with."""

    @abc.abstractmethod
    def scores(self, texts: Sequence[str]) -> Sequence[float | str]:
        """The score of each text, none of them blank; or why it has none."""

    def calls(self, groups: int, completions: int) -> int:
        """One text per completion."""
        return completions

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with a score; one that cannot be scored abstains and says why."""
        texts = [c.text for group in groups for c in group.completions if c.text.strip()]
        meter("critic_calls", len(texts))
        found = iter(self.scores(texts) if texts else ())
        return [
            group.with_feedback(self._said(next(found) if c.text.strip() else EMPTY) for c in group.completions)
            for group in groups
        ]

    def _said(self, found: float | str) -> Feedback:
        return Feedback(self.name, raw=found) if isinstance(found, str) else Feedback(self.name, score=float(found))


def installed(package: str, critic: str) -> str:
    """The version of an optional package. Raises `UserError` that names the extra where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            critic, f"the package {package} is not installed", "", f"pip install 'trueline[{EXTRA}]'"
        ) from None
