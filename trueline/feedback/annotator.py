"""`Annotator`: an engine says which of two answers is better, in the order shown; the comparer behind LLM labels.

    Compare(by=Annotator(OpenAI("gpt-5-mini")))                                    A, B or Tie, in both orders
    Annotator(HF(policy), wording="pair-token", parser=FirstToken())               a soft verdict, from log-probs
    Annotator(engine, wording=File("alpaca_eval.txt"), parser=Ranking())           a template of AlpacaEval's

The question holds the prompt and both answers (`template`), the reply is read by a parser (`verdicts`), strictly: what
cannot be read is asked again (`asking`), and what is never read is an abstention with its last reply. How many orders
are shown, and what they mean together, is `Compare`'s business.

`Pool` lets several annotators share the work, each pair's chosen by its instruction; `ByCategory` by what its prompt is
about.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from trueline.errors import UserError
from trueline.feedback import template
from trueline.feedback.asking import Asking, with_room
from trueline.feedback.protocol import Comparer, Item, Verdict
from trueline.feedback.switching import chosen_annotator
from trueline.feedback.template import PairWording
from trueline.feedback.verdicts import FirstToken, Letters, VerdictParser
from trueline.records import Completion, Prompt
from trueline.sample.protocol import Sampling

M = TypeVar("M", bound="Members")


@dataclass(frozen=True)
class Annotator(Asking[Item, float]):
    """The comparer that asks `by` about both answers at once.

    wording: the name of one of ours ("pair", "pair-reasoned", "pair-ranking", "pair-token", "town-pair"), a `File` of
    your own, or a `PairTemplate`. parser: what the reply has to look like. cut: what a reply cut at `max_tokens` is:
    "abstain" asks again, "read" reads it, for a judge whose verdict comes first.
    """

    kind: ClassVar[str] = "annotator"
    reminder: ClassVar[str] = "The last reply to this could not be read. Reply only as described. ({try} of {tries})"

    wording: Any = field(default="pair", kw_only=True)
    parser: Any = field(default=Letters(), kw_only=True)
    cut: Literal["abstain", "read"] = field(default="abstain", kw_only=True)
    sampling: Sampling = field(default=Sampling(temperature=0.0, max_tokens=16), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.parser, VerdictParser):
            raise UserError("Annotator(parser=...)", f"got {self.parser!r}", "a parser of verdicts, such as Letters()")
        if self.cut not in ("abstain", "read"):
            raise UserError("Annotator(cut=...)", f"got {self.cut!r}", '"abstain" or "read"')
        if isinstance(self.parser, FirstToken) and not callable(getattr(self.by, "first_logprobs", None)):
            raise UserError(
                "Annotator(parser=FirstToken(...))", f"engine {self.by.name} tells no log-probs of first tokens",
                "an engine that does, such as OpenAI(...) or HF(policy)", "Or let it write: parser=Letters().",
            )  # fmt: skip
        object.__setattr__(self, "wording", template.chosen(self.wording, "Annotator(wording=...)"))
        words = self.words()
        if not self.parser.replies() and any("{verdicts}" in m.content for m in words.messages):
            got = f"the wording lists {{verdicts}}, and {type(self.parser).__name__} has no fixed texts"
            raise UserError("Annotator(wording=..., parser=...)", got, "a wording that says what to reply")

    @property
    def remembers(self) -> bool:
        """Whether the engine keeps what it said: then no verdict needs to be kept beside it."""
        return bool(getattr(self.by, "remembers", False))

    def words(self) -> PairWording:
        """The wording."""
        return template.opened(self.wording)

    def parse(self, reply: str) -> float | None:
        """The probability that the first answer is better, as a reply says it."""
        return self.parser.parse(reply)

    def readable(self, reply: Completion) -> bool:
        """Whether a reply is read at all."""
        return self.cut == "read" or super().readable(reply)

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, all questions put together."""
        if "_held" not in vars(self):
            with self:
                return self.compare(items)
        keys = ["\0".join([*(f"{m.role}\0{m.content}" for m in p.messages), "", a, "", b]) for p, a, b in items]
        waiting = dict(zip(keys, items, strict=True))
        said = self._opened(waiting) if isinstance(self.parser, FirstToken) else self._answered(waiting)
        return [Verdict(*said[key]) for key in keys]

    def _opened(self, waiting: dict[str, Item]) -> dict[str, tuple[float | None, str]]:
        """(verdict, log-probs as JSON) of each question, from the tokens that would open its reply."""
        asked = {key: self.put(item, 1) for key, item in waiting.items()}
        too_long = self._too_long(asked)
        prompts = {key: prompt for key, prompt in asked.items() if key not in too_long}
        names = self.parser.names
        told, without = with_room(prompts, lambda some: self._engine().first_logprobs(some, names))  # type: ignore[attr-defined]
        said: dict[str, tuple[float | None, str]] = {key: (None, why) for key, why in (too_long | without).items()}
        for key, logps in told.items():
            said[key] = self.parser.preferred(logps), msgspec.json.encode(logps, order="sorted").decode()
        return said

    def put(self, about: Item, attempt: int = 1) -> Prompt:
        """What the engine is asked about a pair, the `attempt`-th time."""
        prompt, first, second = about
        words, replies = self.words(), self.parser.replies()
        one, other = self.parser.names
        slots = {
            "asked": self.shown(prompt, words.cue), "first": first, "second": second, "name_1": one, "name_2": other,
            "verdicts": "\n".join(replies.values()), "try": str(attempt), "tries": str(self.tries),
        }  # fmt: skip
        again = (words.again or self.reminder) if attempt > 1 else ""
        meta = {
            "asked": prompt.text, "first": first, "second": second, "kind": "compare", "try": attempt,
            "names": [one, other], "replies": replies,
        }  # fmt: skip
        return Prompt(words.filled(slots, again), meta=meta)


