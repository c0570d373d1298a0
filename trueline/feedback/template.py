"""Wordings about a pair of answers: our files of sections, and AlpacaEval's templates with their markup.

    === user                              <|im_start|>user
    {asked}                               ## Instruction: {instruction}
    Answer {name_1}: {first}              ## Output (a): {output_1}
    Answer {name_2}: {second}             ## Output (b): {output_2}
    Reply with one of: {verdicts}         Which is better?<|im_end|>

Both become messages whose slots are filled afterwards, in one pass: the markup is looked for in the template and never
in what is filled in, so that an answer that spells a slot or a marker is shown as it is. The two sets of names mean the
same; others between braces in a template (JSON, a format) are text. A template without markup is one message; one that
begins with "Human:" and ends with "Assistant:" at starts of lines is read as Anthropic's old form.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.errors import UserError
from trueline.feedback import wording as wordings
from trueline.feedback.wording import SLOT, fill
from trueline.fingerprint import File
from trueline.records import Message

SYNONYMS = {"instruction": "asked", "output_1": "first", "output_2": "second"}
NEEDED = ("asked", "first", "second")
KNOWN = (*NEEDED, *SYNONYMS, "name_1", "name_2", "verdicts", "try", "tries")
START, END = "<|im_start|>", "<|im_end|>"
_SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class PairTemplate:
    """A template of AlpacaEval's, as it stands; its text is its identity."""

    text: str

    def __post_init__(self) -> None:
        opened(self)


@dataclass(frozen=True, eq=False)
class PairWording:
    """The messages of a question about two answers, slots unfilled. again: what a question asked again adds."""

    where: str
    messages: tuple[Message, ...]
    again: str = ""
    cue: str = ""

    def filled(self, slots: Mapping[str, str], again: str = "") -> tuple[Message, ...]:
        """The messages with their slots filled; `again` is put below the last."""
        slots = {**slots, **{name: slots[meaning] for name, meaning in SYNONYMS.items()}}
        said = [Message(m.role, fill(m.content, slots)) for m in self.messages]
        if again:
            said[-1] = Message(said[-1].role, said[-1].content + "\n\n" + fill(again, slots))
        return tuple(said)


def chosen(wording: Any, where: str) -> File | PairTemplate:
    """The wording that `wording` names, or is."""
    return wording if isinstance(wording, PairTemplate) else wordings.chosen(wording, where)


def opened(wording: File | PairTemplate) -> PairWording:
    """The wording in a file or a template. Raises `UserError` for one that cannot ask about two answers."""
    if isinstance(wording, PairTemplate):
        return _template("the template", wording.text)
    where = str(wording.path)
    try:
        text = _text(where, wording.sha256)
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(where, "it is no UTF-8 text", "a wording: a text file") from None
    if not wordings.HEADING.search(text):
        return _template(where, text)
    found = wordings.opened(wording)
    if found.shots:
        raise UserError(where, "it has shots", "none: an example of a pair is part of the section user")
    found.check(dict.fromkeys(KNOWN, ""), ())
    system = (Message("system", found.system),) if found.system else ()
    return _checked(PairWording(where, (*system, Message("user", found.user)), found.again, found.cue))


@functools.lru_cache(maxsize=64)
def _text(path: str, sha256: str) -> str:
    return Path(path).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=64)
def _template(where: str, text: str) -> PairWording:
    if START in text:
        messages = _marked(where, text)
    elif (speakers := list(_SPEAKERS.finditer(text))) and _spoken(text, speakers):
        messages = _anthropic(text, speakers)
    else:
        messages = (Message("user", text.strip()),)
    return _checked(PairWording(where, messages))


def _checked(found: PairWording) -> PairWording:
    said = {SYNONYMS.get(name, name) for m in found.messages for name in SLOT.findall(m.content)}
    for name in NEEDED:
        if name not in said:
            names = " or ".join([f"{{{name}}}", *(f"{{{other}}}" for other, same in SYNONYMS.items() if same == name)])
            raise UserError(found.where, f"it has no slot {names}", "the question and both answers", "Put it in.")
    if found.messages[-1].role != "user":
        raise UserError(found.where, "its last message is not the user's", "a question to answer")
    return found


def _marked(where: str, text: str) -> tuple[Message, ...]:
    """The messages of a template with markup."""
    before, *parts = text.split(START)
    if before.strip() or not all(END in part and "\n" in part for part in parts):
        raise UserError(where, "its markup is not whole", f"{START}role, the text on new lines, and {END}, each time")
    messages = []
    for part in parts:
        role, _, rest = part.partition("\n")
        content, _, behind = rest.partition(END)
        if role.strip() not in ("system", "user", "assistant") or behind.strip():
            got = f"a role {role.strip()!r}" if not behind.strip() else f"text outside of messages: {behind.strip()!r}"
            raise UserError(where, got, f"messages of system, user and assistant between {START} and {END}")
        messages.append(Message(role.strip(), content.strip()))  # type: ignore[arg-type]
    return tuple(messages)


def _spoken(text: str, speakers: list[re.Match[str]]) -> bool:
    begins = not text[: speakers[0].start()].strip() and speakers[0][1] == "Human"
    return begins and speakers[-1][1] == "Assistant" and not text[speakers[-1].end() :].strip()


def _anthropic(text: str, speakers: list[re.Match[str]]) -> tuple[Message, ...]:
    """The turns between "Human:" and "Assistant:", without the last, which is to be written."""
    ends = [one.start() for one in speakers[1:]]
    turns = zip(speakers, ends, strict=False)
    return tuple(Message(_ROLES[one[1]], text[one.end() : end].strip()) for one, end in turns)  # type: ignore[arg-type]
