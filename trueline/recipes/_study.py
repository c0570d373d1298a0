"""What ALMoST is set: who answers, who is trained, on which prompts, how much of everything, and who counts.

What the method is stands in `almost`; nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trueline import world
from trueline.errors import UserError
from trueline.feedback.compare import Compare
from trueline.feedback.critique import Critique
from trueline.feedback.generator import ByGenerator
from trueline.feedback.judge import judge
from trueline.feedback.likelihood import LogProb
from trueline.feedback.protocol import Critic
from trueline.feedback.reward import Reward
from trueline.feedback.shape import WellFormed
from trueline.models import pretrained
from trueline.prompts.follow_up import NextTurn
from trueline.prompts.invent import FewShot
from trueline.prompts.take import without
from trueline.recipes._setups import OFFLINE
from trueline.sample.hf import HF
from trueline.sample.named import engine
from trueline.sample.pooled import gather
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.served import Connection
from trueline.sample.shots import Shots
from trueline.store import File, Groups, Policy, Prompts
from trueline.train.online.ppo import PPO
from trueline.train.optimizers import AdamW, ParameterGroup
from trueline.train.stage import train

Size = Literal["readme", "small"]
TOWN = {"small": 2_030_016, "tiny": 572_640}
"""Parameters of the town's models."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything.

    answers: how the generators answer. candidates: how the best of them plays the assistant. asking, keep: how the
    human's messages are drawn, and which are kept. fit: what is set aside. rater, sft: the arguments of `train` for the
    reward model and for SFT. invention: those of `invent`. ppo, online: the algorithm, and the other arguments of
    `online`. early, iterations: where PPO is looked at first, and where it ends.
    """

    answers: Sampling
    candidates: Sampling
    asking: Sampling = field(default_factory=lambda: Sampling(top_p=0.9, max_tokens=128))
    keep: NextTurn = field(default_factory=NextTurn)
    fit: WellFormed = field(default_factory=WellFormed)
    rater: Mapping[str, Any] = field(default_factory=dict)
    sft: Mapping[str, Any] = field(default_factory=dict)
    ppo: PPO = field(default_factory=PPO)
    online: Mapping[str, Any] = field(default_factory=dict)
    invention: Mapping[str, Any] = field(default_factory=dict)
    early: int = 10
    iterations: int = 30
    min_quantile: float = 0.0


@dataclass(frozen=True)
class Study:
    """Inert handles, the same for the same values.

    start: who is trained, three times: as reward model, by SFT, by PPO. tiers: the generators, the best first. prompts:
    asked in stages 1 and 2; fresh: others, for PPO; apart: others, on which the reward model is read; questions: those
    that all arms answer. gold: what answers are worth: it watches and reports, nothing is trained on it. impartial:
    who compares arms and held-out answers, where anybody does. user, turns: self-play's.
    """

    start: Policy
    tiers: tuple[Prompted, ...]
    prompts: Prompts
    fresh: Prompts
    apart: Prompts
    questions: Prompts
    gold: Critic
    amounts: Amounts
    impartial: Compare | None = None
    user: Engine | None = None
    turns: int = 1
    sample: int = 0
    seed: int = 0

    @property
    def fit(self) -> Any:
        """`train`, with what all trainings have in common."""
        return partial(train, seed=self.seed)

    def compared(self, prompts: Prompts, label: str) -> Groups:
        """Every generator's answers to `prompts`, less what is no answer, compared by who wrote them."""
        drawn = gather(self.tiers, prompts, replace(self.amounts.answers, seed=self.seed), long="drop")
        return judge(judge(drawn, self.amounts.fit, label=f"shaped-{label}"), ByGenerator(self.tiers), label=label)

    def graded(self, answers: Groups, name: str) -> Groups:
        """The answers with what they are worth."""
        return judge(answers, self.gold, label=f"graded-{name}")


# --- the town --------------------------------------------------------------------------------------------------------


def generator(size: str, style: str, shots: int) -> Prompted:
    """A model of the town, shown questions that people of one style answered, other ones for every prompt."""
    shown = Shots.of(style, world.demonstrations(32, style))  # type: ignore[arg-type]
    return Prompted(world.base(size), shown, shots, form="chat", seed=0, size=TOWN[size])


