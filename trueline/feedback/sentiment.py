"""`Sentiment`: how friendly a text is, by the lexicon and rules of VADER. No model, no network, microseconds a text.

    judge(samples, Sentiment())

VADER (Hutto and Gilbert 2014) was made for short English texts of social media. It counts words: irony, and what is
said about whom, it does not see. Needs the extra `critics` (vaderSentiment, which ships its lexicon).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueline.feedback.texts import TextCritic, installed

PACKAGE = "vaderSentiment"


@dataclass(frozen=True)
class Sentiment(TextCritic):
    """Scores every completion with VADER's compound value: -1 the most hostile, 0 neutral, 1 the friendliest."""

    @property
    def name(self) -> str:
        return "sentiment"

    def identity(self) -> dict[str, str]:
        """Rules and lexicon are those of the installed version."""
        return {PACKAGE: installed(PACKAGE, "Sentiment()")}

    def scores(self, texts: Sequence[str]) -> list[float | str]:
        return [float(_analyzer().polarity_scores(text)["compound"]) for text in texts]


@functools.cache
def _analyzer() -> Any:
    installed(PACKAGE, "Sentiment()")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
