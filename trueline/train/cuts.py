"""`CutBoth`: the cut of DPO's reference implementation, for comparisons with runs that were made with it.

    train(sft, Pairs(groups), DPO(), max_length=512, long=CutBoth(256))

Ours cut nothing but an answer's end, and by default drop the row: a chat whose beginning or whose end is missing is
another chat. This rule loses the end of the question (or its beginning) where the *longer* answer leaves it too little
room, and shortens both answers to what a prompt of the greatest length would leave them, however short the prompt is:
with 512 and 256, an answer of 412 tokens after a prompt of 100 is cut to 256, one of 411 is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trueline.errors import UserError


@dataclass(frozen=True)
class CutBoth:
    """Prompts are cut first, then answers.

    prompt: tokens that a cut prompt keeps, and that are set aside where answers are cut. keep: its "end" or its
    "start". Source: Rafailov et al. 2023, the authors' implementation.
    """

    prompt: int = 256
    keep: Literal["end", "start"] = "end"

    def __post_init__(self) -> None:
        if self.prompt < 1:
            raise UserError("CutBoth(prompt=...)", f"got {self.prompt}", "at least 1 token")
        if self.keep not in ("end", "start"):
            raise UserError("CutBoth(keep=...)", f"got {self.keep!r}", '"end" or "start"')

    def __call__(self, prompt: Sequence[int], answers: Sequence[int], max_length: int) -> tuple[list[int], int]:
        """(the tokens of the prompt that are kept, the room of every answer), for answers of so many tokens each.

        >>> prompt, room = CutBoth(256)(range(200), (401, 51), 512)
        >>> len(prompt), room
        (200, 256)
        """
        longest, kept = max(answers), list(prompt)
        if len(kept) + longest > max_length:
            kept = kept[-self.prompt :] if self.keep == "end" else kept[: self.prompt]
        if len(kept) + longest > max_length:
            return kept, max_length - self.prompt
        return kept, max_length - len(kept)
