"""What a file of pairs or of answers looks like to a model, in numbers: what `trueline check` shows, without its table.

Everything is seen through the renderer that training uses. Rows that training could not use are dropped here for the
same reasons; rows that it would cut are counted. Nothing is printed and nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from trueline.errors import UserError
from trueline.files import Row, Unusable
from trueline.records import Group, Message, content_hash

if TYPE_CHECKING:
    from trueline.chat import Renderer

COMPARED = 2000
T = TypeVar("T")


@dataclass
class Findings:
    """Counts over the rows of a file, and lengths in tokens of the pairs that can be used (or, in a file of answers to
    imitate, of the answers: "chosen" ones without a rejected one).

    dropped, cut: reason -> rows. differs: pairs whose ids are not the template's own tokenisation, of `compared` pairs
    without special-token text. unprefixed: those of them where the template's prompt is no prefix of its conversation.
    unended: answers without exactly one end-of-turn token at their end. longer: pairs whose chosen answer has more
    tokens. bos: sequences by how many BOS tokens they begin with.
    """

    rows: int = 0
    pairs: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    unended: int = 0
    own_end: int = 0
    special: Counter[str] = field(default_factory=Counter)
    special_rows: int = 0
    compared: int = 0
    differs: int = 0
    unprefixed: int = 0
    difference: str = ""
    same_prompt: int = 0
    same_pair: int = 0
    contradicted: int = 0
    same_once_cut: int = 0
    repeats_prompt: int = 0
    ties: int = 0
    abstained: int = 0
    bos: Counter[int] = field(default_factory=Counter)
    prompt_tokens: list[int] = field(default_factory=list)
    chosen_tokens: list[int] = field(default_factory=list)
    rejected_tokens: list[int] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many answers were looked at."""
        return len(self.chosen_tokens) + len(self.rejected_tokens)

    @property
    def unit(self) -> str:
        """What is counted: pairs, or answers where nothing is compared."""
        return "pairs" if self.rejected_tokens or not self.pairs else "answers"

    def share(self, count: int) -> float:
        """`count` as a share of the usable pairs."""
        return count / self.pairs if self.pairs else 0.0

    @property
    def gaps(self) -> list[int]:
        """Tokens of the chosen answer less those of the rejected one, by pair."""
        return [c - r for c, r in zip(self.chosen_tokens, self.rejected_tokens, strict=False)]

    @property
    def totals(self) -> list[int]:
        """Tokens of the prompt and the longer answer, by pair."""
        rejected = self.rejected_tokens or [0] * len(self.chosen_tokens)
        both = zip(self.prompt_tokens, self.chosen_tokens, rejected, strict=True)
        return [p + max(c, r) for p, c, r in both]


Aside = Callable[[str, Row], None]


