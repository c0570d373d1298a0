"""A coefficient that is steered: it grows where what it weighs is above a target, and shrinks where it is below.

Only the rule is here; the loop keeps the present value (`protocol.Adapting`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trueline.errors import UserError

MOST = 0.2
"""The largest error that a step answers to, as a share of the target."""


@dataclass(frozen=True)
class Adaptive:
    """coefficient *= 1 + clip(current / target - 1, -0.2, 0.2) * sequences / horizon, after each optimiser step.

    initial: the first step's coefficient. target, current: what is steered, summed over an answer's tokens and averaged
    over the answers of the step, in nats. sequences: answers of the step. horizon: answers after which a coefficient
    whose target is missed by a share has moved by about that share. A bonus, which is to grow where there is too little
    of what it weighs, moves the other way (`bonus`).

    Worked: 0.05 with target 3 and horizon 2500, a step of 32 answers at KL 4.5: error 0.5, of which 0.2 count, and 0.05
    * (1 + 0.2 * 32 / 2500) = 0.050128.

    Source: Ziegler et al. 2019 (the proportional controller); the numbers of Quark: KL 3, entropy 40, horizon 2500.
    """

    initial: float
    target: float
    horizon: float = 2500.0

    def __post_init__(self) -> None:
        for name in ("initial", "target", "horizon"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"Adaptive({name}=...)", f"got {value}", "a number above 0")

    def after(self, now: float, current: float, sequences: float, bonus: bool = False) -> float:
        """The coefficient after a step of `sequences` answers that came out at `current` on average."""
        error = min(max(current / self.target - 1, -MOST), MOST)
        # A step of more answers than the horizon is made for would turn a sign around.
        return now * max(0.0, 1 + (-error if bonus else error) * sequences / self.horizon)
