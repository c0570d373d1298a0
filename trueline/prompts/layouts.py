"""Layouts of preference files: how each is told by a row, and what a row of it says.

A layout is one entry of `LAYOUTS`: whether a row has it, and a function from the row to what was compared. Everything
that is the same for all (empty answers, ties, thresholds, repeated prompts) is `preferences`' business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trueline import transcripts
from trueline.errors import UserError
from trueline.files import Row, Unusable, kind
from trueline.prompts import alpaca_eval, trl
from trueline.prompts.markup import text_of
from trueline.records import Message

CHOSEN = ("chosen", "rejected")
SHP = ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")
ALPACA_EVAL = "alpaca_eval"
WANTED = (
    'a row with "chosen" and "rejected" (TRL, with or without "prompt"; HH transcripts; UltraFeedback), with '
    '"instruction", "output_2" and "preference" (AlpacaEval), with "history" and "human_ref_A" (SHP), or with '
    '"question" and scored "answers" (Stack Exchange)'
)


class Verdict(NamedTuple):
    """One comparison of a row: two of its answers, and the probability that the first is better (`Preference.p`)."""

    left: int
    right: int
    p: float | None


class Compared(NamedTuple):
    """What a row says: a prompt, its answers, which are better, and what they were scored, if they were.

    fields: where each answer stands in the row. authors: who wrote each, "" where the file does not say.
    """

    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    fields: tuple[str, ...] = CHOSEN
    verdicts: tuple[Verdict, ...] = (Verdict(0, 1, 1.0),)
    scores: tuple[float | None, ...] = ()
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A row format: its name, how people know it, whether a row has it, and how one is read."""

    name: str
    about: str
    known: Callable[[Row], bool]
    read: Callable[[Row], Compared]


# --- what a row says -------------------------------------------------------------------------------------------------


def pair(read: Callable[[Row], trl.Pair]) -> Callable[[Row], Compared]:
    """Chosen and rejected, and their scores where the row has them (UltraFeedback's binarised rows)."""

    def compared(row: Row) -> Compared:
        messages, chosen, rejected = read(row)
        names = [f"score_{name}" for name in CHOSEN]
        scores = tuple(number(row, name) for name in names) if row.has(*names) else ()
        return Compared(messages, (chosen, rejected), scores=scores)

    return compared


def wrapped(row: Row) -> trl.Pair:
    """{"prompt", "chosen", "rejected"}, both answers after "Human: PROMPT\\n\\nAssistant: ".

    The prompt is cut off by its length, so that an answer may hold the marks itself.
    """
    prompt, chosen, rejected = row.text("prompt"), row.text("chosen"), row.text("rejected")
    start = opening(prompt)
    for field, text in zip(CHOSEN, (chosen, rejected), strict=True):
        if not text.startswith(start):
            raise Unusable("", f'field "{field}" does not begin with its prompt', "Human: PROMPT, Assistant:")
    return trl.user(prompt), chosen[len(start) :].strip(), rejected[len(start) :].strip()


def opening(prompt: object) -> str:
    """What the answers of wrapped rows begin with."""
    return f"Human: {prompt}\n\nAssistant:"


def shp(row: Row) -> Compared:
    """Reddit posts: {"history", "human_ref_A", "human_ref_B", "score_A", "score_B", "labels"}; label 1: A is better."""
    label = row.get("labels", "1 (A is better) or 0 (B is)")
    if isinstance(label, bool) or label not in (0, 1):
        raise UserError(row.where, f'field "labels" is {kind(label)}', "1 (A is better) or 0 (B is)")
    fields = ("human_ref_A", "human_ref_B")
    scores = (number(row, "score_A"), number(row, "score_B"))
    answers = (row.text(fields[0]).strip(), row.text(fields[1]).strip())
    return Compared(trl.user(row.text("history")), answers, fields, (Verdict(0, 1, float(label)),), scores)


def stack_exchange(row: Row) -> Compared:
    """{"question": HTML, "answers": [{"text": HTML, "pm_score": number}]}: every two answers, by score."""
    given = row.get("answers", "a list of answers")
    if not isinstance(given, list):
        raise UserError(row.where, f'field "answers" is {kind(given)}', "a list of answers")
    parts = [_part(row, f"answers[{i}]", value) for i, value in enumerate(given)]
    if len(parts) < 2:
        raise Unusable("", f"it has {len(parts)} answers", "two to compare")
    scores = tuple(number(part, "pm_score") for part in parts)
    fields = tuple(f"answers[{i}].text" for i in range(len(parts)))
    answers = tuple(text_of(part.text("text")) for part in parts)
    return Compared(trl.user(text_of(row.text("question"))), answers, fields, by_score(scores), scores)


