"""How the reply of an annotator becomes a verdict: parsers as frozen values, each strict about one form of reply.

    Annotator(engine)                                            one of the letters A and B, or "Tie"
    Annotator(engine, wording="pair-token", parser=FirstToken())  how likely each of two tokens opens the reply
    Annotator(engine, wording="pair-ranking", parser=Ranking())   [{"model": "model_1", "rank": 1}, ...]
    Regex(((r"(?:^|\\n) ?Output \\(a\\)", 1.0), (r"(?:^|\\n) ?Output \\(b\\)", 0.0)))
    ScorePair()                                                  two scores on the first line: "7 4"
    JsonField("ordered_models", Ranking(("m", "M")))              a field of a JSON object, read by another parser
    Literally()                                                  a value written out: 1, 2 or 1.5

A verdict is the probability that the answer shown first is better: 1, 0, 1/2 for a tie, None where the reply says none
of them. `names` are what the answers are called in the question, `replies()` the texts that are asked for.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from trueline.errors import UserError

Replies = dict[Literal["first", "second", "tie"], str]


@runtime_checkable
class VerdictParser(Protocol):
    """Reads a reply."""

    @property
    def names(self) -> tuple[str, str]:
        """What the answers shown first and second are called."""
        ...

    def parse(self, said: Any) -> float | None:
        """The probability that the first answer is better; None for anything but the form that was asked for."""
        ...

    def replies(self) -> Replies:
        """How verdicts are spelt, as far as they are a few fixed texts."""
        ...


@dataclass(frozen=True)
class Letters:
    """The reply is one of three texts and nothing else; case, white space, a full stop and brackets are forgiven.

    tie: "" where ties are not offered.

    >>> [Letters().parse(reply) for reply in ("A", " b.\\n", "[[A]]", "TIE", "A is better", "")]
    [1.0, 0.0, 1.0, 0.5, None, None]
    """

    first: str = "A"
    second: str = "B"
    tie: str = "Tie"

    def __post_init__(self) -> None:
        offered = [_plain(text) for text in (self.first, self.second, self.tie) if text]
        if len(set(offered)) < len(offered) or not all(offered) or not (self.first and self.second):
            got = (self.first, self.second, self.tie)
            raise UserError("Letters(...)", f"got {got!r}", "two or three texts that case does not make equal")

    @property
    def names(self) -> tuple[str, str]:
        return self.first, self.second

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply."""
        texts = {_plain(self.first): 1.0, _plain(self.second): 0.0}
        texts |= {_plain(self.tie): 0.5} if self.tie else {}
        return texts.get(_plain(said)) if isinstance(said, str) else None

    def replies(self) -> Replies:
        """What is offered."""
        return {"first": self.first, "second": self.second, **({"tie": self.tie} if self.tie else {})}


