"""The 80 Vicuna questions, or MT-Bench's, in FastChat's layout: what is asked, with its category.

    questions = vicuna(File("vicuna_bench_question.jsonl"))
    duel(draw(mine, questions), draw(theirs, questions), feedback.scores.vicuna(judge))

{"question_id": 1, "category": "generic", "turns": ["Who bakes the bread?"]}, or "text" in place of "turns", as the
questions were published first. 80 questions in nine categories: ten each of generic, knowledge,
roleplay, common-sense, fermi, counterfactual and writing, seven of coding, three of math.
"""

from __future__ import annotations

from typing import Any

from trueline.errors import UserError
from trueline.files import Row, count_rows, kind, rows
from trueline.pipeline import Work, stage
from trueline.records import Prompt, write_jsonl
from trueline.store import File, Prompts


@stage(
    Prompts, name="vicuna-questions", rev=1, label="vicuna", estimate=lambda file, **_: {"prompts": count_rows(file)}
)
def vicuna(work: Work, file: File, category: str = "") -> None:
    """The questions in order, the first turn of each; later turns and the category stand in `meta`.

    category: only those of it. Raises `UserError` naming the first row of another layout, and for a question that
    stands twice.
    """
    found: dict[str, Prompt] = {}
    for row in rows(file):
        prompt = asked(row)
        if found.setdefault(prompt.id, prompt) is not prompt:
            raise UserError(row.where, f"{prompt.id} came before", "each question once", "Drop one.")
    kept = [prompt for prompt in found.values() if category in ("", prompt.meta["category"])]
    if not kept:
        known = ", ".join(sorted({prompt.meta["category"] for prompt in found.values()}))
        raise UserError("vicuna(category=...)", f'got "{category}"', f"one of {known}")
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", kept))


def asked(row: Row) -> Prompt:
    """One question."""
    number, turns = row.get("question_id", "a number"), row.value.get("turns", [row.value.get("text")])
    if not isinstance(number, int | str) or isinstance(number, bool):
        raise UserError(row.where, f'field "question_id" is {kind(number)}', "a number")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise UserError(row.where, "it has no question", '"turns", a list of texts, or "text"', "Mend or drop the row.")
    meta: dict[str, Any] = {"category": row.text("category")}
    return Prompt.of(turns[0], id=f"question-{number}", meta=meta | ({"later_turns": turns[1:]} if turns[1:] else {}))
