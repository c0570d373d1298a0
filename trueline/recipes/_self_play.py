"""`self_play`: a model talks with itself, and a reward keeps its best answers, as demonstrations.

    played = self_play(prompts, assistant, Reward(rater), AsUser(model, "answering", 3), turns=2)
    taught = train(policy, Demonstrations(played), SFT())

A plain function over stages (`sample.self_play`, `prompts.follow_up`, `judge`) in pipeline order, and no stage itself:
so one model is open at a time, a prompt's n answers and all prompts of a turn are drawn together, another turn or
another reward is played without what came before it being asked again, and a run killed at any moment goes on at its
last finished shard.

Source: RM-guided self-play of ALMoST (Kim et al. 2023, arXiv 2305.13735); the paper's code was not released, the
design is ours (docs/almost.md).
"""

from __future__ import annotations

from trueline.errors import UserError
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Critic
from trueline.feedback.shape import WellFormed
from trueline.prompts.follow_up import ONE, NextTurn, follow_up
from trueline.sample.as_user import AsUser
from trueline.sample.hf import HF
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.self_play import candidates, played, winners
from trueline.sample.served import Anthropic, OpenAI
from trueline.store import Groups, Policy, Prompts

FOUR = Sampling(n=4, temperature=1.0, top_p=0.9, max_tokens=384)


def self_play(
    prompts: Prompts | Groups,
    assistant: Policy | Engine,
    reward: Critic,
    user: Engine | None = None,
    *,
    turns: int = 2,
    sampling: Sampling = FOUR,
    asking: Sampling = ONE,
    fit: Critic = WellFormed(),  # noqa: B008  (frozen)
    keep: NextTurn = NextTurn(),  # noqa: B008  (frozen)
    min_quantile: float = 0.0,
    max_abstained: float = 0.5,
    max_ended: float = 0.5,
    label: str = "played",
) -> Groups:
    """Groups of one answer, one per turn of the assistant: what was said so far as the prompt, and the best answer.

    assistant: who answers, `sampling.n` times; those that `fit` does not call fit are set aside, and of the others the
    one that `reward` scores highest is kept (of equal ones the first). A dialogue with none ends before that turn.
    reward: a critic that scores; it sees the whole conversation. user: an engine that writes the human's next message,
    with `asking`, where there is more than one turn: `AsUser`, or one of your own that is shown a conversation ending
    with the assistant's turn. keep: which of its messages are kept; a dialogue without one ends. min_quantile: turns
    that score below this quantile of all are left out. max_abstained: as of `judge`. max_ended: the largest share of
    dialogues that may end at any one step.

    Score, turn, dialogue, n_candidates, n_fit and seed stand in the prompt's meta under "self_play".
    """
    check(assistant, user, turns)
    won: list[Groups] = []
    asked: Prompts | Groups = prompts
    for turn in range(1, turns + 1):
        drawn = candidates(assistant, asked, sampling, fit, max_ended, label=f"candidates-{turn}")
        judged = judge(drawn, reward, max_abstained=max_abstained, label=f"rewarded-{turn}")
        won.append(winners(judged, reward, label=f"winners-{turn}"))
        if turn < turns and user is not None:
            asked = follow_up(won[-1], user, asking, keep, max_ended, label=f"asked-{turn + 1}")
    return played(tuple(won), min_quantile, label=label)


def check(assistant: Policy | Engine, user: Engine | None, turns: int) -> None:
    """Refuse numbers of turns and engines that cannot play, before anything is drawn."""
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 1:
        raise UserError("self_play(turns=...)", f"got {turns!r}", "a whole number of at least 1")
    if isinstance(assistant, AsUser) or not isinstance(assistant, Policy | Engine):
        raise UserError("self_play(assistant=...)", f"got {assistant!r}", "a policy or an engine that answers")
    if user is None and turns > 1:
        cure = "Write user=AsUser(...), or turns=1."
        raise UserError("self_play(user=...)", f"there is none, and {turns} turns", "who asks on", cure)
    if user is not None and turns == 1:
        raise UserError("self_play(user=...)", "it is never asked", "", "Leave it out, or play 2 turns.")
    answers = isinstance(user, Policy | HF | OpenAI | Anthropic | Prompted) and not isinstance(user, AsUser)
    if user is not None and (answers or not isinstance(user, Engine)):
        got = f"{getattr(user, 'name', user)} speaks as the assistant" if answers else f"got {user!r}"
        raise UserError("self_play(user=...)", got, "an engine that speaks for the human", "Write AsUser(...).")
