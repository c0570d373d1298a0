"""`draw`: an engine answers prompts, and every prompt with its answers becomes a group.

    samples = draw(policy, prompts, Sampling(n=4, seed=1))
    taught = draw(world.Teacher(), prompts, Sampling())
    better = draw(policy, prompts, Sampling(n=4, seed=2), condition=QuantileTokens())

Work is cut into shards, so that a killed run loses at most the unfinished one. How an engine writes is its own
business; what is learned from the groups is a view's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from trueline.conditions.protocol import Condition, conditioned, require_tokens
from trueline.errors import UserError
from trueline.feedback.protocol import metering
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.records import Group, Prompt
from trueline.sample.hf import HF
from trueline.sample.protocol import Engine, Sampling
from trueline.store import Groups, Policy, Prompts, shards

ASKS = 16  # conditions that the record names; exemplars may be many


def estimate(engine: Policy | Engine, prompts: Prompts | Groups, sampling: Sampling, **_: Any) -> dict[str, int]:
    """What answering will take, before it is begun."""
    known = prompts.count
    asked = known.get("groups", known.get("prompts", 0)) if isinstance(prompts, Groups) else known.get("prompts", 0)
    held = {"prompts": asked, "groups": asked, "samples": asked * sampling.n}
    calls = getattr(engine, "calls", None)
    return held | {"calls": calls(asked, asked * sampling.n)} if calls else held


@stage(Groups, rev=1, label="draw", estimate=estimate)
def draw(
    work: Work,
    engine: Policy | Engine,
    prompts: Prompts | Groups,
    sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    long: Literal["error", "drop"] = "error",
    max_dropped: float = 0.1,
    condition: Condition | None = added(None),
) -> None:
    """Groups of `sampling.n` answers per prompt, signed by their author.

    engine: who answers; a policy does so through the engine `HF`. prompts: or groups, whose prompts are asked again.
    long: what becomes of a prompt that leaves no room for the answer in the model's context: "error", or "drop" it
    with its reason, and stop the run where a share above `max_dropped` was dropped. condition: what every answer is
    asked for with; the engine sees it in front of the prompt, under the same prompt id, its banned tokens are not
    drawn, and completions say it (`ask`), while the group keeps the prompt as it was.

    Counted in the record: prompts, groups, samples, tokens (where the engine knows them), cut (answers that did not end
    within max_tokens), empty (answers without text), scored (numbers that the engine's own heads gave), and what the
    engine itself meters (calls, tokens and money of one over HTTP: docs/served.md). Noted: asked,
    the conditions and how many prompts each was put in front of, the most frequent ones; and
    prompts_with_condition_tokens, how many prompts hold an added token of the condition in their own text.
    """
    if long not in ("error", "drop"):
        raise UserError("draw(long=...)", f"got {long!r}", '"error" or "drop"')
    asked = [item.prompt if isinstance(item, Group) else item for item in prompts.read()]
    made = drawn(work, engine, asked, sampling, long, condition)
    work.limit("prompts longer than the model's context", len(asked) - made, len(asked), max_dropped)


def drawn(
    work: Work,
    engine: Policy | Engine,
    asked: Sequence[Prompt],
    sampling: Sampling,
    long: Literal["error", "drop"] = "error",
    condition: Condition | None = None,
    keep: Callable[[Group], Group | None] | None = None,
) -> int:
    """Write the groups of `asked`, answered and counted as `draw` says; how many.

    keep: what is kept of an answered group, None for nothing of it. Raises `UserError` for what is no engine.
    """
    chosen = HF(engine) if isinstance(engine, Policy) else engine
    if not isinstance(chosen, Engine):
        raise UserError(f"{work.artifact.name}, engine", f"got {engine!r}", "a policy or an engine")
    if condition is not None:
        banned = tuple(dict.fromkeys((*sampling.ban, *condition.banned)))
        sampling = dataclasses.replace(sampling, ban=banned)
        _note(work, asked, condition)
    with contextlib.ExitStack() as stack:
        opened: list[Engine] = []

        def process(part: Sequence[Prompt]) -> list[Group]:
            # Opened by the first shard that is not done yet: a run with nothing left to draw loads no model.
            if not opened:
                stack.enter_context(chosen)
                if condition is not None and (opening_token := getattr(chosen, "opening_token", None)) is not None:
                    require_tokens(condition, opening_token, chosen.name)
                opened.append(chosen)
            fitting = [p for p in part if long == "error" or _fits(work, opened[0], p, sampling, condition)]
            with metering() as metered:
                groups = answered(opened[0], [_asking(p, condition) for p in fitting], sampling)
            for name, n in metered.items():
                work.count(name, n)
            kept = []
            for group, prompt in zip(groups, fitting, strict=True):
                whole = _counted(work, _signed(group, prompt, condition), sampling)
                left = whole if keep is None else keep(whole)
                if left is not None:
                    work.count("groups")
                    work.count("samples", len(left.completions))
                    kept.append(left)
            return kept

        return shards(work, asked, process)


def _note(work: Work, prompts: Sequence[Prompt], condition: Condition) -> None:
    """What is asked, and how often; and how many prompts hold an added token of the condition, which a policy reads as
    one wherever it stands."""
    asks = Counter(condition.ask(prompt) for prompt in prompts)
    work.note("asked", dict(asks.most_common(ASKS)))
    held = sum(any(t in m.content for t in condition.tokens for m in prompt.messages) for prompt in prompts)
    if held:
        work.note("prompts_with_condition_tokens", held)


def _asking(prompt: Prompt, condition: Condition | None) -> Prompt:
    """The prompt as the engine sees it: its id stays, as the random numbers go by it."""
    if condition is None:
        return prompt
    return msgspec.structs.replace(prompt, messages=conditioned(prompt.messages, condition.ask(prompt)))


def _signed(group: Group, prompt: Prompt, condition: Condition | None) -> Group:
    """The group with the prompt as it was, and the condition that its completions were asked for with."""
    if condition is None:
        return group
    ask = condition.ask(prompt)
    said = tuple(msgspec.structs.replace(completion, ask=ask) for completion in group.completions)
    return msgspec.structs.replace(group, prompt=prompt, completions=said)


def _fits(work: Work, engine: Engine, prompt: Prompt, sampling: Sampling, condition: Condition | None) -> bool:
    too_long = getattr(engine, "too_long", None)
    error = too_long(_asking(prompt, condition), sampling) if too_long else None
    if error is not None:
        work.drop(f"{error.got}; {error.wanted}", prompt, error.where)
    return error is None


def answered(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
    """The prompts with the engine's answers, and with what it said of them where it is one that does (`Engine`)."""
    if not prompts:
        return []
    if callable(groups := getattr(engine, "groups", None)):
        return list(groups(prompts, sampling))
    answers = engine.generate(prompts, sampling)
    return [Group(prompt, tuple(said)) for prompt, said in zip(prompts, answers, strict=True)]


def _counted(work: Work, group: Group, sampling: Sampling) -> Group:
    said = group.completions
    if len(said) != sampling.n:
        raise ValueError(f"the engine gave {len(said)} answers to prompt {group.prompt.id}, not {sampling.n}")
    work.count("prompts")
    for name, n in {
        "tokens": sum(len(c.tokens or ()) for c in said),
        "cut": sum(c.stopped == "length" for c in said),
        "empty": sum(not c.text.strip() for c in said),
        "scored": sum(f.score is not None for of in group.feedback for f in of),
    }.items():
        if n:
            work.count(name, n)
    return group
