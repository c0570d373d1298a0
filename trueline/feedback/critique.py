"""`Critique`: an engine says in one short sentence what is good and bad about an answer, and scores it (ALT-LMU).

    judge(samples, Critique(by=OpenAI("...")))                               summaries of posts
    judge(samples, Critique(by=world.Judge(), wording="town-critique"))      the town's own judge

The reply has three labelled parts, `Analysis:`, `Feedback:` and `Score:`; the sentence becomes `Feedback.text`, the
score `Feedback.score`, and `raw` keeps it all. How strictly it is read is `reading`:

* "strict": each label once, in this order, on one line or several; the sentence is not empty; the reply ends with the
  score, which may carry "/3" and a full stop. Stars and hashes around a label are forgiven, words like "score" within
  the analysis are no labels.
* "compatible": as the released ALT reads, for comparison with its figures: labels in exactly this case, a part ends at
  the next "Feedback" or "Score" even within a sentence, the score is the digits and dots after "Score: ".

Worked: "Analysis: ok. Feedback: short. Score: 3/3" is ("short.", 3) in both; "... Score: <3>" and a score before the
feedback are unread in both; "Analysis: The Score is fair. Feedback: ok. Score: 2" is ("ok.", 2) in both, and with
"Feedback: A Score of two. Score: 2" the sentence is "A Score of two." if strict and "A" if compatible.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trueline.errors import UserError
from trueline.feedback.asking import AskingCritic
from trueline.records import Feedback
from trueline.sample.protocol import Sampling

Reading = Literal["strict", "compatible"]
LABELS = ("analysis", "feedback", "score")
LABEL = re.compile(r"(?:^[#\s]*|(?<!\w))\**(Analysis|Feedback|Score|ANALYSIS|FEEDBACK|SCORE)\**:\**", re.MULTILINE)
SCORE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(\d+(?:\.\d+)?))?\s*\.?\s*\**\s*")


@dataclass(frozen=True)
class Critique(AskingCritic):
    """Gives every completion a sentence and a score from 0 to `most`.

    outside: what a score above `most` is: "abstain", or "keep" it as it is (it will match no class of scores).
    """

    kind: ClassVar[str] = "critique"
    reminder: ClassVar[str] = (
        "Reply with the three parts Analysis:, Feedback: and Score:, each once and in this order, and end with the "
        "score, a number from 0 to {most}. (This is request {try} of {tries}.)"
    )

    wording: Any = field(default="tldr", kw_only=True)
    most: int = field(default=3, kw_only=True)
    reading: Reading = field(default="strict", kw_only=True)
    outside: Literal["abstain", "keep"] = field(default="abstain", kw_only=True)
    sampling: Sampling = field(default=Sampling(temperature=0.0, max_tokens=512), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.most, int) or isinstance(self.most, bool) or self.most < 1:
            raise UserError("Critique(most=...)", f"got {self.most!r}", "a whole number of at least 1")
        if self.reading not in ("strict", "compatible"):
            raise UserError("Critique(reading=...)", f"got {self.reading!r}", '"strict" or "compatible"')
        if self.outside not in ("abstain", "keep"):
            raise UserError("Critique(outside=...)", f"got {self.outside!r}", '"abstain" or "keep"')
        super().__post_init__()

    def parse(self, reply: str) -> Feedback | None:
        """The sentence and the score of a reply."""
        found = strictly(reply, self.most) if self.reading == "strict" else as_released(reply)
        if found is None or (self.outside == "abstain" and found[2] > self.most):
            return None
        return Feedback("", text=found[1], score=found[2])

    def wanted(self) -> dict[str, Any]:
        return {"most": self.most}


def strictly(reply: str, most: float) -> tuple[str, str, float] | None:
    """Analysis, sentence and score; None for anything but the form that was asked for. A "/n" must be "/most".

    >>> strictly("Analysis: ok. Feedback: short. Score: 3/3", 3)
    ('ok.', 'short.', 3.0)
    """
    found = list(LABEL.finditer(reply))
    if tuple(label[1].lower() for label in found) != LABELS or reply[: found[0].start()].strip():
        return None
    analysis, sentence = (reply[a.end() : b.start()].strip() for a, b in itertools.pairwise(found))
    score = SCORE.fullmatch(reply, found[-1].end())
    if score is None or not analysis or not sentence or (score[2] is not None and float(score[2]) != most):
        return None
    return analysis, sentence, float(score[1])


def as_released(reply: str) -> tuple[str, str, float] | None:
    """Analysis, sentence and score as the released ALT reads them, its exception for a score of dots only apart.

    >>> as_released("Analysis: ok. Feedback: short. Score: 2.")
    ('ok.', 'short.', 2.0)
    """
    rest = reply.partition("Analysis:")[2]
    at = rest.find("Feedback:")
    after = rest[at + len("Feedback:") :]
    score = re.search(r"Score: ([0-9.]+)", after)
    if at < 0 or 0 <= rest.find("Score:") < at or score is None:
        return None
    analysis, sentence = re.split("Feedback|Score", rest, maxsplit=1)[0], after.partition("Score")[0]
    try:
        return analysis.strip(), sentence.strip(), float(score[1])
    except ValueError:  # dots only, or several of them
        return None
