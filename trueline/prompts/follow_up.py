"""`follow_up`: the human's next message in dialogues that a model plays with itself, written by an engine.

    asked = follow_up(won, AsUser(policy, "answering", 3))

Each group is a conversation and the one answer it was given. The engine is shown both, as a prompt that ends with the
assistant's turn, and what it writes becomes the next question. A message that is empty, too long, broken off, or too
near to what the human has said before in the same dialogue ends the dialogue there, and is written aside with its
reason.

Source: our design of what Kim et al. 2023 (arXiv 2305.13735) call RM-guided self-play, whose code was not released.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueline.errors import UserError
from trueline.feedback.protocol import metering
from trueline.pipeline import Work, stage
from trueline.prompts.invent import Novelty
from trueline.prompts.novelty import Known
from trueline.prompts.queries import Refusal
from trueline.records import Completion, Group, Message, Prompt
from trueline.sample.protocol import PLAYED, Engine, Sampling
from trueline.store import Groups, Policy, Prompts, shards


@dataclass(frozen=True)
class NextTurn:
    """Which messages of a simulated human are kept.

    longest: characters of the longest. novelty: how near it may be to the human's earlier messages. cut: whether one
    that was broken off at max_tokens is kept.
    """

    longest: int = 250
    novelty: Novelty = Novelty()  # noqa: RUF009  (frozen)
    cut: bool = False

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise UserError("NextTurn(longest=...)", f"got {self.longest}", "a number of characters")

    def refuse(self, said: Completion, before: Sequence[str]) -> Refusal | None:
        """Why a message is not kept after the human's earlier ones; None where it is.

        >>> NextTurn().refuse(Completion("Who bakes bread here?"), ["Who bakes bread?"]).kind
        'near'
        """
        text = said.text.strip()
        if not text:
            return Refusal("empty", "the message is empty")
        if len(text) > self.longest:
            return Refusal("long", f"{len(text)} characters, more than {self.longest}")
        if said.stopped == "length" and not self.cut:
            return Refusal("unfinished", "it was cut off before its end")
        known = Known(self.novelty.measure, self.novelty.threshold)
        for earlier in before:
            known.add(earlier)
        near = known.nearest(text)
        if near is None:
            return None
        reason = f"{self.novelty.measure.name} {near.score:.3f} to {known.texts[near.at]!r}"
        return Refusal("near", f"{reason}, not below {self.novelty.threshold}")


ONE = Sampling(temperature=1.0, top_p=0.9, max_tokens=128)


def _estimate(dialogues: Groups, user: Engine, **_: Any) -> dict[str, int]:
    asked = dialogues.count.get("groups", 0)
    calls = getattr(user, "calls", None)
    return {"prompts": asked} | ({"calls": calls(asked, asked)} if calls else {})


@stage(Prompts, rev=1, label="asked-on", estimate=_estimate)
def follow_up(
    work: Work,
    dialogues: Groups,
    user: Engine,
    sampling: Sampling = ONE,
    keep: NextTurn = NextTurn(),
    max_ended: float = 0.5,
) -> None:
    """The conversations with one more message of the human's, ready for the assistant.

    user: an engine that is shown a conversation ending with the assistant's turn and speaks for the human (`AsUser`).
    keep: which messages are kept. max_ended: the largest share of dialogues that may end here.

    Counted: prompts, ended, and why: empty, long, unfinished, near, no_room (in the engine's context); and what the
    engine meters. Raises `UserError` with all reasons where too many end.
    """
    check(user, sampling)
    told = list(dialogues.read())
    why: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        opened: list[Engine] = []

        def process(part: Sequence[Group]) -> list[Prompt]:
            if not opened:  # by the first shard that is not done: a run with nothing left to ask loads no model
                stack.enter_context(user)
                opened.append(user)
            kept = []
            for prompt, said in answered(work, user, [asking(group) for group in part], sampling):
                before = [m.content for m in prompt.messages if m.role == "user"]
                refusal = said if isinstance(said, Refusal) else keep.refuse(said, before)
                text = "" if isinstance(said, Refusal) else said.text.strip()
                if refusal is None:
                    kept.append(after(prompt, text))
                    continue
                why[refusal.kind] += 1
                work.count(refusal.kind)
                work.count("ended")
                work.drop(refusal.reason, {"prompt": prompt, "message": text})
            return kept

        made = shards(work, told, process, "prompts.jsonl")
    work.count("prompts", made)
    if told and (len(told) - made) / len(told) > max_ended:
        reasons = ", ".join(f"{n} {kind}" for kind, n in why.most_common()) or "by an earlier run"
        raise UserError(
            work.artifact.name,
            f"{len(told) - made} of {len(told)} dialogues end, as no next message of the human's is kept ({reasons})",
            f"at most {max_ended:.0%}",
            f"Look at {work.dir / 'dropped.jsonl'}; loosen NextTurn(...), or allow more with max_ended.",
        )  # fmt: skip


def check(user: Engine, sampling: Sampling) -> None:
    """Refuse what cannot speak for the human."""
    if not isinstance(user, Engine):
        cure = "Write AsUser(policy)." if isinstance(user, Policy) else ""
        raise UserError("follow_up(user)", f"got {user!r}", "an engine that speaks for the human", cure)
    if sampling.n != 1:
        raise UserError("follow_up(sampling=...)", f"got n={sampling.n}", "n=1: one message per dialogue")


def answered(
    work: Work, user: Engine, prompts: Sequence[Prompt], sampling: Sampling
) -> list[tuple[Prompt, Completion | Refusal]]:
    """Each prompt with what the engine wrote, or why it was not asked: there is no room in its context."""
    too_long = getattr(user, "too_long", lambda prompt, sampling: None)
    room = [too_long(prompt, sampling) for prompt in prompts]
    with metering() as metered:
        said = user.generate([p for p, error in zip(prompts, room, strict=True) if error is None], sampling)
    for name, n in metered.items():
        work.count(name, n)
    written = (one[0] for one in said)
    found = (next(written) if error is None else Refusal("no_room", f"{error.got}; {error.wanted}") for error in room)
    return list(zip(prompts, found, strict=True))


def asking(group: Group) -> Prompt:
    """What the engine sees: the conversation and its answer."""
    if len(group.completions) != 1:
        got = f"{len(group.completions)} answers to prompt {group.prompt.id}"
        raise UserError("follow_up(dialogues)", got, "the one that was kept (`winners`)")
    said = Message("assistant", group.completions[0].text)
    return Prompt((*group.prompt.messages, said), meta=group.prompt.meta)


def after(prompt: Prompt, message: str) -> Prompt:
    """The conversation that goes on with `message`: a prompt of its own, which turn of which dialogue in its meta."""
    known = prompt.meta.get(PLAYED) or {}
    before = {"dialogue": known.get("dialogue", prompt.id), "turn": known.get("turn", 1) + 1}
    return Prompt((*prompt.messages, Message("user", message)), meta={PLAYED: before})
