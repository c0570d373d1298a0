"""`Profanity`: how little a text swears or insults, by the small linear model that alt-profanity-check ships.

    judge(samples, Profanity())

A support vector machine over words, trained by others on about 200,000 comments labelled by people. It sees words, not
what is meant, and is no judge of everything that Perspective calls toxic; how far the two agree stands in
docs/critics.md. Needs the extra `critics`.

A caution: importing that package unpickles two joblib files that it brings along (nothing else in trueline unpickles
anything). They are as trustworthy as the installed package itself, and are only read by the version of scikit-learn
that wrote them, which is checked before.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trueline.errors import UserError
from trueline.feedback.texts import EXTRA, TextCritic, installed

PACKAGE = "alt-profanity-check"
WRITTEN_BY = "scikit-learn"


@dataclass(frozen=True)
class Profanity(TextCritic):
    """Scores every completion with 1 less the probability that it is offensive: 1 clean, 0 foul."""

    @property
    def name(self) -> str:
        return "profanity"

    def identity(self) -> dict[str, str]:
        """The model is that of the installed version."""
        return {PACKAGE: installed(PACKAGE, "Profanity()")}

    def scores(self, texts: Sequence[str]) -> list[float | str]:
        return [1.0 - float(p) for p in _model()(list(texts))]


@functools.cache
def _model() -> Callable[[list[str]], Any]:
    """texts -> probabilities. Raises `UserError` where another scikit-learn than the model's is installed."""
    installed(PACKAGE, "Profanity()")
    check_version(importlib.metadata.requires(PACKAGE) or [], importlib.metadata.version(WRITTEN_BY))
    from profanity_check import predict_prob

    found: Callable[[list[str]], Any] = predict_prob
    return found


def check_version(requires: Sequence[str], version: str) -> None:
    """Raise `UserError` unless scikit-learn is of a version that the package's requirements admit."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires):
        if requirement.name == WRITTEN_BY and not requirement.specifier.contains(version, prereleases=True):
            raise UserError(
                "Profanity()", f"{WRITTEN_BY} is {version}", f"{requirement}, which wrote the model",
                f"pip install 'trueline[{EXTRA}]' '{requirement}'",
            )  # fmt: skip