@dataclass(frozen=True)
class Regex:
    """Ordered patterns, each with the verdict that it means; they are looked for one after the other in the reply.

    take: "only" wants exactly one match; "last" takes the last of them, for a judge that reasons before it decides.
    names: what the question calls the answers, where a wording asks for that.

    As AlpacaEval's `regex_parser`: the earliest match of all patterns counts (of several at one place the first that
    is listed), and the search goes on behind it as if the reply began there.
    """

    patterns: tuple[tuple[str, float], ...]
    take: Literal["only", "last"] = "only"
    names: tuple[str, str] = ("a", "b")

    def __post_init__(self) -> None:
        object.__setattr__(self, "patterns", tuple((str(text), float(p)) for text, p in self.patterns))
        if self.take not in ("only", "last"):
            raise UserError("Regex(take=...)", f"got {self.take!r}", '"only" or "last"')
        if not self.patterns:
            raise UserError("Regex(patterns)", "got none", "pairs of a pattern and the verdict that it means")
        for text, p in self.patterns:
            if not 0 <= p <= 1:
                raise UserError(f"Regex: pattern {text!r}", f"means {p!r}", "1 (the first wins), 0, or 1/2 (a tie)")
            try:
                empty = _compiled(text).search("")
            except re.error as error:
                raise UserError(f"Regex: pattern {text!r}", f"{error}", "a regular expression") from None
            if empty:
                raise UserError(f"Regex: pattern {text!r}", "it matches nothing at all", "one that matches a text")

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply."""
        found = self.matches(said) if isinstance(said, str) else []
        return found[-1] if len(found) == 1 or (found and self.take == "last") else None

    def matches(self, reply: str) -> list[float]:
        """The verdicts of all matches, in order."""
        out: list[float] = []
        while True:
            found = [(match, p) for text, p in self.patterns if (match := _compiled(text).search(reply))]
            if not found:
                return out
            match, p = min(found, key=lambda one: one[0].start())
            out.append(p)
            reply = reply[match.end() + (not match[0]) :]  # a match of no width, such as a look-ahead, moves on too

    def replies(self) -> Replies:
        """Those patterns that spell a fixed text: "Output (a)" for the usual "at the start of a line"."""
        out: Replies = {}
        kinds: dict[float, Literal["first", "second", "tie"]] = {1.0: "first", 0.0: "second", 0.5: "tie"}
        for text, p in self.patterns:
            spelt = re.sub(r"\\(\W)", r"\1", text.removeprefix(r"(?:^|\n)").removeprefix(" ?"))
            if p in kinds and self.parse(spelt) == p:
                out.setdefault(kinds[p], spelt)
        return out


@dataclass(frozen=True)
class Ranking:
    """A list of two objects that name a model and its rank, in JSON or as Python writes it; equal ranks are a tie.

    strict: exactly these two models with ranks 1 and 2 (or both 1), and nothing before or after the list. Otherwise
    as AlpacaEval's `ranking_parser`: the rank of the first model decides, whatever else is in the list.

    >>> Ranking().parse('[{"model": "model_1", "rank": 1}, {"model": "model_2", "rank": 2}]')
    1.0
    >>> Ranking().parse("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]")
    0.0
    """

    names: tuple[str, str] = ("model_1", "model_2")
    strict: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) != 2 or self.names[0] == self.names[1]:
            raise UserError("Ranking(names)", f"got {self.names!r}", "two different names")

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply, a text or a list."""
        rows = written(said) if isinstance(said, str) else said
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None
        if not self.strict:
            rank = next((row.get("rank") for row in rows if row.get("model") == self.names[0]), None)
            return as_p(rank) if _number(rank) and rank in (1, 2) else None
        ranks = {row.get("model"): row.get("rank") for row in rows if isinstance(row.get("model"), str)}
        if len(rows) != 2 or set(ranks) != set(self.names) or not all(map(_number, ranks.values())):
            return None
        return {(1, 2): 1.0, (2, 1): 0.0, (1, 1): 0.5}.get((ranks[self.names[0]], ranks[self.names[1]]))

    def replies(self) -> Replies:
        """The two rankings, as JSON."""
        one, other = self.names
        return {"first": _ranked(one, other), "second": _ranked(other, one)}


@dataclass(frozen=True)
class FirstToken:
    """How likely each of two tokens opens the reply: p = P(first) / (P(first) + P(second)).

    A token that the engine does not tell of counts 0; where it tells of neither, the annotator abstains. binarize: the
    likelier one wins outright. Nothing is drawn: the engine must have `first_logprobs` (`OpenAI`, `HF`).

    Worked: log-probs m -0.017597131 and M -4.048847 are p = 0.982558 (AlpacaEval's preference 2 - p = 1.017442).
    """

    first: str = "m"
    second: str = "M"
    binarize: bool = False

    def __post_init__(self) -> None:
        if not (self.first.strip() and self.second.strip()) or self.first.strip() == self.second.strip():
            got = (self.first, self.second)
            raise UserError("FirstToken(first, second)", f"got {got!r}", "two tokens that differ by more than spaces")

    @property
    def names(self) -> tuple[str, str]:
        return self.first, self.second

    def preferred(self, logps: Mapping[str, float]) -> float | None:
        """The verdict of the log-probs of opening tokens."""
        one, other = (math.exp(logps[name]) if name in logps else 0.0 for name in self.names)
        if not one + other:
            return None
        p = one / (one + other)
        return p if not self.binarize or p == 0.5 else float(p > 0.5)

    def parse(self, said: Any) -> float | None:
        """The verdict of kept log-probs, a mapping or its JSON."""
        logps = written(said) if isinstance(said, str) else said
        if not isinstance(logps, dict) or not all(_number(x) and -1e9 < x < 1 for x in logps.values()):
            return None
        return self.preferred(logps)

    def replies(self) -> Replies:
        """The two tokens."""
        return {"first": self.first, "second": self.second}


