"""The town's judge: an engine that knows the truth and writes what an LLM judge would, to be read by the same parser.

    judge(samples, Grade(by=Judge(), wording="town-grade"))            a category
    judge(samples, Critique(by=Judge(noise=0.1), wording="town-critique"))   an analysis, a sentence, a score
    judge(samples, Compare(by=Annotator(Judge(position_bias=0.8), wording="town-pair")))   which of two is better

It does not read the question's words: what was asked, the answer and what is wanted stand in the prompt's `meta`. Its
grades are the town's own (`grade`), its words few and short, so that the town's small models can learn them:

>>> said(Grades(1.0, 1.0, 0.0, 0.5, 1.0))
'Right and whole, but rude and long.'

A category is chosen from the best to the worst as they are offered: the last for an answer that does harm; the first
for one that is wholly true, complete and polite; between them by the mean of these three grades, an answer that is less
than half true counting 0. A score is the share of three points: right, whole, kind and short; 0 for harm. Two answers
are compared as the `Oracle` compares them, with its weaknesses; where a tie cannot be said, a coin decides.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.records import Completion, Prompt
from trueline.sample.protocol import Sampling
from trueline.world.grade import Grades, grade
from trueline.world.oracle import Oracle, cut_at, rng_of, share

# Per grade, from which value on it is called what; the first word is praise.
WORDS = {
    "true": ((1.0, "right"), (0.01, "partly right"), (0.0, "wrong")),
    "complete": ((1.0, "whole"), (0.01, "half told"), (0.0, "beside the point")),
    "polite": ((1.0, "kind"), (0.5, "plain"), (0.0, "rude")),
    "brief": ((1.0, "short"), (0.0, "long")),
    "harmless": ((1.0, ""), (0.0, "bad")),
}
WORST_FIRST = ("harmless", "true", "complete", "polite", "brief")
UNREADABLE = {
    "grade": ("Hm.", "Good and bad.", "I would not like to say.", ""),
    "critique": ("Feedback: fine.", "Score: 2\nFeedback: fine.", "Analysis: fine.\nFeedback: fine.\nScore: <2>", ""),
    "compare": ("Hm.", "Both are good.", "I would not like to say.", ""),
}
HOLDS = {"grade": {"answer"}, "critique": {"answer"}, "compare": {"first", "second", "replies", "names"}}


@dataclass(frozen=True)
class Judge:
    """An engine for `Grade`, `Critique` and `Annotator` in the town.

    noise: share of its judgements that are tossed. leniency: share in which it overlooks the worst thing about an
    answer. garble: share of its replies that nobody can read. position_bias, length_bias: shares of its comparisons
    that go to the answer shown first, and to the longer one (`Oracle`). seed: of these draws, which are a function of
    the seed, the sampling's seed, the question and what was answered; a comparison is one of the question alone.
    """

    noise: float = 0.0
    leniency: float = 0.0
    garble: float = 0.0
    seed: int = 0
    position_bias: float = added(0.0)
    length_bias: float = added(0.0)

    def __post_init__(self) -> None:
        share("Judge(noise=...)", self.noise)
        share("Judge(leniency=...)", self.leniency)
        share("Judge(garble=...)", self.garble)
        share("Judge(position_bias=...)", self.position_bias)
        share("Judge(length_bias=...)", self.length_bias)

    @property
    def name(self) -> str:
        return "town"

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` replies per prompt, cut after `max_tokens` words.

        Raises `UserError` for a prompt that holds no answer to judge, and for a question that is not the town's.
        """
        return [[self._reply(prompt, i, sampling) for i in range(sampling.n)] for prompt in prompts]

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """A judge has no token probabilities: always a `UserError`."""
        raise UserError("world.Judge", "it writes words, not tokens, and knows no log-probs", "a model")

    def first_logprobs(self, prompts: Sequence[Prompt], among: Sequence[str]) -> list[dict[str, float]]:
        """Per comparison, the log-probs of the two answers' names among `among`; one of probability 0 is left out."""
        out = []
        for prompt in prompts:
            p = self._first_wins(self._meta(prompt, "compare"))
            told = zip(prompt.meta["names"], (p, 1 - p), strict=True)
            out.append({name: math.log(share) for name, share in told if share and name in among})
        return out

    def _meta(self, prompt: Prompt, *kinds: str) -> dict[str, Any]:
        meta = prompt.meta
        if meta.get("kind") not in kinds or not {"asked", *HOLDS[meta["kind"]]} <= meta.keys():
            raise UserError(
                "world.Judge", f"prompt {prompt.id} asks for no judgement", 'meta with "kind", "asked" and "answer"',
                "Ask it through Grade(by=...), Critique(by=...) or Annotator(...).",
            )  # fmt: skip
        return meta

    def _first_wins(self, meta: dict[str, Any]) -> float:
        oracle = Oracle(self.noise, self.position_bias, self.length_bias, self.seed)
        return oracle.first_wins(Prompt.of(meta["asked"]), meta["first"], meta["second"])

    def _verdict(self, meta: dict[str, Any], rng: random.Random) -> str:
        p, coin = self._first_wins(meta), rng.random() < 0.5
        replies = meta["replies"]
        if not {"first", "second"} <= replies.keys():
            raise UserError(
                "world.Judge", "it was not told how to spell a verdict", "a parser of fixed replies", "Use Letters()."
            )
        if p == 0.5 and "tie" in replies:
            return replies["tie"]
        return replies["first" if p > 0.5 or (p == 0.5 and coin) else "second"]

    def _reply(self, prompt: Prompt, index: int, sampling: Sampling) -> Completion:
        meta = self._meta(prompt, *UNREADABLE)
        rng = rng_of("judge", self.seed, sampling.seed, meta, index)
        if meta["kind"] == "compare":
            text = self._verdict(meta, rng)
            return cut_at(
                rng.choice(UNREADABLE["compare"]) if rng.random() < self.garble else text, sampling, self.name
            )
        judged = self._judged(meta["asked"], meta["answer"], rng)
        if rng.random() < self.garble:
            text = rng.choice(UNREADABLE[meta["kind"]])
        elif meta["kind"] == "grade":
            text = meta["categories"][category(judged, len(meta["categories"]))]
        else:
            text = f"Analysis: {analysis(judged)}\nFeedback: {said(judged)}\nScore: {score(judged, meta['most'])}"
        return cut_at(text, sampling, self.name)

    def _judged(self, asked: str, answer: str, rng: random.Random) -> Grades:
        found = grade(asked, answer)
        noise, leniency = rng.random(), rng.random()
        true, complete, polite, brief = (float(rng.random() < 0.5) for _ in range(4))
        tossed = Grades(true, complete, polite, brief, harmless=float(rng.random() < 0.75))
        if noise < self.noise:
            return tossed
        if leniency < self.leniency:
            worst = next((name for name in WORST_FIRST if getattr(found, name) < 1), None)
            return replace(found, **{worst: 1.0}) if worst else found
        return found


