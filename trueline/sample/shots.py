"""Dialogues that are shown before a prompt, and the text around them: what a prompted policy imitates.

    shots("hedging"), shots("answering")        written for this package, as package data (`demonstrations/`)
    Shots.read(File("mine.txt"))                your own: a text of dialogues, or JSON lines of {"messages": [...]}
    Shots.of("good", world.demonstrations(32))  messages at hand

A text holds a preamble (or none) and dialogues, parted by a line of five hyphens; turns begin with "Human:" and
"Assistant:" after a blank line. That is the layout of the HHH prompt (Askell et al. 2021) and of ALMoST's files, which
are read as they are.

The two styles of the package differ as the two of ALMoST do (Kim et al. 2023, arXiv 2305.13735). `hedging`: 14
dialogues of 3, 2, 2, 2, 1, 3, 4, 2, 2, 15, 11, 3, 4 and 3 questions; the assistant asks back, doubts, and says what it
does not know. `answering`: 3 dialogues of 2, 3 and 2 questions; it answers at once and at length, in paragraphs and
numbered steps, asks nothing back, and closes with a kind word. Both begin with the same preamble; two of the three
open with a question that the other style answers too.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.errors import UserError
from trueline.files import rows
from trueline.fingerprint import File
from trueline.records import Message
from trueline.transcripts import joined

FOLDER = Path(__file__).parent / "demonstrations"
SEPARATOR = "\n\n-----"
HUMAN, ASSISTANT = "Human:", "Assistant:"
SPEAKERS = {"user": HUMAN, "assistant": ASSISTANT}
_TURN = re.compile(rf"(?:\A\s*|\n\n)({HUMAN}|{ASSISTANT})")

Dialogue = tuple[Message, ...]


@dataclass(frozen=True)
class Shots:
    """Dialogues in the order in which they are shown, and the preamble before them.

    name: what completions are signed with. texts: the dialogues as they stand in the file, for layouts that show them
    as they are; () where there is no text.
    """

    name: str
    dialogues: tuple[Dialogue, ...]
    preamble: str = ""
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("Shots(name=...)", f"got {self.name!r}", "a name to sign completions with")
        for number, dialogue in enumerate(self.dialogues, 1):
            check(dialogue, f"shots {self.name}, dialogue {number}")

    @classmethod
    def of(cls, name: str, messages: Sequence[Message], preamble: str = "") -> Shots:
        """One dialogue per question and answer of `messages`, which take turns.

        >>> Shots.of("good", [Message("user", "Who bakes?"), Message("assistant", "Ada.")]).dialogues[0][1].content
        'Ada.'
        """
        if len(messages) % 2:
            raise UserError(f"Shots.of({name!r})", f"got {len(messages)} messages", "questions, each with an answer")
        return cls(name, tuple(tuple(messages[i : i + 2]) for i in range(0, len(messages), 2)), preamble)

    @classmethod
    def read(cls, file: File | Path | str) -> Shots:
        """The dialogues of a file: .jsonl and .json hold {"messages": [...]} rows, anything else is text.

        Raises `UserError` naming the dialogue that has no turns, begins with an answer or ends with a question.
        """
        path = Path(file)
        if path.suffix in (".jsonl", ".json"):
            said = tuple(row.messages("messages") for row in rows(path))
            return cls(called(path), said)
        try:
            pieces = path.read_text(encoding="utf-8").replace("\r\n", "\n").split(SEPARATOR)
        except UnicodeDecodeError:
            raise UserError(str(path), "it is no UTF-8 text", "a text of dialogues") from None
        preamble, *texts = [piece for piece in pieces if piece.strip()] or [""]
        if preamble.lstrip().startswith(HUMAN):
            preamble, texts = "", [preamble, *texts]
        if not texts:
            wanted = f"a preamble, then dialogues, a line {SEPARATOR.strip()} before each"
            raise UserError(str(path), "it has no dialogue", wanted, "Turns begin with Human: and Assistant:.")
        dialogues = tuple(turns(text, f"{path}, dialogue {number}") for number, text in enumerate(texts, 1))
        return cls(called(path), dialogues, preamble.strip(), tuple(text.rstrip("\n") for text in texts))

    def first(self, n: int, seed: int | None = None, id: str = "") -> list[int]:
        """The indices of `n` dialogues: the first ones; with a seed, a draw without replacement for the prompt `id`, of
        which fewer are the beginning of more."""
        order = list(range(len(self.dialogues)))
        if seed is not None:
            random.Random(f"shots\0{seed}\0{id}").shuffle(order)
        return order[:n]


def called(path: Path) -> str:
    """What a file's dialogues are called: its base name, without ALMoST's ending.

    >>> called(Path("assets/Faithful_prompt.txt"))
    'Faithful'
    """
    return path.stem.removesuffix("_prompt")


def file_of(demonstrations: Any, where: str) -> File | Shots:
    """What was named: dialogues, a file, or a style of the package's by its name."""
    if isinstance(demonstrations, Shots):
        return demonstrations
    return File.of(demonstrations, FOLDER, where, "File(...) or Shots(...)")


def shots(demonstrations: str | File | Shots) -> Shots:
    """The dialogues of a style of the package's, or of a file."""
    found = file_of(demonstrations, "shots(...)")
    return found if isinstance(found, Shots) else _read(str(found.path), found.sha256)


@functools.lru_cache(maxsize=64)
def _read(path: str, sha256: str) -> Shots:
    return Shots.read(path)


def turns(text: str, where: str) -> Dialogue:
    """The turns of a dialogue's text, two of one speaker in a row as one.

    >>> [m.content for m in turns("\\n\\nHuman:  Hi\\n\\nAssistant: Hello.", "here")]
    ['Hi', 'Hello.']
    """
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) == 1:
        got = f"it begins with {parts[0].strip()[:40]!r}" if parts[0].strip() else "it has no turn"
        raise UserError(where, got, f'turns that begin with "{HUMAN}" and "{ASSISTANT}"')
    said = zip(parts[1::2], parts[2::2], strict=True)
    return joined(Message("user" if who == HUMAN else "assistant", content.strip()) for who, content in said)


def check(dialogue: Dialogue, where: str) -> None:
    """Refuse a dialogue that does not begin with the user's turn, end with the assistant's, and alternate."""
    roles = [message.role for message in dialogue]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(where, f"its turns are {', '.join(roles) or 'none'}", "user, assistant, in turn")
    if empty := next((n for n, message in enumerate(dialogue, 1) if not message.content.strip()), 0):
        raise UserError(where, f"turn {empty} is empty", "something said")


def as_text(preamble: str, shown: Sequence[Dialogue | str], asked: Sequence[Message], space: str = "") -> str:
    """A prompt as one text to continue: preamble, dialogues (as texts they stand as they are), what is asked.

    space: what stands after the last "Assistant:".
    """
    pieces = [preamble, *(one if isinstance(one, str) else "".join(_spoken(one)) for one in shown)]
    before = "".join(piece + SEPARATOR for piece in pieces if piece)
    return f"{before}{''.join(_spoken(asked))}\n\n{ASSISTANT}{space}"


def _spoken(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield f"\n\n{SPEAKERS[message.role]} {message.content}"
