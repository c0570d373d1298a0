"""`gather` and `pooled`: one prompt set answered by several generators, all answers to a prompt in one group.

    drawn = gather((strong, weak), prompts, Sampling(n=1, max_tokens=384))
    drawn = pooled((draw(strong, prompts, sampling), draw(weak, prompts, sampling)))       the same, written out

Every completion keeps its author, and what was said of it before; who drew first stands first. Each generator draws in
a step of its own, so that only one model is open at a time, another generator joins without the others being drawn
again, and a killed run loses a shard. With `gather` all have one `Sampling`: the same budget and the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from trueline.errors import UserError
from trueline.pipeline import Work, stage
from trueline.records import Group, write_jsonl
from trueline.sample.draw import draw
from trueline.sample.protocol import Engine, Sampling
from trueline.store import Groups, Policy, Prompts


def _estimate(drawn: tuple[Groups, ...], **_: Any) -> dict[str, int]:
    known = [groups.count for groups in drawn]
    prompts = max((count.get("groups", count.get("prompts", 0)) for count in known), default=0)
    return {"prompts": prompts, "groups": prompts, "samples": sum(count.get("samples", 0) for count in known)}


@stage(Groups, rev=1, label="pooled", estimate=_estimate)
def pooled(
    work: Work, drawn: tuple[Groups, ...], missing: Literal["drop", "keep"] = "drop", max_dropped: float = 0.1
) -> None:
    """The groups of several draws, merged by prompt id: completions, feedback and preferences one after the other.

    missing: a prompt that some draw left out (as one too long after many demonstrations) is written aside with the
    reason, or kept with the answers that it has. max_dropped: the largest share of prompts that may be dropped.

    Counted: prompts, groups, samples. Noted: authors, how many answers each has. Raises `UserError` for a prompt that
    stands twice in one draw, or an id under which two things were asked.
    """
    if missing not in ("drop", "keep"):
        raise UserError("pooled(missing=...)", f"got {missing!r}", '"drop" or "keep"')
    if not drawn:
        raise UserError("pooled(drawn)", "got no groups", "groups of one prompt set, one per generator")
    tables = [by_prompt(list(groups.read()), groups.name) for groups in drawn]
    ids = list(dict.fromkeys(id for table in tables for id in table))
    merged, authors = [], dict[str, int]()
    for id in ids:
        found = [table[id] for table in tables if id in table]
        if len(found) < len(tables) and missing == "drop":
            lacking = [groups.name for groups, table in zip(drawn, tables, strict=True) if id not in table]
            work.drop(f"not answered in {', '.join(lacking)}", found[0].prompt)
            continue
        group = merge(found)
        merged.append(group)
        for completion in group.completions:
            authors[completion.author] = authors.get(completion.author, 0) + 1
    work.limit("prompts that some generator did not answer", len(ids) - len(merged), len(ids), max_dropped)
    work.note("authors", authors)
    work.count("prompts", len(merged))
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", merged))
    work.count("samples", sum(authors.values()))


def gather(
    engines: Sequence[Policy | Engine],
    prompts: Prompts | Groups,
    sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    **how: Any,
) -> Groups:
    """`prompts`, answered by all `engines` under one `sampling`; how: as `draw` takes it (long=, max_dropped=)."""
    names = [engine.name for engine in engines]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError("gather(engines)", f"two of them sign as {twice}", "names that tell them apart")
    return pooled(tuple(draw(engine, prompts, sampling, **how) for engine in engines))


def by_prompt(groups: Sequence[Group], name: str) -> dict[str, Group]:
    """Groups by prompt id. Raises `UserError` for a prompt that stands twice."""
    found: dict[str, Group] = {}
    for group in groups:
        if group.prompt.id in found:
            cure = "Take the doubles out of the prompts: take(prompts, n)."
            raise UserError(f"pooled, {name}", f"prompt {group.prompt.id} stands twice", "each prompt once", cure)
        found[group.prompt.id] = group
    return found


def merge(groups: Sequence[Group]) -> Group:
    """Groups of one prompt as one. Raises `UserError` where they were asked different things under its id."""
    first = groups[0].prompt
    if other := next((g for g in groups if g.prompt.messages != first.messages), None):
        got = f"{other.prompt.text[:40]!r} and {first.text[:40]!r} have one id"
        raise UserError(f"pooled, prompt {first.id}", got, "the same prompts in every draw")
    completions = tuple(completion for group in groups for completion in group.completions)
    feedback = tuple(said for g in groups for said in (g.feedback or ((),) * len(g.completions)))
    preferences, before = [], 0
    for group in groups:
        for one in group.preferences:
            preferences.append(msgspec.structs.replace(one, left=one.left + before, right=one.right + before))
        before += len(group.completions)
    return Group(first, completions, feedback if any(feedback) else (), tuple(preferences))
