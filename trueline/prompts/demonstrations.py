"""`demonstrations` and `prompts_file`: files of answers to imitate, and files of questions to ask.

Demonstrations become Groups with one completion per group; questions become Prompts. Layouts are recognised by the
first row: TRL's prompt-completion and messages formats, Alpaca's instruction rows, TRL's prompt-only format, and plain
text with one prompt per line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trueline.errors import UserError
from trueline.files import Row, Unusable, rows, text_rows
from trueline.pipeline import Work, stage
from trueline.prompts import trl
from trueline.prompts.preferences import Rule, counts, own_id, require, settle
from trueline.records import Completion, Group, Message, Prompt, write_jsonl
from trueline.store import File, Groups, Prompts

TEXT = (".txt", ".text")


def instruction(row: Row) -> tuple[Message, ...]:
    """Alpaca's question: the instruction and, after a blank line, its input if there is one."""
    given = row.text("input") if row.has("input") and row.value["input"] is not None else ""
    return trl.user("\n\n".join(part for part in (row.text("instruction"), given) if part))


def question(row: Row) -> tuple[Message, ...]:
    """The messages a row asks: {"prompt": text or messages}, {"messages"}, or {"instruction", "input"?}."""
    if row.has("prompt"):
        prompt = row.messages("prompt") if isinstance(row.value["prompt"], list) else trl.user(row.text("prompt"))
    elif row.has("messages"):
        prompt = row.messages("messages")
        prompt = prompt[:-1] if prompt[-1].role == "assistant" else prompt
    elif row.has("instruction"):
        prompt = instruction(row)
    else:
        got = f"it has the fields {', '.join(row.value) or 'none'}"
        raise UserError(row.where, got, 'a row with "prompt", "messages" or "instruction"', "See docs/data.md.")
    trl.check_prompt(row, prompt)
    if not prompt[-1].content.strip():
        raise Unusable("empty", "the prompt is empty", "a question")
    return prompt


def answer(row: Row) -> str:
    """What a row answers: {"completion": text or messages}, the last of {"messages"}, or {"output"}."""
    if row.has("completion") and isinstance(row.value["completion"], list):
        turns = row.messages("completion")
        if len(turns) > 1 or turns[0].role != "assistant":
            roles = ", ".join(turn.role for turn in turns)
            raise UserError(row.where, f'"completion" has the roles {roles}', "one message of the assistant's")
        text = turns[0].content
    elif row.has("completion"):
        text = row.text("completion")
    elif row.has("messages"):
        last = row.messages("messages")[-1]
        if last.role != "assistant":
            raise UserError(row.where, f'the last of "messages" is the {last.role}\'s', "the assistant's answer")
        text = last.content
    elif row.has("output"):
        text = row.text("output")
    else:
        got = f"it has the fields {', '.join(row.value) or 'none'}"
        raise UserError(row.where, got, 'an answer in "completion", "messages" or "output"', "See docs/data.md.")
    if not text.strip():
        raise Unusable("empty", "the answer is empty", "an answer to imitate")
    return text


@stage(Groups, rev=1, label="demonstrations", estimate=lambda file, first, **_: counts(file, first, 1))
def demonstrations(work: Work, file: File, empty: Rule = "error", first: int = 0, max_dropped: float = 0.05) -> None:
    """Answers to imitate: TRL's prompt-completion rows, `messages` rows (the last is the answer), Alpaca's rows.

    empty: "error" stops at an empty prompt or answer, "drop" writes the row aside and counts it. first: read that many
    rows only; 0: all. max_dropped: the largest share of rows that may be dropped.
    """

    def read(row: Row) -> Group:
        author = f"file:{file.path.name}"
        return Group(Prompt(question(row), id=own_id(row)), (Completion(answer(row), author),))

    kept = usable(work, file, rows(file, first), read, empty, max_dropped, "groups")
    work.count("samples", kept)


def _estimate(file: File, first: int, **_: Any) -> dict[str, int]:
    return {"prompts": counts(file, first, lines=Path(file).suffix in TEXT)["groups"]}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate)
def prompts_file(work: Work, file: File, empty: Rule = "error", first: int = 0, max_dropped: float = 0.05) -> None:
    """Questions: TRL's prompt-only rows, `messages` rows, Alpaca's rows (`output` as the reference answer), or a .txt
    file with one prompt per line.

    empty, first, max_dropped: as for `demonstrations`.
    """

    def read(row: Row) -> Prompt:
        reference = row.value.get("output", row.value.get("reference"))
        return Prompt(question(row), id=own_id(row), reference=reference if isinstance(reference, str) else None)

    path = Path(file)
    given = text_rows(path) if path.suffix in TEXT else rows(file, first)
    usable(work, file, given, read, empty, max_dropped, "prompts", first)


def usable(
    work: Work,
    file: File,
    given: Iterator[Row],
    read: Callable[[Row], Group] | Callable[[Row], Prompt],
    empty: Rule,
    max_dropped: float,
    kind: str,
    first: int = 0,
) -> int:
    """Write the records of the rows that can be used as `kind`.jsonl; how many."""
    if empty not in ("error", "drop"):
        raise UserError("empty=...", f'got "{empty}"', '"error" or "drop"')
    seen = dropped = 0

    def records() -> Iterator[Group | Prompt]:
        nonlocal seen, dropped
        for row in given:
            if first and seen == first:
                return
            seen += 1
            try:
                record = read(row)
            except Unusable as problem:
                settle(work, row, problem, {"empty": empty})
                dropped += 1
                continue
            yield record

    kept = write_jsonl(work.dir / f"{kind}.jsonl", records())
    work.limit("dropped", dropped, seen, max_dropped)
    require(kept, file)
    work.count(kind, kept)
    return kept
