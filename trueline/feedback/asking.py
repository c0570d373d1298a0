"""What all share that ask an engine in words: strictly read replies, asked again where unread.

    judge(samples, Grade(by=engine))        an engine is anything that writes: an API, a local model, the town's judge

`Asking` is the asking itself, whatever it is about; `AskingCritic` puts one question per answer, `annotator.Annotator`
one per pair of answers. Each becomes one `Prompt`: the wording with its slots filled, and in `meta` what was asked, the
answer and what is wanted, for an engine that does not judge by reading. All questions of a shard go to the engine in
one call, which may put them at the same time; replies that cannot be read are asked again, together, by a question that
differs (a greedy engine would only repeat itself). What is still unread after `tries` is an abstention with its last
reply.

Waiting, rate limits, paying and remembering replies are the engine's business; what a reply means is the critic's.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from trueline.errors import UserError, closest
from trueline.feedback import wording as wordings
from trueline.feedback.protocol import meter
from trueline.feedback.wording import Shot, Wording, fill
from trueline.fingerprint import File
from trueline.records import Completion, Feedback, Group, Message, Prompt
from trueline.sample.protocol import Engine, NoRoom, Sampling
from trueline.store import Policy

C = TypeVar("C", bound="Asking[Any, Any]")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
Sees = Literal["conversation", "last"]
SPOKEN = {"system": "System", "user": "Human", "assistant": "Assistant"}
Question = tuple[Prompt, str]
"""A prompt and the text of one answer to it."""


@dataclass(frozen=True)
class Asking(abc.ABC, Generic[Q, A]):
    """Asks `by`, in the words of `wording`; Q is what a question is about, A what a reply says.

    wording: the name of one of ours, or a `File` of your own; its content is part of the identity. sees: the whole
    conversation, or its last turn only. tries: how often something is asked before an unread reply is an abstention.
    sampling: of the replies.
    """

    kind: ClassVar[str]
    reminder: ClassVar[str]  # put after a question that is asked again, where the wording has no section for it

    by: Engine
    wording: Any = field(kw_only=True)
    sees: Sees = field(default="conversation", kw_only=True)
    tries: int = field(default=3, kw_only=True)
    sampling: Sampling = field(kw_only=True)

    def __post_init__(self) -> None:
        called = type(self).__name__
        if not isinstance(self.by, Engine):
            cure = "Write HF(policy)." if isinstance(self.by, Policy) else ""
            raise UserError(f"{called}(by=...)", f"got {self.by!r}", "an engine: something that writes", cure)
        if self.sees not in get_args(Sees):
            known = list(get_args(Sees))
            raise UserError(f"{called}(sees=...)", f"got {self.sees!r}", " or ".join(known), closest(self.sees, known))
        if not isinstance(self.tries, int) or self.tries < 1:
            raise UserError(f"{called}(tries=...)", f"got {self.tries!r}", "a whole number of at least 1")
        if self.sampling.n != 1:
            raise UserError(f"{called}(sampling=...)", f"got n={self.sampling.n}", "n=1: one reply per question")

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.by.name}"

    @abc.abstractmethod
    def parse(self, reply: str) -> A | None:
        """What a reply says; None where it cannot be read."""

    @abc.abstractmethod
    def put(self, about: Q, attempt: int) -> Prompt:
        """What the engine is asked, the `attempt`-th time."""

    def __enter__(self: C) -> C:
        vars(self)["_held"] = contextlib.ExitStack()
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_open", None)
        vars(self).pop("_held").__exit__(*error)

    def _engine(self) -> Engine:
        """The engine, opened by the first question: a run with nothing left to ask needs no key and loads no model."""
        if "_open" not in vars(self):
            vars(self)["_held"].enter_context(self.by)
            vars(self)["_open"] = True
        return self.by

    def _answered(self, waiting: dict[str, Q]) -> dict[str, tuple[A | None, str]]:
        """(what is said, the reply) of each question; each is asked once, and again while its reply is unread."""
        said: dict[str, tuple[A | None, str]] = {}
        waiting = dict(waiting)
        for attempt in range(1, self.tries + 1):
            asked = {key: self.put(about, attempt) for key, about in waiting.items()}
            for key, why in self._too_long(asked).items():
                said.setdefault(key, (None, why))
                del waiting[key], asked[key]
            replies, without = self._replies(asked, attempt)
            for key, why in without.items():
                said[key] = None, why
                del waiting[key]
            for key, reply in replies.items():
                found = self.parse(reply.text) if self.readable(reply) else None
                said[key] = found, reply.text
                if found is not None:
                    del waiting[key]
        return said

    def readable(self, reply: Completion) -> bool:
        """Whether a reply is read at all: one that was cut may read as something that it would not have said."""
        return reply.stopped == "stop"

    def _replies(self, asked: Mapping[str, Prompt], attempt: int) -> tuple[dict[str, Completion], dict[str, str]]:
        """The engine's reply to each question, all put in one call; and why there is none, where it has no room."""
        if asked:
            self._count(len(asked), attempt)
        sampling = replace(self.sampling, seed=self.sampling.seed + attempt - 1)
        said, without = with_room(asked, lambda prompts: self._engine().generate(prompts, sampling))
        if any(len(one) != 1 for one in said.values()):
            got = sum(map(len, said.values()))
            raise ValueError(f"engine {self.by.name} gave {got} replies to {len(asked)} questions")
        return {key: one[0] for key, one in said.items()}, without

    def _count(self, questions: int, attempt: int) -> None:
        if attempt > 1:
            meter("asked_again", questions)

    def _too_long(self, asked: Mapping[str, Prompt]) -> dict[str, str]:
        """Which questions the engine has no room for, and why."""
        check = getattr(self.by, "too_long", None)
        if check is None or not asked:
            return {}
        self._engine()
        found = ((key, check(prompt, self.sampling)) for key, prompt in asked.items())
        return {key: str(error) for key, error in found if error is not None}

    def shown(self, prompt: Prompt, cue: str = "") -> str:
        """What of the prompt stands in the question: one turn as it is, several with their speakers; without the cue.

        Nothing is searched in the text but its very end.
        """
        last = prompt.text.rstrip()
        last = last.removesuffix(cue).rstrip() if cue and last.endswith(cue) else prompt.text
        if self.sees == "last" or len(prompt.messages) == 1:
            return last
        texts = [*(m.content for m in prompt.messages[:-1]), last]
        spoken = (f"{SPOKEN[m.role]}: {text}" for m, text in zip(prompt.messages, texts, strict=True))
        return "\n\n".join(spoken)