def by_score(scores: Sequence[float | None]) -> tuple[Verdict, ...]:
    """Every two answers by their scores: the higher is better, equal ones tie, one without a score is not compared.

    >>> by_score((2.0, 5.0, 2.0))
    (Verdict(left=0, right=1, p=0.0), Verdict(left=0, right=2, p=0.5), Verdict(left=1, right=2, p=1.0))
    """
    out = []
    for (i, a), (j, b) in itertools.combinations(enumerate(scores), 2):
        if a is not None and b is not None:
            out.append(Verdict(i, j, 0.5 if a == b else float(a > b)))
    return tuple(out)


def _part(row: Row, at: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise UserError(row.where, f'"{at}" is {kind(value)}', "an object")
    return Row(f"{row.where} {at}", value)


def number(row: Row, field: str) -> float | None:
    """A field that must be a number; None where it is null."""
    value = row.get(field, "a number, or null")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(row.where, f'field "{field}" is {kind(value)}', "a number, or null")
    return float(value)


def annotation(row: Row, reference: dict[str, tuple[str, str]]) -> Compared:
    """An AlpacaEval annotation, its output_1 from the row or, by instruction, from the reference system's outputs."""
    answers = alpaca_eval.outputs(row, reference)
    first, second = alpaca_eval.authors(row)
    joined = reference.get(str(row.value.get("instruction")), ("", ""))[1]
    verdict = Verdict(0, 1, alpaca_eval.probability(row))
    messages = trl.user(row.text("instruction"))
    return Compared(messages, answers, ("output_1", "output_2"), (verdict,), (), (first or joined, second))


# --- which layout a row has ------------------------------------------------------------------------------------------


def _form(form: str, explicit: bool) -> Callable[[Row], bool]:
    """Whether chosen is a text ("plain") or a list ("chat"), and the prompt stands beside it."""

    def known(row: Row) -> bool:
        if not row.has(*CHOSEN) or ("chat" if isinstance(row.value["chosen"], list) else "plain") != form:
            return False
        prompt = row.value.get("prompt")
        # A text prompt beside conversations repeats their first turn (UltraFeedback): it is in the conversations.
        return explicit == (isinstance(prompt, list) if form == "chat" else prompt is not None)

    return known


def _wrapped(row: Row) -> bool:
    start = opening(row.value.get("prompt"))
    return row.has("prompt", *CHOSEN) and all(str(row.value[name]).startswith(start) for name in CHOSEN)


def _transcripts(row: Row) -> bool:
    if not row.has(*CHOSEN):
        return False
    prompt, chosen = row.value.get("prompt"), row.value["chosen"]
    return transcripts.is_transcript(chosen) or (isinstance(chosen, str) and transcripts.is_transcript(prompt))


def _alone(row: Row) -> Compared:
    return annotation(row, {})


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(ALPACA_EVAL, "AlpacaEval annotations", lambda row: row.has(*alpaca_eval.FIELDS), _alone),
        Layout("ultrafeedback", "UltraFeedback pairs as texts", _wrapped, pair(wrapped)),
        Layout("hh", "HH-RLHF transcripts", _transcripts, pair(transcripts.pair)),
        Layout("trl-plain", "TRL preferences, plain, explicit prompt", _form("plain", True), pair(trl.explicit_plain)),
        Layout(
            "trl-plain-implicit", "TRL preferences, plain, implicit prompt", _form("plain", False),
            pair(trl.implicit_plain),
        ),
        Layout(
            "trl-chat", "TRL preferences, conversational, explicit prompt", _form("chat", True), pair(trl.explicit_chat)
        ),
        Layout(
            "trl-chat-implicit", "TRL preferences, conversational, implicit prompt", _form("chat", False),
            pair(trl.implicit_chat),
        ),
        Layout("shp", "SHP: two comments on a post", lambda row: row.has(*SHP[:3]), shp),
        Layout(
            "stack_exchange", "Stack Exchange: scored answers",
            lambda row: row.has("question") and isinstance(row.value.get("answers"), list), stack_exchange,
        ),
    )
}  # fmt: skip
"""In the order in which they are looked for."""


def layout_of(row: Row) -> Layout:
    """The layout that a row has. Raises `UserError` listing what is accepted."""
    for layout in LAYOUTS.values():
        if layout.known(row):
            return layout
    raise UserError(row.where, f"it has the fields {', '.join(row.value) or 'none'}", WANTED, elsewhere(row))


def elsewhere(row: Row) -> str:
    """What reads a row that holds no pair, where its layout is known."""
    prompt = row.value.get("prompt")
    ends = isinstance(prompt, str) and prompt.rstrip().endswith("TL;DR:")
    for stage_of, fits in (
        ("prompts.toxicity.toxicity_prompts", isinstance(prompt, dict)),
        ("prompts.alt.alt_records", row.has("prompt", "generations")),
        ("prompts.tldr.tldr", row.has("subreddit", "title", "post") or (ends and row.has("label"))),
        ("prompts.ratings.ratings", row.has("prompt", "response") or row.has("instruction", "completions")),
        ("prompts.demonstrations.demonstrations", row.has("conversations") or row.has("messages")),
    ):
        if fits:
            return f"It holds no pair; {stage_of}(file) reads it. See docs/data.md."
    return "See docs/data.md."
