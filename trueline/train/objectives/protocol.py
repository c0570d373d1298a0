"""What an objective is: the only thing a training method adds to the loop.

An objective is a frozen dataclass: at once configuration, callable and identity. It sees the outputs of one forward
pass over a micro-batch and returns a *sum*; the loop divides by the objective's own weight of the whole optimiser step,
counted over all micro-batches and processes before the first forward pass, so that neither accumulation nor the number
of processes changes a result.

It keeps out of devices, optimisers and text. Nothing here imports torch when a recipe is only planned.

Shape suffixes: N sequences of the micro-batch, P pairs of it, E scored tokens, H heads, X probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trueline.errors import UserError, closest

if TYPE_CHECKING:
    import torch

    from trueline.trie import Outputs, Trie

Metrics = dict[str, tuple[Any, Any]]
"""Name -> (sum, count), numbers or scalar tensors: the loop adds both over everything and reports their quotient."""


@dataclass(eq=False)
class Batch:
    """A micro-batch as objectives see it, known in full before the forward pass.

    keys: content hash of each example. chosen_P, rejected_P: sequence indices of each pair's first and second answer
    (empty where examples hold one answer). p_P: probability that the first is the better one. counts_N: scored tokens
    of each sequence. reference_logps_N: summed log-probs under the reference, where the objective needs them.
    rewards_NH: what the heads, named `heads`, read at each sequence's last token, filled in after the forward pass
    where the objective needs "reward"; rewards_N is the first head's column. ranks: the class that each sequence's
    condition says, -1 for none. reference_trie: the same answers after the bare prompts, where the objective needs
    "stripped". coefficients: those of an objective that are `Adapting`, by name, as they are at this step. given:
    numbers of each scored token, [E] by name, where rows carry such ("rollout"). values_E: what the head reads at the
    state that predicts each scored token, where the objective needs "values".

    Where the objective needs "labels": labels_NH is what each sequence was scored for the attribute of each head's name
    (NaN: by nobody), probe_rewards_XH what the heads read at tokens of answers, probe_seq_X of which sequence, and
    probe_weight_X how much of the sequence's loss it stands for (they add to 1). probe_at_X says where the token's
    hidden state lies: among those that predict a scored token, then those of the last tokens.
    """

    trie: Trie
    keys: Sequence[str]
    counts_N: torch.Tensor
    chosen_P: torch.Tensor
    rejected_P: torch.Tensor
    p_P: torch.Tensor
    reference_logps_N: torch.Tensor | None = None
    rewards_NH: torch.Tensor | None = None
    heads: tuple[str, ...] = ()
    labels_NH: torch.Tensor | None = None
    probe_rewards_XH: torch.Tensor | None = None
    probe_seq_X: torch.Tensor | None = None
    probe_at_X: torch.Tensor | None = None
    probe_weight_X: torch.Tensor | None = None
    ranks: tuple[int, ...] = ()
    reference_trie: Trie | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, torch.Tensor] = field(default_factory=dict)
    values_E: torch.Tensor | None = None

    @property
    def better_N(self) -> torch.Tensor:
        """How much each sequence is an example to follow: 1, and in pairs the probability that it is the better one."""
        import torch

        better_N = torch.ones(self.n, dtype=self.p_P.dtype, device=self.p_P.device)
        if self.p_P.numel():
            better_N[self.chosen_P], better_N[self.rejected_P] = self.p_P, 1 - self.p_P
        return better_N

    @property
    def rewards_N(self) -> torch.Tensor | None:
        """What the only (or first) head reads."""
        return None if self.rewards_NH is None else self.rewards_NH[:, 0]

    def reward(self, head: str = "") -> torch.Tensor:
        """What the head of this name ("": the first) reads, [N]. Raises `UserError` where there is no such head."""
        assert self.rewards_NH is not None, "the loop provides the heads that an objective needs"
        if head and head not in self.heads:
            cure = closest(head, list(self.heads))
            raise UserError(f'the head "{head}"', "there is none of this name", f"one of {', '.join(self.heads)}", cure)
        return self.rewards_NH[:, self.heads.index(head) if head else 0]

    @property
    def n(self) -> int:
        """How many sequences."""
        return self.trie.n


@dataclass
class Loss:
    """A sum over the micro-batch (a scalar tensor with a gradient) and what to report of it.

    A loss of several means is a vector of sums, as long as the objective's weight.
    """

    sum: torch.Tensor
    metrics: Metrics = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """A training loss.

    `needs` names what the loop must provide: "logps" (log-probs of scored tokens), "reference" (the reference policy's
    summed log-probs), "reward" (heads that read each sequence at its last token, an end-of-turn), "pairs" (examples of
    two answers), "reference_model" (the reference policy itself, beside the policy: `outputs.kl_E`), "stripped" (it
    reads the prompts without their conditions, and may know fewer tokens), "reverse" (the divergence is KL(policy ||
    reference)), "entropy" (`outputs.entropy_E`), "labels" (scores of attributes, and heads read at `probes` tokens of
    each answer), "rollout" (answers of its own, scored: `online`), "values" (a head read before every token). `weight`
    is what the summed loss is divided by (pairs, sequences, tokens); it depends on the batch alone. A tuple of weights
    divides a vector of sums, one by one; a sum whose weight is 0 over the whole step has nothing in it and counts
    nothing.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def weight(self, batch: Batch) -> float | tuple[float, ...]: ...

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss: ...


@runtime_checkable
class Adapting(Protocol):
    """An objective some of whose coefficients move with what it reports, once per optimiser step.

    The loop keeps them: it hands them to the objective as `batch.coefficients`, logs and checkpoints them. `begin` are
    those of the first step, {} where all are fixed. After each step `adapt` gives the next ones, from the present ones
    and the (sum, count) of each metric that `watches` names, over all micro-batches and processes.
    """

    @property
    def watches(self) -> tuple[str, ...]: ...

    def begin(self) -> dict[str, float]: ...

    def adapt(self, now: Mapping[str, float], seen: Mapping[str, tuple[float, float]]) -> dict[str, float]: ...


def as_vector(weight: float | tuple[float, ...]) -> tuple[float, ...]:
    """An objective's weights, however many."""
    return weight if isinstance(weight, tuple) else (weight,)


def name_of(objective: Objective) -> str:
    """What an objective is called where it has to be short."""
    return str(getattr(objective, "name", type(objective).__name__.lower()))


def pair_metrics(prefix: str, left_P: torch.Tensor, right_P: torch.Tensor, p_P: torch.Tensor) -> Metrics:
    """Reports on a pair of scores: each side's mean, the margin, and how often the preferred side scores higher.

    The preferred side is the first where p > 1/2, the second where p < 1/2; "chosen" and "rejected" are named after
    it. Equal scores count half, pairs without a preference (p = 1/2) count in margin and sides but not in accuracy.
    """
    import torch

    n = float(left_P.numel())
    swapped_P = p_P < 0.5
    chosen_P = torch.where(swapped_P, right_P, left_P).detach()
    rejected_P = torch.where(swapped_P, left_P, right_P).detach()
    decided_P = p_P != 0.5
    right = (torch.sign(chosen_P - rejected_P) + 1) / 2 * decided_P
    return {
        f"{prefix}/chosen": (chosen_P.sum(), n),
        f"{prefix}/rejected": (rejected_P.sum(), n),
        f"{prefix}/margin": ((chosen_P - rejected_P).sum(), n),
        f"{prefix}/accuracy": (right.sum(), decided_P.sum()),
    }
