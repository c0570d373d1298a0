"""Quark: sample, sort the samples by reward, learn all of them behind a token that says how good they are; then ask for
the best, and begin again.

    pool <- nothing
    repeat:  y ~ policy(. | best, x)                         the first round: y ~ start(. | x)
             pool <- pool and (x, y, reward)
             k(y) <- the quantile of y's reward within the pool
             policy <- the minimum of  - log p(y | k(y), x)  +  a KL(start(. | x) || p(. | k(y), x))  -  b entropy of p

Nothing is compared and nothing is pushed down: what is bad is learned as bad. Source: Lu et al. 2022 (arXiv
2205.13636); quantiles per prompt and the forward KL as in Lloret et al. 2024 (arXiv 2407.16970).
"""

from __future__ import annotations

from pathlib import Path

from trueline.conditions.protocol import Condition, renewed
from trueline.conditions.tokens import QuantileTokens
from trueline.feedback.judge import judge
from trueline.recipes._rounds import Step, reported
from trueline.recipes._setups import Given, Kind, Setup, Size
from trueline.sample.draw import draw
from trueline.store import Groups, Report
from trueline.train.conditioned import Conditioned
from trueline.train.extend import extend


def learn(setup: Setup, condition: Condition, name: str) -> list[Step]:
    """The policy after each round, and the condition that asks it for the best: all of Quark, and all of ALT."""
    policy = extend(setup.start, condition.tokens, label=f"{name}-0") if condition.tokens else setup.start
    steps: list[Step] = []
    pool: tuple[Groups, ...] = ()
    for number in range(setup.preset.rounds):
        writer, asks = (setup.start, None) if not pool else (policy, condition)
        drawn = draw(setup.engine(writer), setup.asked(number), setup.sampling(number), condition=asks, label="drawn")
        pool = (*pool, judge(drawn, setup.critic, label="judged"))
        condition = renewed(condition, pool)
        view = Conditioned(pool, condition, setup.preset.pick, setup.preset.drop, setup.seed)
        policy = setup.learned(policy, view, label=f"{name}-{number + 1}")
        steps.append(Step(policy, condition))
    return steps


def quark(
    *,
    task: Kind = "town",
    preset: Size = "small",
    base: str = "tiny",
    prompts: Path | None = None,
    eval_prompts: Path | None = None,
    held_out: int = 400,
    critic: str = "",
    gold: str = "",
    quantiles: int = 5,
    rounds: int = 0,
    per_round: int = 0,
    samples: int = 0,
    lr: float = 0.0,
    kl: float | None = None,
    seed: int = 0,
) -> Report:
    """Align a model by reward-quantile tokens, and report what each round bought.

    Args:
        task: the embedded town, or prompts of yours: toxicity, TL;DR or HH rows, or any prompts (file).
        preset: small is minutes on two cores; paper is the authors' settings.
        base: who starts: tiny or small in the town, else a model folder or a hub id.
        prompts: the prompts to learn on, for any task but the town.
        eval_prompts: held-out prompts; without it some of the others are set apart.
        held_out: how many held-out prompts are answered after each round.
        critic: whose scores are learned: profanity, sentiment, perspective, or a reward model's folder.
        gold: who scores the held-out answers, as --critic names one (default: the critic).
        quantiles: into how many classes the pool is cut.
        rounds: of sampling, judging and training; 0 as the preset says. More continue where fewer ended.
        per_round: prompts asked in a round, drawn anew; 0 as the preset says.
        samples: answers to each; 0 as the preset says.
        lr: peak learning rate; 0 as the preset says.
        kl: weight of the divergence from the start; without it as the preset says.
        seed: of prompts, sampling and training.
    """
    said = Given(
        task, preset, base, prompts, eval_prompts, held_out, critic, gold, rounds, per_round, samples, lr, kl, seed
    )  # fmt: skip
    given = said.setup("quark")
    tokens = QuantileTokens(quantiles, given.preset.scope)
    names = tuple(f"quantile {k + 1}" for k in range(quantiles))
    return reported("What reward quantiles bought", given, "Quark", learn(given, tokens, "quark"), names)
