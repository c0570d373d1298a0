"""From examples to token rows: rendering, lengths, and the refusals. Tokenised once per training.

Text becomes tokens through `chat.Renderer` alone. Every row that is cut or dropped is counted with its reason; a row is
never trained at the wrong token: an ended answer scores exactly one end-of-turn token, its last, and a cut answer none.
Where heads read rewards, every answer carries that token, a cut one too: there it is read, not scored.

A condition stands in front of the prompt that the policy sees. A reference that is to see the prompt without it gets
the same answers, token for token, after the bare prompt: rendered anew, never cut out of the policy's row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trueline import trie
from trueline.conditions.protocol import NO_CLASS, conditioned
from trueline.errors import UserError
from trueline.records import Message
from trueline.train.cuts import CutBoth

if TYPE_CHECKING:
    from trueline.chat import Renderer
    from trueline.train.views import Answer, Example
    from trueline.work import Work

UNBOUNDED = 1 << 60
Long = Literal["drop", "cut", "left", "error"] | CutBoth
Order = Literal["fresh", "together", "composed"]


@dataclass(frozen=True, eq=False)
class Row:
    """A tokenised example: one or two sequences, and the probability that the first is the better one.

    ended: of each sequence, whether its answer's end-of-turn token is scored. earlier: end-of-turn tokens of the
    assistant's earlier turns, where those are trained too. cost: trie tokens of the row by itself, the reference's
    included. labels: what the answer was scored, by attribute. rank: the class that its condition says. reference: the
    same answers after the bare prompt, where a reference reads those. given: numbers of its scored tokens, by name,
    where an objective reads such. prompt: a number that rows of one prompt have in common, whatever their conditions.
    """

    sequences: tuple[trie.Sequence, ...]
    ended: tuple[bool, ...]
    key: str
    p: float = 1.0
    whole: bool = False
    earlier: int = 0
    cost: int = 0
    labels: Mapping[str, float] = field(default_factory=dict)
    rank: int = NO_CLASS
    reference: tuple[trie.Sequence, ...] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    prompt: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences, shared ones counted for each."""
        return sum(s.ids.size for s in self.sequences)

    @property
    def scored(self) -> int:
        """Tokens that are trained or read."""
        return sum(int(s.scored.sum()) for s in self.sequences)


class Unfit(Exception):
    """Why an example gives no row; the message is the reason that is counted."""


