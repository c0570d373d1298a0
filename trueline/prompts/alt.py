"""The files of ALT's own runs: lines of a prompt, its generations, and what was said of each.

    sampled = alt_records(File("output.json"), prefix="Excellent. input: ")
    write(path, groups, rewards="reward:rm-8192ef8f")

A line holds {"prompt", "generations": [text]} and lists beside the generations, one entry each, nulls for what is not
known: "rewards" (scores), "scores" with "feedbacks" (a score and a sentence) and perhaps "analysis", "feedbacks" alone
(a label each). Toxicity's lines have {"text", "toxicity"} objects for generations. "perplexity" is the line's.

| field | feedback by | what |
| --- | --- | --- |
| rewards | alt:rewards | score |
| feedbacks and scores | alt:feedbacks | score, text; the analysis is kept as the raw reply |
| feedbacks | alt:feedbacks | label |
| toxicity | alt:toxicity | score, 1 less the toxicity |

The authors store a prompt with the condition in front of it, and strip it again by looking for its last few characters;
a prompt that holds these loses its own beginning. Here only what stands at the very beginning is taken off, and only
where the caller says what it is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trueline.errors import UserError, closest
from trueline.files import Row, kind, rows
from trueline.pipeline import Work, stage
from trueline.prompts.preferences import counts
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.store import File, Groups, Policy

BESIDE = ("rewards", "feedbacks", "scores", "analysis")
ENDS = ".?!"


@dataclass(frozen=True)
class CutAt:
    """When a generation of such a file counts as cut off: the rule of ALT's training, as the files do not say.

    It is cut where it does not end with one of . ? ! and has, once its white space is trimmed, exactly `max_tokens`
    tokens of the policy's tokenizer. A generation that was cut may count as ended, as it may tokenise to one more or
    less than it was sampled in.
    """

    policy: Policy
    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError("CutAt(max_tokens=...)", f"got {self.max_tokens}", "at least 1")

    def rule(self) -> Callable[[str], bool]:
        """Says of a text whether it was cut; opens the tokenizer."""
        from trueline import models

        tokenizer = models.open_tokenizer(models.folder_of(self.policy))
        return lambda text: was_cut(
            text, len(tokenizer.encode(text.strip(), add_special_tokens=False)), self.max_tokens
        )


def was_cut(text: str, tokens: int, max_tokens: int) -> bool:
    """Whether a generation of so many tokens was cut off.

    >>> [was_cut(" A b", 64, 64), was_cut(" A b", 63, 64), was_cut(" A b. ", 64, 64)]
    [True, False, False]
    """
    end = text.strip()[-1:]
    return tokens == max_tokens and (not end or end not in ENDS)


# --- reading ---------------------------------------------------------------------------------------------------------


@stage(Groups, rev=1, label="alt", estimate=lambda file, first=0, **_: {"groups": counts(file, first)["groups"]})
def alt_records(
    work: Work,
    file: File,
    prefix: str | tuple[str, ...] = "",
    cut: CutAt | None = None,
    same: Literal["merge", "error"] = "merge",
    first: int = 0,
) -> None:
    """Groups of the lines of such a file (JSON lines, whatever its name ends in).

    prefix: the condition that stands in front of every prompt, or several of which one does ("" for none); it is taken
    off and kept as the completions' `ask`. cut: how to tell that a generation was cut off; without it all count as
    ended. same: what becomes of prompts that stand in several lines: "merge" makes one group of all their generations,
    "error" stops. first: read that many lines only; 0: all.

    Counted: groups, samples, merged (lines that joined an earlier one), cut, abstained (nulls among what was said).
    Raises `UserError` with file and line for lists of different lengths, and for a prompt without any of the prefixes.
    """
    if same not in ("merge", "error"):
        raise UserError("alt_records(same=...)", f"got {same!r}", '"merge" or "error"')
    known = tuple(p for p in ((prefix,) if isinstance(prefix, str) else prefix) if p)
    rule = cut.rule() if cut is not None else None
    made: dict[str, Group] = {}
    tally: Counter[str] = Counter()
    for row in rows(file, first):
        group = record(row, known, f"file:{file.path.name}", rule)
        asked = group.prompt.text
        if asked in made:
            if same == "error":
                got = f'the prompt "{asked[:60]}" stands in an earlier line too'
                raise UserError(row.where, got, "one line per prompt", 'Pass same="merge" to join them.')
            tally["merged"] += 1
            group = joined(made[asked], group)
        made[asked] = group
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", made.values()))
    tally["samples"] = sum(len(group.completions) for group in made.values())
    tally["cut"] = sum(c.stopped == "length" for group in made.values() for c in group.completions)
    tally["abstained"] = sum(f.abstained for group in made.values() for of in group.feedback for f in of)
    for name, n in sorted(tally.items()):
        if n or name == "samples":
            work.count(name, n)


def record(
    row: Row, prefixes: Sequence[str] = (), author: str = "alt", cut: Callable[[str], bool] | None = None
) -> Group:
    """The group of one line."""
    asked, ask = stripped(row, prefixes)
    texts, feedback = generations(row)
    lists = {name: entries(row, name, len(texts)) for name in BESIDE if row.has(name)}
    said = [feedback, *spoken(row, lists)]
    completions = tuple(
        Completion(text, author, ask=ask, stopped="length" if cut is not None and cut(text) else "stop")
        for text in texts
    )
    per_completion = tuple(zip(*(of for of in said if of), strict=True)) if any(said) else ((),) * len(texts)
    meta = {"perplexity": row.value["perplexity"]} if row.has("perplexity") else {}
    return Group(Prompt.of(asked, meta=meta), completions, per_completion)


def joined(before: Group, after: Group) -> Group:
    """One group of the answers of two, as if they had been sampled together."""
    said = [group.feedback or ((),) * len(group.completions) for group in (before, after)]
    feedback = said[0] + said[1] if before.feedback or after.feedback else ()
    return Group(before.prompt, before.completions + after.completions, feedback)


def stripped(row: Row, prefixes: Sequence[str]) -> tuple[str, str | None]:
    """The prompt of a line without the prefix that it begins with, and that prefix; the longest where several fit."""
    text = row.text("prompt")
    if not prefixes:
        return text, None
    found = [prefix for prefix in prefixes if text.startswith(prefix)]
    if not found:
        got = f'the prompt begins with "{text[:40]}"'
        wanted = " or ".join(f'"{prefix}"' for prefix in prefixes[:3])
        raise UserError(
            row.where, got, f"a prompt that begins with {wanted}", "Leave prefix out if none was put there."
        )
    prefix = max(found, key=len)
    return text[len(prefix) :], prefix


def generations(row: Row) -> tuple[list[str], list[Feedback]]:
    """The texts of a line, and their toxicity where they carry it."""
    given = row.get("generations", "a list of texts")
    if not isinstance(given, list) or not given:
        raise UserError(row.where, f'field "generations" is {kind(given) if given != [] else "an empty list"}', "texts")
    if all(isinstance(one, str) for one in given):
        return given, []
    texts, said = [], []
    for index, one in enumerate(given):
        if not isinstance(one, dict):
            wanted = 'texts, or objects with "text" and "toxicity"'
            raise UserError(row.where, f'"generations[{index}]" is {kind(one)}', wanted)
        inner = Row(f'{row.where}, "generations[{index}]"', one)
        texts.append(inner.text("text"))
        toxicity = number(inner, "toxicity", inner.get("toxicity", "a number, or null"))
        said.append(Feedback("alt:toxicity", None if toxicity is None else 1 - toxicity))
    return texts, said


def entries(row: Row, field: str, n: int) -> list[Any]:
    """A list that has an entry for each generation."""
    value = row.get(field)
    if not isinstance(value, list) or len(value) != n:
        got = f'field "{field}" has {len(value)} entries' if isinstance(value, list) else f'"{field}" is {kind(value)}'
        raise UserError(row.where, f"{got} for {n} generations", "one entry per generation, null where none is known")
    return value


def spoken(row: Row, lists: dict[str, list[Any]]) -> Iterator[list[Feedback]]:
    """What a line's lists say of its generations, one list of feedback per critic."""
    if "rewards" in lists:
        yield [Feedback("alt:rewards", number(row, "rewards", value)) for value in lists["rewards"]]
    if "feedbacks" not in lists:
        if "scores" in lists:
            yield [Feedback("alt:scores", number(row, "scores", value)) for value in lists["scores"]]
        return
    texts = [words(row, "feedbacks", value) for value in lists["feedbacks"]]
    if "scores" not in lists:
        yield [Feedback("alt:feedbacks", label=text) for text in texts]
        return
    raws = [words(row, "analysis", value) for value in lists.get("analysis", [None] * len(texts))]
    scores = [number(row, "scores", value) for value in lists["scores"]]
    yield [Feedback("alt:feedbacks", *said) for said in zip(scores, [None] * len(texts), texts, raws, strict=True)]


