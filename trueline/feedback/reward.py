"""`Reward`: the critic that reads a preference head or a reward model.

    judge(samples, Reward(aligned))              a policy trained with DPH, or a reward model trained with BradleyTerry
    judge(samples, Reward(rated, "helpfulness")) one of several heads

The reward is read at the end-of-turn that closes the answer; an answer that was cut is closed for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trueline.errors import UserError
from trueline.feedback.reading import PolicyCritic
from trueline.fingerprint import added
from trueline.records import Completion

if TYPE_CHECKING:
    from trueline import trie
    from trueline.models import Loaded


@dataclass(frozen=True)
class Reward(PolicyCritic):
    """Scores every completion by the head called `head` ("": the only or first one) of `policy`.

    tokens: of a longer conversation only the last so many are read, as `train(..., max_length=tokens, long="left")`
    trains it; 0 reads all, and says nothing of one that is longer than the model.

    Raises `UserError` where the policy has no heads, or none of that name.
    """

    head: str = ""
    tokens: int = added(0)

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise UserError("Reward(tokens=...)", f"got {self.tokens}", "a number of tokens, or 0 for all")

    @property
    def name(self) -> str:
        return f"reward:{self.policy.name}" + (f":{self.head}" if self.head else "")

    def check(self, loaded: Loaded) -> None:
        from trueline import heads

        heads.column(heads.require(loaded), self.head, "Reward(head=...)")

    def answer(self, completion: Completion) -> bool:
        return True

    def read(self, loaded: Loaded, sequences: Sequence[trie.Sequence]) -> Sequence[float]:
        from trueline import heads

        column = heads.column(heads.require(loaded), self.head, "Reward(head=...)")
        return heads.rewards(loaded, sequences)[:, column].tolist()
