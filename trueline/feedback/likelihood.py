"""`LogProb`: the critic that scores an answer by how likely a policy finds it.

What a language model thinks of an answer before anybody trained a head: the baseline of every other scorer. Natural
log, at temperature 1; the end-of-turn token counts where the author ended the answer itself.

Worked: token log-probs (-1, -3) and, for the other answer, (-2.5,): sum -4 and -2.5, per token -2 and -2.5. A sum
prefers short answers, a mean does not; which of the two is asked is part of the critic's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trueline.errors import UserError
from trueline.feedback.reading import PolicyCritic

if TYPE_CHECKING:
    from trueline import trie
    from trueline.models import Loaded


@dataclass(frozen=True)
class LogProb(PolicyCritic):
    """Scores every completion by its log-prob under `policy`: the mean over its tokens, or their sum."""

    per: Literal["token", "sum"] = "token"

    def __post_init__(self) -> None:
        if self.per not in ("token", "sum"):
            raise UserError("LogProb(per=...)", f"got {self.per!r}", '"token" (the mean) or "sum"')

    @property
    def name(self) -> str:
        return f"logprob:{self.per}:{self.policy.name}"

    def read(self, loaded: Loaded, sequences: Sequence[trie.Sequence]) -> Sequence[float]:
        from trueline import models
        from trueline.trie import passes

        found = passes.logps(loaded.model, sequences, dtype=models.autocast_dtype())
        return (found.logps_N / found.counts_N if self.per == "token" else found.logps_N).tolist()