@dataclass
class Encoder:
    """Turns examples into rows for one model.

    max_length: tokens of prompt and answer together, the end-of-turn token included. long: what happens to an answer
    beyond it: "drop" the row, "cut" its end (the cut answer then trains no end-of-turn), "left" keeps the last tokens
    of prompt and answer (`Renderer.last`; the end-of-turn stays), "error", or `CutBoth`. closed: every answer ends with
    exactly one end-of-turn token, where heads read; that of an answer that was cut, here or when it was sampled, is not
    scored. stripped: rows carry their answers after the bare prompt too. unknown: tokens that whoever reads those does
    not know; a row that holds one has no place beside it.
    """

    renderer: Renderer
    max_length: int = 1024
    long: Long = "drop"
    closed: bool = False
    stripped: bool = False
    unknown: frozenset[int] = frozenset()
    cut: int = field(default=0, init=False)
    cut_prompts: int = field(default=0, init=False)
    _prompts: tuple[tuple[Message, ...], dict[str, list[int]]] = field(default=((), {}), init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.long, CutBoth):
            self.check_cut(self.long)
        elif self.long not in ("drop", "cut", "left", "error"):
            raise UserError("train(long=...)", f'got "{self.long}"', '"drop", "cut", "left", "error" or CutBoth(...)')
        elif self.long == "left" and self.stripped:
            self.refuse_stripped('"left"')
        if self.max_length < 2:
            raise UserError("train(max_length=...)", f"got {self.max_length}", "2 tokens or more")

    def check_cut(self, cut: CutBoth) -> None:
        """Refuse a cut of prompts that leaves no room for answers, or a reference that sees other ones."""
        if cut.prompt + 2 > self.max_length:
            got = f"max_length is {self.max_length}"
            raise UserError(f"train(long=CutBoth({cut.prompt}))", got, "room for an answer beside the prompt")
        if self.stripped:
            self.refuse_stripped("CutBoth(...)")

    def refuse_stripped(self, long: str) -> None:
        """A cut prompt beside a reference that reads another one."""
        got = "a reference reads the answers after the bare prompt"
        raise UserError(f"train(long={long})", got, "prompts that are not cut", 'Use long="cut".')

    @property
    def closing(self) -> list[int]:
        """What is put after an answer that was cut, for heads to read there."""
        return self.renderer.ending() if self.closed else []

    def __call__(self, example: Example) -> Row:
        """The example's row. Raises `Unfit` with the reason where it has none."""
        if example.skip:
            raise Unfit(example.skip)
        if example.whole:
            return self.document(example)
        if any(not answer.text.strip() for answer in example.answers):
            raise Unfit("empty answer")
        texts = {answer.text for answer in example.answers}
        if len(texts) < len(example.answers):
            raise Unfit("the two answers are the same")
        prompt, room = self.fitted(self.prompt_ids(example.messages, example.condition), example)
        if self.long != "left" and len(prompt) + 1 + max(1, len(self.closing)) > self.max_length:
            self.refuse(f"prompt of {len(prompt)} tokens", example)
            raise Unfit("the prompt alone fills max_length")
        answers, ended = [], []
        for answer in example.answers:
            ids, complete = self.answer_ids(answer, room, example)
            scored = np.ones(len(ids), dtype=bool)
            if self.closed and not complete:
                scored[-len(self.closing) :] = False
            answers.append((ids, scored))
            ended.append(complete)
        if len(answers) == 2 and answers[0][0] == answers[1][0]:
            raise Unfit("the two answers are the same once rendered")
        before = self.before(prompt, example, example.condition)
        if self.long == "left":
            sequences = self.last(before, answers, example)
        else:
            sequences = [joined(before, answer) for answer in answers]
        earlier = int((before[0][before[1]] == self.renderer.end_id).sum())
        if not self.stripped:
            return finish(sequences, ended, example, earlier)
        if not example.condition:
            return finish(sequences, ended, example, earlier, self.known(sequences))
        bare = self.before(self.prompt_ids(example.messages), example, "")
        if not np.array_equal(bare[0][bare[1]], before[0][before[1]]):
            raise Unfit("the condition changes how earlier turns are rendered")
        return finish(sequences, ended, example, earlier, self.known([joined(bare, answer) for answer in answers]))

    def fitted(self, prompt: list[int], example: Example) -> tuple[list[int], int]:
        """The prompt that is kept, and the room it leaves for an answer."""
        if self.long == "left":
            return prompt, UNBOUNDED
        if not isinstance(self.long, CutBoth):
            return prompt, self.max_length - len(prompt)
        lengths = [len(self.whole(a)) + len(self.closing) * (not a.ended) for a in example.answers]
        kept, room = self.long(prompt, lengths, self.max_length)
        self.cut_prompts += len(kept) < len(prompt)
        return kept, room

    def last(
        self, before: tuple[np.ndarray, np.ndarray], answers: list[tuple[list[int], np.ndarray]], example: Example
    ) -> list[trie.Sequence]:
        """The last tokens of prompt and answer, for each answer by itself; of one that lost its beginning the first
        token that is left is not scored."""
        long = [len(before[0]) + len(ids) > self.max_length for ids, _ in answers]
        if any(long) and example.turns == "all":
            raise Unfit("longer than max_length, and its earlier turns are trained")
        self.cut_prompts += any(long)
        kept = []
        for ids, scored in answers:
            prompt, answer = self.renderer.last(before[0].tolist(), ids, self.max_length)
            left = scored[len(ids) - len(answer) :].copy()
            if len(answer) < len(ids):
                self.cut += 1
                left[0] = False
            kept.append(joined((np.array(prompt), before[1][len(before[1]) - len(prompt) :]), (answer, left)))
        if len(kept) == 2 and np.array_equal(kept[0].ids, kept[1].ids):
            raise Unfit("the two answers end alike, and begin beyond max_length")
        return kept

    def known(self, sequences: list[trie.Sequence]) -> list[trie.Sequence]:
        """The sequences, if a reference can read them."""
        if self.unknown and not all(self.unknown.isdisjoint(s.ids.tolist()) for s in sequences):
            raise Unfit("an added token in prompt or answer, which the reference does not know")
        return sequences

    def prompt_ids(self, messages: tuple[Message, ...], condition: str = "") -> list[int]:
        """Tokens before the answer; the last prompt's are kept, under all its conditions, as a group's examples follow
        each other."""
        if not messages:
            raise Unfit("no prompt")
        if self._prompts[0] != messages:
            self._prompts = (messages, {})
        known = self._prompts[1]
        if condition not in known:
            known[condition] = rendered(self.renderer.prompt_ids, conditioned(messages, condition))
        return known[condition]

    def before(self, prompt: list[int], example: Example, condition: str) -> tuple[np.ndarray, np.ndarray]:
        """What stands before the answer, and which of it is trained: nothing, or the assistant's earlier turns with
        their end-of-turns."""
        ids = np.array(prompt, dtype=np.int64)
        if example.turns != "all":
            return ids, np.zeros(len(ids), dtype=bool)
        talk = (*conditioned(example.messages, condition), Message("assistant", example.answers[0].text))
        try:
            whole = self.renderer.conversation(talk)
        except UserError as error:
            raise Unfit(f"the renderer refuses it ({error.where}: {error.got})") from None
        if whole.ids[: len(prompt)] != prompt:
            raise Unfit("the template writes earlier turns differently once the answer is there")
        return ids, np.array(whole.trained[: len(prompt)], dtype=bool)

    def answer_ids(self, answer: Answer, room: int, example: Example) -> tuple[list[int], bool]:
        """Tokens of an answer that fit into `room`, and whether it is complete: its end-of-turn token is its own."""
        ids, closing = self.whole(answer), self.closing
        if len(ids) + len(closing) * (not answer.ended) <= room:
            return (ids, True) if answer.ended else (ids + closing, False)
        self.refuse(f"prompt and answer of {len(ids) - room + self.max_length} tokens", example)
        if self.long == "drop":
            raise Unfit("longer than max_length")
        self.cut += 1
        return ids[: room - len(closing)] + closing, False

    def whole(self, answer: Answer) -> list[int]:
        """All tokens of an answer, its one end-of-turn the last where it ended."""
        end = self.renderer.end_id
        ids = rendered(self.renderer.answer_ids, answer.text, answer.ended)
        if ids.count(end) != int(answer.ended) or (answer.ended and ids[-1] != end):
            raise Unfit("an end-of-turn token inside the answer")
        return ids

    def document(self, example: Example) -> Row:
        """A row whose every token is scored but the first, which nothing predicts."""
        if self.closed:
            cure = "Use Pairs(...) or Demonstrations(...)."
            raise UserError("the training examples", "documents have no answer to rate", "answers to prompts", cure)
        if example.condition:
            raise Unfit("a document with a condition")
        if example.messages:
            ids, ended = rendered(lambda messages: self.renderer.conversation(messages).ids, example.messages), False
        else:
            answer = example.answers[0]
            ids, ended = rendered(self.renderer.answer_ids, answer.text, answer.ended), answer.ended
        if len(ids) < 2:
            raise Unfit("empty document")
        if len(ids) > self.max_length:
            self.refuse(f"document of {len(ids)} tokens", example)
            if self.long == "drop":
                raise Unfit("longer than max_length")
            self.cut += 1
            ids, ended = (ids[-self.max_length :], ended) if self.long == "left" else (ids[: self.max_length], False)
        sequences = [trie.Sequence.of(ids[:1], ids[1:])]
        return finish(sequences, [ended], example, reference=self.known(sequences) if self.stripped else ())

    def refuse(self, got: str, example: Example) -> None:
        """Stop at the first row that is too long, where that was asked for."""
        if self.long == "error":
            text = (example.messages[-1].content if example.messages else example.answers[0].text)[:60]
            cure = 'Raise max_length, or choose long="drop", long="cut" or long="left".'
            raise UserError(f'the row of "{text}..."', got, f"at most max_length={self.max_length}", cure)


