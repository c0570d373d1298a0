"""`ratings`: answers that were scored for attributes become Groups, each score a feedback by its attribute.

    rated = ratings(File("helpsteer.jsonl"))
    train(sft, Rated(rated), Steer(), head=Head(names=ATTRIBUTES[:5]))

HelpSteer's rows: "prompt", "response" and a number per attribute. Answers to one prompt that follow each other share a
group. A prompt of several turns holds HelpSteer2's marks, "<extra_id_1>Assistant" and "<extra_id_1>User" on lines of
their own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from trueline.errors import UserError, closest
from trueline.files import Row, Unusable, kind, rows
from trueline.pipeline import Work, stage
from trueline.prompts import trl
from trueline.prompts.exchanges import exchanges
from trueline.prompts.preferences import Rule, counts, own_id, require, settle
from trueline.records import Completion, Feedback, Group, Message, Prompt, write_jsonl
from trueline.store import File, Groups

ATTRIBUTES = (
    "helpfulness", "correctness", "coherence", "complexity", "verbosity", "quality", "toxicity", "humor", "creativity",
)  # fmt: skip
"""What HelpSteer scores (the first five, 0 to 4), and what Open Assistant and UltraSteer score besides."""

OVERALL = ("overall_score", "fine-grained_score")  # UltraFeedback's, beside its aspects

TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def turns(text: str) -> tuple[Message, ...]:
    """The messages of a prompt; marks begin every turn but the first.

    >>> [m.role for m in turns("Who bakes?\\n<extra_id_1>Assistant\\nAda.\\n<extra_id_1>User\\nAnd who sells?")]
    ['user', 'assistant', 'user']
    """
    first, *rest = TURN.split(text)
    said = [("User", first), *zip(rest[::2], rest[1::2], strict=True)]
    messages = tuple(Message("user" if who == "User" else "assistant", part.strip()) for who, part in said)
    if messages[-1].role != "user":
        raise Unusable("", "the prompt ends with the assistant's turn", "a prompt that ends with the user's")
    return messages


def asked(row: Row) -> tuple[Message, ...]:
    """What a rated row asks: HelpSteer's prompt, or whatever `demonstrations` reads."""
    given = row.value.get("prompt")
    if not isinstance(given, str) or "<extra_id_1>" not in given:
        return exchanges(row)[-1].asked
    found = turns(given)
    trl.check_prompt(row, found)
    return found


def answered(row: Row) -> str:
    """What a rated row answers: "response", or whatever `demonstrations` reads."""
    if not row.has("response"):
        return exchanges(row)[-1].answered(row)[0]
    if not row.text("response").strip():
        raise Unusable("empty", "the answer is empty", "an answer that was scored")
    return row.text("response")


def score(row: Row, attribute: str) -> float | None:
    """What a row's answer got for an attribute; None where the row says null. Raises `UserError` for anything else."""
    value = row.get(attribute, "a number, or null where nobody scored it")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(row.where, f'field "{attribute}" is {kind(value)}', "a number, or null where nobody scored it")
    return float(value)


def flattened(given: Iterator[Row]) -> Iterator[Row]:
    """The rows, one of UltraFeedback's as a row per completion: its prompt, response, model and scores."""
    for row in given:
        if not row.has("instruction", "completions"):
            yield row
            continue
        completions = row.get("completions")
        if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
            got = f'field "completions" is {kind(completions)}'
            raise UserError(row.where, got, "a list of completions with their scores", "See docs/data.md.")
        if not completions:  # settled where all empty answers are
            yield Row(row.where, {"prompt": row.text("instruction"), "response": ""})
        for i, one in enumerate(completions):
            part = Row(f"{row.where} completions[{i}]", one)
            scores = {name: one[name] for name in OVERALL if name in one}
            value = {"prompt": row.text("instruction"), "response": part.text("response"), "model": one.get("model")}
            yield Row(part.where, value | scores | aspects(part))


