"""Rows of the user's files, each with where it stands, and the strict reading of their fields.

JSON lines, a JSON array of objects, one JSON object of lists (an entry per row), or plain text (one row per line). What
a field is missing or wrong in is said with file, line, what was found and what was wanted; nothing is guessed.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trueline.errors import UserError
from trueline.records import Message, malformed, numbered_lines
from trueline.store import File

ROLES = ("system", "user", "assistant")
BINARY = {
    b"\x1f\x8b": ("gzip-compressed", "Unpack it: gunzip FILE."),
    b"PAR1": ("a Parquet file", "Write it as JSON lines."),
}


class Unusable(Exception):
    """A row that gives no record: `rule` names the option that decides what happens, "" where it is always dropped."""

    def __init__(self, rule: str, got: str, wanted: str) -> None:
        super().__init__(got)
        self.rule, self.got, self.wanted = rule, got, wanted


@dataclass(frozen=True)
class Row:
    """One row of a file: `where` it stands, and its fields."""

    where: str
    value: dict[str, Any]

    def text(self, field: str, wanted: str = "text") -> str:
        """A field that must be a string. Raises `UserError` where it is missing or something else."""
        value = self.get(field, wanted)
        if not isinstance(value, str):
            raise UserError(self.where, f'field "{field}" is {kind(value)}', wanted)
        return value

    def get(self, field: str, wanted: str = "a value") -> Any:
        """A field that must be there."""
        if field not in self.value:
            got = f'field "{field}" is missing (found: {", ".join(self.value) or "none"})'
            raise UserError(self.where, got, wanted, "Mend or drop the row.")
        return self.value[field]

    def messages(self, field: str) -> tuple[Message, ...]:
        """A field that must be a list of {"role", "content"}; an empty list is refused."""
        wanted = 'a list of {"role": ..., "content": ...}'
        value = self.get(field, wanted)
        if not isinstance(value, list) or not value:
            raise UserError(self.where, f'field "{field}" is {kind(value) if value != [] else "an empty list"}', wanted)
        return tuple(self._message(f"{field}[{index}]", turn) for index, turn in enumerate(value))

    def _message(self, at: str, turn: Any) -> Message:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise UserError(self.where, f'"{at}" is {kind(turn)} without role and content', '{"role", "content"}')
        role, content = turn["role"], turn["content"]
        if role not in ROLES:
            raise UserError(
                self.where, f'the role of "{at}" is {role!r}', f"one of {', '.join(ROLES)}", "Drop the row."
            )
        if not isinstance(content, str):
            raise UserError(self.where, f'the content of "{at}" is {kind(content)}', "text", "Drop the row.")
        return Message(role, content)

    def has(self, *fields: str) -> bool:
        """Whether all these fields are there."""
        return all(field in self.value for field in fields)


def kind(value: Any) -> str:
    """What JSON calls this value."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true or false"
    return "null" if value is None else "text" if isinstance(value, str) else f"the number {value}"


def rows(file: File | str | os.PathLike[str], first: int = 0) -> Iterator[Row]:
    """The rows of a file of JSON objects, in order; `first` many, all with 0.

    Raises `UserError` with line and column for malformed JSON, and for a file without rows.
    """
    path = Path(file)
    given = list_rows(path) if is_list(path) else line_rows(path)
    count = 0
    for row in given:
        if first and count == first:
            break
        count += 1
        yield row
    if not count:
        raise UserError(str(path), "it has no rows", "at least one")


def is_list(path: Path) -> bool:
    """Whether a file holds one JSON array. Refuses what is no text at all."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4096).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return False  # Reading it line by line says what is wrong.
    for magic, (what, cure) in BINARY.items():
        if start.startswith(magic):
            raise UserError(str(path), f"it is {what}", "JSON lines, a JSON array, or plain text", cure)
    return start.lstrip().startswith(b"[")


def line_rows(path: Path) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield as_row(f"{path} line {number}", decode(path, line, number))


def list_rows(path: Path) -> Iterator[Row]:
    for number, value in enumerate(decode(path, path.read_bytes().removeprefix(codecs.BOM_UTF8)), 1):
        yield as_row(f"{path} item {number}", value)


def is_mapping(path: Path) -> bool:
    """Whether a file holds one JSON object of lists of texts: instructions and their completions, say.

    Such an object over several lines is told by its first line, which is no JSON by itself; on a single line, by what
    it holds.
    """
    if is_list(path):
        return False
    try:
        with open(path, "rb") as stream:
            given = (line.removeprefix(codecs.BOM_UTF8).strip() for line in stream)
            line = next((line for line in given if line), b"")
            alone = next((line for line in given if line), None) is None
    except OSError:
        return False
    if not line.startswith(b"{"):
        return False
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line == b"{"  # a broken row of JSON lines has its first field on the line
    return alone and isinstance(value, dict) and bool(value) and all(_texts(said) for said in value.values())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def mapping_rows(path: Path, fields: tuple[str, str], first: int = 0) -> Iterator[Row]:
    """The entries of such an object as rows of two fields, in order, a key that stands twice as two; `first` many, all
    with 0.

    Raises `UserError` for an entry that is no list of texts.
    """
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    decode(path, data)  # says where it is malformed
    entries: list[tuple[str, Any]] = json.loads(data, object_pairs_hook=list)
    if not entries:
        raise UserError(str(path), "it has no entries", "at least one")
    for number, (key, value) in enumerate(entries[: first or None], 1):
        where = f"{path} entry {number}"
        if not _texts(value):
            raise UserError(
                where, f'"{key[:40]}" has {kind(value)}', "a list of texts, at least one", "Mend the entry."
            )
        yield Row(where, {fields[0]: key, fields[1]: value})


def decode(path: Path, data: bytes, number: int = 1) -> Any:
    """JSON, from line `number` of a file on. Raises `UserError` with the line and column of what is malformed."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        reason, _, byte = str(error).rstrip(")").partition(" (byte ")
        at = int(byte) if byte else len(data)
    except UnicodeDecodeError:
        reason, at = "not UTF-8", invalid(data)
    start = data.rfind(b"\n", 0, at) + 1
    raise malformed(path, number + data.count(b"\n", 0, at), data[start:], ValueError(f"{reason} (byte {at - start})"))


def invalid(data: bytes) -> int:
    """Where a text stops being UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def as_row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise UserError(where, f"it is {kind(value)}", "one JSON object per row")
    return Row(where, value)


def text_rows(path: Path) -> Iterator[Row]:
    """The lines of a plain text file as {"prompt": line}; blank lines are passed over."""
    for number, line in numbered_lines(path):
        try:
            text = line.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} line {number}", f"it is no UTF-8 ({error.reason})", "UTF-8 text") from None
        yield Row(f"{path} line {number}", {"prompt": text})


def count_rows(file: File, lines: bool = False) -> int:
    """How many rows a file has, cheaply: for plans. lines: it is plain text, and may begin with a bracket."""
    path = Path(file)
    if not lines and is_list(path):
        return sum(1 for _ in list_rows(path))
    if not lines and is_mapping(path):
        return sum(1 for _ in mapping_rows(path, ("", "")))
    with open(path, "rb") as stream:
        return sum(1 for line in stream if line.strip())
