"""AlpacaEval's files: what systems answered, and how an annotator ranked two of them.

    theirs = annotated(File("annotations.json"))            # judged pairs, for leaderboard(...)
    answers = model_outputs(File("model_outputs.json"))     # one system's answers, to duel against
    exported(duel(mine, baseline, judge))                   # both files, of a duel, as alpaca_eval reads them

`preference` is a number from 1 (output_1 is better) to 2 (output_2 is); what lies between is a soft label, 1.5 (and in
old files 0) is a tie, null (and in caches -1) is an abstention. Ties and abstentions are values: they are kept. Some
result files leave output_1, the reference system's, in a file of its own; it is joined by instruction.

`preferences` reads annotations to train on; `annotated` reads them to count who won, and leaves nothing out: an empty
answer, two equal ones, and values that are no preference (as alpaca_eval does, these count for nobody) are kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trueline.errors import UserError
from trueline.files import Row, count_rows, kind, rows
from trueline.pipeline import Work, stage
from trueline.records import Completion, Group, Preference, Prompt, read_jsonl, write_jsonl
from trueline.store import File, Groups, Report

FIELDS = ("instruction", "output_2", "preference")
CURE = "Name the reference system's outputs with --reference FILE."


def probability(row: Row) -> float | None:
    """Probability that output_1 is better than output_2; None where the annotator abstained.

    1 -> 1.0, 1.25 -> 0.75, 1.5 -> 0.5, 2 -> 0.0, 0 (legacy tie) -> 0.5, null -> None.
    """
    value = row.get("preference", "a number from 1 to 2, or null")
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        raise UserError(row.where, f'field "preference" is {kind(value)}', "a number from 1 to 2, or null")
    return 0.5 if value == 0 else 2.0 - float(value)


def authors(row: Row) -> tuple[str, str]:
    """The names of the systems behind output_1 and output_2; files of a single name collapse both into "generator"."""
    both = str(row.value.get("generator", ""))
    return str(row.value.get("generator_1", both)), str(row.value.get("generator_2", both))


def references(file: File) -> dict[str, tuple[str, str]]:
    """(output, generator) by instruction of a file of model outputs.

    Raises `UserError` where one instruction has two different outputs, as the join would be a guess.
    """
    out: dict[str, tuple[str, str]] = {}
    for row in rows(file):
        instruction = row.text("instruction")
        found = (row.text("output"), str(row.value.get("generator", Path(file).stem)))
        if out.setdefault(instruction, found) != found:
            raise UserError(row.where, f'a second output for "{instruction[:60]}"', "one output per instruction")
    return out


def outputs(row: Row, reference: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """output_1 (from the row, else the reference file) and output_2."""
    second = row.text("output_2")
    if row.has("output_1"):
        return row.text("output_1"), second
    instruction = row.text("instruction")
    if instruction not in reference:
        got = f'field "output_1" is missing, and no reference has "{instruction[:60]}"'
        raise UserError(row.where, got, "two outputs to compare", CURE)
    return reference[instruction][0], second


@stage(Groups, rev=1, label="annotated", estimate=lambda file, **_: {"groups": count_rows(file)})
def annotated(work: Work, file: File, reference: File | None = None) -> None:
    """Judged pairs, output_1 first, the generators as authors and the annotator as the critic.

    reference: the reference system's outputs, for rows without output_1. A value outside 1 to 2 (0, the old tie, apart)
    abstains, and is counted (`outside`), as are nulls (`abstained`).
    """
    known = references(reference) if reference else {}
    tally: Counter[str] = Counter()

    def groups() -> Iterator[Group]:
        for row in rows(file):
            first, second = outputs(row, known)
            value = row.get("preference", "a number from 1 to 2, or null")
            outside = is_number(value) and value != 0 and value != -1 and not 1 <= value <= 2
            p = None if outside else probability(row)
            tally["outside"] += outside
            tally["abstained"] += p is None
            tally["ties"] += p == 0.5
            names = authors(row)
            instruction = row.text("instruction")
            by = (names[0] or known.get(instruction, ("", ""))[1], names[1])
            said = Preference(0, 1, p, str(row.value.get("annotator") or f"file:{file.path.name}"))
            meta = {"dataset": row.value["dataset"]} if row.value.get("dataset") else {}
            answers = (Completion(first, by[0]), Completion(second, by[1]))
            yield Group(Prompt.of(instruction, meta=meta), answers, preferences=(said,))

    work.count("groups", write_jsonl(work.dir / "groups.jsonl", groups()))
    for name, n in tally.items():
        if n:
            work.count(name, n)


def is_number(value: Any) -> bool:
    """Whether JSON calls it a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@stage(Groups, name="model-outputs", rev=1, label="outputs", estimate=lambda file, **_: {"samples": count_rows(file)})
