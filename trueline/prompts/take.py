"""`take`: some different prompts of a corpus: the first ones, or a draw; `without`: those that another one lacks.

    take(prompts, 100)                     the first 100: a small look costs little
    take(prompts, 2048, seed=round)        2,048 others in every round, none twice within one
    without(prompts, held_out)             nothing that is tested on

A doubled prompt counts once; prompts are the same where their messages are, whatever their ids.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Any

from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.records import Group, Prompt, content_hash, write_jsonl
from trueline.store import Groups, Prompts


def _estimate(source: Prompts | Groups, n: int, **_: Any) -> dict[str, int]:
    known = source.count.get("groups", source.count.get("prompts"))
    return {"prompts": n if known is None else min(n, known)}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate)
def take(work: Work, source: Prompts | Groups, n: int, seed: int | None = added(None)) -> None:
    """`n` prompts of `source` that differ in what is asked; fewer where it holds fewer.

    seed: None takes the first, a number draws without replacement, in an order of its own. Draws of different seeds
    are independent of each other; of one seed, the fewer are the beginning of the more.
    """
    if n < 1:
        raise UserError("take(n=...)", f"got {n}", "at least 1")
    found = different(source)
    chosen = itertools.islice(found, n) if seed is None else drawn(found, n, seed)
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", chosen))


def _rest(source: Prompts | Groups, **_: Any) -> dict[str, int]:
    known = source.count.get("groups", source.count.get("prompts"))
    return {} if known is None else {"prompts": known}  # at most: what the other holds may lie elsewhere


@stage(Prompts, rev=1, label="prompts", estimate=_rest)
def without(work: Work, source: Prompts | Groups, other: Prompts | Groups) -> None:
    """The different prompts of `source` that are not asked in `other`, in order.

    Counted: prompts, and left_out (those that are asked there). Raises `UserError` where none is left.
    """
    asked = {prompt.messages for prompt in different(other)}
    found = list(different(source))
    kept = [prompt for prompt in found if prompt.messages not in asked]
    if not kept:
        got = f"each of its {len(found)} prompts is in {other.name} too"
        raise UserError(f"without({source.name}, {other.name})", got, "some that are not")
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", kept))
    work.count("left_out", len(found) - len(kept))


def drawn(prompts: Iterator[Prompt], n: int, seed: int) -> list[Prompt]:
    """`n` prompts without replacement: those whose messages, hashed with the seed, come first.

    So the draw is the same on every machine and whatever order the corpus stands in.
    """

    def lot(prompt: Prompt) -> str:
        return content_hash([seed, [(m.role, m.content) for m in prompt.messages]], 64)

    return heapq.nsmallest(n, prompts, key=lot)


def different(source: Prompts | Groups) -> Iterator[Prompt]:
    """The prompts of `source` in order, each conversation once."""
    seen = set()
    for item in source.read():
        prompt = item.prompt if isinstance(item, Group) else item
        if prompt.messages not in seen:
            seen.add(prompt.messages)
            yield prompt