def number(row: Row, field: str, value: Any) -> float | None:
    """A number or null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(row.where, f'an entry of "{field}" is {kind(value)}', "a number, or null")
    return float(value)


def words(row: Row, field: str, value: Any) -> str | None:
    """A text or null."""
    if value is not None and not isinstance(value, str):
        raise UserError(row.where, f'an entry of "{field}" is {kind(value)}', "text, or null")
    return value


# --- writing ---------------------------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str],
    groups: Iterable[Group],
    *,
    rewards: str = "",
    feedbacks: str = "",
    toxicity: str = "",
    asked: bool = False,
) -> int:
    """Write groups as such lines; how many.

    rewards, feedbacks, toxicity: the critic whose words stand there ("" for none). feedbacks gives "feedbacks" with
    "scores" and "analysis" where the critic wrote sentences, "feedbacks" alone where it gave labels. asked: the
    condition stands in front of the prompt again. Raises `UserError` for a conversation of several turns, and, with
    `asked`, for answers of one group that were asked for differently; and for a critic that said nothing of any.
    """
    groups = list(groups)
    for argument, critic in (("rewards", rewards), ("feedbacks", feedbacks), ("toxicity", toxicity)):
        if critic and not any(f is not None for group in groups for f in by(group, critic)):
            known = sorted({f.by for group in groups for of in group.feedback for f in of})
            raise UserError(f"write({argument}=...)", f"nothing was said by {critic}", "", closest(critic, known))
    return write_jsonl(path, (line(group, rewards, feedbacks, toxicity, asked) for group in groups))


def line(
    group: Group, rewards: str = "", feedbacks: str = "", toxicity: str = "", asked: bool = False
) -> dict[str, Any]:
    """One group as such a line."""
    where = f"the prompt {group.prompt.id}"
    if len(group.prompt.messages) > 1:
        raise UserError(where, f"it has {len(group.prompt.messages)} turns", "one: such files hold plain prompts")
    asks = {completion.ask or "" for completion in group.completions} if asked else {""}
    if len(asks) > 1:
        raise UserError(where, f"its answers were asked for in {len(asks)} ways", "one condition per line")
    out: dict[str, Any] = {"prompt": "".join(asks) + group.prompt.text}
    out["generations"] = [completion.text for completion in group.completions]
    if toxicity:
        marks = [None if f is None or f.score is None else 1 - f.score for f in by(group, toxicity)]
        pairs = zip(out["generations"], marks, strict=True)
        out["generations"] = [{"text": text, "toxicity": mark} for text, mark in pairs]
    if rewards:
        out["rewards"] = [f.score if f else None for f in by(group, rewards)]
    if feedbacks:
        said = by(group, feedbacks)
        if any(f is not None and f.label is not None for f in said):
            out["feedbacks"] = [f.label if f else None for f in said]
        else:
            out["analysis"] = [f.raw if f else None for f in said]
            out["feedbacks"] = [f.text if f else None for f in said]
            out["scores"] = [f.score if f else None for f in said]
    if "perplexity" in group.prompt.meta:
        out["perplexity"] = group.prompt.meta["perplexity"]
    return out


def by(group: Group, critic: str) -> list[Feedback | None]:
    """The last that a critic said of each answer; None where it said nothing."""
    said = ([f for f in of if f.by == critic] for of in group.feedback or ((),) * len(group.completions))
    return [of[-1] if of else None for of in said]
