"""Reward quantiles: which answers are the best fifth. Quark (Lu et al. 2022, arXiv 2205.13636) cuts all answers there
are, ALT (Lloret et al. 2024, arXiv 2407.16970) each prompt's own.

Scores are sorted, the highest first, ties in the order in which they were sampled, and cut into k blocks of
floor(n / k); the remainder joins the last block, the worst. Fewer answers than blocks are all in the worst one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from trueline.conditions.protocol import Described
from trueline.errors import UserError
from trueline.records import Group

Scope = Literal["prompt", "global"]


def ranks(scores: Sequence[float | None], k: int) -> list[int | None]:
    """The quantile of each score, 0 the highest; None where there is no score (or one that is not a number).

    >>> ranks([1.0, 2.0, None, 1.0, 2.0], 4)            # in order: the two 2.0, then the two 1.0, as they came
    [2, 0, None, 3, 1]
    >>> [ranks([float(-i) for i in range(14)], 5).count(rank) for rank in range(5)]
    [2, 2, 2, 2, 6]
    """
    known = [(i, score) for i, score in enumerate(scores) if score is not None and not math.isnan(score)]
    out: list[int | None] = [None] * len(scores)
    size = len(known) // k
    for place, (index, _) in enumerate(sorted(known, key=lambda item: -item[1])):
        out[index] = min(place // size, k - 1) if size else k - 1
    return out


def described(groups: Sequence[Group], texts: Sequence[str], scope: Scope, by: str) -> list[list[Described | None]]:
    """Each completion by the text of its quantile, within its group or among all completions of all groups.

    texts: one per quantile, the best first. by: the critic whose scores count, "" is any.
    """
    scores = [group.scores(by or None) for group in groups]
    if scope == "prompt":
        found = [ranks(said, len(texts)) for said in scores]
    else:
        flat = iter(ranks([score for said in scores for score in said], len(texts)))
        found = [[next(flat) for _ in said] for said in scores]
    return [[None if rank is None else Described(texts[rank], rank) for rank in said] for said in found]


def check_scope(name: str, scope: Any) -> None:
    """Refuse anything but the two scopes there are."""
    if scope not in ("prompt", "global"):
        raise UserError(f"{name}(scope=...)", f"got {scope!r}", '"prompt" or "global"')
