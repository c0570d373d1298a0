"""The assistant's turns of self-play: candidates, the best of them, and the whole as demonstrations.

    drawn = candidates(assistant, prompts, Sampling(n=4, top_p=0.9), WellFormed())     what is fit of n answers
    won = winners(judge(drawn, reward), reward)                                        the best of each
    asked = follow_up(won, user)                                                       `prompts.follow_up`: and again
    data = played((won, won_again))

A dialogue ends before a turn of which no answer is fit, or none has a score. Nothing is rewritten: a record is the
conversation so far as a prompt, and the winner as its answer; where it stands in its dialogue says the prompt's meta:

    {"self_play": {"dialogue": "p-3f0c...", "turn": 2, "n_candidates": 4, "n_fit": 3, "seed": 0, "score": 1.25}}

`recipes.almost.self_play` puts them together. Each step is an artefact of its own, so that one model is open at a
time, a third turn is played without the first two being played again, and a killed run goes on at its last shard.

Source: our design of what Kim et al. 2023 (arXiv 2305.13735) call RM-guided self-play, whose code was not released.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np

from trueline.errors import UserError
from trueline.feedback.protocol import Critic, metering, require_critic, unfit
from trueline.pipeline import Work, stage
from trueline.records import Feedback, Group, Prompt, write_jsonl
from trueline.sample.draw import drawn, estimate
from trueline.sample.protocol import PLAYED, Engine, Sampling
from trueline.store import Groups, Policy, Prompts


@stage(Groups, rev=1, label="candidates", estimate=estimate)
def candidates(
    work: Work,
    engine: Policy | Engine,
    prompts: Prompts | Groups,
    sampling: Sampling,
    fit: Critic,
    max_ended: float = 0.5,
) -> None:
    """`sampling.n` answers of `engine` to each prompt, less those that `fit` labels otherwise than "fit".

    max_ended: the largest share of dialogues that may end here, because no answer is fit or the prompt leaves no room
    for one. Answers and dialogues that go no further are written aside with their reason.

    Counted: as by `draw`, what `fit` meters, ended (dialogues). Raises `UserError` with all reasons where too many end.
    """
    require_critic(fit, "candidates(fit=...)")
    asked = [item.prompt if isinstance(item, Group) else item for item in prompts.read()]
    why: Counter[str] = Counter()
    ended: list[str] = []

    def passed(group: Group) -> Group | None:
        with metering() as metered:
            (told,) = fit([group])
        for name, n in metered.items():
            work.count(name, n)
        aside = [unfit(said, fit.name) for said in told.feedback]
        for completion, said, bad in zip(group.completions, told.feedback, aside, strict=True):
            if bad:
                label, reason = _label(said, fit.name)
                why[label] += 1
                work.drop(f"{label}: {reason}", {"prompt": group.prompt, "completion": completion})
        left = [i for i, bad in enumerate(aside) if not bad and group.completions[i].text.strip()]
        if not left:
            work.count("ended")
            ended.append(group.prompt.id)
            return None
        known = _known(group.prompt) | {"n_candidates": sampling.n, "n_fit": len(left), "seed": sampling.seed}
        said_of = tuple(told.feedback[i] for i in left)
        return Group(_with(group.prompt, known), tuple(group.completions[i] for i in left), said_of)

    made = drawn(work, engine, asked, sampling, "drop", keep=passed)
    gone = len(asked) - made
    if asked and (made == 0 or gone / len(asked) > max_ended):
        reasons = ", ".join(f"{n} {label}" for label, n in why.most_common()) or "none"
        if gone > len(ended):
            reasons += f"; {gone - len(ended)} prompts left no room, or ended in an earlier run"
        raise UserError(
            work.artifact.name, f"{gone} of {len(asked)} dialogues end here, as no answer is fit "
            f"(answers set aside: {reasons})", f"at most {max_ended:.0%}",
            f"Look at {work.dir / 'dropped.jsonl'}; loosen fit, or allow more with max_ended.",
        )  # fmt: skip


def _label(said: tuple[Feedback, ...], by: str) -> tuple[str, str]:
    """Why an answer is set aside: the label, and the reason in words."""
    last = next(one for one in reversed(said) if one.by == by and one.label is not None)
    return str(last.label), last.text or str(last.label)


def _known(prompt: Prompt) -> dict[str, Any]:
    """What stands in the meta of a turn's prompt; of a first turn, which dialogue it begins."""
    return dict(prompt.meta.get(PLAYED) or {"dialogue": prompt.id, "turn": 1})


