"""ALMoST: preferences from contrast, and what is made of them. Nobody judges; whoever is larger, and shown more and
better demonstrations, is assumed to write better.

    prompts     ->  several generators (size x shots x demonstrations) answer            PG, RG
    answers     ->  compared by who wrote them  ->  a reward model                       CS, RM
    the best generator talks with itself, the reward model keeps its best answers        RMSP
    what it kept  ->  SFT  ->  PPO against the reward model, on new prompts              SFT, PPO

Source: Kim et al. 2023 (arXiv 2305.13735); of self-play and PPO no code was released, the design is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trueline.evaluate.audit import audit
from trueline.evaluate.duel import duel
from trueline.evaluate.overoptimisation import Optimised, overoptimisation
from trueline.evaluate.report import Arm, report
from trueline.evaluate.reward_accuracy import reward_accuracy
from trueline.feedback.judge import judge
from trueline.feedback.reward import Reward
from trueline.heads import Head
from trueline.models import pretrained
from trueline.prompts.asked import asked
from trueline.prompts.invent import invent
from trueline.prompts.queries import SEEDS
from trueline.prompts.take import take, without
from trueline.recipes._self_play import self_play
from trueline.recipes._study import Size, Study, in_town, readme, small, tier, worth
from trueline.sample.as_user import AsUser
from trueline.sample.draw import draw
from trueline.sample.served import Connection
from trueline.store import File, Groups, Policy, Prompts, Report
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.sft import SFT
from trueline.train.online.snapshots import snapshot
from trueline.train.online.stage import online
from trueline.train.score import score
from trueline.train.views import All, Demonstrations, Pairs

README = ("meta-llama/Llama-2-13b-hf answering 3", "meta-llama/Llama-2-7b-hf answering 3",
          "meta-llama/Llama-2-7b-hf hedging 1")  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """What each stage made; tuned: PPO where it is looked at first, and where it ended."""

    compared: Groups
    reward: Reward
    played: Groups
    taught: Policy
    tuned: tuple[Policy, ...]


def learn(of: Study) -> Learned:
    """All of ALMoST. Nothing that `of.gold` says is learned from: it watches PPO."""
    how = of.amounts
    compared = of.compared(of.prompts, "compared")
    rater = of.fit(of.start, Pairs(compared), BradleyTerry(), head=Head(), label="rater", **how.rater)
    reward = Reward(rater)
    played = play(of, of.prompts, reward, "played")
    taught = of.fit(of.start, Demonstrations(played), SFT(), label="sft", **how.sft)
    early = (how.early,) if 0 < how.early < how.iterations else ()
    tuned = online(
        taught, of.fresh, reward, how.ppo, watch=of.gold, iterations=how.iterations, snapshots=early, long="drop",
        seed=of.seed, label="ppo", **how.online,
    )  # fmt: skip
    return Learned(compared, reward, played, taught, (*(snapshot(tuned, n) for n in early), tuned))


def play(of: Study, prompts: Prompts, reward: Reward, label: str) -> Groups:
    """Self-play of the best generator on `prompts`."""
    how = of.amounts
    return self_play(
        prompts, of.tiers[0], reward, of.user, turns=of.turns, sampling=how.candidates, asking=how.asking, fit=how.fit,
        keep=how.keep, min_quantile=how.min_quantile, label=label,
    )  # fmt: skip


def reported(of: Study, made: Learned) -> Report:
    """Is the order true, does the reward model know more than length, and what did each stage buy?"""
    rules = audit(made.compared, of.gold, sample=of.sample, label="assumed-order")
    apart = judge(of.compared(of.apart, "compared-apart"), made.reward, label="rewarded-apart")
    by = made.reward.name
    read = [reward_accuracy(apart, by, "generator", made.compared, label="against-the-order")]
    if of.impartial is not None:
        truly = judge(apart, of.impartial, label="truly-apart")
        read.append(reward_accuracy(truly, by, of.impartial.name, made.compared, label="against-gold"))
    raw = draw(of.tiers[0], of.questions, replace(of.amounts.candidates, n=1), long="drop", label="answers-raw")
    best = play(replace(of, turns=1, user=None), of.questions, made.reward, "played-held-out")
    names = ("PPO", "PPO, further")[: len(made.tuned)]
    arms = (
        arm(of, "start", of.start, made.taught),
        Arm("best generator", of.graded(raw, "raw")),
        Arm("self-play", of.graded(best, "self-play")),
        arm(of, "SFT", made.taught, made.taught),
        *(arm(of, name, policy, made.taught) for name, policy in zip(names, made.tuned, strict=True)),
    )
    duels = []
    if of.impartial is not None:
        duels = [duel(x.samples, arms[0].samples, of.impartial, label=f"{x.samples.label}-vs-start") for x in arms[1:]]
    curve = overoptimisation((Optimised("PPO", made.tuned[-1:]),))
    return report("What contrast bought", arms, tuple(duels), baseline="start", also=(curve, rules, *read))


def arm(of: Study, name: str, policy: Policy, reference: Policy) -> Arm:
    """One answer of `policy` to each held-out question, and how far it is from `reference` on them."""
    sampling = replace(of.amounts.online["sampling"], n=1, seed=of.seed)
    answers = draw(policy, of.questions, sampling, long="drop", label=f"answers-{policy.label}")
    said = Demonstrations(answers, All())
    own, theirs = (score(x, said, label=f"logps-{policy.label}-by-{x.label}") for x in (policy, reference))
    return Arm(name, of.graded(answers, policy.label), policy, own, theirs)


def almost(
    *,
    base: Literal["tiny", "small"] = "tiny",
    prompts: int = 280,
    fresh: int = 512,
    apart: int = 120,
    held_out: int = 400,
    n: int = 4,
    kl: float = 0.1,
    early: int = 8,
    iterations: int = 24,
    seed: int = 0,
) -> Report:
    """Align a model of the town without any judge: by contrast, a reward model, self-play, SFT and PPO.

    Six generators (two sizes, one or five demonstrations, good or sloppy ones) answer the town's own questions: its
    models cannot invent any. They answer one question at a time, so self-play has one turn. The gold reward watches.

    Args:
        base: who is trained, as reward model, by SFT and by PPO.
        prompts: questions that the generators answer, and that self-play begins with.
        fresh: questions for PPO, less those that are asked before.
        apart: other questions, on which the reward model is read.
        held_out: other questions, on which everybody is judged.
        n: candidates for every turn of self-play.
        kl: what a nat of divergence from SFT costs PPO.
        early: iterations after which PPO is looked at first.
        iterations: of PPO in all.
        seed: of prompts, sampling and training.
    """
    of = in_town(base, prompts, fresh, apart, held_out, n, kl, early, iterations, seed)
    return reported(of, learn(of))


def own(
    *,
    base: str = "meta-llama/Llama-2-7b-hf",
    tiers: tuple[str, ...] = README,
    judge: str = "",
    prompts: Path | None = None,
    seeds: Path | None = None,
    preset: Size = "readme",
    form: Literal["text", "chat"] = "text",
    pool: int = 10_000,
    fresh: int = 2_000,
    apart: int = 200,
    held_out: int = 400,
    turns: int = 2,
    early: int = 0,
    iterations: int = 0,
    sample: int = 200,
    seed: int = 0,
    connection: Connection = Connection(),  # noqa: B008  (frozen)
) -> Report:
    """The same with your models and your prompts, or invented ones: `trueline make almost:own`.

    Args:
        base: who is trained: a Hugging Face folder or a hub id.
        tiers: the generators, the best first, each "MODEL STYLE SHOTS"; a style is hedging, answering or a file.
        judge: who says what answers are worth: sentiment, logprob:FOLDER, a reward model's folder, openai:MODEL, ...
        prompts: questions, a file; without it the best generator's model invents them.
        seeds: what it is shown for that, a file with an instruction; default: 100 of our own.
        preset: the README's settings, or what two cores do in minutes with a very small model.
        form: models that continue a text, or that answer messages.
        pool: prompts of stages 1 and 2.
        fresh: other prompts, for PPO.
        apart: other prompts, on which the reward model is read.
        held_out: other prompts, on which everybody is judged.
        turns: of the assistant in self-play.
        early: iterations after which PPO is looked at first; 0 as the preset says.
        iterations: of PPO in all; 0 as the preset says.
        sample: prompts whose comparisons the judge is asked about in the audit; 0 for all.
        seed: of prompts, sampling and training.
        connection: how engines over HTTP are reached, and what may be spent on each.
    """
    amounts = readme() if preset == "readme" else small()
    gold = worth(judge, connection)
    generators = tuple(tier(one, form, connection) for one in tiers)
    best = generators[0]
    wanted = {"held-out": held_out, "apart": apart, "fresh": fresh, "asked": pool}
    if prompts is not None:
        rest: Prompts = asked(File(prompts))
    else:
        some = sum(wanted.values())
        rest = invent(best.engine, some, File(seeds or SEEDS), short="keep", **amounts.invention)
    parts = {}
    for name, count in wanted.items():
        parts[name] = take(rest, count, seed=seed, label=name)
        rest = without(rest, parts[name], label=f"less-{name}") if name != "asked" else rest
    amounts = replace(amounts, early=early or amounts.early, iterations=iterations or amounts.iterations)
    amounts = replace(amounts, candidates=replace(amounts.candidates, seed=seed))
    user = AsUser(best.by, best.demonstrations, best.shots, form=form) if turns > 1 else None
    of = Study(
        pretrained(base), generators, parts["asked"], parts["fresh"], parts["apart"], parts["held-out"], gold, amounts,
        user=user, turns=turns, sample=sample, seed=seed,
    )  # fmt: skip
    return reported(of, learn(of))
