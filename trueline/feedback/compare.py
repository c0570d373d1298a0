"""`Compare`: which answer is better, asked in both orders, kept as a soft preference.

A comparer that sees two answers favours a position more or less. Asked in both orders, the bias cancels *within* a
pair: p is the mean of the two verdicts on the same pair, and a verdict that only follows the position becomes a tie
instead of a label. Pairs whose two orders name different winners are flips; they are counted, not hidden.

Worked: answers A and B. Shown A first, the comparer says 0.9 (the first is better); shown B first, it says 0.7.
As the probability that A wins these are 0.9 and 1 - 0.7 = 0.3: p = 0.6, `orders` (0.9, 0.3), a flip.

Identical texts are a tie without a call (counted: identical). When one of two orders abstains the pair abstains: half
an opinion carries the whole position bias. `half="keep"` keeps the order that was decided.

Asked in one order, a biased comparer's labels carry its bias, and nothing in them shows it but the count of verdicts
that went to the answer shown first (first_wins, second_wins). AlpacaEval's published rule is such an order.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trueline.errors import UserError, closest
from trueline.feedback.cache import ask
from trueline.feedback.protocol import Comparer, Item, Verdict, meter
from trueline.feedback.switching import AlpacaEvalOrder
from trueline.fingerprint import added
from trueline.records import Group, Preference, Prompt

Pairing = Literal["all", "adjacent", "first"]
Half = Literal["abstain", "keep"]
Order = Literal["tossed", "left", "right"]


@dataclass(frozen=True)
class RandomPairs:
    """`k` pairs of each group (all, where it has no more), drawn by the seed and the prompt's id."""

    k: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError("RandomPairs(k=...)", f"got {self.k!r}", "a whole number of at least 1")

    def __call__(self, prompt: Prompt, n: int) -> list[tuple[int, int]]:
        """Pairs of n completions, in order."""
        pairs = list(itertools.combinations(range(n), 2))
        return sorted(random.Random(f"pairs\0{self.seed}\0{prompt.id}").sample(pairs, min(self.k, len(pairs))))


@dataclass(frozen=True)
class Compare:
    """The critic that asks `by` for a preference on pairs of a group's completions.

    orders: 2 asks each pair in both orders and averages; 1 asks once, so that position bias cancels at most on average.
    pairs: "all" pairs of a group; "adjacent": each completion with the next (n - 1 pairs); "first": the first
        completion with each other (n - 1 pairs); `RandomPairs(k)`: k of all.
    half: what one abstention of two orders means: "abstain", or "keep" the other order's verdict.
    order: the one order of orders=1: "tossed" by the pair's content; "left" or "right", which is shown first; or
        AlpacaEval's rule, `AlpacaEvalOrder()`.
    """

    by: Comparer
    orders: Literal[1, 2] = 2
    pairs: Pairing | RandomPairs = "all"
    half: Half = "abstain"
    order: Order | AlpacaEvalOrder = added("tossed")

    def __post_init__(self) -> None:
        if not callable(getattr(self.by, "compare", None)):
            raise UserError("Compare(by=...)", f"got {self.by!r}", "a comparer: something with compare(items)")
        if self.orders not in (1, 2):
            raise UserError("Compare(orders=...)", f"got {self.orders!r}", "1 or 2", "2 cancels position bias.")
        for field, value, known, kind in (
            ("pairs", self.pairs, list(get_args(Pairing)), RandomPairs),
            ("half", self.half, list(get_args(Half)), ()),
            ("order", self.order, list(get_args(Order)), AlpacaEvalOrder),
        ):
            if not isinstance(value, kind) and value not in known:
                more = f", or {kind.__name__}(...)" if isinstance(kind, type) else ""
                raise UserError(
                    f"Compare({field}=...)", f"got {value!r}", f"one of {', '.join(known)}{more}",
                    closest(str(value), known),
                )  # fmt: skip
        if self.orders == 2 and self.order != "tossed":
            raise UserError("Compare(order=...)", "both orders are asked", "orders=1", "Leave order out, or ask once.")

    @property
    def name(self) -> str:
        return f"compare:{self.by.name}"

    def calls(self, groups: int, completions: int) -> int:
        """Questions to come: pairs times orders, for groups of equal size; identical answers will cost fewer."""
        n = completions / groups if groups else 0
        pairs = n - 1 if self.pairs in ("adjacent", "first") else n * (n - 1) / 2
        if isinstance(self.pairs, RandomPairs):
            pairs = min(pairs, self.pairs.k)
        return round(groups * max(pairs, 0) * self.orders)

    def __enter__(self) -> Compare:
        held = vars(self)["_held"] = contextlib.ExitStack()
        if isinstance(self.by, contextlib.AbstractContextManager):
            held.enter_context(self.by)
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_held").__exit__(*error)

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with one more preference per pair, every question of all groups asked in one go."""
        pairs = [self._pairs(group.prompt, len(group.completions)) for group in groups]
        asked = [[self._questions(group, *pair) for pair in of] for group, of in zip(groups, pairs, strict=True)]
        said = ask(self.by, [item for of in asked for items in of for item in items])
        decided = [v.p for v in said if v.p is not None]
        for name, count in (
            ("identical", sum(not items for of in asked for items in of)),
            ("first_wins", sum(p > 0.5 for p in decided)),
            ("second_wins", sum(p < 0.5 for p in decided)),
        ):
            meter(name, count)
        verdicts = iter(said)
        return [
            group.with_preferences(
                self._preference(group, *pair, items, list(itertools.islice(verdicts, len(items))))
                for pair, items in zip(group_pairs, group_items, strict=True)
            )
            for group, group_pairs, group_items in zip(groups, pairs, asked, strict=True)
        ]

    def _pairs(self, prompt: Prompt, n: int) -> list[tuple[int, int]]:
        if isinstance(self.pairs, RandomPairs):
            return self.pairs(prompt, n)
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
        return both if self.orders == 2 else [both[not self._left_first(group.prompt, a, b)]]

    def _left_first(self, prompt: Prompt, a: str, b: str) -> bool:
        if isinstance(self.order, AlpacaEvalOrder):
            return self.order.left_first(prompt.text)
        if self.order == "tossed":
            return bool(_coin(prompt.id, *sorted((a, b)))) is (a > b)
        return self.order == "left"

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
        if isinstance(self.order, AlpacaEvalOrder):
            p = self.order.noisy(group.prompt.text, p)
        raw = tuple(v.raw for v in verdicts) if any(v.raw for v in verdicts) else ()
        return Preference(left, right, p, self.name, tuple(wins) if self.orders == 2 else (), raw)


def _coin(*texts: str) -> int:
    """0 or 1, a function of the texts alone: the same pair is shown in the same order in every run."""
    return hashlib.sha256("\0".join(texts).encode()).digest()[0] & 1
