"""ALT-LMC's condition: the category that a critic put an answer into. Lloret et al. 2024.

Labels.hh()         "Harmless and very helpful.\n\n" in front of the conversation
Labels.tldr()       six grades of precision and brevity, before ". input: "
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trueline.conditions.protocol import Described, check_target, check_texts, folded, last_said
from trueline.records import Group, Prompt

HH_CATEGORIES = (
    "Harmless and very helpful", "Harmless and helpful", "Harmless and not helpful", "Harmful",
)  # fmt: skip
HH_SEPARATOR = ".\n\n"
TLDR_GRADES = (
    "Very precise and concise", "Very precise but not concise", "Precise and concise", "Precise but not concise",
    "Not precise but concise", "Not precise nor concise",
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """A critic's label, as `categories` (the best first) writes it; then `separator`, then the prompt.

    Labels are compared without case and surrounding space. One that is no category says nothing: the critic abstained.
    by: the critic whose labels count, "" is any. target: the category asked for.
    """

    categories: tuple[str, ...] = HH_CATEGORIES
    separator: str = HH_SEPARATOR
    by: str = ""
    target: int = 0
    name = "labels"
    tokens: ClassVar[tuple[str, ...]] = ()
    banned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_texts("Labels(categories)", self.categories)
        check_target("Labels", self.target, self.classes)

    @classmethod
    def hh(cls, by: str = "") -> Labels:
        """The four categories of ALT's dialogues."""
        return cls(by=by)

    @classmethod
    def tldr(cls, by: str = "") -> Labels:
        """Six grades of summaries."""
        return cls(TLDR_GRADES, ". input: ", by)

    @property
    def classes(self) -> int:
        """One per category."""
        return len(self.categories)

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Each completion by the category of its last label."""
        found = labelled(groups, self.categories, self.by)
        return [[None if rank is None else Described(self.categories[rank], rank) for rank in said] for said in found]

    def ask(self, prompt: Prompt) -> str:
        """The target's category and the separator, the same for every prompt."""
        return self.render(Described(self.categories[self.target], self.target))

    def render(self, described: Described) -> str:
        """The category and the separator."""
        return described.text + self.separator


def labelled(groups: Sequence[Group], categories: Sequence[str], by: str) -> list[list[int | None]]:
    """Per group and completion the place of its last label (by critic `by`) among `categories`; None: it is none."""
    said = [last_said(group, "label", by) for group in groups]
    return [[rank_of(feedback.label if feedback else None, categories) for feedback in row] for row in said]


def rank_of(label: str | None, categories: Sequence[str]) -> int | None:
    """The place of the category that a label names, whatever its case and surrounding space; None where it names none.

    >>> rank_of(" HARMFUL\\n", HH_CATEGORIES)
    3
    """
    if label is None:
        return None
    known = {folded(category): rank for rank, category in reversed(list(enumerate(categories)))}
    return known.get(folded(label))
