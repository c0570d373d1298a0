"""`preferences`: a file of preference pairs becomes Groups, whatever layout it has.

    pairs = preferences(File("prefs.jsonl"))

One group per row: chosen is completion 0, rejected completion 1, one preference says that the left one wins. The layout
is recognised by the file's first row and written into the record; every other row must have it. Rows that cannot teach
are an error that says where and why, or, where the options say so, written aside with the reason and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from trueline import transcripts
from trueline.errors import UserError, closest
from trueline.files import Row, Unusable, count_rows, rows
from trueline.pipeline import Work, stage
from trueline.prompts import alpaca_eval, trl
from trueline.records import Completion, Group, Message, Preference, Prompt, write_jsonl
from trueline.store import File, Groups

Rule = Literal["error", "drop"]
LayoutName = Literal["auto", "hh", "trl-plain", "trl-plain-implicit", "trl-chat", "trl-chat-implicit", "alpaca_eval"]
Pair = tuple[tuple[Message, ...], str, str]


@dataclass(frozen=True)
class Layout:
    """A row format: its name, how people know it, the fields of the two answers, and how a row is read."""

    name: str
    about: str
    fields: tuple[str, str]
    read: Callable[[Row], Pair]


CHOSEN = ("chosen", "rejected")
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("hh", "HH-RLHF transcripts", CHOSEN, transcripts.pair),
        Layout("trl-plain", "TRL preferences, plain, explicit prompt", CHOSEN, trl.explicit_plain),
        Layout("trl-plain-implicit", "TRL preferences, plain, implicit prompt", CHOSEN, trl.implicit_plain),
        Layout("trl-chat", "TRL preferences, conversational, explicit prompt", CHOSEN, trl.explicit_chat),
        Layout("trl-chat-implicit", "TRL preferences, conversational, implicit prompt", CHOSEN, trl.implicit_chat),
    )
}
ALPACA_EVAL = "alpaca_eval"
WANTED = (
    'a row with "chosen" and "rejected" (TRL, with or without "prompt"; or HH transcripts), or with "instruction", '
    '"output_2" and "preference" (AlpacaEval)'
)


def layout_of(row: Row) -> str:
    """The name of the layout that a row has. Raises `UserError` listing what is accepted."""
    if row.has(*alpaca_eval.FIELDS):
        return ALPACA_EVAL
    if not row.has(*CHOSEN):
        raise UserError(row.where, f"it has the fields {', '.join(row.value) or 'none'}", WANTED, elsewhere(row))
    prompt, chosen = row.value.get("prompt"), row.value["chosen"]
    if transcripts.is_transcript(chosen) or (isinstance(chosen, str) and transcripts.is_transcript(prompt)):
        return "hh"
    form = "chat" if isinstance(chosen, list) else "plain"
    # A text prompt beside conversations repeats their first turn (UltraFeedback): the prompt is in the conversations.
    explicit = isinstance(prompt, list) if form == "chat" else prompt is not None
    return f"trl-{form}" if explicit else f"trl-{form}-implicit"


def elsewhere(row: Row) -> str:
    """What reads a row that holds no pair, where its layout is known."""
    prompt = row.value.get("prompt")
    ends = isinstance(prompt, str) and prompt.rstrip().endswith("TL;DR:")
    for stage_of, fits in (
        ("prompts.toxicity.toxicity_prompts", isinstance(prompt, dict)),
        ("prompts.alt.alt_records", row.has("prompt", "generations")),
        ("prompts.tldr.tldr", row.has("subreddit", "title", "post") or (ends and row.has("label"))),
        ("prompts.ratings.ratings", row.has("prompt", "response")),
    ):
        if fits:
            return f"It holds no pair; {stage_of}(file) reads it. See docs/data.md."
    return "See docs/data.md."


@dataclass
class Reader:
    """Reads rows of one layout into groups. `name` of the file is what preferences say they are by."""

    layout: str
    name: str
    reference: dict[str, tuple[str, str]]

    @property
    def about(self) -> str:
        """The layout in words."""
        return "AlpacaEval annotations" if self.layout == ALPACA_EVAL else LAYOUTS[self.layout].about

    def __call__(self, row: Row) -> Group:
        """The group of a row. Raises `UserError` for a malformed one, `Unusable` for one that cannot teach."""
        p: float | None = 1.0
        by, authors = f"file:{self.name}", (f"file:{self.name}",) * 2
        if self.layout == ALPACA_EVAL:
            messages = trl.user(row.text("instruction"))
            answers = alpaca_eval.outputs(row, self.reference)
            p, authors = alpaca_eval.probability(row), self.authors(row)
            fields, by = ("output_1", "output_2"), str(row.value.get("annotator") or by)
        else:
            layout = LAYOUTS[self.layout]
            fields = layout.fields
            messages, *given = layout.read(row)
            answers = (given[0], given[1])
        check(messages, answers, fields, decided=p not in (0.5, None))
        completions = tuple(Completion(text, author) for text, author in zip(answers, authors, strict=True))
        prompt = Prompt(messages, id=own_id(row))
        return Group(prompt, completions, preferences=(Preference(0, 1, p, by),))

    def authors(self, row: Row) -> tuple[str, str]:
        """Generator names of an AlpacaEval row; the reference file's where the row names only its own."""
        first, second = alpaca_eval.authors(row)
        joined = self.reference.get(str(row.value.get("instruction")), ("", ""))[1]
        return (first or joined, second)