def _with(prompt: Prompt, known: dict[str, Any]) -> Prompt:
    return msgspec.structs.replace(prompt, meta=prompt.meta | {PLAYED: known})


def _held(judged: Groups, **_: Any) -> dict[str, int]:
    known = judged.count.get("groups", judged.count.get("prompts", 0))
    return {"prompts": known, "groups": known, "samples": known}


@stage(Groups, rev=1, label="winners", estimate=_held)
def winners(work: Work, judged: Groups, reward: Critic) -> None:
    """Of each group the answer that `reward`, who judged them, scored highest; of equal ones the first.

    A dialogue on whose every answer it abstained ends here, written aside. Counted: groups, samples, ended.
    """
    out = []
    for group in judged.read():
        scores = group.scores(reward.name)
        at = highest(scores)
        if at is None:
            work.count("ended")
            work.drop(f"{reward.name} scored none of its {len(scores)} answers", group)
            continue
        known = _known(group.prompt) | {"score": scores[at]}
        said = (group.feedback[at],) if group.feedback else ()
        out.append(Group(_with(group.prompt, known), (group.completions[at],), said))
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", out))
    work.count("prompts", len(out))
    work.count("samples", len(out))


def highest(scores: list[float | None]) -> int | None:
    """Where the highest score stands, the first of equals; None where there is none.

    >>> highest([None, 2.0, 0.5, 2.0]), highest([None])
    (1, None)
    """
    known = [(-score, at) for at, score in enumerate(scores) if score is not None]
    return min(known)[1] if known else None


def _all(won: tuple[Groups, ...], **_: Any) -> dict[str, int]:
    n = sum(groups.count.get("groups", 0) for groups in won)
    return {"prompts": n, "groups": n, "samples": n}


@stage(Groups, rev=1, label="played", estimate=_all)
def played(work: Work, won: tuple[Groups, ...], min_quantile: float = 0.0) -> None:
    """One record per turn of the assistant, a dialogue's turns one after the other.

    won: the winners of each turn. min_quantile: turns that score below this quantile of all turns' scores are written
    aside; a later turn of the same dialogue may stay, its conversation tells the earlier one.

    Counted: prompts, groups, samples, dialogues, turn_1, turn_2 and so on, below (the quantile). Noted: the threshold.
    """
    if not 0 <= min_quantile < 1:
        raise UserError("self_play(min_quantile=...)", f"got {min_quantile!r}", "a share from 0 to less than 1")
    dialogues: dict[str, list[Group]] = {}
    for groups in won:
        for group in groups.read():
            dialogues.setdefault(_known(group.prompt)["dialogue"], []).append(group)
    scores = [_known(group.prompt)["score"] for turns in dialogues.values() for group in turns]
    least = float(np.quantile(scores, min_quantile)) if scores and min_quantile else None
    kept = []
    for group in (one for turns in dialogues.values() for one in turns):
        known = _known(group.prompt)
        if least is not None and known["score"] < least:
            work.count("below")
            work.drop(f"score {known['score']:.4g}, below {least:.4g}, the quantile {min_quantile:g} of all", group)
            continue
        work.count(f"turn_{known['turn']}")
        kept.append(group)
    if least is not None:
        work.note("least", least)
    work.count("dialogues", len({_known(group.prompt)["dialogue"] for group in kept}))
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", kept))
    for name in ("prompts", "samples"):
        work.count(name, len(kept))