def with_room(
    asked: Mapping[str, Prompt], ask: Callable[[list[Prompt]], list[R]]
) -> tuple[dict[str, R], dict[str, str]]:
    """What `ask` says to each prompt, all put in one call; and why it says nothing, where its server has no room.

    A server says so only once it is asked. The others are then asked for again, of which an engine that pays keeps what
    it was told.
    """
    asked, without = dict(asked), dict[str, str]()
    while asked:
        try:
            return dict(zip(asked, ask(list(asked.values())), strict=True)), without
        except NoRoom as error:
            found = [key for key, prompt in asked.items() if prompt.id == error.prompt]
            if not found:
                raise
            without |= dict.fromkeys(found, str(error))
            asked = {key: prompt for key, prompt in asked.items() if key not in without}
    return {}, without


@dataclass(frozen=True)
class AskingCritic(Asking[Question, Feedback]):
    """A critic that asks about every answer.

    shots: worked examples in place of those in the wording; () for none.
    """

    shots: tuple[Shot, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        called = type(self).__name__
        if self.shots is not None:
            object.__setattr__(self, "shots", tuple(self.shots))
        object.__setattr__(self, "wording", wordings.chosen(self.wording, f"{called}(wording=...)"))
        asked = self.words()
        asked.check(self._slots(Shot("", "", ""), 1), ("asked", "answer"))
        for shot in asked.shots:
            if self.parse(shot.reply) is None:
                got = f"the reply of a shot is {shot.reply!r}, which cannot be read"
                raise UserError(f"{called}(shots)", got, "a reply as it is wanted", "Mend the shot.")

    @abc.abstractmethod
    def wanted(self) -> dict[str, Any]:
        """What is asked for, as JSON data: for `meta`, and (joined into text) for slots of the wording."""

    def calls(self, groups: int, completions: int) -> int:
        """One question per completion; those asked again come on top, equal answers to one prompt are asked once."""
        return completions

    def words(self) -> Wording:
        """The wording, with the shots that are in force."""
        file: File = self.wording
        found = wordings.opened(file)
        return found if self.shots is None else replace(found, shots=self.shots)

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with one more feedback, all questions asked together."""
        if "_held" not in vars(self):
            with self:
                return self(groups)
        questions = [(group.prompt, c.text) for group in groups for c in group.completions]
        waiting = {_key(*question): question for question in questions}
        meter("critic_calls", len(questions) - len(waiting))
        meter("cached", len(questions) - len(waiting))
        said = {key: self._feedback(*found) for key, found in self._answered(waiting).items()}
        return [group.with_feedback(said[_key(group.prompt, c.text)] for c in group.completions) for group in groups]

    def _feedback(self, found: Feedback | None, raw: str) -> Feedback:
        if found is None:
            return Feedback(self.name, raw=raw)
        return Feedback(self.name, found.score, found.label, found.text, raw)

    def _count(self, questions: int, attempt: int) -> None:
        meter("critic_calls", questions)
        super()._count(questions, attempt)

    def put(self, about: Question, attempt: int) -> Prompt:
        """See `question`."""
        return self.question(*about, attempt)

    def question(self, prompt: Prompt, answer: str, attempt: int = 1) -> Prompt:
        """What the engine is asked about one answer, the `attempt`-th time."""
        words = self.words()
        messages = [Message("system", fill(words.system, self._slots(Shot("", "", ""), 1)))] if words.system else []
        for shot in words.shots:
            messages += [Message("user", fill(words.user, self._slots(shot, 1))), Message("assistant", shot.reply)]
        slots = self._slots(Shot(self.shown(prompt, words.cue), answer, ""), attempt)
        text = fill(words.user, slots)
        if attempt > 1:
            again = words.again or self.reminder
            # Greedy engines repeat themselves word for word: no two tries may be alike.
            text += "\n\n" + fill(again if "{try}" in again else again + " ({try} of {tries})", slots)
        messages.append(Message("user", text))
        meta = {"asked": prompt.text, "answer": answer, "kind": self.kind, "try": attempt, **self.wanted()}
        return Prompt(tuple(messages), meta=meta)

    def _slots(self, shot: Shot, attempt: int) -> dict[str, str]:
        wanted = {k: "\n".join(v) if isinstance(v, list) else str(v) for k, v in self.wanted().items()}
        return {"asked": shot.asked, "answer": shot.answer, "try": str(attempt), "tries": str(self.tries), **wanted}


def _key(prompt: Prompt, answer: str) -> str:
    """Equal answers to one prompt are one question."""
    return "\0".join([prompt.id, *(f"{m.role}\0{m.content}" for m in prompt.messages), "", answer])
