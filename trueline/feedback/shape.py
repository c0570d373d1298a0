"""`WellFormed`: answers that are not used, told by their form and by keywords; each says why, none disappears.

    judge(drawn, WellFormed())                       the rules of ALMoST, mended
    judge(drawn, WellFormed(published=True))         exactly as released: "BAD" of its files

A critic like others: every completion gets a label, `FIT` or the name of the first rule that it breaks, and the reason
as text. Whoever reads the groups later (`ByGenerator`, best-of-n) passes over those that are not fit; the record counts
them by rule.

| rule | as released | here |
| --- | --- | --- |
| short | fewer than 50 characters | the same, `least` |
| asks | ends with "?" or ":" | the same |
| well | begins with "well", "Wellness" too | with the word |
| unfinished | the last character is not "." or "!" | the answer was cut at its token limit |
| unsure | "don't know", with either apostrophe, "do not know", "don't knowingly" too | as words, "dont know" too |
| turn | holds "Human:" | holds "Human:" or "Assistant:", a space before the colon or not |
| image | holds an <Image> tag | the same |

As released, `unfinished` takes out code, lists and quotations whole; that an answer ended is known here.

Source: ALMoST, Kim et al. 2023 (arXiv 2305.13735); rules and order of its released code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trueline.errors import UserError, closest
from trueline.feedback.protocol import FIT, SHAPE, meter
from trueline.records import Completion, Feedback, Group

Check = Literal["short", "asks", "well", "unfinished", "unsure", "turn", "image"]
RULES: tuple[Check, ...] = get_args(Check)

_WELL = (re.compile(r"well\b", re.IGNORECASE), re.compile("well", re.IGNORECASE))
_UNSURE = (
    re.compile(r"\bdo(?:\s+not|n['’]?t)\s+know\b", re.IGNORECASE),
    re.compile(r"do(?:\s+not|n['’]t)\s+know", re.IGNORECASE),
)
_TURN = (re.compile(r"\b(?:human|assistant)\s?:", re.IGNORECASE), re.compile("human:", re.IGNORECASE))
_IMAGE = re.compile("<image>", re.IGNORECASE)


@dataclass(frozen=True)
class WellFormed:
    """Labels every completion `FIT`, or with the first of `rules` that it breaks.

    least: characters of an answer that is long enough. rules: those that are looked at, in the order of `RULES`.
    published: read them as ALMoST's code does.
    """

    least: int = 50
    rules: tuple[Check, ...] = RULES
    published: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not isinstance(self.least, int) or self.least < 0:
            raise UserError("WellFormed(least=...)", f"got {self.least!r}", "a number of characters")
        for rule in self.rules:
            if rule not in RULES:
                raise UserError("WellFormed(rules=...)", f'got "{rule}"', "a rule", closest(str(rule), list(RULES)))

    @property
    def name(self) -> str:
        return SHAPE

    def calls(self, groups: int, completions: int) -> int:
        """None: the text is at hand."""
        return 0

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with a label; counted by label."""
        said = [[self.judge(completion) for completion in group.completions] for group in groups]
        for label, n in Counter(feedback.label for of in said for feedback in of).items():
            meter(f"shape_{label}", n)
        return [group.with_feedback(of) for group, of in zip(groups, said, strict=True)]

    def judge(self, completion: Completion) -> Feedback:
        """The label of one completion, with the reason."""
        for rule in RULES:
            if rule in self.rules and (reason := self.broken(rule, completion)):
                return Feedback(SHAPE, label=rule, text=reason)
        return Feedback(SHAPE, label=FIT)

    def broken(self, rule: Check, completion: Completion) -> str:
        """Why a completion breaks a rule; "" where it does not."""
        text, old = completion.text, self.published
        if rule == "short":
            return f"it has {len(text)} characters, fewer than {self.least}" if len(text) < self.least else ""
        if rule == "asks":
            return f'it ends with "{text[-1]}"' if text.endswith(("?", ":")) else ""
        if rule == "unfinished" and old:
            return "" if text.endswith((".", "!")) else 'its last character is not "." or "!"'
        if rule == "unfinished":
            return "it was cut at its token limit" if completion.stopped == "length" else ""
        if rule == "well":
            return 'it begins with "well"' if _WELL[old].match(text) else ""
        found = {"unsure": _UNSURE[old], "turn": _TURN[old], "image": _IMAGE}[rule].search(text)
        return f'it holds "{found[0]}"' if found else ""
