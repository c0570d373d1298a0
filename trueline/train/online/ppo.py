"""The clipped loss on answers of the policy's own, and what an iteration does with them (Schulman et al. 2017, arXiv
1707.06347; for language models Ziegler et al. 2019, Ouyang et al. 2022).

One value for PPO, RLOO and GRPO: they differ in the advantage rule alone.

Shape suffixes: N answers of the micro-batch, E tokens of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trueline.errors import UserError
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.protocol import Loss, Metrics
from trueline.train.online.gae import GAE
from trueline.train.online.protocol import Advantage

if TYPE_CHECKING:
    import torch

    from trueline.train.objectives.protocol import Batch
    from trueline.trie import Outputs

KL = "kl/coefficient"
BY_VALUES = GAE()
STEERED = Adaptive(0.05, target=6.0, horizon=10_000.0)
CHOICES = {"kl_in": ("reward", "loss"), "scale": ("none", "batch", "running"), "reduction": ("tokens", "answers")}


@dataclass(frozen=True)
class PPO:
    """Per token, with r = p / p_old: max(-A r, -A clip(r, 1 - clip, 1 + clip))
    + value_weight / 2 * max((V - R)^2, (V_old + clip(V - V_old, -value_clip, value_clip) - R)^2)
    - entropy * H + kl * (p_ref / p - log(p_ref / p) - 1), the last where kl_in is "loss".

    advantage: where A (and the returns R) come from: `GAE()` by a value head, `RLOO()` or `GRPO()` by the other answers
    to the prompt, which have no V. kl: weight of the divergence from the reference, or an `Adaptive` one, which moves
    once per iteration. kl_in: "reward" takes kl * (log p_old - log p_ref) off every token's reward (the estimator k1,
    as InstructGPT does), "loss" adds the estimator k3 to the loss (as GRPO does). epochs: passes over the answers of
    an iteration. missing_eos: taken off the score of an answer that did not end. scale: scores are divided by the
    deviation of all so far ("running"), of the iteration ("batch"), or not ("none"). max_reward: bound of a scaled
    score, 0 for none. whiten_rewards: rewards of tokens to variance 1, their mean kept. reduction: "tokens" is the
    mean over all tokens of an optimiser step, "answers" over answers of their mean over tokens. value_clip: 0 for none.

    Worked: p_old 0.5, p 0.7, A 1, clip 0.2: r = 1.4, the loss is max(-1.4, -1.2) = -1.2, without a gradient; with A =
    -1 it is max(1.4, 1.2) = 1.4, with one. V_old 0, V 0.5, R 1, value_clip 0.2: max(0.25, 0.64) / 2 = 0.32.

    Defaults are those of trlX for helpful and harmless dialogues, all layers trained.
    """

    advantage: Advantage = BY_VALUES
    kl: float | Adaptive = STEERED
    kl_in: Literal["reward", "loss"] = "reward"
    epochs: int = 4
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 1.0
    entropy: float = 0.0
    missing_eos: float = 1.0
    scale: Literal["none", "batch", "running"] = "running"
    max_reward: float = 10.0
    whiten_rewards: bool = False
    reduction: Literal["tokens", "answers"] = "tokens"

    def __post_init__(self) -> None:
        if not isinstance(self.advantage, Advantage):
            raise UserError(
                "PPO(advantage=...)", f"got {self.advantage!r}", "GAE(), RLOO(), GRPO(), or a rule of yours"
            )
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise UserError("PPO(epochs=...)", f"got {self.epochs}", "a whole number of at least 1")
        for name in ("kl", "value_clip", "value_weight", "entropy", "missing_eos", "max_reward"):
            value = getattr(self, name)
            if not isinstance(value, Adaptive) and not (math.isfinite(value) and value >= 0):
                raise UserError(f"PPO({name}=...)", f"got {value}", "a number of 0 or more")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise UserError("PPO(clip=...)", f"got {self.clip}", "a number above 0")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                wanted = " or ".join(f'"{x}"' for x in known)
                raise UserError(f"PPO({name}=...)", f'got "{getattr(self, name)}"', wanted)
        for name, default in (("value_clip", 0.2), ("value_weight", 1.0)):
            if not self.advantage.values and getattr(self, name) != default:
                got = f"has no effect: {self.advantage} has no value head"
                raise UserError(f"PPO({name}=...)", got, "", "Leave it out.")

    @property
    def name(self) -> str:
        """ "ppo", "rloo", "grpo": what a policy trained so is called."""
        return self.advantage.name

    @property
    def needs(self) -> frozenset[str]:
        needs = {"logps", "rollout"} | ({"values"} if self.advantage.values else set())
        return frozenset(needs | {"entropy"} if self.entropy else needs)

    def weight(self, batch: Batch) -> float:
        return float(batch.n if self.reduction == "answers" else batch.counts_N.sum())

    @property
    def first_kl(self) -> float:
        """The divergence's weight in the first iteration."""
        return self.kl.initial if isinstance(self.kl, Adaptive) else self.kl

    def next_kl(self, now: float, kl: float, answers: int) -> float:
        """The divergence's weight after an iteration of so many answers with this mean divergence, in nats."""
        # An estimate below 0 is noise around a policy that has not moved.
        return self.kl.after(now, max(kl, 0.0), answers) if isinstance(self.kl, Adaptive) else now

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        logps_E = outputs.logps_E
        given = {name: value.to(logps_E.dtype) for name, value in batch.given.items()}
        n = float(logps_E.numel())
        ratio_E = (logps_E - given["logps"]).exp()
        plain_E = -given["advantages"] * ratio_E
        clipped_E = -given["advantages"] * ratio_E.clamp(1 - self.clip, 1 + self.clip)
        loss_E = plain_E.maximum(clipped_E)
        metrics: Metrics = {
            "policy/loss": (loss_E.detach().sum(), n),
            "policy/clipped": ((clipped_E > plain_E).sum(), n),
            "policy/moved": ((ratio_E - 1 - ratio_E.log()).detach().sum(), n),
        }
        if self.advantage.values:
            value_E, said = self.of_values(batch, given)
            loss_E, metrics = loss_E + self.value_weight * value_E, metrics | said
        if self.kl_in == "loss":
            apart_E = given["reference"] - logps_E
            k3_E = apart_E.exp() - apart_E - 1
            loss_E = loss_E + batch.coefficients.get(KL, self.first_kl) * k3_E
            metrics["policy/kl"] = (k3_E.detach().sum(), n)
        if self.entropy:
            assert outputs.entropy_E is not None, "the loop asks for the entropy this objective needs"
            loss_E = loss_E - self.entropy * outputs.entropy_E
        if self.reduction == "answers":
            loss_E = loss_E / batch.counts_N.to(loss_E.dtype)[outputs.seq_E]
        return Loss(loss_E.sum(), metrics)

    def of_values(self, batch: Batch, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Metrics]:
        """The clipped squared error of the values, halved, and how it did."""
        assert batch.values_E is not None, "the loop provides the values this objective needs"
        error_E = (batch.values_E - given["returns"]) ** 2
        n = float(error_E.numel())
        metrics: Metrics = {"value/loss": (0.5 * error_E.detach().sum(), n)}
        if self.value_clip:
            moved_E = (batch.values_E - given["values"]).clamp(-self.value_clip, self.value_clip)
            held_E = (given["values"] + moved_E - given["returns"]) ** 2
            metrics["value/clipped"] = ((held_E > error_E).sum(), n)
            error_E = error_E.maximum(held_E)
        return 0.5 * error_E, metrics
