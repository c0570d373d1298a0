"""AlpacaEval's rule for showing each pair in one order only, bit for bit: chance is a function of the instruction.

    Compare(by=annotator, orders=1, order=AlpacaEvalOrder())

Which answer stands first is drawn by CPython's `random.Random` from a text made of a fixed word, the instruction and
the seed, so that every pair of one instruction is turned the same way, in any run and by whoever judges. Position bias
then cancels over many instructions and never within a pair; our default (both orders, averaged) cancels it in each. The
rule is here because published figures were made with it. Drawn likewise: who of a pool annotates, and label noise.

Worked: `switched("2+2")` is False, so its output_1 is shown first; `switched("2+3")` is True: output_2 is shown first,
and a verdict for what stands first is one for output_2.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from trueline.errors import UserError

T = TypeVar("T")
Side = Literal["left", "right"]


def switched(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval shows output_2 first.

    >>> [switched(text) for text in ("2+2", "1+1", "2+3", "How did US states get their names?")]
    [False, False, True, True]
    """
    return drawn("is_switched_outputs", instruction, seed, (False, True))


def flipped_label(instruction: str, p: float, seed: int = 0) -> int | None:
    """AlpacaEval's label noise (`p_label_flip`): None keeps the label, 1 or 2 is the output that wins instead of it.

    Worked: with p = 0.25 half of the labels are kept, and a quarter goes to each output.
    """
    return drawn("noisy_preference", instruction, seed, (None, 1, 2), (1 - 2 * p, p, p))


def chosen_annotator(instruction: str, names: Sequence[str], seed: int = 0) -> str:
    """Which annotator of a pool AlpacaEval asks about an instruction."""
    return drawn("annotator", instruction, seed, names)


def drawn(word: str, instruction: str, seed: int, among: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """One of `among`, a function of the other arguments alone: CPython's draw, seeded with their text."""
    return random.Random(f"{word}{instruction}{seed}").choices(among, weights)[0]


@dataclass(frozen=True)
class AlpacaEvalOrder:
    """For `Compare(orders=1, order=...)`: AlpacaEval's order, by the prompt's last message.

    output_1: which completion of a pair is AlpacaEval's output_1 (its reference; in `duel(model, reference, ...)` that
    is the right one). flip: probability with which a label becomes 1, and likewise 2, whatever was said
    (`p_label_flip`). seed: of both draws.
    """

    seed: int = 0
    output_1: Side = "left"
    flip: float = 0.0

    def __post_init__(self) -> None:
        if self.output_1 not in get_args(Side):
            raise UserError("AlpacaEvalOrder(output_1=...)", f"got {self.output_1!r}", '"left" or "right"')
        if not 0 <= self.flip <= 0.5:
            raise UserError("AlpacaEvalOrder(flip=...)", f"got {self.flip!r}", "a probability from 0 to 1/2")

    def left_first(self, instruction: str) -> bool:
        """Whether the left answer of a pair is shown first."""
        return switched(instruction, self.seed) is (self.output_1 == "right")

    def noisy(self, instruction: str, p: float | None) -> float | None:
        """The probability that the left answer wins, `p`, after label noise."""
        label = flipped_label(instruction, self.flip, self.seed) if self.flip else None
        return p if label is None else float((label == 1) is (self.output_1 == "left"))