def model_outputs(work: Work, file: File, generator: str = "") -> None:
    """One system's answers, one to each instruction.

    generator: who wrote them, for rows that do not say. An instruction that stands twice with the same output counts
    once, with another it is an error.
    """
    groups = []
    data = {row.text("instruction"): row.value.get("dataset") for row in rows(file)}
    for instruction, (output, author) in references(file).items():
        meta = {"dataset": data[instruction]} if data[instruction] else {}
        author = generator if generator and author == Path(file).stem else author
        groups.append(Group(Prompt.of(instruction, meta=meta), (Completion(output, author),)))
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", groups))
    work.count("samples", len(groups))


@stage(Report, name="alpaca-eval-files", rev=1, label="alpaca-eval")
def exported(work: Work, fought: Report) -> None:
    """A duel as AlpacaEval's files: the right side is the baseline, output_1; the left side is output_2.

    Files: `annotations.json`, `model_outputs.json` (the left side), `reference_outputs.json` (the right). Raises
    `UserError` for a conversation of several turns: an instruction is one text.
    """
    told = json.loads((fought.path / "report.json").read_bytes())
    left, right = told["left"]["name"], told["right"]["name"]
    pairs = list(read_jsonl(fought.path / "pairs.jsonl", Group))
    written = {
        "annotations.json": [annotation(pair, left, right) for pair in pairs],
        "model_outputs.json": [model_output(pair, 0, left) for pair in pairs],
        "reference_outputs.json": [model_output(pair, 1, right) for pair in pairs],
    }
    for name, of in written.items():
        (work.dir / name).write_text(json.dumps(of, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    about = f"{len(pairs)} pairs of {left} (output_2) and {right} (output_1)"
    (work.dir / "table.txt").write_text(f"{about}: {', '.join(written)}\n", encoding="utf-8")
    work.count("pairs", len(pairs))


def annotation(pair: Group, system: str, baseline: str) -> dict[str, Any]:
    """One judged pair, the system's answer first, as a row of `annotations.json`.

    The probability 0.75 that the system wins is preference 1.75, a tie 1.5, an abstention null. `raw_completion` holds
    the judge's replies as they came, those of both orders where both were asked.
    """
    said = pair.preferences[-1]
    p = said.p if said.p is None or said.left == 0 else 1 - said.p
    first, second = model_output(pair, 1, baseline), model_output(pair, 0, system)
    row: dict[str, Any] = {"instruction": first["instruction"], "output_1": first["output"], "generator_1": baseline}
    row |= {"dataset": first["dataset"]} if "dataset" in first else {}
    row |= {"output_2": second["output"], "generator_2": system, "annotator": said.by}
    row["preference"] = None if p is None else 1 + p
    return row | ({"raw_completion": list(said.raw)} if said.raw else {})


def model_output(group: Group, index: int, generator: str) -> dict[str, Any]:
    """One completion as a row of `model_outputs.json`."""
    if len(group.prompt.messages) != 1:
        where, turns = f"prompt {group.prompt.id}", len(group.prompt.messages)
        raise UserError(where, f"it has {turns} messages", "one: an AlpacaEval instruction is one text")
    row = {"instruction": group.prompt.text, "output": group.completions[index].text, "generator": generator}
    return row | ({"dataset": group.prompt.meta["dataset"]} if group.prompt.meta.get("dataset") else {})