def rendered(render: Callable[..., list[int]], *arguments: Any) -> list[int]:
    """Tokens of a text; a conversation that the model's template refuses makes the row unfit, not the run."""
    try:
        return list(render(*arguments))
    except UserError as error:
        raise Unfit(f"the renderer refuses it ({error.where}: {error.got})") from None


def joined(before: tuple[np.ndarray, np.ndarray], answer: tuple[list[int], np.ndarray]) -> trie.Sequence:
    """Prompt and answer, each as ids and which of them are scored, as one sequence."""
    return trie.Sequence(np.concatenate([before[0], answer[0]]), np.concatenate([before[1], answer[1]]))


def finish(
    sequences: Sequence[trie.Sequence],
    ended: list[bool],
    example: Example,
    earlier: int = 0,
    reference: Sequence[trie.Sequence] = (),
) -> Row:
    """The row of an example's sequences, with what it costs."""
    cost = trie.size(sequences) + (trie.size(reference) if reference else 0)
    return Row(
        tuple(sequences), tuple(ended), example.key, example.p, example.whole, earlier, cost, dict(example.labels),
        example.rank, tuple(reference),
    )  # fmt: skip


def encode(
    examples: Iterable[Example], encoder: Encoder, work: Work | None = None, max_dropped: float = 0.1, expected: int = 0
) -> list[Row]:
    """The rows of `examples` (about `expected`), in order. Dropped ones go to `work` with their reason.

    Raises `UserError` where a larger share than `max_dropped` was dropped, or nothing is left.
    """
    rows: list[Row] = []
    reasons: dict[str, int] = {}
    left_out: dict[str, int] = {}
    prompts: dict[tuple[Message, ...], int] = {}
    total = 0
    for number, example in enumerate(counted(examples, work, expected)):
        if example.left_out:
            left_out[example.left_out] = left_out.get(example.left_out, 0) + 1
            continue
        total += 1
        try:
            rows.append(replace(encoder(example), prompt=prompts.setdefault(example.messages, len(prompts))))
        except Unfit as reason:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
            if work is not None:
                work.drop(str(reason), as_json(example), f"example {number}")
    if work is not None:
        for name, n in (
            ("examples", len(rows)),
            ("cut", encoder.cut),
            ("cut_prompts", encoder.cut_prompts),
            ("left_out", sum(left_out.values())),
        ):
            if n:
                work.count(name, n)
        if left_out:
            work.note("left_out", left_out)
    refuse_too_many_dropped(total, reasons, max_dropped)
    if not rows:
        why = f"none of {sum(left_out.values())} was kept ({listed(left_out)})" if left_out else "the view gave none"
        raise UserError("the training examples", why, "at least one", "Look at the groups the view reads.")
    check(rows[0], encoder.renderer, encoder.closed)
    return rows


