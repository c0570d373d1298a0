"""ALT-LMU's condition: a sentence that a critic wrote of the answer, in its own words. Lloret et al. 2024.

    critiques = Critiques()                                     "feedback: Short and right. input: " before the prompt
    Conditioned((judged,), critiques)                           learns from every critique, good and bad
    draw(policy, prompts, condition=critiques.after((judged,))) asks with the best ones that were written so far

The score beside a critique says its class; what asks for a class are critiques that were written of answers of that
class (`Exemplars`), chosen by a rule: no hand picks them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from trueline.conditions.protocol import NO_CLASS, Described, check_target, check_texts, folded, last_said
from trueline.errors import UserError
from trueline.records import Feedback, Group, Prompt, content_hash

if TYPE_CHECKING:
    from trueline.store import Groups


@dataclass(frozen=True)
class Exemplars:
    """The critiques to ask with: `n` of those in `source`, or the given `texts` where it is the best that is asked for.

    Of the critiques of the class asked for, those that are the same but for case and space count as one, spelt as they
    are most often. First come those that were said of the most prompts, then the shortest: what fits many prompts is
    not about one of them. Where no answer of `source` is of the class, the nearest class is taken, the better of two.
    With several, a hash of `seed` and the prompt's id says which of them a prompt is asked with. renew: after several
    rounds the source is the last of them, else the first for ever (`Critiques.after`).
    """

    source: Groups | None = None
    n: int = 1
    seed: int = 0
    texts: tuple[str, ...] = ()
    renew: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise UserError("Exemplars(n=...)", f"got {self.n!r}", "a whole number, 1 or more")
        if self.texts:
            check_texts("Exemplars(texts=...)", self.texts)

    def of(self, texts: Sequence[str], prompt: Prompt) -> str:
        """The one among `texts` that `prompt` is asked with."""
        return texts[int(content_hash([self.seed, prompt.id]), 16) % len(texts)]


@dataclass(frozen=True)
class Critiques:
    """`prefix`, what the critic wrote (without surrounding space), `separator`, then the prompt.

    classes: the scores that there are, classes - 1 (the best) down to 0; a score counts as the whole number below it,
    so that 2.5 is 2. An answer with a critique whose score is missing or out of this range is described, but in no
    class.
    by: the critic whose critiques count, "" is any. target: the class asked for, 0 the best: the score classes - 1.
    """

    classes: int = 4
    prefix: str = "feedback: "
    separator: str = " input: "
    by: str = ""
    exemplars: Exemplars = Exemplars()
    target: int = 0
    name = "critiques"
    tokens: ClassVar[tuple[str, ...]] = ()
    banned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.classes, int) or self.classes < 1:
            raise UserError("Critiques(classes=...)", f"got {self.classes!r}", "how many scores there are, 1 or more")
        check_target("Critiques", self.target, self.classes)

    def after(self, rounds: Sequence[Groups]) -> Critiques:
        """The condition that asks with critiques of the last of `rounds`, or of the first as the exemplars say."""
        if not rounds:
            raise UserError("Critiques.after(rounds)", "got no round", "at least one, judged")
        source = rounds[-1 if self.exemplars.renew else 0]
        return dataclasses.replace(self, exemplars=dataclasses.replace(self.exemplars, source=source))

    def describe(self, groups: Sequence[Group]) -> list[list[Described | None]]:
        """Each completion by its last critique."""
        return [[self._described(f.text, f.score) if f else None for f in self._said(group)] for group in groups]

    def _said(self, group: Group) -> list[Feedback | None]:
        return last_said(group, "text", self.by)

    def _described(self, text: str | None, score: float | None) -> Described | None:
        text = (text or "").strip()
        return Described(text, self.rank(score)) if text else None

    def rank(self, score: float | None) -> int:
        """The class of a score.

        >>> [Critiques().rank(score) for score in (3.0, 2.5, 0.0, 4.0, None)]
        [0, 1, 3, -1, -1]
        """
        whole = math.floor(score) if score is not None and math.isfinite(score) else -1
        return self.classes - 1 - whole if 0 <= whole < self.classes else NO_CLASS

    def ask(self, prompt: Prompt) -> str:
        """An exemplar of the target, rendered. Raises `UserError` where there is none."""
        return self.render(Described(self.exemplars.of(self.asked, prompt), self.target))

    def render(self, described: Described) -> str:
        """The prefix, the critique and the separator."""
        return self.prefix + described.text + self.separator

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The critiques that ask for the target, the first choice first; read once from the exemplars' source."""
        if self.exemplars.texts and self.target == 0:
            return tuple(text.strip() for text in self.exemplars.texts)
        if self.exemplars.source is None:
            raise UserError(
                f"Critiques: asking for class {self.target}", "there are no critiques to ask with",
                "exemplars", "Take condition.after(rounds), or give Exemplars(texts=(...)) for the best class.",
            )  # fmt: skip
        return self.chosen(list(self.exemplars.source.read()))

    def chosen(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """The exemplars' `n` critiques of `groups` for the target, by the rule of `Exemplars`."""
        spellings: list[dict[str, Counter[str]]] = [{} for _ in range(self.classes)]
        prompts: list[dict[str, set[str]]] = [{} for _ in range(self.classes)]
        for group, said in zip(groups, self.describe(groups), strict=True):
            for one in said:
                if one is not None and one.rank != NO_CLASS:
                    key = folded(one.text)
                    spellings[one.rank].setdefault(key, Counter())[one.text] += 1
                    prompts[one.rank].setdefault(key, set()).add(group.prompt.id)
        filled = [rank for rank in range(self.classes) if spellings[rank]]
        if not filled:
            got = f"none of {len(groups)} groups has a critique with a score of 0 to {self.classes - 1}"
            raise UserError("Critiques: exemplars", got, "at least one", "Judge the groups with Critique(...).")
        rank = min(filled, key=lambda rank: (abs(rank - self.target), rank))
        best = sorted(spellings[rank], key=lambda key: (-len(prompts[rank][key]), len(key), key))[: self.exemplars.n]
        return tuple(min(spellings[rank][key].items(), key=lambda item: (-item[1], item[0]))[0] for key in best)
