"""What Quark and ALT are set: who starts, what is asked, who says what of the answers, and what counts in the end.

A `Setup` is a few handles, a `Preset` how much of everything: one column of the papers' tables, or something that a
laptop does in minutes. What a method is stands in `quark` and `alt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trueline import world
from trueline.errors import UserError
from trueline.feedback.critique import Critique
from trueline.feedback.grade import Grade
from trueline.feedback.perspective import Perspective
from trueline.feedback.profanity import Profanity
from trueline.feedback.protocol import Critic
from trueline.feedback.reward import Reward
from trueline.feedback.sentiment import Sentiment
from trueline.models import pretrained
from trueline.prompts.asked import asked
from trueline.prompts.preferences import preferences
from trueline.prompts.take import take, without
from trueline.prompts.tldr import tldr
from trueline.prompts.toxicity import toxicity_prompts
from trueline.recipes._town import Materials
from trueline.sample.hf import HF
from trueline.sample.named import engine
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.served import Connection
from trueline.store import File, Groups, Policy, Prompts
from trueline.train.conditioned import Conditioned, Everything, PerClass, PerPrompt
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.optimizers import AdamW
from trueline.train.picks import Picker
from trueline.train.stage import train

Kind = Literal["town", "toxicity", "tldr", "hh", "file"]
Size = Literal["small", "paper"]
Method = Literal["quark", "rm", "lmc", "lmu"]
CONTINUED = ("toxicity", "tldr")
"""Tasks whose prompts are texts to go on from, not messages to answer."""
GRADES = ("Very good", "Good", "Poor", "Bad")

OFFLINE: dict[str, Callable[[], Critic]] = {"profanity": Profanity, "sentiment": Sentiment, "perspective": Perspective}


@dataclass(frozen=True)
class Preset:
    """How much of everything.

    rounds: of sampling, judging and training. prompts: asked in a round, drawn anew; 0 all of them. sampling: of the
    answers that are learned from. asked: of the answers to held-out prompts. pick, drop: what of the pool is trained
    (`Conditioned`). scope: whose quantiles. objective: the loss. fit: the other arguments of `train`.
    """

    rounds: int
    prompts: int
    sampling: Sampling
    asked: Sampling
    pick: Picker = field(default_factory=Everything)
    drop: float = 0.0
    scope: Literal["prompt", "global"] = "prompt"
    objective: ConditionalLM = field(default_factory=ConditionalLM)
    fit: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What is done with how much: inert handles, the same for the same values.

    start: the policy that begins, and that the KL is measured from. prompts: what rounds ask. questions: held-out
    prompts. critic: what is learned from. gold: what held-out answers are scored by.
    """

    start: Policy
    prompts: Prompts | Groups
    questions: Prompts
    critic: Critic
    gold: Critic
    preset: Preset
    seed: int = 0

    @property
    def chat(self) -> str:
        """How conversations become tokens."""
        return str(self.preset.fit.get("chat", "auto"))

    def engine(self, policy: Policy) -> Policy | HF:
        """A policy as it answers here."""
        return policy if self.chat == "auto" else HF(policy, self.chat)

    def asked(self, number: int) -> Prompts | Groups:
        """The prompts of a round: all, or a draw of its own without replacement."""
        some = self.preset.prompts
        return take(self.prompts, some, seed=self.seed + number, label=f"asked-{number + 1}") if some else self.prompts

    def sampling(self, number: int) -> Sampling:
        """How a round's answers are drawn."""
        return replace(self.preset.sampling, seed=self.seed + number)

    def learned(self, policy: Policy, view: Conditioned, label: str) -> Policy:
        """`policy` after a round's training; the reference is the start, which knows no condition."""
        fit: dict[str, Any] = {"seed": self.seed, **self.preset.fit}
        reference = self.start if "reference_model" in self.preset.objective.needs else None
        return train(policy, view, self.preset.objective, reference=reference, label=label, **fit)


