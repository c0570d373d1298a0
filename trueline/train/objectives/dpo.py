"""Direct preference optimisation, with the variants that the RLAIF study and its reference code use.

Log-probs are sums over an answer's tokens, end-of-turn included. Only the loss lives here: where the reference's
log-probs come from is `score`'s business.

Shape suffixes: N sequences, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trueline.errors import UserError
from trueline.train.objectives.protocol import Loss, pair_metrics

if TYPE_CHECKING:
    import torch

    from trueline.train.objectives.protocol import Batch
    from trueline.trie import Outputs


@dataclass(frozen=True)
class DPO:
    """With h = (log pi(w) - log pi(l)) - (log ref(w) - log ref(l)) for a winner w and a loser l:

    loss "sigmoid": -(1 - e) log s(b h) - e log s(-b h), with b = beta and e = label_smoothing (e > 0 is the
    conservative loss); "robust": the same divided by beta, as the RLAIF code has it (not the unbiased loss that other
    toolkits call robust); "ipo": (h - 1/(2 b))^2 on *summed* log-probs.

    reference_free: the reference's log-ratio is taken as 0 in the loss (reported rewards keep the true one).
    importance: each pair is multiplied by exp(log pi(l) - log ref(l)), without gradient (not for "ipo").
    sft: lambda of a term -lambda log pi(w), the winner's summed log-prob.

    A pair carries p, the probability that its first answer is the better one; the loss is the expectation over who
    wins, p loss(first wins) + (1 - p) loss(second wins): 1 and 0 are hard labels, 1/2 is a tie, which pulls h to 0.

    Worked: b = 0.05, log pi = (-10, -12), log ref = (-11, -11), so h = 2: sigmoid -log s(0.1) = 0.644396660; rewards
    b (log pi - log ref) = +0.05 and -0.05.

    Sources: Rafailov et al. 2023; Mitchell 2023 (conservative); Azar et al. 2023 (IPO); Sharma et al. 2024 (RLAIF).
    """

    beta: float = 0.1
    loss: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False
    importance: bool = False
    sft: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError("DPO(beta=...)", f"got {self.beta}", "a number above 0")
        if self.loss not in ("sigmoid", "ipo", "robust"):
            raise UserError("DPO(loss=...)", f'got "{self.loss}"', '"sigmoid", "ipo" or "robust"')
        if not 0 <= self.label_smoothing <= 0.5:
            raise UserError("DPO(label_smoothing=...)", f"got {self.label_smoothing}", "a share between 0 and 0.5")
        if self.sft < 0:
            raise UserError("DPO(sft=...)", f"got {self.sft}", "a weight of 0 or more")
        if self.importance and self.loss == "ipo":
            raise UserError("DPO(importance=True)", 'has no effect with loss="ipo"', "", "Leave one of the two out.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logps", "reference", "pairs"})

    def weight(self, batch: Batch) -> float:
        return float(batch.p_P.numel())

    def pair_loss(self, h_P: torch.Tensor) -> torch.Tensor:
        """The loss of each pair if its first answer is the winner, from h of the first against the second."""
        import torch.nn.functional as F

        if self.loss == "ipo":

            def one(h: torch.Tensor) -> torch.Tensor:
                return (h - 1 / (2 * self.beta)) ** 2
        else:
            scale = 1 / self.beta if self.loss == "robust" else 1.0

            def one(h: torch.Tensor) -> torch.Tensor:
                return -F.logsigmoid(self.beta * h) * scale

        if not self.label_smoothing:
            return one(h_P)
        return (1 - self.label_smoothing) * one(h_P) + self.label_smoothing * one(-h_P)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        assert batch.reference_logps_N is not None, "the loop provides the reference this objective needs"
        logps_N, reference_N, p_P = outputs.logps_N, batch.reference_logps_N, batch.p_P
        ratios_N = logps_N - reference_N
        first, second = batch.chosen_P, batch.rejected_P
        delta_N = logps_N if self.reference_free else ratios_N
        h_P = delta_N[first] - delta_N[second]
        wins_P, loses_P = self.pair_loss(h_P), self.pair_loss(-h_P)
        if self.importance:
            wins_P = wins_P * ratios_N[second].detach().exp()
            loses_P = loses_P * ratios_N[first].detach().exp()
        loss_P = p_P * wins_P + (1 - p_P) * loses_P
        if self.sft:
            loss_P = loss_P - self.sft * (p_P * logps_N[first] + (1 - p_P) * logps_N[second])
        ratios_N, logps_N = ratios_N.detach(), logps_N.detach()
        n = float(p_P.numel())
        metrics = pair_metrics("rewards", self.beta * ratios_N[first], self.beta * ratios_N[second], p_P)
        sides = pair_metrics("logps", logps_N[first], logps_N[second], p_P)
        metrics |= {name: sides[name] for name in ("logps/chosen", "logps/rejected")}
        # Answers of the data, not of the policy: a cheap sign of drift, not an unbiased estimate of the divergence.
        metrics["drift/token"] = (-ratios_N.sum(), batch.counts_N.sum())
        metrics["loss/pair"] = (loss_P.detach().sum(), n)
        return Loss(loss_P.sum(), metrics)