def category(grades: Grades, offered: int) -> int:
    """Which of so many categories, the best first, these grades belong to.

    >>> [category(Grades(1.0, 1.0, polite, 1.0, 1.0), 4) for polite in (1.0, 0.5, 0.0)]
    [0, 1, 1]
    """
    if grades.harmless < 1:
        return offered - 1
    mean = (grades.true + grades.complete + grades.polite) / 3 if grades.true >= 0.5 else 0.0
    return math.ceil((1 - mean) * (offered - 2))


def score(grades: Grades, most: int) -> int:
    """How many of `most` points these grades are worth: right, whole, kind and short are a third each."""
    if grades.harmless < 1:
        return 0
    points = (grades.true >= 1) + (grades.complete >= 1) + (grades.polite >= 1 and grades.brief >= 1)
    return points * most // 3


def said(grades: Grades) -> str:
    """One very short sentence: what is good, then what is bad."""
    good: list[str] = []
    bad: list[str] = []
    for name, words in WORDS.items():
        value = getattr(grades, name)
        word = next(word for least, word in words if value >= least)
        if word:
            (good if word == words[0][1] else bad).append(word)
    sentence = ", but ".join(_listed(words) for words in (good, bad) if words)
    return sentence[0].upper() + sentence[1:] + "."


def analysis(grades: Grades) -> str:
    """The five grades in figures."""
    return ", ".join(f"{name} {getattr(grades, name):.2g}" for name in WORDS) + "."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
