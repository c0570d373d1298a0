"""`take`: the first different prompts of a corpus: a small look costs little, and a doubled prompt counts once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from trueline.errors import UserError
from trueline.pipeline import Work, stage
from trueline.records import Group, Prompt, write_jsonl
from trueline.store import Groups, Prompts


def _estimate(source: Prompts | Groups, n: int, **_: Any) -> dict[str, int]:
    known = source.count.get("groups", source.count.get("prompts"))
    return {"prompts": n if known is None else min(n, known)}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate)
def take(work: Work, source: Prompts | Groups, n: int) -> None:
    """The first `n` prompts of `source` that differ in what is asked; fewer where it holds fewer."""
    if n < 1:
        raise UserError("take(n=...)", f"got {n}", "at least 1")
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", itertools.islice(different(source), n)))


def different(source: Prompts | Groups) -> Iterator[Prompt]:
    """The prompts of `source` in order, each conversation once."""
    seen = set()
    for item in source.read():
        prompt = item.prompt if isinstance(item, Group) else item
        if prompt.messages not in seen:
            seen.add(prompt.messages)
            yield prompt
