"""The reward model's loss: a scalar head that ranks the better answer higher (Bradley and Terry 1952).

The head reads the final-norm hidden state at each sequence's last token, which is the end-of-turn token: the loop
renders every answer closed for an objective that needs "reward".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trueline.errors import UserError
from trueline.train.objectives.protocol import Loss, pair_metrics

if TYPE_CHECKING:
    from trueline.train.objectives.protocol import Batch
    from trueline.trie import Outputs


@dataclass(frozen=True)
class BradleyTerry:
    """-p log s(r1 - r2) - (1 - p) log s(r2 - r1) for rewards r1, r2 of a pair's answers; equal rewards cost ln 2.

    center: weight of (r1 + r2)^2, which keeps the rewards near 0 (they are defined up to a constant); 0 leaves it out.
    """

    center: float = 0.0

    def __post_init__(self) -> None:
        if self.center < 0:
            raise UserError("BradleyTerry(center=...)", f"got {self.center}", "a weight of 0 or more")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reward", "pairs"})

    def weight(self, batch: Batch) -> float:
        return float(batch.p_P.numel())

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        import torch.nn.functional as F

        assert batch.rewards_N is not None, "the loop provides the head this objective needs"
        first_P, second_P = batch.rewards_N[batch.chosen_P], batch.rewards_N[batch.rejected_P]
        margin_P = first_P - second_P
        loss_P = -batch.p_P * F.logsigmoid(margin_P) - (1 - batch.p_P) * F.logsigmoid(-margin_P)
        metrics = pair_metrics("rewards", first_P, second_P, batch.p_P)
        metrics["loss/pair"] = (loss_P.detach().sum(), float(batch.p_P.numel()))
        if self.center:
            loss_P = loss_P + self.center * (first_P + second_P) ** 2
        return Loss(loss_P.sum(), metrics)