def counted(examples: Iterable[Example], work: Work | None, expected: int) -> Iterator[Example]:
    """The examples, each counted on the stage's progress bar."""
    if work is None:
        yield from examples
        return
    with work.progress(expected, "tokenise") as meter:
        for example in examples:
            yield example
            meter.advance(1)


def refuse_too_many_dropped(total: int, reasons: dict[str, int], max_dropped: float) -> None:
    """Stop a run that would train on much less than it was given."""
    dropped = sum(reasons.values())
    if dropped > max_dropped * total:
        raise UserError(
            "the training examples",
            f"{dropped} of {total} would be dropped ({listed(reasons)})",
            f"at most a share of max_dropped={max_dropped:g}",
            "Mend the rows (dropped.jsonl lists them), raise max_length, or allow more with max_dropped.",
        )


def listed(reasons: dict[str, int]) -> str:
    """Reasons and their counts, most frequent first."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(reasons.items(), key=lambda item: -item[1]))


def as_json(example: Example) -> dict[str, Any]:
    """An example as it is written aside."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in example.messages],
        "answers": [{"text": a.text, "ended": a.ended} for a in example.answers],
        "p": example.p,
    }


def check(row: Row, renderer: Renderer, closed: bool = False) -> None:
    """A loud look at a row before anything is spent: tokens are scored, and each ended answer ends exactly once; where
    rewards are read, the last token closes the assistant's turn.

    Raises `UserError` when the renderer and the tokenizer disagree about either.
    """
    for sequence, ended in zip(row.sequences, row.ended, strict=True):
        trained = sequence.ids[sequence.scored]
        ends = int((trained == renderer.end_id).sum())
        shown = renderer.decode(trained.tolist())[:80]
        where = f'the rendering of "{shown}"'
        if not trained.size:
            raise UserError(where, "no token is trained", "the answer's tokens", "Look at it with `trueline check`.")
        if row.whole:
            continue
        if closed and not renderer.closes_answer(sequence.ids.tolist()):
            got = "its last token is not the end-of-turn that closes the answer"
            raise UserError(where, got, "that token, where a reward is read", "Look at it with `trueline check`.")
        if ends != int(ended) + row.earlier or (ended and trained[-1] != renderer.end_id):
            wanted = "exactly one, at the end" if ended else "none, as the answer is cut"
            wanted += f", and {row.earlier} of earlier turns" if row.earlier else ""
            got = f"{ends} end-of-turn tokens are trained"
            raise UserError(where, got, wanted, "Look at it with `trueline check`.")


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` rows in an epoch: a permutation from (seed, epoch) only, so that it can be resumed anywhere."""
    return np.argsort(np.random.default_rng([seed, epoch]).random(n), kind="stable")


def together(prompts: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch in which the prompts are shuffled, and the rows of one prompt stand next to each other.

    So that answers to one prompt meet in an optimiser step, and the prompt is computed once for all of them.
    """
    place = order(int(prompts.max()) + 1, seed, epoch)
    rank = np.empty_like(place)
    rank[place] = np.arange(place.size)
    return np.argsort(rank[prompts], kind="stable")


def composed(n: int, seed: int, epochs: int) -> list[np.ndarray]:
    """The order of each epoch where every epoch shuffles what the one before left, as DPO's reference implementation.

    Its seeds are NumPy's legacy integers below 2**32, from the seed 0 always; its shuffle is Python's.
    """
    rows, out = list(range(n)), []
    for drawn in np.random.RandomState(seed).randint(0, 2**32, size=epochs):
        random.Random(int(drawn)).shuffle(rows)
        out.append(np.array(rows))
    return out


def steps_per_epoch(n: int, batch_size: int, kind: Order = "fresh") -> int:
    """Optimiser steps in an epoch; the last one may be smaller, no row is left out. "composed": full ones only."""
    if kind != "composed":
        return -(-n // batch_size)
    if n < batch_size:
        got = f"{n} rows are fewer than one batch of {batch_size}"
        raise UserError('train(order="composed")', got, "a full batch: others are left out", 'Use order="fresh".')
    return n // batch_size


def plan(
    n: int,
    batch_size: int,
    epochs: int,
    seed: int,
    start: int = 0,
    shuffled: bool = True,
    kind: Order = "fresh",
    prompts: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """The row indices of each optimiser step from step `start` on; the order of the rows where it is not shuffled.

    prompts: each row's prompt, for the kind "together".
    """
    per_epoch = steps_per_epoch(n, batch_size, kind)
    orders = composed(n, seed, epochs) if kind == "composed" else None
    for epoch in range(start // per_epoch, epochs):
        if kind == "together":
            permutation = together(np.array(prompts), seed, epoch)
        else:
            permutation = orders[epoch] if orders else order(n, seed, epoch) if shuffled else np.arange(n)
        for step in range(start % per_epoch if epoch == start // per_epoch else 0, per_epoch):
            yield permutation[step * batch_size : (step + 1) * batch_size]
