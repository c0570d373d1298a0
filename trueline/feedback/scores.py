"""TwoScores: two scores as judges really write them; and the annotators of the 80 Vicuna questions, who give them.

    Annotator(engine, wording="pair-scores", parser=TwoScores())
    duel(mine, theirs, vicuna(OpenAI("gpt-5-mini")))            both orders, 160 reviews of 80 questions

A judge that is asked for two numbers on its first line writes "8 9", and as often "8/10 and 9/10" or "Assistant 1: 8,
Assistant 2: 9"; one that is to reason first writes them last. All these are read, and nothing else: a third number, a
score out of range, names in doubt, or a first line that the last one contradicts is no verdict. So a reply that cannot
be read is an abstention; ALMoST's code, which reads "8 9" and "8,9" alone, counts it as a tie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trueline.errors import UserError
from trueline.feedback.annotator import Annotator, ByCategory
from trueline.feedback.compare import Compare
from trueline.feedback.verdicts import Replies
from trueline.sample.protocol import Engine, Sampling

Where = Literal["first", "last", "either"]
Scored = tuple[float, float]

_WHO = r"(?:(?:the )?(?:ai )?(?:assistant|answer|response|model) ?#?(?P<who{0}>[12ab])\b(?:'s)?(?: (?:score|rating))?"
_WHO += r" ?(?:[:=]| is| gets| scores)? ?)?"
_ONE = _WHO + r"(?P<score{0}>\d{{1,3}}(?:\.\d+)?)(?: ?/ ?(?P<of{0}>\d+)| out of (?P<out{0}>\d+))?(?: points?)?"
_PARTED = r"(?: ?[,;|&] ?(?:and )?| and | vs\.? | )"
_TITLE = r"(?:the )?(?:final |overall )?(?:scores?|ratings?)(?: are)?"
_LINE = re.compile(rf"(?:{_TITLE} ?[:=]? ?)?{_ONE.format(1)}{_PARTED}{_ONE.format(2)}[.!;]?")
_SINGLE = re.compile(rf"{_ONE.format(1)}[.,;]?")
_HEADING = re.compile(rf"{_TITLE} ?:?")
_MARKUP = re.compile(r"[*_`\"<>()\[\]{}#]|^[-•] ")


@dataclass(frozen=True)
class TwoScores:
    """The scores of the answers shown first and second; the higher one wins, equal ones are a tie.

    where: they stand on the reply's "first" line or on its "last" one, which may be two lines where each names its
    answer; "either" reads both places, and nothing where they differ. least, most: the scale, and what may stand behind
    a stroke ("8/10").

    >>> [TwoScores().scores(reply) for reply in ("8 9", "8/10 and 9/10", "Assistant 2: 9, Assistant 1: 8", "8 of 9")]
    [(8.0, 9.0), (8.0, 9.0), (8.0, 9.0), None]
    """

    where: Where = "either"
    least: float = 1
    most: float = 10
    names: tuple[str, str] = ("1", "2")

    def __post_init__(self) -> None:
        if self.where not in get_args(Where):
            raise UserError("TwoScores(where=...)", f"got {self.where!r}", " or ".join(get_args(Where)))
        if not self.least < self.most:
            raise UserError(
                "TwoScores(least, most)", f"got {self.least} and {self.most}", "a scale, the lower end first"
            )

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply."""
        found = self.scores(said) if isinstance(said, str) else None
        return None if found is None else 0.5 + (found[0] > found[1]) / 2 - (found[0] < found[1]) / 2

    def scores(self, reply: str) -> Scored | None:
        """Both scores; None for a reply that cannot be read."""
        lines = [line for line in map(_tidy, reply.split("\n")) if line]
        lines = lines[1:] if lines and _HEADING.fullmatch(lines[0]) else lines
        first = self._at(lines, 0) if self.where != "last" else None
        last = self._at(lines, len(lines) - 1) if self.where != "first" else None
        if first and last and first != last:
            return None
        return first or last

    def _at(self, lines: Sequence[str], at: int) -> Scored | None:
        """The scores on the line at one end of a reply, or on it and its neighbour."""
        if not lines:
            return None
        pair = lines[:2] if at == 0 else lines[-2:]
        if found := self._line(lines[at]):
            return found
        both = [_SINGLE.fullmatch(line) for line in pair]
        if len(pair) == 2 and all(match and match["who1"] for match in both):
            return self._line(", ".join(line.rstrip(".,;") for line in pair))
        return None

    def _line(self, line: str) -> Scored | None:
        match = _LINE.fullmatch(line)
        if not match:
            return None
        values = [float(match[f"score{i}"]) for i in (1, 2)]
        scales = [match[f"{name}{i}"] for name in ("of", "out") for i in (1, 2)]
        if not all(self.least <= v <= self.most for v in values) or any(s and float(s) != self.most for s in scales):
            return None
        who = [(match[f"who{i}"] or "").translate(str.maketrans("ab", "12")) for i in (1, 2)]
        if who in (["", ""], ["1", "2"]):
            return values[0], values[1]
        return (values[1], values[0]) if who == ["2", "1"] else None

    def replies(self) -> Replies:
        """Any two numbers, such as these."""
        return {"first": "8 4", "second": "4 8", "tie": "6 6"}


def _tidy(line: str) -> str:
    return " ".join(_MARKUP.sub("", line.strip()).casefold().split())


REVIEW = Sampling(temperature=0.2, max_tokens=1024)


def vicuna(by: Engine, sampling: Sampling = REVIEW, tries: int = 3) -> Compare:
    """The critic of the Vicuna questions: both orders, scores from 1 to 10, and words of their own for coding and math.

    by: the judge. A prompt's category stands in its meta (`prompts.vicuna`).
    """

    def asked(wording: str) -> Annotator:
        return Annotator(by, wording=wording, parser=TwoScores(), sampling=sampling, tries=tries)

    special = {"coding": "pair-scores-coding", "math": "pair-scores-math"}
    members = (("general", asked("pair-scores")), *((name, asked(wording)) for name, wording in special.items()))
    return Compare(by=ByCategory(members))
