"""`teach`: a teacher's answers to imitate, and no answer that would teach something wrong.

    taught = teach(engine("openai:gpt-5-mini"), prompts)
    sft = train(start, Demonstrations(taught), SFT())

It is `draw` with filters: prompts that are too long are not asked, and answers that were cut off, are empty (refused)
or hold what they may not are written aside with their reason. What is asked twice is asked once.

Source: Sharma et al. 2024 (arXiv 2402.12366), whose filters are the defaults.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from trueline.errors import UserError
from trueline.pipeline import Work, stage
from trueline.records import Completion, Group, Message, Prompt
from trueline.sample.draw import drawn, estimate
from trueline.sample.protocol import Engine, Sampling
from trueline.store import Groups, Policy, Prompts


@dataclass(frozen=True)
class Filters:
    """Which prompts a teacher is asked, and which of its answers are taught.

    words, characters: prompts of so many words (between white space) or characters in all their turns, or more, are not
    asked; 0: no limit. cut: answers that did not end within max_tokens (or that a content filter broke off): "drop", or
    "keep" them, as cut ones, which train no end-of-turn. without: texts that no answer may hold, such as "</s>" or "As
    an AI language model".
    """

    words: int = 2000
    characters: int = 8000
    cut: Literal["drop", "keep"] = "drop"
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("words", "characters"):
            if getattr(self, name) < 0:
                raise UserError(f"Filters({name}=...)", f"got {getattr(self, name)}", "a number, or 0 for no limit")
        if self.cut not in ("drop", "keep"):
            raise UserError("Filters(cut=...)", f"got {self.cut!r}", '"drop" or "keep"')
        if not isinstance(self.without, tuple) or not all(isinstance(t, str) and t for t in self.without):
            raise UserError("Filters(without=...)", f"got {self.without!r}", 'a tuple of texts, such as ("</s>",)')

    def too_long(self, prompt: Prompt) -> str | None:
        """Why a prompt is not asked; None where it is."""
        contents = [message.content for message in prompt.messages]
        words, characters = sum(len(text.split()) for text in contents), sum(map(len, contents))
        if self.words and words >= self.words:
            return f"the prompt has {words} words, {self.words} or more"
        if self.characters and characters >= self.characters:
            return f"the prompt has {characters} characters, {self.characters} or more"
        return None

    def refuse(self, completion: Completion) -> tuple[str, str] | None:
        """(what it is counted as, the reason) where an answer is not taught; None where it is."""
        if not completion.text.strip():
            return "empty", "the answer is empty: refused, filtered, or nothing was said"
        if completion.stopped == "length" and self.cut == "drop":
            return "cut", "the answer was cut off before its end"
        held = next((text for text in self.without if text in completion.text), None)
        return None if held is None else ("barred", f'the answer holds "{held}"')


LONG = Sampling(max_tokens=2048)


def _estimate(**arguments: Any) -> dict[str, int]:
    taught = estimate(**arguments)
    return taught | {"teacher_calls": taught["samples"]}


@stage(Groups, rev=1, label="taught", estimate=_estimate)
def teach(
    work: Work,
    engine: Policy | Engine,
    prompts: Prompts | Groups,
    sampling: Sampling = LONG,
    keep: Filters = Filters(),
    long: Literal["error", "drop"] = "error",
    max_dropped: float = 0.1,
) -> None:
    """The different prompts with the teacher's answers to them, white space around an answer taken off.

    engine: the teacher. sampling: `n` answers per prompt; a group keeps those that pass. keep: the filters. long: as
    for `draw`, what becomes of a prompt without room in the teacher's context. max_dropped: the largest share of
    prompts that may be left without an answer; above it the run stops, as soon as the share cannot come out smaller.

    Counted: prompts (that were asked), groups and samples (that are taught), teacher_calls (answers that were asked
    for), repeated (prompts that stood before), long (not asked), and of the answers cut, empty and barred, dropped or
    not; dropped (what was written aside); and what the engine itself meters. Cut answers that are kept say so
    (`Completion.stopped`).

    Raises `UserError` naming the reasons where too many are left without an answer.
    """
    if long not in ("error", "drop"):
        raise UserError("teach(long=...)", f"got {long!r}", '"error" or "drop"')
    if not 0 <= max_dropped <= 1:
        raise UserError("teach(max_dropped=...)", f"got {max_dropped!r}", "a share from 0 to 1")
    different = _different(work, prompts)
    lost = _Lost(work.artifact.name, len(different), max_dropped)
    asked = []
    for prompt in different:
        reason = keep.too_long(prompt)
        if reason is None:
            asked.append(prompt)
        else:
            work.drop(reason, prompt)
            work.count("long")
            lost.add("too long to ask")

    def passed(group: Group) -> Group | None:
        work.count("teacher_calls", len(group.completions))
        refusals = [keep.refuse(completion) for completion in group.completions]
        for completion, refusal in zip(group.completions, refusals, strict=True):
            if refusal is not None:
                work.drop(refusal[1], {"prompt": group.prompt, "completion": completion})
        barred = sum(refusal is not None and refusal[0] == "barred" for refusal in refusals)
        if barred:  # the others are counted where answers are
            work.count("barred", barred)
        taught = [i for i, refusal in enumerate(refusals) if refusal is None]
        if not taught:
            lost.add(next(refusal[0] for refusal in refusals if refusal), group.completions[0].text)
            return None
        said = tuple(_trimmed(group.completions[i]) for i in taught)
        feedback = tuple(group.feedback[i] for i in taught) if group.feedback else ()
        return msgspec.structs.replace(group, completions=said, feedback=feedback)

    made = drawn(work, engine, asked, sampling, long, keep=passed)
    lost.settle(made)


@dataclass
class _Lost:
    """The prompts left without an answer, by reason: of `total` at most the share `most`."""

    name: str
    total: int
    most: float
    reasons: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def add(self, reason: str, answer: str = "") -> None:
        """One more. Raises `UserError` where the share cannot come out small enough any more."""
        self.reasons[reason] += 1
        self.last = answer or self.last
        self.check()

    def settle(self, made: int) -> None:
        """The end, with `made` answered: what an earlier run left, or had no room in the context, is one reason too."""
        self.reasons["others"] += self.total - made - sum(self.reasons.values())
        self.check()
        if not made:
            raise UserError(self.name, f"none of {self.total} prompts has an answer", "at least one")

    def check(self) -> None:
        gone = sum(self.reasons.values())
        if gone <= self.most * self.total:
            return
        said = ", ".join(f"{n} {reason}" for reason, n in self.reasons.most_common() if n)
        last = f"; the last answer that was not taught: {self.last[:80]!r}" if self.last else ""
        raise UserError(
            self.name,
            f"{gone} of {self.total} prompts ({gone / self.total:.1%}) are left without an answer ({said}){last}",
            f"at most {self.most:.1%}",
            "Give answers that are cut more max_tokens, or allow a larger share with max_dropped.",
        )


def _different(work: Work, prompts: Prompts | Groups) -> list[Prompt]:
    """The prompts in order, each conversation once."""
    seen: dict[tuple[Message, ...], Prompt] = {}
    for item in prompts.read():
        prompt = item.prompt if isinstance(item, Group) else item
        if prompt.messages in seen:
            work.count("repeated")
        seen.setdefault(prompt.messages, prompt)
    return list(seen.values())


def _trimmed(completion: Completion) -> Completion:
    """The answer without the white space around it; without its tokens, where these spell it."""
    text = completion.text.strip()
    if text == completion.text:
        return completion
    return msgspec.structs.replace(completion, text=text, tokens=None, logprobs=None)
