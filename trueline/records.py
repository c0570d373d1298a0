"""The records that flow through every pipeline: one prompt, its answers, and what was said of them.

A `Group` is append-only: sampling fills completions, judging adds feedback or preferences, nothing rewrites. `None`
everywhere means *abstained* or *not known*, never zero, and an abstention is carried along instead of dropped.

This module knows nothing of tokens, models or files other than JSON lines; how text becomes tokens is `chat`'s
business, where records live is `store`'s. Reading is strict: a bad row names its file, line, field, what it got and
what it wanted.

One JSON line of a groups file, worked out:

    {"prompt": {"messages": [{"role": "user", "content": "Who bakes bread?"}], "id": "p-3f0c..."},
     "completions": [{"text": "Ada does.", "author": "sft-8192ef8f", "stopped": "stop"},
                     {"text": "Go away.", "author": "sft-8192ef8f", "stopped": "stop"}],
     "feedback": [[{"by": "gold", "score": 1.0}], [{"by": "gold", "score": 0.0}]],
     "preferences": [{"left": 0, "right": 1, "p": 1.0, "by": "compare:town"}]}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from trueline.errors import UserError

Role = Literal["system", "user", "assistant"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all records: frozen, strict about unknown fields, defaults left out of the JSON."""


class Message(Record, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(Record, frozen=True):
    """What is asked: the conversation so far, ending before the assistant's next turn.

    `id` is the corpus' own id where it has one and a hash of the messages otherwise, so that the same question has
    the same id in every run. `reference` is a known good answer or None. `meta` is the corpus' business (split,
    source, facts to grade by); nothing here reads it.
    """

    messages: tuple[Message, ...]
    id: str = ""
    reference: str | None = None
    meta: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a prompt needs at least one message")
        if not self.id:
            msgspec.structs.force_setattr(self, "id", "p-" + content_hash([(m.role, m.content) for m in self.messages]))

    @classmethod
    def of(cls, text: str, **fields: Any) -> Prompt:
        """A single-turn prompt from the user's text."""
        return cls((Message("user", text),), **fields)

    @property
    def text(self) -> str:
        """The last message's content: what a single-turn prompt asks."""
        return self.messages[-1].content


class Completion(Record, frozen=True):
    """One answer: what was written, who wrote it, under which condition, and whether it ended or was cut.

    `author` is the fingerprint label of the policy (or the name of a teacher or data set). `ask` is the condition it
    was sampled under. `stopped` is "stop" where the author ended the answer itself and "length" where it was cut: a
    cut answer never trains an end-of-turn token. `tokens` and `logprobs` (natural log, one per token, of the sampling
    distribution at temperature 1) are kept where the engine knows them; `tokens` include the end-of-turn token of an
    ended answer.
    """

    text: str
    author: str = ""
    ask: str | None = None
    stopped: Literal["stop", "length"] = "stop"
    tokens: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class Feedback(Record, frozen=True):
    """What one critic said of one completion. Score, label and text all None: it abstained; `raw` keeps its reply."""

    by: str
    score: float | None = None
    label: str | None = None
    text: str | None = None
    raw: str | None = None

    @property
    def abstained(self) -> bool:
        """Whether nothing was said: neither a score nor a label nor a text."""
        return self.score is None and self.label is None and self.text is None


class Preference(Record, frozen=True):
    """How one critic ranked two completions of a group.

    `p` is the probability that `left` is better than `right`: 1 left, 0 right, 0.5 a tie, in between a soft label,
    None an abstention. `orders` are the single verdicts behind a two-order comparison (left shown first, right shown
    first), both as the probability that *left* wins, so that the flip rate can be counted.
    """

    left: int
    right: int
    p: float | None = None
    by: str = ""
    orders: tuple[float | None, ...] = ()
    raw: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.p is not None and not 0.0 <= self.p <= 1.0:
            raise ValueError(f"a preference is a probability between 0 and 1, not {self.p}")
        if self.left == self.right:
            raise ValueError(f"a preference compares two completions, not completion {self.left} with itself")

    @property
    def flipped(self) -> bool | None:
        """Whether the two orders name different winners; None unless both were asked and decided. A tie is no flip."""
        orders = [p for p in self.orders if p is not None]
        return (orders[0] - 0.5) * (orders[1] - 0.5) < 0 if len(orders) == 2 else None


class Group(Record, frozen=True):
    """A prompt, its completions, feedback per completion (empty, or one tuple per completion), and preferences."""

    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    feedback: tuple[tuple[Feedback, ...], ...] = ()
    preferences: tuple[Preference, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.completions)
        if self.feedback and len(self.feedback) != n:
            raise ValueError(f"feedback is given for {len(self.feedback)} completions, the group has {n}")
        for preference in self.preferences:
            if not (0 <= preference.left < n and 0 <= preference.right < n):
                raise ValueError(f"a preference names completions {preference.left} and {preference.right} of {n}")

    def with_feedback(self, said: Iterable[Feedback]) -> Group:
        """This group with one more feedback per completion, in order."""
        said = tuple(said)
        if len(said) != len(self.completions):
            raise ValueError(f"{len(said)} feedbacks for {len(self.completions)} completions")
        before = self.feedback or ((),) * len(self.completions)
        return msgspec.structs.replace(self, feedback=tuple((*old, new) for old, new in zip(before, said, strict=True)))

    def with_preferences(self, said: Iterable[Preference]) -> Group:
        """This group with more preferences."""
        return msgspec.structs.replace(self, preferences=(*self.preferences, *said))

    def scores(self, by: str | None = None) -> list[float | None]:
        """The last score each completion got (from critic `by`, or from any); None where every critic abstained."""
        out: list[float | None] = []
        for said in self.feedback or ((),) * len(self.completions):
            given = [f.score for f in said if f.score is not None and (by is None or f.by == by)]
            out.append(given[-1] if given else None)
        return out


R = TypeVar("R")


def content_hash(value: Any, digits: int = 16) -> str:
    """SHA-256 (its first `digits` hex digits) of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def read_jsonl(path: str | os.PathLike[str], kind: type[R]) -> Iterator[R]:
    """Records of `kind` from a JSON-lines file, strictly; blank lines are passed over.

    Raises `UserError` with the line (and the column of malformed JSON) of the first bad row.
    """
    decoder = msgspec.json.Decoder(kind)
    for number, line in numbered_lines(path):
        try:
            yield decoder.decode(line)
        except msgspec.ValidationError as error:
            message, _, at = str(error).partition(" - at `$")
            field = f' at field "{at.rstrip("`").lstrip(".")}"' if at else ""
            raise UserError(f"{path} line {number}{field}", message, f"each line is one {kind.__name__}") from None
        except msgspec.DecodeError as error:
            raise malformed(path, number, line, error) from None


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of the lines of a file that are not blank."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(str(path), "there is no such file", "a JSON-lines file", "Check the path.") from None


def malformed(path: str | os.PathLike[str], number: int, line: bytes, error: Exception) -> UserError:
    """The error for a line that is no JSON: file, line, column (from 1, in characters) and what was wrong there."""
    found = re.search(r"\(byte (\d+)\)", str(error))
    at = int(found[1]) if found else len(line)
    column = len(line[:at].decode(errors="replace")) + 1
    reason = re.sub(r"\s*\(byte \d+\)", "", str(error)).removeprefix("JSON is malformed: ")
    return UserError(
        f"{path} line {number} column {column}", f"malformed JSON ({reason})", "one JSON object per line",
        "Mend or drop the line.",
    )  # fmt: skip


def encode(record: Any) -> bytes:
    """One JSON line (with its newline) of a record."""
    return msgspec.json.encode(record) + b"\n"


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Any]) -> int:
    """Write records as JSON lines, atomically (temporary name, then rename); returns how many."""
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    count = 0
    with open(partial, "wb") as file:
        for record in records:
            file.write(encode(record))
            count += 1
    os.replace(partial, path)
    return count
