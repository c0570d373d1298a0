"""`judge`: a critic says something of every completion, and it is written down beside what was said before.

    judged = judge(samples, Compare(by=oracle))

Groups are append-only: `judge` refuses a critic that changed, dropped or reordered anything it was given. Abstentions
are kept and counted. Work is cut into shards, so that a killed run loses at most the unfinished one; how a critic
reaches its opinion is the critic's business.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from trueline.errors import UserError
from trueline.feedback.abstained import Abstained
from trueline.feedback.protocol import Critic, held_open, metering, one_sided, require_critic
from trueline.pipeline import Work, stage
from trueline.records import Group, read_jsonl
from trueline.store import Groups, added, shards

log = logging.getLogger("trueline")


def _estimate(groups: Groups, critic: Critic, **_: Any) -> dict[str, int]:
    require_critic(critic, "judge(critic=...)")
    known = groups.count
    return {"critic_calls": critic.calls(known.get("groups", known.get("prompts", 0)), known.get("samples", 0))}


@stage(Groups, rev=1, label="judge", estimate=_estimate)
def judge(work: Work, groups: Groups, critic: Critic, max_abstained: float = added(0.5)) -> None:
    """The groups with what `critic` says of them added.

    max_abstained: a critic that says nothing of a larger share of what it was asked stops the run, with its last
    replies in the error; as soon as the share cannot come out smaller, or where the first hundred opinions say nothing.

    Counted in the record: critic_calls (questions whose answers were used), cached (those of them answered from
    memory), asked_again (those whose reply before could not be read), scored, labelled, abstained, and for preferences
    compared, ties, flips (two orders that name different winners; where most do, it warns), and of those decided
    between answers of different length longer_wins and shorter_wins.
    """
    require_critic(critic, "judge(critic=...)")
    if not 0 <= max_abstained <= 1:
        raise UserError("judge(max_abstained=...)", f"got {max_abstained!r}", "a share from 0 to 1")
    given = list(groups.read())
    if (survey := getattr(critic, "survey", None)) is not None:
        survey(given)
    completions = sum(len(group.completions) for group in given)
    seen = Abstained(critic.name, max_abstained)

    opened: list[Any] = []

    def process(part: Sequence[Group]) -> list[Group]:
        if not opened:  # by the first shard that is not done yet
            opened.append(stack.enter_context(held_open(critic)))
        with metering() as metered:
            said = critic(part)
        check_appended(part, said, critic.name)
        seen.add(part, said)
        seen.watch(completions)
        for name, n in metered.items():
            work.count(name, n)
        return said

    with contextlib.ExitStack() as stack:
        shards(work, given, process)
    judged = list(read_jsonl(work.dir / "groups.jsonl", Group))
    whole = Abstained(critic.name, max_abstained)  # with what an earlier run had judged already
    whole.add(given, judged)
    whole.check()
    for name, n in tally(judged, critic.name).items():
        work.count(name, n)
    flipped = [p.flipped for group in judged for p in group.preferences if p.by == critic.name]
    if warning := one_sided(critic.name, flipped.count(True), len(flipped) - flipped.count(None)):
        log.warning("%s", warning)
        work.note("warning", warning)


def check_appended(before: Sequence[Group], after: Sequence[Group], name: str) -> None:
    """Raise `UserError` unless `after` is `before` with feedback and preferences added at the ends."""
    if len(after) != len(before):
        raise UserError(
            f"critic {name}", f"it returned {len(after)} groups for {len(before)}", "the same groups in the same order",
            "Abstain with a Feedback or Preference of None instead of dropping.",
        )  # fmt: skip
    for old, new in zip(before, after, strict=True):
        said = old.feedback or ((),) * len(old.completions)
        kept = (
            new.prompt == old.prompt
            and new.completions == old.completions
            and new.preferences[: len(old.preferences)] == old.preferences
            and (not old.feedback or len(new.feedback) == len(old.feedback))
            and all(now[: len(was)] == was for was, now in zip(said, new.feedback, strict=False))
        )
        if not kept:
            raise UserError(
                f"critic {name} on prompt {old.prompt.id}", "it changed what it was given",
                "groups with something added", "Use group.with_feedback(...) or group.with_preferences(...).",
            )  # fmt: skip


def tally(groups: Iterable[Group], by: str) -> dict[str, int]:
    """What critic `by` said of these groups, in numbers; answers are as long as they have characters."""
    names = ("abstained", "scored", "labelled", "compared", "ties", "flips", "longer_wins", "shorter_wins")
    counts = dict.fromkeys(names, 0)
    for group in groups:
        feedback = [f for said in group.feedback for f in said if f.by == by]
        preferences = [p for p in group.preferences if p.by == by]
        counts["scored"] += sum(f.score is not None for f in feedback)
        counts["labelled"] += sum(f.label is not None for f in feedback)
        counts["compared"] += len(preferences)
        counts["ties"] += sum(p.p == 0.5 for p in preferences)
        counts["flips"] += sum(p.flipped is True for p in preferences)
        for p in preferences:
            left, right = (len(group.completions[side].text) for side in (p.left, p.right))
            if p.p is not None and p.p != 0.5 and left != right:
                counts["longer_wins" if (p.p > 0.5) is (left > right) else "shorter_wins"] += 1
        counts["abstained"] += sum(f.abstained for f in feedback) + sum(p.p is None for p in preferences)
    return {name: n for name, n in counts.items() if n or name == "abstained"}