def in_town(
    base: str, prompts: int, fresh: int, apart: int, held_out: int, n: int, kl: float, early: int, iterations: int,
    seed: int,
) -> Study:  # fmt: skip
    """Six generators and the amounts that a core does in minutes.

    The town's models cannot invent questions, and answer one at a time: prompts are the town's, and self-play has one
    turn.
    """
    order = (("small", "good", 5), ("small", "good", 1), ("tiny", "good", 5), ("tiny", "good", 1),
             ("small", "sloppy", 5), ("tiny", "sloppy", 5))  # fmt: skip
    drawn = Sampling(max_tokens=64)
    amounts = Amounts(
        drawn,
        replace(drawn, n=n, top_p=0.9, seed=seed),
        fit=WellFormed(least=1, rules=("short", "asks", "unfinished", "turn")),
        rater={"lr": 5e-4, "epochs": 2, "max_length": 256},
        # Longer, it learns all that this reward model knows, and leaves PPO nothing to gain (docs/almost.md).
        sft={"lr": 2e-4, "epochs": 1, "max_length": 256},
        ppo=PPO(epochs=2, kl=kl, value_weight=0.1),
        online={"lr": 1e-4, "parameter_groups": (ParameterGroup(("heads.",), lr=10.0),)}
        | {"sampling": replace(drawn, n=4, seed=seed)},
        early=early,
        iterations=iterations,
    )
    asked = world.prompts(prompts, seed=seed, split="train", label="asked")
    others = world.prompts(fresh, seed=seed + 1, split="train", label="others")
    return Study(
        world.base(base), tuple(generator(*one) for one in order), asked, without(others, asked, label="fresh"),
        world.prompts(apart, seed=seed, split="valid", label="apart"),
        world.prompts(held_out, seed=seed, split="test", label="held-out"), world.Gold(), amounts,
        Compare(by=world.Oracle(seed=seed)), seed=seed,
    )  # fmt: skip


# --- models of one's own ---------------------------------------------------------------------------------------------


def readme() -> Amounts:
    """The settings of ALMoST's README, and trlX's for helpful and harmless dialogues where it has none (PPO)."""
    common = {"lr": 2e-5, "schedule": "cosine", "warmup": 0.03}
    adam = AdamW(betas=(0.9, 0.95))
    return Amounts(
        Sampling(top_p=0.9, max_tokens=384),
        Sampling(n=4, top_p=0.9, max_tokens=384),
        # Prompts whose answers are all set aside but one teach no comparison: that is ordinary here.
        rater=common | {"epochs": 1, "weight_decay": 0.1, "batch_size": 128, "max_length": 1024, "max_dropped": 0.5},
        sft=common | {"epochs": 3, "batch_size": 64, "max_length": 512},
        online={"lr": 8e-6, "optimizer": adam, "weight_decay": 1e-6, "rollout": 64}
        | {"sampling": Sampling(n=4, max_tokens=256)},
        early=100,
        iterations=375,
    )


def small() -> Amounts:
    """What two cores do in minutes with a model of a few hundred thousand parameters, whose answers are short."""
    drawn = Sampling(top_p=0.9, max_tokens=64)
    fit = {"lr": 1e-3, "epochs": 2, "max_length": 512}
    return Amounts(
        drawn,
        replace(drawn, n=4),
        replace(drawn, max_tokens=24, stop=("\n",)),
        NextTurn(cut=True),  # such a model goes on and on
        WellFormed(least=20, rules=("short", "asks", "well", "unsure", "turn", "image")),
        rater=fit | {"max_dropped": 0.9},
        sft=fit,
        invention={"few_shot": FewShot(3), "sampling": replace(drawn, max_tokens=32, stop=("\n",))},
        ppo=PPO(epochs=2, kl=0.2, value_weight=0.1),
        online={"lr": 2e-4, "rollout": 32, "batch_size": 32}
        | {"parameter_groups": (ParameterGroup(("heads.",), lr=10.0),), "sampling": Sampling(n=4, max_tokens=64)},
        early=10,
        iterations=30,
    )


def tier(named: str, form: Literal["text", "chat"], connection: Connection) -> Prompted:
    """The generator that "MODEL STYLE SHOTS" says: a folder, a hub id or a served model; hedging, answering or a file.

    Raises `UserError` for fewer words, and for shots that are no number.
    """
    words = named.rsplit(maxsplit=2)
    if len(words) < 3 or not words[2].isdecimal():
        raise UserError("--tiers", f"got {named!r}", '"MODEL STYLE SHOTS", such as "ORG/13b answering 3"')
    model, style, shots = words
    by = engine(model, connection, where="--tiers")
    shown: Any = File(Path(style)) if Path(style).suffix in (".txt", ".jsonl", ".json") else style
    return Prompted(by.policy if isinstance(by, HF) else by, shown, int(shots), form=form)


def worth(named: str, connection: Connection) -> Critic:
    """Who says what answers are worth: an offline critic, logprob:FOLDER, the folder of a reward model, or an engine
    that is asked in words (openai:MODEL, anthropic:MODEL, http://...)."""
    if named in OFFLINE:
        return OFFLINE[named]()
    if named.startswith("logprob:"):
        return LogProb(pretrained(named.removeprefix("logprob:")), chat="plain")
    by = engine(named, connection, where="--judge") if named else None
    if by is None:
        known = ", ".join(OFFLINE)
        raise UserError(
            "--judge", "nobody is named", f"{known}, logprob:FOLDER, a reward model's folder, or an engine to ask",
            "Nothing is trained on it: it watches and reports.",
        )  # fmt: skip
    return Reward(by.policy) if isinstance(by, HF) else Critique(by=by, wording="dialogue")