@dataclass(frozen=True)
class Members(abc.ABC):
    """A comparer that hands each pair to one of several. members: (name, comparer) each."""

    members: tuple[tuple[str, Comparer], ...]

    def __post_init__(self) -> None:
        called = type(self).__name__
        object.__setattr__(self, "members", tuple((name, by) for name, by in self.members))
        names = [name for name, _ in self.members]
        if not names or len(set(names)) < len(names):
            raise UserError(f"{called}(members)", f"got the names {names}", "at least one annotator, each name once")
        for name, by in self.members:
            if not callable(getattr(by, "compare", None)):
                raise UserError(f"{called}, member {name}", f"got {by!r}", "a comparer: something with compare(items)")

    @abc.abstractmethod
    def who(self, prompt: Prompt) -> str:
        """The name of the member that is asked about a prompt."""

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @property
    def remembers(self) -> bool:
        """Whether all of them keep what they are told."""
        return all(getattr(by, "remembers", False) for _, by in self.members)

    def __enter__(self: M) -> M:
        held = vars(self)["_held"] = contextlib.ExitStack()
        for _, by in self.members:
            if isinstance(by, contextlib.AbstractContextManager):
                held.enter_context(by)
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_held").__exit__(*error)

    def compare(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, from whoever it is handed to."""
        chosen = [self.who(prompt) for prompt, _, _ in items]
        out: dict[int, Verdict] = {}
        for name, by in self.members:
            mine = [at for at, who in enumerate(chosen) if who == name]
            out |= zip(mine, by.compare([items[at] for at in mine]), strict=True) if mine else {}
        return [out[at] for at in range(len(items))]


@dataclass(frozen=True)
class Pool(Members):
    """Members that share the work, by AlpacaEval's draw from the instruction, in the order in which they are listed."""

    seed: int = 0

    @property
    def name(self) -> str:
        return "pool:" + "+".join(name for name, _ in self.members)

    def who(self, prompt: Prompt) -> str:
        """Whoever is drawn."""
        return chosen_annotator(prompt.text, [name for name, _ in self.members], self.seed)


@dataclass(frozen=True)
class ByCategory(Members):
    """Members for prompts of a kind each: that whose name is the prompt's `meta[field]`, else the first one."""

    field: str = "category"

    @property
    def name(self) -> str:
        return f"by-{self.field}:{self.members[0][1].name}"

    def who(self, prompt: Prompt) -> str:
        """The one for the prompt's category."""
        names = [name for name, _ in self.members]
        said = prompt.meta.get(self.field)
        return said if said in names else names[0]
