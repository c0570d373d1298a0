"""`Compare`: which answer is better, asked in both orders, kept as a soft preference.

A comparer that sees two answers favours a position more or less. Asked in both orders, the bias cancels *within* a
pair: p is the mean of the two verdicts on the same pair, and a verdict that only follows the position becomes a tie
instead of a label. Pairs whose two orders name different winners are flips; they are counted, not hidden.

Worked: answers A and B. Shown A first, the comparer says 0.9 (the first is better); shown B first, it says 0.7.
As the probability that A wins these are 0.9 and 1 - 0.7 = 0.3: p = 0.6, `orders` (0.9, 0.3), a flip.

Identical texts are a tie without a call. When one of two orders abstains the pair abstains: half an opinion carries
the whole position bias. `half="keep"` keeps the order that was decided.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trueline.errors import UserError, closest
from trueline.feedback.cache import ask
from trueline.feedback.protocol import Comparer, Item, Verdict
from trueline.records import Group, Preference

Pairing = Literal["all", "adjacent", "first"]
Half = Literal["abstain", "keep"]


@dataclass(frozen=True)
class Compare:
    """The critic that asks `by` for a preference on pairs of a group's completions.

    orders: 2 asks each pair in both orders and averages; 1 asks once, in an order tossed by the pair's content, so
        that position bias cancels only on average over pairs.
    pairs: "all" pairs of a group; "adjacent": each completion with the next (n - 1 pairs); "first": the first
        completion with each other (n - 1 pairs).
    half: what one abstention of two orders means: "abstain", or "keep" the other order's verdict.
    """

    by: Comparer
    orders: Literal[1, 2] = 2
    pairs: Pairing = "all"
    half: Half = "abstain"

    def __post_init__(self) -> None:
        if not callable(getattr(self.by, "compare", None)):
            raise UserError("Compare(by=...)", f"got {self.by!r}", "a comparer: something with compare(items)")
        if self.orders not in (1, 2):
            raise UserError("Compare(orders=...)", f"got {self.orders!r}", "1 or 2", "2 cancels position bias.")
        for field, value, known in (
            ("pairs", self.pairs, list(get_args(Pairing))),
            ("half", self.half, list(get_args(Half))),
        ):
            if value not in known:
                raise UserError(
                    f"Compare({field}=...)", f"got {value!r}", f"one of {', '.join(known)}", closest(str(value), known)
                )

    @property
    def name(self) -> str:
        return f"compare:{self.by.name}"

    def calls(self, groups: int, completions: int) -> int:
        """Questions to come: pairs times orders, for groups of equal size; identical answers will cost fewer."""
        n = completions / groups if groups else 0
        pairs = n * (n - 1) / 2 if self.pairs == "all" else n - 1
        return round(groups * max(pairs, 0) * self.orders)

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with one more preference per pair, every question of all groups asked in one go."""
        pairs = [self._pairs(len(group.completions)) for group in groups]
        asked = [[self._questions(group, *pair) for pair in of] for group, of in zip(groups, pairs, strict=True)]
        verdicts = iter(ask(self.by, [item for of in asked for items in of for item in items]))
        return [
            group.with_preferences(
                self._preference(group, *pair, items, list(itertools.islice(verdicts, len(items))))
                for pair, items in zip(group_pairs, group_items, strict=True)
            )
            for group, group_pairs, group_items in zip(groups, pairs, asked, strict=True)
        ]

    def _pairs(self, n: int) -> list[tuple[int, int]]:
        if self.pairs == "all":
            return list(itertools.combinations(range(n), 2))
        if self.pairs == "adjacent":
            return [(i, i + 1) for i in range(n - 1)]
        return [(0, i) for i in range(1, n)]

    def _questions(self, group: Group, left: int, right: int) -> list[Item]:
        a, b = group.completions[left].text, group.completions[right].text
        if a == b:
            return []
        both: list[Item] = [(group.prompt, a, b), (group.prompt, b, a)]
        return both if self.orders == 2 else [both[_coin(group.prompt.id, *sorted((a, b))) ^ (a > b)]]

    def _preference(
        self, group: Group, left: int, right: int, items: Sequence[Item], verdicts: Sequence[Verdict]
    ) -> Preference:
        if not items:
            return Preference(left, right, 0.5, self.name)
        shown_first = group.completions[left].text
        wins = [
            v.p if v.p is None or first == shown_first else 1.0 - v.p
            for (_, first, _), v in zip(items, verdicts, strict=True)
        ]
        decided = [p for p in wins if p is not None]
        whole = len(decided) == len(wins) or self.half == "keep"
        p = sum(decided) / len(decided) if decided and whole else None
        raw = tuple(v.raw for v in verdicts) if any(v.raw for v in verdicts) else ()
        return Preference(left, right, p, self.name, tuple(wins) if self.orders == 2 else (), raw)


def _coin(*texts: str) -> int:
    """0 or 1, a function of the texts alone: the same pair is shown in the same order in every run."""
    return hashlib.sha256("\0".join(texts).encode()).digest()[0] & 1