@dataclass(frozen=True)
class Given:
    """What the options of a recipe say; 0 and "" leave it to the preset and the task."""

    task: Kind
    preset: Size
    base: str
    prompts: Path | None
    eval_prompts: Path | None
    held_out: int
    critic: str
    gold: str
    rounds: int
    per_round: int
    samples: int
    lr: float
    kl: float | None
    seed: int
    connection: Connection = field(default_factory=Connection)

    def setup(self, method: Method) -> Setup:
        """The task with the preset's amounts. Raises `UserError` for options that the task has no use for, or lacks."""
        preset = small(self.task) if self.preset == "small" else paper(method, self.task)
        preset = replace(
            preset,
            rounds=self.rounds or preset.rounds,
            prompts=self.per_round or preset.prompts,
            sampling=replace(preset.sampling, n=self.samples or preset.sampling.n),
            objective=preset.objective if self.kl is None else replace(preset.objective, kl=self.kl),
            fit={**preset.fit, **({"lr": self.lr} if self.lr else {})},
        )
        if self.task != "town":
            return self.from_files(method, preset)
        idle = {
            "--prompts": self.prompts, "--eval-prompts": self.eval_prompts, "--critic": self.critic, "--gold": self.gold
        }  # fmt: skip
        if found := [name for name, value in idle.items() if value]:
            raise UserError(found[0], "the town has its own", "", "Name another task, such as --task file.")
        if self.base not in ("tiny", "small"):
            cure = "Name another task, such as --task file."
            raise UserError(f"--base {self.base}", "the town has no such model", "tiny or small", cure)
        return town(Materials(self.base, 64, 1024, 4, self.held_out, 0.1, 0.2, self.seed), method, preset)

    def from_files(self, method: Method, preset: Preset) -> Setup:
        """A model of yours, prompts of yours, a critic by name; without a file of held-out prompts, some are set
        apart."""
        if self.prompts is None:
            raise UserError(f"--task {self.task}", "there are no prompts", "a file", "Name it: --prompts FILE.")
        every = read_prompts(self.task, self.prompts)
        if self.eval_prompts is None:
            apart = take(every, self.held_out, seed=self.seed, label="held-out")
            rest: Prompts | Groups = without(every, apart, label="remaining")
        else:
            apart = take(read_prompts(self.task, self.eval_prompts), self.held_out, seed=self.seed, label="held-out")
            rest = every
        said = named_critic(self.critic, method, self.task, "--critic", self.connection)
        counts = named_critic(self.gold, "rm", self.task, "--gold") if self.gold else said
        return Setup(pretrained(self.base), rest, apart, said, counts, preset, self.seed)


def town(of: Materials, method: Method, preset: Preset) -> Setup:
    """The town: the taught policy starts, its judge says what there is to learn from, the gold reward counts."""
    asked_of_all = world.prompts(of.prompts, seed=of.seed, split="train", label="asked")
    judge = world.Judge(noise=of.noise, seed=of.seed)
    return Setup(of.sft, asked_of_all, of.questions, town_critic(method, judge), world.Gold(), preset, of.seed)


def town_critic(method: Method, judge: Engine) -> Critic:
    """A category for ALT-LMC; a sentence with a score for the others, of which Quark and ALT-RM see the score alone."""
    if method == "lmc":
        return Grade(by=judge, categories=GRADES, wording="town-grade")
    return Critique(by=judge, wording="town-critique")


def read_prompts(kind: Kind, path: Path) -> Prompts | Groups:
    """The prompts of a file in the layout of the task."""
    file = File(path)
    if kind == "toxicity":
        return toxicity_prompts(file, keep="non-toxic", label="non-toxic")
    if kind == "tldr":
        return tldr(file, label="posts")
    return preferences(file, layout="hh", label="dialogues") if kind == "hh" else asked(file)


def named_critic(name: str, method: Method, kind: Kind, option: str, connection: Connection | None = None) -> Critic:
    """The critic that `name` means: an offline one, Perspective, a reward model's folder, or an engine that is asked.

    Raises `UserError` where the method asks an engine in words and none is named.
    """
    if method in ("rm", "quark"):
        if name in OFFLINE:
            return OFFLINE[name]()
        if name:
            return Reward(pretrained(name))
        known = ", ".join(OFFLINE)
        raise UserError(option, "no critic is named", f"{known}, or the folder of a reward model")
    if not name or name in OFFLINE:
        raise UserError(
            option, f"got {name!r}", "an engine to ask: openai:MODEL, anthropic:MODEL, http://..., a folder"
        )
    by = engine(name, connection, where=option)
    if method == "lmc":
        return Grade(by=by)
    return Critique(by=by, wording="tldr" if kind == "tldr" else "dialogue")


