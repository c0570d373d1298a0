"""ALT: Quark's loop with words in place of tokens. Answers are described by a phrase for their reward quantile (RM), by
the category that an LLM put them into (LMC), or by a sentence that an LLM wrote of them (LMU); the policy learns all
of them behind their description, and is asked with the best one.

The loop is `quark.learn`; a method is a critic and a condition. LMU asks with the critiques that the best answers of
the last round earned, chosen by a rule (`conditions.critiques.Exemplars`).

Source: Lloret et al. 2024 (arXiv 2407.16970).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trueline.conditions.critiques import Critiques
from trueline.conditions.labels import Labels
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import Condition
from trueline.errors import UserError
from trueline.recipes._rounds import reported
from trueline.recipes._setups import GRADES, Given, Kind, Size
from trueline.recipes.quark import learn
from trueline.sample.served import Connection
from trueline.store import Report

Words = Literal["rm", "lmc", "lmu"]


def condition_of(
    method: Words, kind: Kind, scope: Literal["prompt", "global"], phrases: tuple[str, ...] = ()
) -> Condition:
    """How a method describes answers to a task's prompts."""
    if phrases:
        if method != "rm":
            raise UserError(f"--phrases with --method {method}", "the critic's own words are used", "", "Leave it out.")
        return QuantilePhrases(phrases, scope=scope)
    if method == "rm":
        return QuantilePhrases.toxicity() if kind == "toxicity" else QuantilePhrases(scope=scope)
    if method == "lmc":
        return Labels(GRADES, ". ") if kind == "town" else Labels.hh()
    return Critiques()


def alt(
    *,
    method: Words = "rm",
    task: Kind = "town",
    preset: Size = "small",
    base: str = "tiny",
    prompts: Path | None = None,
    eval_prompts: Path | None = None,
    held_out: int = 400,
    critic: str = "",
    gold: str = "",
    phrases: tuple[str, ...] = (),
    rounds: int = 0,
    per_round: int = 0,
    samples: int = 0,
    lr: float = 0.0,
    kl: float | None = None,
    seed: int = 0,
    connection: Connection = Connection(),  # noqa: B008  (frozen)
) -> Report:
    """Align a model by feedback in words, and report what each round bought.

    Args:
        method: a phrase per reward quantile (rm), a category (lmc), or a critique in free words (lmu).
        task: the embedded town, or prompts of yours: toxicity, TL;DR or HH rows, or any prompts (file).
        preset: small is minutes on two cores; paper is the authors' settings.
        base: who starts: tiny or small in the town, else a model folder or a hub id.
        prompts: the prompts to learn on, for any task but the town.
        eval_prompts: held-out prompts; without it some of the others are set apart.
        held_out: how many held-out prompts are answered after each round.
        critic: for rm a scorer or a reward model's folder, else an engine: openai:MODEL, anthropic:MODEL, URL, folder.
        gold: who scores the held-out answers: a scorer or a reward model's folder (default: the critic).
        phrases: for rm, in words of yours what the quantiles are called, the best first.
        rounds: of sampling, judging and training; 0 as the preset says. More continue where fewer ended.
        per_round: prompts asked in a round, drawn anew; 0 as the preset says.
        samples: answers to each; 0 as the preset says.
        lr: peak learning rate; 0 as the preset says.
        kl: weight of the divergence from the start; without it as the preset says.
        seed: of prompts, sampling and training.
        connection: how an engine over HTTP is reached, and what may be spent on it.
    """
    said = Given(
        task, preset, base, prompts, eval_prompts, held_out, critic, gold, rounds, per_round, samples, lr, kl, seed,
        connection,
    )  # fmt: skip
    given = said.setup(method)
    condition = condition_of(method, task, given.preset.scope, phrases)
    name = f"ALT-{method.upper()}"
    names = tuple(f"class {k + 1}" for k in range(condition.classes))
    return reported("What words bought", given, name, learn(given, condition, name.lower()), names)
