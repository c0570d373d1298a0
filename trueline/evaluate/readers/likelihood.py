"""Likelihood: how probable each option is after its question, as a mean or a sum of token log-probs.

The end-of-turn is no part of the answer's score (specification of the test mask: content only), or short options would
be judged by how the model likes to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from trueline.errors import UserError, closest
from trueline.evaluate.protocol import Item, Scores

if TYPE_CHECKING:
    from trueline.models import Loaded

Per = Literal["token", "sum", "byte", "char"]


@dataclass(frozen=True)
class Likelihood:
    """Log-prob (natural log) of each option's own tokens.

    per: "token", their mean (the "log" column of the published tables); "sum"; or their sum over the option's length in
    UTF-8 bytes ("byte") or characters ("char"), as lm-evaluation-harness has its `acc_bytes` and `acc_norm`.
    """

    per: Per = "token"

    def __post_init__(self) -> None:
        known = list(get_args(Per))
        if self.per not in known:
            raise UserError("Likelihood(per=...)", f"got {self.per!r}", f"one of {', '.join(known)}",
                            closest(str(self.per), known))  # fmt: skip

    @property
    def name(self) -> str:
        """The column: "log", with the length it is divided by where that is not the tokens."""
        return "log" if self.per == "token" else f"log.{self.per}"

    def read(self, opened: Loaded | None, items: Iterable[Item]) -> Iterator[Scores]:
        """One `Scores` per item. Raises `UserError` for an option that has no tokens."""
        from trueline import models
        from trueline.evaluate import choice
        from trueline.trie import passes

        assert opened is not None, "a likelihood is a policy's"
        for block in choice.blocks(items, opened):
            found = passes.logps(opened.model, block.sequences, dtype=models.autocast_dtype())
            for one, at in block.dealt():
                values = tuple(
                    map(self.value, one.item.options, found.logps_N[at].tolist(), found.counts_N[at].tolist())
                )
                yield one.scores(values, found.counts_N[at].tolist())

    def value(self, option: str, logp: float, tokens: int) -> float:
        """A summed log-prob as this reader counts it.

        >>> [Likelihood(per).value("né", -6.0, 4) for per in ("token", "sum", "byte", "char")]
        [-1.5, -6.0, -2.0, -3.0]
        """
        length = {"token": tokens, "sum": 1, "byte": len(option.encode()), "char": len(option)}[self.per]
        return logp / length if length else math.nan
