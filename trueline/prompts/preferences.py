"""`preferences`: a file of compared answers becomes Groups, whatever layout it has.

    pairs = preferences(File("prefs.jsonl"))
    votes = preferences(File("shp.jsonl"), min_ratio=2.0)

One group per row: chosen is completion 0, rejected completion 1, one preference says that the left one wins; layouts of
scored answers hold more, with a preference for every two. The layout is recognised by the file's first row and written
into the record; every other row must have it. Rows that cannot teach are an error that says where and why, or, where
the options say so, written aside with the reason and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, get_args

from trueline.errors import UserError, closest
from trueline.files import Row, Unusable, count_rows, is_mapping, rows
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.prompts import alpaca_eval
from trueline.prompts.layouts import ALPACA_EVAL, LAYOUTS, WANTED, Compared, Layout, Verdict, annotation, layout_of
from trueline.records import Completion, Feedback, Group, Message, Preference, Prompt, write_jsonl
from trueline.store import File, Groups

R = TypeVar("R", Group, Prompt)

Rule = Literal["error", "drop"]
Undecided = Literal["drop", "keep", "second"]
Repeated = Literal["keep", "first", "last"]
LayoutName = Literal[
    "auto", "hh", "trl-plain", "trl-plain-implicit", "trl-chat", "trl-chat-implicit", "alpaca_eval", "ultrafeedback",
    "shp", "stack_exchange",
]  # fmt: skip
LEFT_OUT = "left_out"


class Reading(NamedTuple):
    """What becomes of comparisons and rows that are not plain: the arguments of `preferences` of these names."""

    undecided: Undecided = "drop"
    min_ratio: float = 0.0
    min_margin: float = 0.0
    without: tuple[str, ...] = ()

    def checked(self) -> Reading:
        """Itself. Raises `UserError` for what cannot be."""
        if self.undecided not in get_args(Undecided):
            got = f'got "{self.undecided}"'
            raise UserError("preferences(undecided=...)", got, ", ".join(f'"{name}"' for name in get_args(Undecided)))
        for name in ("min_ratio", "min_margin"):
            if getattr(self, name) < 0:
                raise UserError(f"preferences({name}=...)", f"got {getattr(self, name)}", "0 or more")
        check_without("preferences", self.without)
        return self


def check_without(where: str, without: tuple[str, ...]) -> None:
    """Refuse a `without` that is no tuple of texts."""
    if not isinstance(without, tuple) or not all(isinstance(text, str) and text for text in without):
        raise UserError(f"{where}(without=...)", f"got {without!r}", 'a tuple of texts, such as ("</s>",)')


@dataclass
class Reader:
    """Reads rows of one layout into groups. name: of the file, what preferences say they are by. tally: ties,
    abstentions, and what else a row's record may count."""

    layout: Layout
    name: str
    reference: dict[str, tuple[str, str]]
    reading: Reading = field(default_factory=Reading)
    tally: Counter[str] = field(default_factory=Counter)

    def __call__(self, row: Row) -> Group:
        """The group of a row. Raises `UserError` for a malformed one, `Unusable` for one that cannot teach."""
        found = annotation(row, self.reference) if self.layout.name == ALPACA_EVAL else self.layout.read(row)
        check(found)
        barred([*(m.content for m in found.messages), *found.answers], self.reading.without)
        verdicts = self.decided(self.far_enough(found, row))
        own = f"file:{self.name}"
        by = str(row.value.get("annotator") or own) if self.layout.name == ALPACA_EVAL else own
        authors = found.authors or (own,) * len(found.answers)
        return Group(
            Prompt(found.messages, id=own_id(row)),
            tuple(Completion(text, author) for text, author in zip(found.answers, authors, strict=True)),
            tuple((Feedback(own, score),) for score in found.scores),
            tuple(Preference(v.left, v.right, v.p, by) for v in verdicts),
        )

    def far_enough(self, found: Compared, row: Row) -> tuple[Verdict, ...]:
        """The comparisons whose scores are as far apart as asked for. Raises `Unusable` where none is."""
        least, ratio = self.reading.min_margin, self.reading.min_ratio
        if not least and not ratio:
            return found.verdicts
        if not found.scores:
            name = "min_margin" if least else "min_ratio"
            cure = f"Leave {name} out; Pairs(min_margin=...) looks at how decided a preference is."
            raise UserError(row.where, f"{name}: its answers have no scores", "scored answers", cure)
        kept = []
        for verdict in found.verdicts:
            a, b = found.scores[verdict.left], found.scores[verdict.right]
            if a is not None and b is not None and abs(a - b) >= least and ratio_of(a, b) >= ratio:
                kept.append(verdict)
        if not kept:
            raise Unusable(LEFT_OUT, "the scores are nearer to each other than asked for", "min_ratio, min_margin")
        return tuple(kept)

    def decided(self, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        """The comparisons as `undecided` wants them. Raises `Unusable` where none is left."""
        kept, why = [], ""
        for verdict in verdicts:
            self.tally["ties"] += verdict.p == 0.5
            self.tally["abstained"] += verdict.p is None
            if self.reading.undecided == "second":
                self.tally["overruled"] += verdict.p is None or 0.5 <= verdict.p < 1
                kept.append(verdict._replace(p=float(verdict.p == 1)))
            elif self.reading.undecided == "keep" or verdict.p not in (0.5, None):
                kept.append(verdict)
            else:
                why = why or ("it is a tie" if verdict.p == 0.5 else "its annotator abstained")
        if not kept:
            raise Unusable("undecided", why or "no two of its answers are scored", "a decided comparison")
        return tuple(kept)


def ratio_of(a: float, b: float) -> float:
    """The greater of two scores over the smaller; infinite where that is not above 0.

    >>> ratio_of(4, 10), ratio_of(3, 0), ratio_of(0, 0)
    (2.5, inf, 1.0)
    """
    low, high = sorted((a, b))
    return high / low if low > 0 else 1.0 if low == high else float("inf")


def check(found: Compared) -> None:
    """Raise `Unusable` for an empty prompt, an empty answer, or two equal ones of which one is said to be better."""
    if not found.messages[-1].content.strip():
        raise Unusable("empty", 'field "prompt" is empty', "a pair needs a prompt")
    for name, answer in zip(found.fields, found.answers, strict=True):
        if not answer.strip():
            raise Unusable("empty", f'field "{name}" is empty', "a pair needs two answers")
    for left, right, p in found.verdicts:
        if p not in (0.5, None) and found.answers[left] == found.answers[right]:
            got = f'fields "{found.fields[left]}" and "{found.fields[right]}" hold the same answer'
            raise Unusable("same", got, "a pair needs two different answers")


def barred(texts: Iterable[str], without: tuple[str, ...]) -> None:
    """Raise `Unusable` where one of these texts holds one that none may hold."""
    if without:
        for text in texts:
            held = next((mark for mark in without if mark in text), None)
            if held is not None:
                raise Unusable("without", f'it holds "{held}"', "rows without it")


def own_id(row: Row, prompts: int = 1) -> str:
    """The corpus' own id of a row's prompt, "" where it has none, or names several prompts at once."""
    given = row.value.get("prompt_id", row.value.get("id", "")) if prompts == 1 else ""
    return str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""


def reader(file: File, layout: str = "auto", reference: File | None = None, reading: Reading = Reading()) -> Reader:  # noqa: B008  (a tuple)
    """The reader of a file, its layout recognised by the first row unless it is named."""
    if layout not in ("auto", *LAYOUTS):
        raise UserError("preferences(layout=...)", f'got "{layout}"', "", closest(layout, ["auto", *LAYOUTS]))
    if is_mapping(file.path):
        cure = "It holds no pair; prompts.demonstrations.demonstrations(file) reads it. See docs/data.md."
        raise UserError(str(file.path), "it is one object: instructions and completions", WANTED, cure)
    first = next(iter(rows(file, first=1)))
    found = layout_of(first) if layout == "auto" else LAYOUTS[layout]
    if reference is not None and found.name != ALPACA_EVAL:
        got = f"{file.path} has the layout {found.name}, which needs none"
        raise UserError("preferences(reference=...)", got, "an AlpacaEval file to join it with", "Leave it out.")
    if found.name == ALPACA_EVAL and not first.has("output_1") and reference is None:
        raise UserError(first.where, 'field "output_1" is missing', "two outputs to compare", alpaca_eval.CURE)
    return Reader(found, file.path.name, alpaca_eval.references(reference) if reference else {}, reading.checked())


@stage(Groups, rev=2, label="preferences", estimate=lambda file, first, **_: counts(file, first))
def preferences(
    work: Work,
    file: File,
    layout: LayoutName = "auto",
    empty: Rule = "error",
    same: Rule = "error",
    reference: File | None = None,
    first: int = 0,
    max_dropped: float = 0.05,
    undecided: Undecided = added("drop"),
    min_ratio: float = added(0.0),
    min_margin: float = added(0.0),
    without: tuple[str, ...] = added(()),
    repeated: Repeated = added("keep"),
) -> None:
    """The comparisons of a file: TRL preferences, HH-RLHF transcripts, AlpacaEval annotations, UltraFeedback's pairs,
    SHP, Stack Exchange (JSON lines or a JSON array).

    layout: "auto", or a name of docs/data.md. empty, same: what happens to a row with an empty answer, or with two
    equal answers of which one is said to be better: "error" stops, "drop" writes it aside and counts it. reference: the
    reference system's outputs, for AlpacaEval rows without output_1. first: read that many rows only; 0: all.
    max_dropped: the largest share of rows that may be written aside.

    undecided: what becomes of ties and abstentions: "drop" writes the row aside, "keep" keeps them as values (0.5,
    None) for the view to decide, "second" reads every label that does not name the first answer outright (ties,
    abstentions and soft ones too) as a win of the second, as the reference implementation of DPO does: for comparisons
    with published runs alone. min_ratio, min_margin: comparisons whose scores are nearer to each other are left out.
    without: texts, such as "</s>", that no row may hold. repeated: a prompt that stood before: "keep" makes another
    group, "first" and "last" keep one row of each prompt, at the place of its first.

    Counted: groups, samples, preferences (where they are not one per group), dropped, ties, abstained, overruled
    (labels that "second" turned into a win of the second), left_out (by their scores), repeated (left out).

    Raises `UserError` for malformed rows (file, line, field), and where too many are dropped.
    """
    for name, rule in (("empty", empty), ("same", same)):
        if rule not in ("error", "drop"):
            raise UserError(f"preferences({name}=...)", f'got "{rule}"', '"error" or "drop"')
    read = reader(file, layout, reference, Reading(undecided, min_ratio, min_margin, without))
    work.note("layout", read.layout.about)
    tally = read.tally

    def groups() -> Iterator[Group]:
        for row in rows(file, first):
            tally["rows"] += 1
            try:
                yield read(row)
            except Unusable as problem:
                if problem.rule == LEFT_OUT:
                    tally[LEFT_OUT] += 1
                    continue
                settle(work, row, problem, {"empty": empty, "same": same})
                tally["dropped"] += 1
                tally["undecided"] += problem.rule == "undecided"

    def told() -> Iterator[Group]:
        for group in once(groups(), repeated, tally, "preferences"):
            tally["samples"] += len(group.completions)
            tally["preferences"] += len(group.preferences)
            yield group

    kept = write_jsonl(work.dir / "groups.jsonl", told())
    undone = f' ({tally["undecided"]} undecided: undecided="keep" keeps those)' if tally["undecided"] else ""
    work.limit(f"dropped{undone}", tally["dropped"], tally["rows"], max_dropped)
    require(kept, file)
    work.count("groups", kept)
    work.count("samples", tally["samples"])
    if tally["preferences"] != kept:
        work.count("preferences", tally["preferences"])
    for name in ("ties", "abstained", "overruled", LEFT_OUT, "repeated"):
        if tally[name]:
            work.count(name, tally[name])


def once(records: Iterator[R], repeated: Repeated, tally: Counter[str], where: str) -> Iterator[R]:
    """The records, of each prompt all, the first, or the last one at the place of the first; others are counted.

    "last" holds them all in memory until the file is read.
    """
    if repeated not in get_args(Repeated):
        known = ", ".join(f'"{name}"' for name in get_args(Repeated))
        raise UserError(f"{where}(repeated=...)", f'got "{repeated}"', known)
    if repeated == "keep":
        yield from records
        return
    seen: dict[tuple[Message, ...], R | None] = {}
    for record in records:
        asked = record.prompt.messages if isinstance(record, Group) else record.messages
        tally["repeated"] += asked in seen
        if repeated == "first" and asked not in seen:
            yield record
        seen[asked] = record if repeated == "last" else None
    yield from (record for record in seen.values() if record is not None)


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