@dataclass
class Examiner:
    """Looks at rows as training would: `groups` yields the usable ones, `findings` fills meanwhile.

    max_length: tokens of prompt and answer. aside: told the reason and the row of what is dropped or cut.
    """

    renderer: Renderer
    max_length: int
    aside: Aside
    findings: Findings = field(default_factory=Findings)
    _prompts: set[str] = field(default_factory=set, repr=False)
    _pairs: dict[str, float | None] = field(default_factory=dict, repr=False)

    def groups(self, rows: Iterable[Row], read: Callable[[Row], Group | Sequence[Group]]) -> Iterator[Group]:
        """What can be trained on of the rows: pairs, each a group of two answers, or single answers."""
        for row in rows:
            self.findings.rows += 1
            try:
                given = read(row)
                pairs = [pair for one in ([given] if isinstance(given, Group) else given) for pair in pairs_of(one)]
                for pair in pairs:
                    self.look(pair, row)
            except Unusable as problem:
                self.drop(problem.got, row)
                continue
            yield from pairs

    def drop(self, reason: str, row: Row) -> None:
        self.findings.dropped[reason] += 1
        self.aside(f"dropped: {reason}", row)

    def look(self, group: Group, row: Row) -> None:
        """Take one pair into the counts. Raises `Unusable` where its prompt cannot be rendered or leaves no room."""
        found, renderer = self.findings, self.renderer
        messages = group.prompt.messages
        try:
            prompt = renderer.prompt_ids(messages)
        except UserError as error:
            raise Unusable("", f"{error.where}: {error.got}", error.wanted) from None
        if len(prompt) + 2 > self.max_length:
            raise Unusable("", "the prompt alone fills --max-length", "a shorter prompt")
        texts = [completion.text for completion in better_first(group, group.completions)]
        answers = [renderer.answer_ids(text) for text in texts]
        found.pairs += 1
        found.prompt_tokens.append(len(prompt))
        found.chosen_tokens.append(len(answers[0]))
        found.rejected_tokens += [len(ids) for ids in answers[1:]]
        self.look_at_ends(prompt, answers, row)
        self.look_at_texts(group)
        self.look_for_copies(group)
        if self.findings.compared < COMPARED:
            self.compare(group)

    def look_at_ends(self, prompt: list[int], answers: Sequence[list[int]], row: Row) -> None:
        """End-of-turn and BOS tokens, and what is cut."""
        found, end, bos = self.findings, self.renderer.end_id, self.renderer.tokenizer.bos_token_id
        found.unended += sum(ids.count(end) != 1 or ids[-1] != end for ids in answers)
        starts = 0
        while bos is not None and starts < len(prompt) and prompt[starts] == bos:
            starts += 1
        found.bos[starts] += 1
        room = self.max_length - len(prompt)
        called = ("chosen", "rejected") if len(answers) == 2 else ("answer",)
        names = [name for name, ids in zip(called, answers, strict=True) if len(ids) > room]
        if names:
            reason = f"{' and '.join(names)} longer than --max-length"
            found.cut[reason] += 1
            self.aside(f"cut: {reason}", row)
            found.same_once_cut += len(answers) == 2 and answers[0][:room] == answers[1][:room]

    def look_at_texts(self, group: Group) -> None:
        """Special-token text, and answers that repeat the prompt."""
        found, renderer = self.findings, self.renderer
        texts = [m.content for m in group.prompt.messages] + [c.text for c in group.completions]
        literal = [token for text in texts for token in renderer.special_texts(text)]
        found.special.update(literal)
        found.special_rows += bool(literal)
        end = renderer.tokenizer.convert_ids_to_tokens(renderer.end_id)
        found.own_end += sum(c.text.rstrip().endswith(end) for c in group.completions)
        asked = group.prompt.messages[-1].content.strip()
        found.repeats_prompt += len(asked) > 20 and all(c.text.lstrip().startswith(asked) for c in group.completions)
        found.ties += any(x.p == 0.5 for x in group.preferences)
        found.abstained += any(x.p is None for x in group.preferences)

    def look_for_copies(self, group: Group) -> None:
        """Prompts and pairs seen before, as they were or the other way round."""
        found = self.findings
        asked = content_hash([(m.role, m.content) for m in group.prompt.messages])
        said = [completion.text for completion in group.completions]
        pair, swapped = content_hash([asked, *said]), content_hash([asked, *said[::-1]])
        p = group.preferences[0].p if group.preferences else None
        found.same_prompt += asked in self._prompts
        found.same_pair += pair in self._pairs
        # The same pair twice with the winners exchanged, or the answers exchanged with the same winner.
        other = [q for q in (self._pairs.get(pair), flipped(self._pairs.get(swapped))) if q is not None]
        found.contradicted += any(p is not None and (p - 0.5) * (q - 0.5) < 0 for q in other)
        self._prompts.add(asked)
        self._pairs[pair] = p

    def compare(self, group: Group) -> None:
        """Our ids beside the template's own; not for special-token text, where they must differ."""
        found, renderer = self.findings, self.renderer
        messages = list(group.prompt.messages)
        conversations = [[*messages, Message("assistant", completion.text)] for completion in group.completions]
        if any(renderer.special_texts(m.content) for conversation in conversations for m in conversation):
            return
        found.compared += 1
        difference = next(filter(None, map(renderer.difference, conversations)), None)
        asked = renderer.template_ids(messages)
        found.unprefixed += any(renderer.template_ids(c)[: len(asked)] != asked for c in conversations)
        found.differs += difference is not None
        found.difference = found.difference or (difference or "")


def pairs_of(group: Group) -> Iterator[Group]:
    """Each preference of a group with its two answers; each answer by itself where none were compared."""
    if not group.preferences:
        yield from (Group(group.prompt, (completion,)) for completion in group.completions)
    for preference in group.preferences:
        two = tuple(group.completions[at] for at in (preference.left, preference.right))
        yield Group(group.prompt, two, preferences=(msgspec.structs.replace(preference, left=0, right=1),))


def better_first(group: Group, two: Sequence[T]) -> Sequence[T]:
    """What belongs to the two answers of a pair, that of the better one first."""
    p = group.preferences[0].p if group.preferences else None
    return two[::-1] if p is not None and p < 0.5 else two


def flipped(p: float | None) -> float | None:
    """The probability that the other answer is better."""
    return None if p is None else 1.0 - p


def quantile(values: Sequence[int], q: float) -> float:
    """The q-quantile of values, by linear interpolation; NaN of none.

    >>> quantile([1, 2, 3, 4], 0.5)
    2.5
    """
    if not values:
        return float("nan")
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def mean(values: Sequence[int]) -> float:
    """Arithmetic mean; NaN of none."""
    return sum(values) / len(values) if values else float("nan")


def as_aside(reason: str, row: Row) -> dict[str, Any]:
    """A row as it is written aside."""
    return {"reason": reason, "where": row.where, "row": row.value}
