"""Quark's condition: one added token per reward quantile, in front of the prompt with nothing in between. Lu et al.
2022 (arXiv 2205.13636); per prompt as it was compared with ALT on TL;DR (Lloret et al. 2024, arXiv 2407.16970).

    QuantileTokens()                what ALT's comparison on TL;DR uses
    QuantileTokens.toxicity()       what Quark used against toxicity: its own names, over the whole pool

The vocabulary must have the tokens (`train.extend`). Quark's code adds one more than it uses; ours adds k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trueline.conditions.protocol import Described, check_target
from trueline.conditions.quantiles import Scope, check_scope, described
from trueline.errors import UserError
from trueline.records import Group, Prompt

TLDR_TOKEN = "_QUANTILE_TOKEN_{}_"
TREE_TOKEN = " _TREE_TOKEN_{:05d}"


@dataclass(frozen=True)
class QuantileTokens:
    """A token per quantile of the score, `pattern` filled with 0 (the best) to k - 1.

    scope: quantiles of each prompt's own answers, or of all answers there are. by: the critic whose scores count, "" is
    any. target: the quantile asked for. Nothing is banned while asking: a policy that writes a quantile token is heard.
    """

    k: int = 5
    scope: Scope = "prompt"
    by: str = ""
    pattern: str = TLDR_TOKEN
    target: int = 0
    name = "quantile-tokens"
    banned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError("QuantileTokens(k=...)", f"got {self.k!r}", "a whole number of quantiles, 1 or more")
        check_scope("QuantileTokens", self.scope)
        check_target("QuantileTokens", self.target, self.k)
        try:
            distinct = len(set(self.tokens))
        except (IndexError, KeyError, ValueError):
            distinct = 0
        if distinct < self.k or not all(token.strip() for token in self.tokens):
            wanted = "a text with one {} for the quantile's number, as in _QUANTILE_TOKEN_{}_"
            raise UserError("QuantileTokens(pattern=...)", f"got {self.pattern!r}", wanted)

    @classmethod
    def toxicity(cls, by: str = "") -> QuantileTokens:
        """As Quark unlearns toxicity: " _TREE_TOKEN_00000" (with the space) to 00004, quantiles of the whole pool."""
        return cls(5, "global", by, TREE_TOKEN)

    @property
    def classes(self) -> int:
        """One per quantile."""
        return self.k

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens to add, the best quantile's first."""
        return tuple(self.pattern.format(rank) for rank in range(self.k))

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Each completion by the token of its quantile."""
        return described(groups, self.tokens, self.scope, self.by)

    def ask(self, prompt: Prompt) -> str:
        """The target's token, the same for every prompt."""
        return self.tokens[self.target]

    def render(self, described: Described) -> str:
        """The token itself."""
        return described.text
