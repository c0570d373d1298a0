"""Several objectives at once, on one forward pass: what each says of it, weighed and added.

Each part is divided by its own count over the whole optimiser step, so that a mean over tokens beside a mean over pairs
is each what it is alone, whatever the micro-batches and processes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trueline.errors import UserError
from trueline.train.objectives.protocol import Adapting, Loss, Metrics, Objective, as_vector

if TYPE_CHECKING:
    from trueline.train.objectives.protocol import Batch
    from trueline.trie import Outputs


@dataclass(frozen=True, init=False)
class Sum:
    """weight * objective, added up: `Sum((DPH(), 1.0), (DPO(beta=0.1), 0.5))`. An objective alone weighs 1.

    A part of weight 0 is watched: what it reports is reported, and it trains nothing. Its needs are met like those of
    the others, so a head or a reference is there to be read. Metrics of one name from several parts carry the part's
    name in front, "dph/rewards/margin" and "dpo/rewards/margin".

    Worked: token losses of 6 over 3 tokens and pair losses of 1 over 2 pairs, weights 1 and 0.5: 2 + 0.25 = 2.25.
    """

    parts: tuple[tuple[Objective, float], ...]

    def __init__(
        self, *given: tuple[Objective, float] | Objective, parts: tuple[tuple[Objective, float], ...] = ()
    ) -> None:
        found: list[tuple[Objective, float]] = []
        for part in (*given, *parts):
            objective, weight = part if isinstance(part, tuple | list) and len(part) == 2 else (part, 1.0)
            if isinstance(objective, type) or not isinstance(objective, Objective):
                wanted = "an objective, or (objective, weight)"
                raise UserError("Sum(...)", f"got {part!r}", wanted, "Such as Sum((DPH(), 1.0), (DPO(), 0.5)).")
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"Sum(({type(objective).__name__}(...), {weight}))", "got that weight", "0 or more")
            inner = objective.parts if isinstance(objective, Sum) else ((objective, 1.0),)
            found += [(each, weight * times) for each, times in inner]
        if not any(weight for _, weight in found):
            raise UserError("Sum(...)", "no part has a weight", "at least one above 0")
        if any(isinstance(part, Adapting) and part.begin() for part, _ in found):
            raise UserError("Sum(...)", "a part's own weights are steered", "fixed ones", "Give it numbers.")
        compared = [part.needs for part, _ in found if "reference_model" in part.needs]
        if len({needs & {"stripped", "reverse"} for needs in compared}) > 1:
            got = "its parts compare with the reference in different directions, or over different prompts"
            raise UserError("Sum(...)", got, "one way", "Give them the same direction and strip.")
        object.__setattr__(self, "parts", tuple(found))

    @property
    def name(self) -> str:
        """Its parts' names, those that train."""
        return "+".join(name for name, (_, weight) in zip(self.names, self.parts, strict=True) if weight)

    @property
    def names(self) -> tuple[str, ...]:
        """What each part is called in metrics: its type, numbered where there are several of one."""
        kinds = [type(objective).__name__.lower() for objective, _ in self.parts]
        count = Counter(kinds)
        return tuple(f"{k}{kinds[: i + 1].count(k)}" if count[k] > 1 else k for i, k in enumerate(kinds))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(objective.needs for objective, _ in self.parts))

    @property
    def moves(self) -> frozenset[str]:
        """What those of its parts read that train."""
        return frozenset().union(*(objective.needs for objective, weight in self.parts if weight))

    @property
    def probes(self) -> int:
        """How many tokens of an answer heads are read at, where a part asks for that."""
        return max(getattr(objective, "probes", 0) for objective, _ in self.parts)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The labels that its parts read; () is those of all heads."""
        found = [getattr(objective, "attributes", ()) for objective, _ in self.parts if "labels" in objective.needs]
        return tuple(name for names in found for name in names) if all(found) else ()

    def weight(self, batch: Batch) -> tuple[float, ...]:
        """What each sum of each part that trains is divided by."""
        return tuple(x for objective, weight in self.parts if weight for x in as_vector(objective.weight(batch)))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        import torch

        sums: list[torch.Tensor] = []
        reports: list[Metrics] = []
        for objective, weight in self.parts:
            with torch.set_grad_enabled(bool(weight) and torch.is_grad_enabled()):
                loss = objective(outputs, batch)
            reports.append(loss.metrics)
            if weight:
                sums.append(weight * loss.sum.reshape(-1))
        shared = Counter(name for metrics in reports for name in metrics)
        metrics = {
            f"{part}/{name}" if shared[name] > 1 else name: pair
            for part, report in zip(self.names, reports, strict=True)
            for name, pair in report.items()
        }
        return Loss(torch.cat(sums), metrics)
