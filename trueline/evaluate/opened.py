"""How likely words are as the next ones of a turn that the assistant has begun: for readers that ask a policy.

    after(renderer, messages, "Response", (" A", " B"))       "... Response" and then " A", or " B"

The probability is over the whole vocabulary, at temperature 1. Several words are scored from where their tokens part, a
single one from where the begun turn ends, as the tokens of both together say: no token's id is guessed from a bare
word, a space of its own or a token that runs across the two does no harm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trueline import models, trie
from trueline.evaluate.choice import context_of
from trueline.records import Message
from trueline.trie import passes

if TYPE_CHECKING:
    from trueline.chat import Renderer

Question = tuple[tuple[Message, ...], str, tuple[str, ...]]
"""The messages, what the assistant's turn begins with, and the words that may follow."""


def after(renderer: Renderer, question: Question) -> list[trie.Sequence]:
    """One sequence per word, scored on it."""
    messages, begun, words = question
    prompt, opening = renderer.prompt_ids(messages), renderer.answer_ids(begun, ended=False)
    written = [renderer.answer_ids(begun + word, ended=False) for word in words]
    columns = zip(*(written if len(written) > 1 else [opening, *written]), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))
    same = min(same, *(len(ids) - 1 for ids in written))
    return [trie.Sequence.of([*prompt, *ids[:same]], ids[same:]) for ids in written]


def logps(opened: models.Loaded, questions: Sequence[Question]) -> Iterator[tuple[float, ...] | str]:
    """Per question the natural log-probs of its words, or why it was left out: it does not fit into the context."""
    context = context_of(opened.model)
    asked = [after(opened.renderer, question) for question in questions]
    longest = [max(len(sequence) for sequence in of) for of in asked]
    fitting = [of for of, size in zip(asked, longest, strict=True) if context is None or size <= context]
    found = passes.logps(opened.model, [s for of in fitting for s in of], dtype=models.autocast_dtype())
    said = iter(found.logps_N.tolist())
    for of, size in zip(asked, longest, strict=True):
        if context is not None and size > context:
            yield f"{size} tokens are more than the model's context of {context}"
        else:
            yield tuple(next(said) for _ in of)
