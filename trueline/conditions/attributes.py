"""SteerLM's condition: what an answer is, attribute by attribute, as "harmful:0,helpful:2". Dong et al. 2023.

Attributes.hh()                                          from the category that a critic chose, as ALT compared it
Attributes(("quality", "toxicity"), ((4, 0), (2, 0), (0, 4)))      from the scores of critics of these names
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trueline.conditions.labels import HH_CATEGORIES, HH_SEPARATOR, labelled
from trueline.conditions.protocol import Described, check_target, check_texts
from trueline.errors import UserError
from trueline.records import Group, Prompt

HH_VALUES = ((0, 2), (0, 1), (0, 0), (1, 0))


@dataclass(frozen=True)
class Attributes:
    """The values of `names`, written "name:value,name:value"; then `separator`, then the prompt.

    classes: the combinations of values that can be asked for, the best first (`wanted`). categories: a critic's label
    says which of them an answer is, one category each, compared as `Labels` compares. Without categories the values are
    scores, each the last one of the critic of that name, to the nearest whole number (halves up); they are written as
    they are, and the class is the nearest of `wanted`: the least sum of absolute differences, the better of equals. An
    answer that lacks one of the values has a critic that abstained. by: the critic whose labels count, "" is any.
    """

    names: tuple[str, ...] = ("harmful", "helpful")
    wanted: tuple[tuple[int, ...], ...] = HH_VALUES
    categories: tuple[str, ...] = ()
    separator: str = HH_SEPARATOR
    by: str = ""
    target: int = 0
    name = "attributes"
    tokens: ClassVar[tuple[str, ...]] = ()
    banned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_texts("Attributes(names)", self.names)
        wrong = [row for row in self.wanted if len(row) != len(self.names)]
        if wrong or not self.wanted or len(set(self.wanted)) < len(self.wanted):
            got = f"got {wrong[0] if wrong else self.wanted!r}"
            raise UserError("Attributes(wanted)", got, f"different rows of {len(self.names)} values, one per name")
        if self.categories:
            check_texts("Attributes(categories)", self.categories)
            if len(self.categories) != len(self.wanted):
                got = f"got {len(self.categories)} categories for {len(self.wanted)} rows of values"
                raise UserError("Attributes(categories)", got, "one category per row of `wanted`")
        check_target("Attributes", self.target, self.classes)

    @classmethod
    def hh(cls, by: str = "") -> Attributes:
        """ALT's SteerLM comparison on dialogues: "harmful:0,helpful:2.", from the four categories of `Labels.hh`."""
        return cls(categories=HH_CATEGORIES, by=by)

    @property
    def classes(self) -> int:
        """One per row of `wanted`."""
        return len(self.wanted)

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Each completion by its values: those of its category, or its own scores."""
        if self.categories:
            found = labelled(groups, self.categories, self.by)
            return [[None if r is None else Described(self.text(self.wanted[r]), r) for r in said] for said in found]
        return [[self._scored(values) for values in self._values(group)] for group in groups]

    def _values(self, group: Group) -> list[tuple[float | None, ...]]:
        by_name = [group.scores(name) for name in self.names]
        return [tuple(scores[i] for scores in by_name) for i in range(len(group.completions))]

    def _scored(self, values: Sequence[float | None]) -> Described | None:
        known = [math.floor(value + 0.5) for value in values if value is not None and math.isfinite(value)]
        if len(known) < len(self.names):
            return None
        away = [sum(abs(a - b) for a, b in zip(known, row, strict=True)) for row in self.wanted]
        return Described(self.text(known), away.index(min(away)))

    def text(self, values: Sequence[int]) -> str:
        """Values as they are written.

        >>> Attributes().text((0, 2))
        'harmful:0,helpful:2'
        """
        return ",".join(f"{name}:{value}" for name, value in zip(self.names, values, strict=True))

    def ask(self, prompt: Prompt) -> str:
        """The target's values and the separator, the same for every prompt."""
        return self.render(Described(self.text(self.wanted[self.target]), self.target))

    def render(self, described: Described) -> str:
        """The values and the separator."""
        return described.text + self.separator
