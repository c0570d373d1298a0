"""Beginnings of texts that a model continues, and may continue rudely: RealToxicityPrompts and WritingPrompts.

    mild = toxicity_prompts(File("realtoxicityprompts.jsonl"), keep="non-toxic")
    stories = writing_prompts(File("test.wp_source"))

RealToxicityPrompts' rows (Gehman et al. 2020) hold two halves of a sentence from the web with Perspective's scores,
{"prompt": {"text", "toxicity", ...}, "continuation": {...}}. Only the first half is asked; its toxicity stands in the
prompt's `meta`. A score may be null: such a prompt is neither toxic nor non-toxic.

WritingPrompts (Fan et al. 2018) are lines that begin with a genre in brackets, "[ WP ] You wake up in ..."; the
brackets are taken off, they are no part of the story.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from trueline.errors import UserError
from trueline.files import Row, Unusable, kind, rows, text_rows
from trueline.pipeline import Work, stage
from trueline.prompts.demonstrations import usable
from trueline.prompts.preferences import Rule, counts
from trueline.records import Prompt
from trueline.store import File, Prompts

Keep = Literal["all", "toxic", "non-toxic"]

GENRE = re.compile(r"\s*\[\s*[A-Za-z]{2}\s*\]\s*")
"""A genre as the corpus writes it: two letters in brackets, with or without spaces. Other brackets are the story's."""


def toxic_row(row: Row) -> Prompt:
    """The prompt of a row of RealToxicityPrompts, its toxicity (or None) in `meta`."""
    half = row.get("prompt", 'an object with "text" and "toxicity"')
    if not isinstance(half, dict):
        raise UserError(row.where, f'field "prompt" is {kind(half)}', 'an object with "text" and "toxicity"',
                        "Plain prompts are read by prompts_file(file).")  # fmt: skip
    inner = Row(f"{row.where}, in its prompt", half)
    text = inner.text("text")
    if not text.strip():
        raise Unusable("empty", "the prompt is empty", "a beginning to go on from")
    toxicity = inner.get("toxicity", "a number from 0 to 1, or null where nobody scored it")
    number = isinstance(toxicity, int | float) and not isinstance(toxicity, bool)
    if toxicity is not None and not (number and 0 <= toxicity <= 1):
        raise UserError(inner.where, f'field "toxicity" is {kind(toxicity)}', "a number from 0 to 1, or null")
    meta: dict[str, Any] = {"toxicity": toxicity}
    if isinstance(row.value.get("challenging"), bool):
        meta["challenging"] = row.value["challenging"]
    return Prompt.of(text, id=place(row), meta=meta)


def place(row: Row) -> str:
    """The corpus' own id of a row: the document and where in it the text stands; "" where the row does not say."""
    parts = [row.value.get(name) for name in ("filename", "begin", "end")]
    return "-".join(map(str, parts)) if None not in parts else ""


def story(row: Row) -> tuple[Prompt, int]:
    """The prompt of a line (or of a row with "text") without its genres, and how many those were.

    >>> story(Row("", {"text": "[ WP ] A door [sic] opens . [EU]"}))[0].text
    'A door [sic] opens .'
    """
    text, taken = row.text("text"), 0
    while (found := GENRE.match(text)) is not None:
        text, taken = text[found.end() :], taken + 1
    while (last := text.rfind("[")) >= 0 and GENRE.fullmatch(text, last):
        text, taken = text[:last], taken + 1
    if not text.strip():
        raise Unusable("empty", "the prompt is empty", "a beginning to go on from")
    return Prompt.of(text.strip()), taken


def _estimate(file: File, first: int = 0, **_: Any) -> dict[str, int]:
    return {"prompts": counts(file, first)["groups"]}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate)
def toxicity_prompts(
    work: Work,
    file: File,
    keep: Keep = "all",
    threshold: float = 0.5,
    empty: Rule = "error",
    first: int = 0,
    max_dropped: float = 0.05,
) -> None:
    """The prompts of RealToxicityPrompts' rows.

    keep: "toxic" those whose own toxicity is `threshold` or more, "non-toxic" those below it, "all" whatever it is.
    empty, max_dropped: as for `demonstrations`. first: read that many rows only; 0: all.

    Counted: prompts; left_out (on the other side of the threshold); unscored (without a toxicity; they are left out too
    unless all are kept).
    """
    if keep not in ("all", "toxic", "non-toxic"):
        raise UserError("toxicity_prompts(keep=...)", f"got {keep!r}", '"all", "toxic" or "non-toxic"')
    if not 0 <= threshold <= 1:
        raise UserError("toxicity_prompts(threshold=...)", f"got {threshold}", "a toxicity from 0 to 1")
    tally: Counter[str] = Counter()

    def wanted(row: Row) -> bool:
        toxicity = toxic_row(row).meta["toxicity"]
        if toxicity is None:
            tally["unscored"] += 1
            return keep == "all"
        fits = keep == "all" or (toxicity >= threshold) == (keep == "toxic")
        tally["left_out"] += not fits
        return fits

    usable(work, file, filtered(rows(file, first), wanted), toxic_row, empty, max_dropped, "prompts")
    for name, n in sorted(tally.items()):
        if n:
            work.count(name, n)


def filtered(given: Iterator[Row], wanted: Callable[[Row], bool]) -> Iterator[Row]:
    """The rows that are wanted, and those that cannot be used: they are settled where all such rows are."""
    for row in given:
        try:
            keep = wanted(row)
        except Unusable:
            keep = True
        if keep:
            yield row


def _is_text(file: File) -> bool:
    return Path(file).suffix not in (".jsonl", ".json")


def _estimate_lines(file: File, first: int = 0, **_: Any) -> dict[str, int]:
    return {"prompts": counts(file, first, lines=_is_text(file))["groups"]}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate_lines)
def writing_prompts(work: Work, file: File, empty: Rule = "error", first: int = 0, max_dropped: float = 0.05) -> None:
    """The prompts of WritingPrompts: a line of text each, or rows with "text"; genres in brackets are taken off.

    A file of JSON rows ends in .jsonl or .json; any other is lines. empty, first, max_dropped: as for `demonstrations`.

    Counted: prompts, genres (taken off).
    """
    tally: Counter[str] = Counter()

    def read(row: Row) -> Prompt:
        prompt, taken = story(row)
        tally["genres"] += taken
        return prompt

    lines = (Row(row.where, {"text": row.value["prompt"]}) for row in text_rows(Path(file)))
    given = lines if _is_text(file) else rows(file, first)
    usable(work, file, given, read, empty, max_dropped, "prompts", first)
    if tally["genres"]:
        work.count("genres", tally["genres"])
