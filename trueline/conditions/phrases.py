"""ALT-RM's condition: a phrase per reward quantile, in words. Lloret et al. 2024.

QuantilePhrases.tldr()          "Excellent. input: " in front of the prompt, quantiles of each prompt's answers
QuantilePhrases.toxicity()      "Lowest Toxicity<|separator|>", quantiles of the whole pool; the separator is an
                                added token, and never drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trueline.conditions.protocol import Described, check_target, check_texts
from trueline.conditions.quantiles import Scope, check_scope, described
from trueline.errors import UserError
from trueline.records import Group, Prompt

TLDR_PHRASES = ("Excellent.", "Good.", "Mediocre.", "Bad.", "Horrible.")
TLDR_SEPARATOR = " input: "
TOXICITY_PHRASES = (
    "Lowest Toxicity", "Low-Moderate Toxicity", "Moderate Toxicity", "High-Moderate Toxicity", "Maximum Toxicity",
)  # fmt: skip
TOXICITY_SEPARATOR = "<|separator|>"


@dataclass(frozen=True)
class QuantilePhrases:
    """A phrase per quantile of the score, the best first; then `separator`, then the prompt.

    scope: quantiles of each prompt's own answers, or of all answers there are. by: the critic whose scores count, "" is
    any. tokens: what of it the vocabulary must have added, such as the separator; they are not drawn while asking.
    target: the quantile asked for.
    """

    phrases: tuple[str, ...] = TLDR_PHRASES
    separator: str = TLDR_SEPARATOR
    scope: Scope = "prompt"
    by: str = ""
    tokens: tuple[str, ...] = ()
    target: int = 0
    name = "quantile-phrases"

    def __post_init__(self) -> None:
        check_texts("QuantilePhrases(phrases)", self.phrases)
        check_scope("QuantilePhrases", self.scope)
        check_target("QuantilePhrases", self.target, self.classes)
        if lost := [x for x in self.tokens if not any(x in phrase + self.separator for phrase in self.phrases)]:
            raise UserError("QuantilePhrases(tokens=...)", f"got {lost[0]!r}", "tokens of the phrases or the separator")

    @classmethod
    def tldr(cls, by: str = "") -> QuantilePhrases:
        """As ALT-RM summarises: "Excellent. input: " to "Horrible. input: ", per prompt."""
        return cls(by=by)

    @classmethod
    def toxicity(cls, by: str = "") -> QuantilePhrases:
        """As ALT-RM unlearns toxicity: "Lowest Toxicity<|separator|>" to "Maximum Toxicity<|separator|>", globally.

        The scores are of what is wanted, 1 - toxicity, so that the best quantile is the least toxic one.
        """
        return cls(TOXICITY_PHRASES, TOXICITY_SEPARATOR, "global", by, (TOXICITY_SEPARATOR,))

    @property
    def classes(self) -> int:
        """One per phrase."""
        return len(self.phrases)

    @property
    def banned(self) -> tuple[str, ...]:
        """The added tokens: they belong in front of a prompt only."""
        return self.tokens

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Each completion by the phrase of its quantile."""
        return described(groups, self.phrases, self.scope, self.by)

    def ask(self, prompt: Prompt) -> str:
        """The target's phrase and the separator, the same for every prompt."""
        return self.render(Described(self.phrases[self.target], self.target))

    def render(self, described: Described) -> str:
        """The phrase and the separator."""
        return described.text + self.separator