def aspects(part: Row) -> dict[str, float | None]:
    """UltraFeedback's ratings of a completion by aspect, "4" as 4.0 and "N/A" as None."""
    given = part.value.get("annotations") or {}
    if not isinstance(given, dict):
        raise UserError(part.where, f'field "annotations" is {kind(given)}', "an object: a rating by aspect")
    out: dict[str, float | None] = {}
    for aspect, said in given.items():
        rating = said.get("Rating") if isinstance(said, dict) else None
        if rating in (None, "N/A"):
            out[aspect] = None
            continue
        try:
            out[aspect] = float(rating)
        except (TypeError, ValueError):
            got = f'the "Rating" of "{aspect}" is {rating!r}'
            raise UserError(part.where, got, 'a number, or "N/A"', "Mend or drop the row.") from None
    return out


def attributes_of(first: Row, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """The attributes that are read: those asked for, else those known ones that the first row has (UltraFeedback: all
    of them)."""
    missing = [name for name in attributes if name not in first.value]
    if missing:
        got = f'the rows have no field "{missing[0]}"'
        raise UserError(f"ratings(attributes=...), {first.where}", got, "", closest(missing[0], list(first.value)))
    known = tuple(first.value)[3:] if first.has("model", OVERALL[0]) else ATTRIBUTES
    found = attributes or tuple(name for name in known if name in first.value)
    if not found:
        got = f"it has the fields {', '.join(first.value) or 'none'}"
        raise UserError(first.where, got, f"a score of one of {', '.join(ATTRIBUTES)}", "Name yours: attributes=(...).")
    return found


@stage(Groups, rev=1, label="ratings", estimate=lambda file, first, **_: counts(file, first, 1))
def ratings(
    work: Work,
    file: File,
    attributes: tuple[str, ...] = (),
    clip: tuple[float, float] | None = None,
    empty: Rule = "error",
    first: int = 0,
    max_dropped: float = 0.05,
) -> None:
    """Answers and their scores: HelpSteer's rows, UltraFeedback's, or `demonstrations`' with a number per attribute.

    attributes: the fields that are scores; () takes those of `ATTRIBUTES` that the first row has (of UltraFeedback the
    overall score and every aspect). clip: the least and the greatest score that a row may have, others count as these
    and are counted. empty, first, max_dropped: as for `demonstrations`. A null is an abstention and stays one.

    Raises `UserError` for malformed rows (file, line, field), and where too many are dropped.
    """
    if empty not in ("error", "drop"):
        raise UserError("ratings(empty=...)", f'got "{empty}"', '"error" or "drop"')
    if clip is not None and not clip[0] < clip[1]:
        raise UserError("ratings(clip=...)", f"got {clip}", "a least and a greater number")
    names = attributes_of(next(flattened(rows(file, first=1))), attributes)
    work.note("attributes", list(names))
    tally: Counter[str] = Counter()

    def said(row: Row) -> tuple[Feedback, ...]:
        found = []
        for name in names:
            value = score(row, name)
            if value is not None and clip is not None and not clip[0] <= value <= clip[1]:
                tally["clipped"] += 1
                value = min(max(value, clip[0]), clip[1])
            tally["abstained"] += value is None
            found.append(Feedback(name, value))
        return tuple(found)

    def read() -> Iterator[tuple[Prompt, Completion, tuple[Feedback, ...]]]:
        for row in flattened(rows(file, first)):
            tally["rows"] += 1
            try:
                prompt = Prompt(asked(row), id=own_id(row))
                author = row.value.get("model") if row.has(OVERALL[0]) else None
                completion = Completion(answered(row), str(author or f"file:{file.path.name}"))
            except Unusable as problem:
                settle(work, row, problem, {"empty": empty})
                tally["dropped"] += 1
                continue
            tally["samples"] += 1
            yield prompt, completion, said(row)

    def groups() -> Iterator[Group]:
        for _, together in groupby(read(), key=lambda item: item[0].messages):
            prompts, completions, feedback = zip(*together, strict=True)
            yield Group(prompts[0], completions, feedback)

    kept = write_jsonl(work.dir / "groups.jsonl", groups())
    work.limit("dropped", tally["dropped"], tally["rows"], max_dropped)
    require(kept, file)
    work.count("groups", kept)
    for name in ("samples", "abstained", "clipped"):
        if tally[name]:
            work.count(name, tally[name])