@dataclass(frozen=True)
class ScorePair:
    """Two scores alone on the first line, parted by a space or a comma; the higher wins (the `lmsys_parser`).

    >>> [ScorePair().parse(reply) for reply in ("7 1\\nmore", "1, 7", "1 1", "7", "8 out of")]
    [1.0, None, 0.5, None, None]
    """

    names: tuple[str, str] = ("1", "2")

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply."""
        parts = said.split("\n")[0].replace(",", " ").split(" ") if isinstance(said, str) else []
        try:
            one, other = (float(part) for part in parts)
        except ValueError:  # not two, or no numbers
            return None
        return None if math.isnan(one + other) else 0.5 + (one > other) / 2 - (one < other) / 2

    def replies(self) -> Replies:
        """Any two numbers, such as these."""
        return {"first": "8 4", "second": "4 8", "tie": "6 6"}


@dataclass(frozen=True)
class Literally:
    """A value that is written out, in JSON or Python: AlpacaEval's preference (1, 2, 1.5 or 0 for a tie).

    means: other values and the preferences that they stand for (("a", 1.0), ("b", 2.0)); the reply's own text counts
    where it is no value.
    """

    means: tuple[tuple[str, float], ...] = ()
    names: tuple[str, str] = ("1", "2")

    def __post_init__(self) -> None:
        object.__setattr__(self, "means", tuple((str(text), float(x)) for text, x in self.means))
        for text, x in self.means:
            if as_p(x) is None:
                raise UserError("Literally(means)", f"{text!r} means {x}", "a preference: 1, 2, between, or 0 (a tie)")

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply, or of a value."""
        value = written(said) if isinstance(said, str) else said
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        known = dict(self.means)
        for key in (said, value):
            if not isinstance(key, list | dict) and str(key) in known:
                return as_p(known[str(key)])
        return as_p(value)

    def replies(self) -> Replies:
        """The first text of each verdict."""
        spelt: dict[float | None, str] = {}
        for text, x in self.means or (("1", 1.0), ("2", 2.0), ("1.5", 1.5)):
            spelt.setdefault(as_p(x), text)
        kinds: tuple[tuple[Literal["first", "second", "tie"], float], ...] = (("first", 1), ("second", 0), ("tie", 0.5))
        return {kind: spelt[p] for kind, p in kinds if p in spelt}


@dataclass(frozen=True)
class JsonField:
    """One field of a JSON object, read by `then`; of a text with a ```json fence, of what is in the fence."""

    field: str
    then: Any

    def __post_init__(self) -> None:
        if not isinstance(self.then, VerdictParser) or isinstance(self.then, FirstToken):
            raise UserError("JsonField(then=...)", f"got {self.then!r}", "a parser of replies, such as Ranking()")

    @property
    def names(self) -> tuple[str, str]:
        return self.then.names

    def parse(self, said: Any) -> float | None:
        """The verdict of a reply, or of an object."""
        if isinstance(said, str):
            fenced = re.search(r"```json(.*?)```", said, re.DOTALL)
            try:
                said = json.loads(fenced[1] if fenced else said)
            except (ValueError, RecursionError):
                return None
        return self.then.parse(said[self.field]) if isinstance(said, dict) and self.field in said else None

    def replies(self) -> Replies:
        """What `then` asks for, as the value of the field."""
        return {kind: json.dumps({self.field: _value(text)}) for kind, text in self.then.replies().items()}


def as_p(preference: Any) -> float | None:
    """AlpacaEval's preference as the probability that output 1 wins: 1 is 1, 2 is 0, 1.5 and 0 are a tie.

    >>> [as_p(x) for x in (1, 2, 1.5, 0, 1.25, None, 3, True)]
    [1.0, 0.0, 0.5, 0.5, 0.75, None, None, None]
    """
    if not _number(preference):
        return None
    if preference == 0:
        return 0.5
    return 2.0 - float(preference) if 1 <= preference <= 2 else None


def written(text: str) -> Any:
    """The value that a text writes out in JSON or as a Python literal; None where it does neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _value(text: str) -> Any:
    found = written(text)
    return text if found is None else found


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _ranked(best: str, other: str) -> str:
    return json.dumps([{"model": best, "rank": 1}, {"model": other, "rank": 2}])


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").strip("[]() ").casefold()


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(text)