def check(messages: tuple[Message, ...], answers: tuple[str, str], fields: tuple[str, str], decided: bool) -> None:
    """Raise `Unusable` for an empty prompt, an empty answer, or two equal ones of which one is said to be better."""
    if not messages[-1].content.strip():
        raise Unusable("empty", 'field "prompt" is empty', "a pair needs a prompt")
    for field, answer in zip(fields, answers, strict=True):
        if not answer.strip():
            raise Unusable("empty", f'field "{field}" is empty', "a pair needs two answers")
    if decided and answers[0] == answers[1]:
        got = f'fields "{fields[0]}" and "{fields[1]}" hold the same answer'
        raise Unusable("same", got, "a pair needs two different answers")


def own_id(row: Row) -> str:
    """The corpus' own id of a row's prompt, "" where it has none."""
    given = row.value.get("prompt_id", row.value.get("id", ""))
    return str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""


def reader(file: File, layout: str = "auto", reference: File | None = None) -> Reader:
    """The reader of a file, its layout recognised by the first row unless it is named."""
    known = [*LAYOUTS, ALPACA_EVAL]
    if layout not in ("auto", *known):
        raise UserError("preferences(layout=...)", f'got "{layout}"', "", closest(layout, ["auto", *known]))
    first = next(iter(rows(file, first=1)))
    found = layout_of(first) if layout == "auto" else layout
    if reference is not None and found != ALPACA_EVAL:
        got = f"{file.path} has the layout {found}, which needs none"
        raise UserError("preferences(reference=...)", got, "an AlpacaEval file to join it with", "Leave it out.")
    if found == ALPACA_EVAL and not first.has("output_1") and reference is None:
        raise UserError(first.where, 'field "output_1" is missing', "two outputs to compare", alpaca_eval.CURE)
    return Reader(found, file.path.name, alpaca_eval.references(reference) if reference else {})


@stage(Groups, rev=1, label="preferences", estimate=lambda file, first, **_: counts(file, first))
def preferences(
    work: Work,
    file: File,
    layout: LayoutName = "auto",
    empty: Rule = "error",
    same: Rule = "error",
    reference: File | None = None,
    first: int = 0,
    max_dropped: float = 0.05,
) -> None:
    """The pairs of a file: TRL preferences, HH-RLHF transcripts, AlpacaEval annotations (JSON lines or a JSON array).

    layout: "auto", or a name of docs/data.md. empty, same: what happens to a pair with an empty answer, or with two
    equal answers: "error" stops, "drop" writes it aside and counts it. reference: the reference system's outputs, for
    AlpacaEval rows without output_1. first: read that many rows only; 0: all. max_dropped: the largest share of rows
    that may be dropped.

    Raises `UserError` for malformed rows (file, line, field), and where too many are dropped.
    """
    for name, rule in (("empty", empty), ("same", same)):
        if rule not in ("error", "drop"):
            raise UserError(f"preferences({name}=...)", f'got "{rule}"', '"error" or "drop"')
    read = reader(file, layout, reference)
    work.note("layout", read.about)
    tally: Counter[str] = Counter()

    def groups() -> Iterator[Group]:
        for row in rows(file, first):
            tally["rows"] += 1
            try:
                group = read(row)
            except Unusable as problem:
                settle(work, row, problem, {"empty": empty, "same": same})
                tally["dropped"] += 1
                continue
            p = group.preferences[0].p
            tally["ties"] += p == 0.5
            tally["abstained"] += p is None
            yield group

    kept = write_jsonl(work.dir / "groups.jsonl", groups())
    work.limit("dropped", tally["dropped"], tally["rows"], max_dropped)
    require(kept, file)
    work.count("groups", kept)
    work.count("samples", 2 * kept)
    for name in ("ties", "abstained"):
        if tally[name]:
            work.count(name, tally[name])


def settle(work: Work, row: Row, problem: Unusable, rules: dict[str, str]) -> None:
    """Write a row that cannot teach aside, or raise where the user has not allowed that."""
    if rules.get(problem.rule, "drop") == "error":
        cure = f"Drop the row or pass --{problem.rule} drop (it will be counted)."
        raise UserError(row.where, problem.got, problem.wanted, cure)
    work.drop(problem.got, row.value, row.where)


def require(kept: int, file: File) -> None:
    """Refuse a file of which nothing is left."""
    if not kept:
        raise UserError(str(file.path), "no row of it can be used", "at least one", "Look at dropped.jsonl.")


def counts(file: File, first: int, per_row: int = 2, lines: bool = False) -> dict[str, int]:
    """What a file of rows, or of lines, will give: for plans."""
    n = count_rows(file, lines)
    n = min(n, first) if first else n
    return {"groups": n, "samples": per_row * n}
