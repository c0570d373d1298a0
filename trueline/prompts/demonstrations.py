"""`demonstrations` and `prompts_file`: files of answers to imitate, and files of questions to ask.

    taught = demonstrations(File("sharegpt.json"), turns="first")
    asked = prompts_file(File("questions.txt"))

Demonstrations become Groups, one per exchange; questions become Prompts, the file's answer as their reference. What a
row asks and answers is `exchanges`' business; plain text is one prompt per line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from trueline.errors import UserError
from trueline.files import Row, Unusable, is_mapping, mapping_rows, rows, text_rows
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.prompts.exchanges import ENTRY, Exchange, Turns, exchanges, sharegpt
from trueline.prompts.layouts import LAYOUTS
from trueline.prompts.preferences import (
    Repeated,
    Rule,
    barred,
    check_without,
    counts,
    once,
    own_id,
    require,
    settle,
)
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import File, Groups, Prompts

TEXT = (".txt", ".text")
ANSWERED = (
    ("conversations",),
    ("messages",),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "instances"),
)
R = TypeVar("R", Group, Prompt)


def rows_of(file: File, first: int = 0) -> Iterator[Row]:
    """The rows of a file: lines of text, rows of JSON, or the entries of one object of completions."""
    path = Path(file)
    if path.suffix in TEXT:
        return text_rows(path)
    return mapping_rows(path, ENTRY, first) if is_mapping(path) else rows(file, first)


def demonstrates(file: File) -> bool:
    """Whether a file's first row, which holds no pair, asks and answers something."""
    if is_mapping(Path(file)):
        return True
    row = next(iter(rows(file, first=1)))
    if any(layout.known(row) for layout in LAYOUTS.values()):
        return False
    return any(row.has(*fields) for fields in ANSWERED)


def read_exchanges(row: Row, turns: Turns, without: tuple[str, ...]) -> list[Exchange]:
    """The exchanges of a row in which nothing stands that may not, in turns that are not asked for neither."""
    found = exchanges(row, turns)
    if without:
        barred([m.content for m in sharegpt(row)] if row.has("conversations") else [], without)
        barred([m.content for m in row.messages("messages")] if row.has("messages") else [], without)
        barred([text for one in found for text in (*(m.content for m in one.messages), *one.answers)], without)
    return found


def taught(row: Row, author: str, turns: Turns = "last", without: tuple[str, ...] = ()) -> list[Group]:
    """The groups of a row, one per exchange. Raises as `exchanges` does, and for what has no answer or an empty one."""
    found = read_exchanges(row, turns, without)
    said = [(Prompt(one.asked, id=own_id(row, len(found))), one.answered(row)) for one in found]
    return [Group(prompt, tuple(Completion(text, author) for text in answers)) for prompt, answers in said]


@stage(Groups, rev=2, label="demonstrations", estimate=lambda file, first, **_: counts(file, first, 1))
def demonstrations(
    work: Work,
    file: File,
    empty: Rule = "error",
    first: int = 0,
    max_dropped: float = 0.05,
    turns: Turns = added("last"),
    without: tuple[str, ...] = added(()),
    repeated: Repeated = added("keep"),
) -> None:
    """Answers to imitate: TRL's prompt-completion rows, `messages` rows, ShareGPT's conversations, Alpaca's and
    Self-Instruct's rows, and completion files, one object {instruction: [completion]}.

    empty: "error" stops at an empty prompt or answer, "drop" writes the row aside and counts it. first: read that many
    rows only; 0: all. max_dropped: the largest share of rows that may be dropped. turns: of a conversation, the "last"
    answer after all before it, the "first" exchange alone, or "each" answer as a group of its own. without: texts, such
    as "</s>", that no row may hold in any turn; it is dropped. repeated: as for `preferences`.
    """
    check_turns("demonstrations", turns, without)
    read = partial(taught, author=f"file:{file.path.name}", turns=turns, without=without)
    tally: Counter[str] = Counter()

    def told(groups: Iterator[Group]) -> Iterator[Group]:
        for group in once(groups, repeated, tally, "demonstrations"):
            tally["samples"] += len(group.completions)
            yield group

    usable(work, file, rows_of(file, first), read, empty, max_dropped, "groups", then=told)
    for name in ("samples", "repeated"):
        if tally[name]:
            work.count(name, tally[name])


def check_turns(where: str, turns: Turns, without: tuple[str, ...]) -> None:
    """Refuse what is no way to read conversations."""
    if turns not in get_args(Turns):
        known = ", ".join(f'"{name}"' for name in get_args(Turns))
        raise UserError(f"{where}(turns=...)", f'got "{turns}"', known)
    check_without(where, without)


def _estimate(file: File, first: int, **_: Any) -> dict[str, int]:
    return {"prompts": counts(file, first, lines=Path(file).suffix in TEXT)["groups"]}


@stage(Prompts, rev=2, label="prompts", estimate=_estimate)
def prompts_file(
    work: Work,
    file: File,
    empty: Rule = "error",
    first: int = 0,
    max_dropped: float = 0.05,
    turns: Turns = added("last"),
    without: tuple[str, ...] = added(()),
    repeated: Repeated = added("keep"),
) -> None:
    """Questions: whatever `demonstrations` reads (the answer as the reference), rows without an answer, or a .txt file
    with one prompt per line. Of MT-Bench's questions the first turn is asked; the later ones stand in `meta`.

    empty, first, max_dropped, turns, without, repeated: as for `demonstrations`.
    """
    check_turns("prompts_file", turns, without)

    def read(row: Row) -> list[Prompt]:
        found = read_exchanges(row, turns, without)
        return [Prompt(one.asked, own_id(row, len(found)), reference(row, one), meta(row)) for one in found]

    tally: Counter[str] = Counter()

    def told(prompts: Iterator[Prompt]) -> Iterator[Prompt]:
        return once(prompts, repeated, tally, "prompts_file")

    usable(work, file, rows_of(file, first), read, empty, max_dropped, "prompts", first, told)
    if tally["repeated"]:
        work.count("repeated", tally["repeated"])


def reference(row: Row, one: Exchange) -> str | None:
    """A row's reference answer: its own, else the first one that it gives."""
    own = row.value.get("reference")
    return own if isinstance(own, str) else one.answers[0] if one.answers else None


def meta(row: Row) -> dict[str, Any]:
    """What a question is followed by (MT-Bench), which needs an answer first."""
    later = row.value["turns"][1:] if row.has("turns") and not row.has("prompt") else []
    return {"later_turns": later} if later else {}


def usable(
    work: Work,
    file: File,
    given: Iterator[Row],
    read: Callable[[Row], R | Sequence[R]],
    empty: Rule,
    max_dropped: float,
    kind: str,
    first: int = 0,
    then: Callable[[Iterator[R]], Iterator[R]] = iter,
) -> int:
    """Write the records of the rows that can be used as `kind`.jsonl, after `then` has seen them; how many."""
    if empty not in ("error", "drop"):
        raise UserError("empty=...", f'got "{empty}"', '"error" or "drop"')
    seen = dropped = 0

    def records() -> Iterator[R]:
        nonlocal seen, dropped
        for row in given:
            if first and seen == first:
                return
            seen += 1
            try:
                found = read(row)
            except Unusable as problem:
                settle(work, row, problem, {"empty": empty})
                dropped += 1
                continue
            yield from [found] if isinstance(found, Group | Prompt) else found

    kept = write_jsonl(work.dir / f"{kind}.jsonl", then(records()))
    work.limit("dropped", dropped, seen, max_dropped)
    require(kept, file)
    work.count(kind, kept)
    return kept
