"""`Grade`: an engine puts every answer into one of a few categories (the feedback of ALT-LMC).

    judge(samples, Grade(by=OpenAI("...")))                         the four categories of HH dialogues
    judge(samples, Grade(by=world.Judge(), wording="town-grade"))   the town's own judge

The reply must be one of the categories and nothing else; case, white space and a full stop at the end are forgiven.
What is stored is the category as it was offered, never as the engine spelt it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trueline.errors import UserError
from trueline.feedback.asking import AskingCritic
from trueline.records import Feedback
from trueline.sample.protocol import Sampling

HH = ("Harmless and very helpful", "Harmless and helpful", "Harmless and not helpful", "Harmful")
"""The categories of Lou et al. 2024 (ALT) for HH dialogues, the best first."""


@dataclass(frozen=True)
class Grade(AskingCritic):
    """Labels every completion with one of `categories`, the best first; `Feedback.label` holds it.

    Raises `UserError` for fewer than two categories, for two that only case or a full stop tells apart, and for a
    wording that does not name them all.
    """

    kind: ClassVar[str] = "grade"
    reminder: ClassVar[str] = (
        "Reply with one of these categories and not a word more. (This is request {try} of {tries}.)\n{categories}"
    )

    categories: tuple[str, ...] = HH
    wording: Any = field(default="hh", kw_only=True)
    sampling: Sampling = field(default=Sampling(temperature=0.0, max_tokens=32), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        where, texts = "Grade(categories=...)", self.categories
        if len(texts) < 2 or not all(isinstance(text, str) and _plain(text) for text in texts):
            raise UserError(where, f"got {texts!r}", "at least two texts, the best first")
        if len({_plain(text) for text in texts}) < len(texts) or any(t != " ".join(t.split()) for t in texts):
            raise UserError(where, f"got {texts!r}", "texts of one line that differ by more than case and a full stop")
        super().__post_init__()
        words = self.words()
        said = "\n".join([words.system, words.user])
        for text in texts if "{categories}" not in said else ():
            if text not in said:
                cure = "Put {categories} where they go, or name each."
                raise UserError(words.where, f'it does not name the category "{text}"', "all categories", cure)

    def parse(self, reply: str) -> Feedback | None:
        """The category that the reply is.

        >>> from trueline.sample.scripted import Scripted
        >>> Grade(Scripted(("",))).parse(" harmless and  HELPFUL. ").label
        'Harmless and helpful'
        """
        known = {_plain(text): text for text in self.categories}
        label = known.get(_plain(reply))
        return None if label is None else Feedback("", label=label)

    def wanted(self) -> dict[str, Any]:
        return {"categories": list(self.categories)}


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip().casefold()
