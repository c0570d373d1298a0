"""Learning answers behind a condition that says how good they are: the loss of Quark and of ALT.

What the condition says is the view's business (`conditioned`), what the reference reads `rows`'; here is what is
minimised. The whole range of answers is learned, the bad ones as bad; nothing is pushed down.

Shape suffixes: N sequences, E scored tokens, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trueline.errors import UserError
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.objectives.protocol import Loss, Metrics

if TYPE_CHECKING:
    import torch

    from trueline.train.objectives.protocol import Batch
    from trueline.trie import Outputs

KL, ENTROPY = "kl/coefficient", "entropy/coefficient"


@dataclass(frozen=True)
class ConditionalLM:
    """NLL + kl * KL - entropy * H per token of an answer, the mean over all answer tokens of the optimiser step.

    KL: between the next-token distributions of policy and reference, exact, over the tokens that both have; direction
    "forward" is KL(reference || policy), "reverse" KL(policy || reference). H: the entropy of the policy's next token,
    all its tokens counted; a bonus. kl, entropy: weights, or an `Adaptive` one. kl=0 needs no reference at all. strip:
    the reference reads the prompt without its condition; without `strip` it reads what the policy reads, and has to
    know the condition's tokens.

    Worked: two tokens of NLL 2 and 1, KL 0.3 and 0.1, entropy 1.5 and 0.5, with the defaults: 3/2 + 0.05 * 0.4/2 - 0.06
    * 2/2 = 1.5 + 0.01 - 0.06 = 1.45.

    Sources: Lu et al. 2022 (Quark, arXiv 2205.13636: the paper's KL is forward, its code's reverse); Lloret et al. 2024
    (ALT, arXiv 2407.16970: forward; its TL;DR and HH runs have kl=0).
    """

    kl: float | Adaptive = 0.05
    entropy: float | Adaptive = 0.06
    direction: Literal["forward", "reverse"] = "forward"
    strip: bool = True

    def __post_init__(self) -> None:
        for name in ("kl", "entropy"):
            weight = getattr(self, name)
            if not isinstance(weight, Adaptive) and not (math.isfinite(weight) and weight >= 0):
                raise UserError(
                    f"ConditionalLM({name}=...)", f"got {weight}", "a weight of 0 or more, or Adaptive(...)"
                )
        if self.direction not in ("forward", "reverse"):
            raise UserError("ConditionalLM(direction=...)", f'got "{self.direction}"', '"forward" or "reverse"')
        for name, given in (("direction", self.direction != "forward"), ("strip", not self.strip)):
            if given and not self.kl:
                raise UserError(f"ConditionalLM({name}=...)", "has no effect with kl=0", "", "Leave one of them out.")

    @property
    def needs(self) -> frozenset[str]:
        needs = {"logps"}
        if self.kl:
            needs |= {"reference_model"}
            needs |= {"stripped"} if self.strip else set()
            needs |= {"reverse"} if self.direction == "reverse" else set()
        return frozenset(needs | {"entropy"} if self.entropy else needs)

    def weight(self, batch: Batch) -> float:
        return float(batch.counts_N.sum())

    @property
    def watches(self) -> tuple[str, ...]:
        """What the adaptive weights are steered by."""
        pairs = ("kl/answer", self.kl), ("entropy/answer", self.entropy)
        return tuple(name for name, weight in pairs if isinstance(weight, Adaptive))

    def begin(self) -> dict[str, float]:
        """The adaptive weights at the first step."""
        pairs = (KL, self.kl), (ENTROPY, self.entropy)
        return {name: weight.initial for name, weight in pairs if isinstance(weight, Adaptive)}

    def adapt(self, now: Mapping[str, float], seen: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """The adaptive weights after a step."""
        after = dict(now)
        for name, metric, weight in ((KL, "kl/answer", self.kl), (ENTROPY, "entropy/answer", self.entropy)):
            if isinstance(weight, Adaptive) and seen[metric][1]:
                total, answers = seen[metric]
                after[name] = weight.after(now[name], total / answers, answers, bonus=name == ENTROPY)
        return after

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        tokens, n = batch.counts_N.sum(), float(batch.n)
        nll_N = -outputs.logps_N
        loss = nll_N.sum()
        metrics: Metrics = {"nll": (loss.detach(), tokens)} | of_classes("nll", nll_N, batch)
        if self.kl:
            assert outputs.kl_E is not None, "the loop provides the reference this objective needs"
            kl_N = outputs.summed(outputs.kl_E)
            loss = loss + present(KL, self.kl, batch) * kl_N.sum()
            total = kl_N.detach().sum()
            metrics |= {"kl/token": (total, tokens), "kl/answer": (total, n)} | of_classes("kl", kl_N, batch)
        if self.entropy:
            assert outputs.entropy_E is not None, "the loop asks for the entropy this objective needs"
            entropy_N = outputs.summed(outputs.entropy_E)
            loss = loss - present(ENTROPY, self.entropy, batch) * entropy_N.sum()
            total = entropy_N.detach().sum()
            metrics |= {"entropy/token": (total, tokens), "entropy/answer": (total, n)}
        return Loss(loss, metrics)


def present(name: str, weight: float | Adaptive, batch: Batch) -> float:
    """A weight as it is at this step."""
    return batch.coefficients.get(name, weight.initial) if isinstance(weight, Adaptive) else weight


def of_classes(name: str, value_N: torch.Tensor, batch: Batch) -> Metrics:
    """A sum per answer as a mean over the tokens of each class of answers, where they have classes."""
    import torch

    if max(batch.ranks, default=-1) < 0:
        return {}
    # Answers of no class add to a row behind the others.
    classes = max(batch.ranks) + 1
    ranks_N = torch.tensor([classes if rank < 0 else rank for rank in batch.ranks], device=value_N.device)
    sums_K, tokens_K = (
        x.new_zeros(classes + 1).index_add(0, ranks_N, x) for x in (value_N.detach(), batch.counts_N.to(value_N.dtype))
    )
    present = sorted(set(batch.ranks) - {-1})
    return {f"{name}/class {rank}": (sums_K[rank], tokens_K[rank]) for rank in present}
