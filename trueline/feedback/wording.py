"""Wordings: what an engine is asked when it judges an answer, as a text file of sections.

    Remarks before the first heading are for people.
    === system
    You rate answers.                     (may be left out)
    === user
    POST:
    {asked}
    SUMMARY:
    {answer}
    === again
    Reply with one line only. ({try} of {tries})
    === cue
    TL;DR:
    === shot
    What may one bake?
    === answer
    Bread.
    === reply
    Good

`user` is the question; its slots are filled in one pass, so that nothing in a post or an answer is ever read as a slot,
a heading or a line break. `again` is appended when a reply could not be read. `cue` is text that ends the prompts of a
task and is not part of what was asked. `shot`, `answer`, `reply` come three by three: a question like the others, and
the reply to it, shown as earlier turns.

A wording is known by the content of its file: an edited one is another critic. Which slots there are is said by the
critic; how its replies are read, too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.errors import UserError, closest
from trueline.fingerprint import File

FOLDER = Path(__file__).parent / "wordings"
PARTS = ("system", "user", "again", "cue")
SHOT = ("shot", "answer", "reply")
HEADING = re.compile(r"^=== *(\S+) *$", re.MULTILINE)
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Shot:
    """A worked example before the question: what was asked, the answer to it, and the reply that judges it."""

    asked: str
    answer: str
    reply: str


@dataclass(frozen=True)
class Wording:
    """The sections of a file; a part that it lacks is "". where: the file, for errors."""

    where: str
    system: str = ""
    user: str = ""
    again: str = ""
    cue: str = ""
    shots: tuple[Shot, ...] = ()

    def check(self, slots: Mapping[str, str], needed: tuple[str, ...]) -> None:
        """Raise `UserError` for a slot that nothing fills, and where `user` lacks one that is needed."""
        for part in PARTS:
            for name in SLOT.findall(getattr(self, part)):
                if name not in slots:
                    where = f"{self.where}, section {part}"
                    raise UserError(where, f"the slot {{{name}}}", "a slot", closest(name, list(slots)))
        for name in needed:
            if f"{{{name}}}" not in self.user:
                raise UserError(self.where, f"its section user has no slot {{{name}}}", "one", "Put it where it goes.")


def fill(text: str, slots: Mapping[str, str]) -> str:
    """`text` with its slots filled, in one pass: what is filled in is never looked at again; other braces are text.

    >>> fill("{asked} / {answer} / {x}", {"asked": "{answer}", "answer": "b"})
    '{answer} / b / {x}'
    """
    return SLOT.sub(lambda slot: slots.get(slot[1], slot[0]), text)


def chosen(wording: Any, where: str) -> File:
    """The file of a wording: of ours by name ("hh"), or a `File` of the user's. Raises `UserError` for another."""
    return File.of(wording, FOLDER, where)


def opened(file: File) -> Wording:
    """The wording in a file. Raises `UserError` for one that is no text, or whose sections make no wording."""
    return _opened(str(file.path), file.sha256)


@functools.lru_cache(maxsize=64)
def _opened(path: str, sha256: str) -> Wording:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(path, "it is no UTF-8 text", "a wording: a text file of sections") from None
    found: dict[str, str] = {}
    rows: list[str] = []
    for name, body in _sections(text):
        if name in SHOT:
            if name != SHOT[len(rows) % 3]:
                raise UserError(path, f"a section {name} after {len(rows) // 3} whole shots", "shot, answer, reply")
            rows.append(body)
        elif name not in PARTS:
            raise UserError(path, f'a section "{name}"', "a section", closest(name, [*PARTS, *SHOT]))
        elif name in found:
            raise UserError(path, f"two sections {name}", "one")
        else:
            found[name] = body
    if not found.get("user"):
        raise UserError(path, "it has no section user", '"=== user" and, below it, the question')
    if len(rows) % 3:
        raise UserError(path, "the last shot is not whole", "shot, answer, reply")
    return Wording(path, **found, shots=tuple(Shot(*rows[i : i + 3]) for i in range(0, len(rows), 3)))


def _sections(text: str) -> Iterator[tuple[str, str]]:
    parts = HEADING.split(text)
    return ((name, body.strip("\n").rstrip()) for name, body in zip(parts[1::2], parts[2::2], strict=True))