# --- how much ------------------------------------------------------------------------------------------------------


def small(kind: Kind = "town") -> Preset:
    """What two cores do in minutes: the pool accumulates, quantiles are of the whole pool, everything is trained."""
    fit: dict[str, Any] = {"epochs": 2, "max_length": 256}
    if kind == "town":
        # A model this small is unsure enough: an entropy bonus costs it facts (docs/quark.md).
        fit |= {"lr": 1e-3}
        return Preset(3, 0, Sampling(n=2), Sampling(), scope="global", objective=ConditionalLM(entropy=0.0), fit=fit)
    drawn = Sampling(n=32, max_tokens=32, min_tokens=3)
    fit |= {
        "lr": 5e-4,
        "epochs": 3,
        "batch_size": 64,
        "order": "together",
        "chat": "plain" if kind in CONTINUED else "auto",
    }
    objective = ConditionalLM(kl=0.02, entropy=0.0)
    return Preset(3, 512, drawn, replace(drawn, n=4), drop=1.0, scope="global", objective=objective, fit=fit)


def paper(method: Method, kind: Kind) -> Preset:
    """The authors' settings for a task (Lu et al. 2022; Lloret et al. 2024), as their code had them.

    Their KL was switched off on TL;DR and HH. Against toxicity they trained 2,000 steps of 32 between two rounds, in
    one run; here a round is a training of its own, with a learning rate that starts anew.
    """
    adam = AdamW(betas=(0.8, 0.999), eps=1e-8)
    fit: dict[str, Any] = {
        "lr": 2e-5,
        "epochs": 2,
        "schedule": "linear",
        "warmup": 0.05,
        "weight_decay": 3e-7,
        "optimizer": adam,
    }
    no_kl = ConditionalLM(kl=0.0, entropy=0.06)
    if kind == "toxicity":
        direction: Literal["forward", "reverse"] = "reverse" if method == "quark" else "forward"
        eps = 1e-5 if method == "quark" else 1e-8
        fit = {"lr": 1e-5, "epochs": 1, "batch_size": 128 if method == "quark" else 32, "schedule": "constant",
               "warmup": 0, "max_grad_norm": 0.0, "optimizer": AdamW(eps=eps), "chat": "plain"}  # fmt: skip
        drawn = Sampling(1, max_tokens=20, min_tokens=3)
        return Preset(16, 0, drawn, Sampling(25, top_p=0.9, max_tokens=20), scope="global",
                      objective=ConditionalLM(0.05, 0.06, direction), fit=fit)  # fmt: skip
    if kind == "hh":
        drawn = Sampling(20, top_p=0.9, max_tokens=256)
        fit |= {"batch_size": 64, "max_length": 512}
        return Preset(20, 2048, drawn, replace(drawn, n=1), PerPrompt(8, 256, "ordered"), 1.0, objective=no_kl, fit=fit)
    if kind == "tldr":
        fit |= {"batch_size": 16, "max_length": 1024, "freeze": ("blocks[:-8]",)}
        greedy = Sampling(temperature=0.0, max_tokens=64)
        if method == "lmu":
            drawn = Sampling(20, 0.9, 0.9, max_tokens=64)
            return Preset(6, 2048, drawn, greedy, PerPrompt(8, 64, "ordered"), 1.0, objective=no_kl, fit=fit)
        drawn = Sampling(96, 0.9, 0.9, max_tokens=64)
        return Preset(10, 2048, drawn, greedy, PerClass(2, 64), 1.0, objective=no_kl, fit=fit)
    raise UserError(
        "--preset paper", f"the papers have no task {kind!r}", "toxicity, tldr or hh", "Take --preset small."
    )
