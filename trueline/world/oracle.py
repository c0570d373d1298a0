"""Those who know the town: a teacher who writes, an oracle who compares, and the gold reward as a critic.

`Teacher` is an `Engine`, `Oracle` a `Comparer`, `Gold` a `Critic`; each is a frozen dataclass, so its knobs are part
of the identity of whatever it made. All are functions of their arguments alone: chance is a hash of (seed, what was
asked), so that the same question gets the same answer in any order, in any process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trueline.errors import UserError, closest
from trueline.feedback.protocol import Verdict
from trueline.records import Completion, Feedback, Group, Message, Prompt, content_hash
from trueline.sample.protocol import Sampling
from trueline.world import phrases
from trueline.world.corpus import PERSONAS, Requests, answer, gold_answer
from trueline.world.grade import gold, request_of
from trueline.world.requests import phrasings, question

Style = Literal["good", "sloppy", "rude", "liar"]
STYLES = ("good", "sloppy", "rude", "liar")


def rng_of(*content: Any) -> random.Random:
    """Random numbers that are a function of JSON-able content."""
    return random.Random(content_hash(content, 32))


def share(where: str, value: float) -> None:
    """Raise `UserError` unless `value` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(where, f"got {value}", "a number from 0 to 1")


def cut_at(text: str, sampling: Sampling, author: str) -> Completion:
    """A text as it is written under `sampling`: up to a stop text, at most `max_tokens` words."""
    for stop in sampling.stop:
        text = text.split(stop, 1)[0]
    words = text.split()
    if len(words) > sampling.max_tokens:
        return Completion(" ".join(words[: sampling.max_tokens]), author=author, stopped="length")
    return Completion(text, author=author)


@dataclass(frozen=True)
class Teacher:
    """An engine that knows every answer.

    quality: share of the answers that earn the full gold reward; the others are a sloppy person's. style: "good", or
    one of the personas of the corpus, who then writes all answers by its own habits. seed: of its moods.
    """

    quality: float = 1.0
    style: Style = "good"
    seed: int = 0

    def __post_init__(self) -> None:
        share("Teacher(quality=...)", self.quality)
        if self.style not in STYLES:
            raise UserError("Teacher(style=...)", f'got "{self.style}"', "a style", closest(self.style, list(STYLES)))

    @property
    def name(self) -> str:
        return "teacher" if self.style == "good" else f"teacher-{self.style}"

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers per prompt, cut after `max_tokens` words. Raises `UserError` for a question not the
        town's.
        """
        return [[self._completion(prompt, i, sampling) for i in range(sampling.n)] for prompt in prompts]

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """A teacher has no token probabilities: always a `UserError`."""
        raise UserError(
            "world.Teacher", "it writes words, not tokens, and knows no log-probs", "a model", "Ask a Policy."
        )

    def _completion(self, prompt: Prompt, index: int, sampling: Sampling) -> Completion:
        said = [(m.role, m.content) for m in prompt.messages]
        return cut_at(self.write(prompt, rng_of("teacher", self.seed, sampling.seed, said, index)), sampling, self.name)

    def write(self, prompt: Prompt | str, rng: random.Random) -> str:
        """One answer."""
        request = request_of(prompt)
        if self.style != "good":
            return answer(request, PERSONAS[self.style], rng)
        if rng.random() >= self.quality:
            return answer(request, PERSONAS["sloppy"], rng)
        return gold_answer(request, rng.choice(phrases.OPENERS), rng.choice(phrases.REFUSALS))


def demonstrations(n: int, style: Style = "good", seed: int = 0, avoid: str = "") -> tuple[Message, ...]:
    """`n` questions of the train split, each answered by a teacher of this style: shots to put before a prompt.

    The first shots of a longer list are those of a shorter one, so that only the number differs. avoid: a question's
    key that is not demonstrated.
    """
    rng, teacher = rng_of("demonstrations", seed), Teacher(style=style)
    requests = Requests.of("train")
    messages: list[Message] = []
    while len(messages) < 2 * n:
        request = requests.draw(rng)
        text = question(request, rng.randrange(phrasings(request)))
        if request.key != avoid:
            said = teacher.write(text, rng_of("shot", seed, len(messages), text))
            messages += [Message("user", text), Message("assistant", said)]
    return tuple(messages)


@dataclass(frozen=True)
class Oracle:
    """A comparer that knows the gold reward, with the weaknesses of a judge.

    P(first shown wins) starts as 1, 0 or 1/2 by the gold rewards (`sharpness` softens it: the logistic function of
    sharpness times the difference, where it is finite). noise: share of the verdicts that are tossed like a coin.
    position_bias: share that go to the answer shown first whatever it says. length_bias: share that go to the longer
    answer. Position is decided before length, length before noise. seed: of these draws.

    >>> q = Prompt.of("What does Bebin drink?")
    >>> Oracle(position_bias=1.0).compare([(q, "Qwzx!", "No idea."), (q, "No idea.", "Qwzx!")])[1].p
    1.0
    """

    noise: float = 0.0
    position_bias: float = 0.0
    length_bias: float = 0.0
    seed: int = 0
    sharpness: float = math.inf

    def __post_init__(self) -> None:
        share("Oracle(noise=...)", self.noise)
        share("Oracle(position_bias=...)", self.position_bias)
        share("Oracle(length_bias=...)", self.length_bias)
        if not self.sharpness > 0:
            raise UserError("Oracle(sharpness=...)", f"got {self.sharpness}", "a number above 0")

    @property
    def name(self) -> str:
        return "town"

    def compare(self, items: Sequence[tuple[Prompt, str, str]]) -> list[Verdict]:
        """One verdict per item. Raises `UserError` for a question that is not the town's."""
        return [Verdict(self.first_wins(*item)) for item in items]

    def first_wins(self, prompt: Prompt, first: str, second: str) -> float:
        """The probability that the answer shown first is better, as this oracle says it."""
        rng = rng_of("oracle", self.seed, [(m.role, m.content) for m in prompt.messages], first, second)
        position, length, noise, coin = (rng.random() for _ in range(4))
        if position < self.position_bias:
            return 1.0
        if length < self.length_bias and len(first.split()) != len(second.split()):
            return float(len(first.split()) > len(second.split()))
        if noise < self.noise:
            return float(coin < 0.5)
        # Sums of the weights differ in the last bits between equal answers; a difference is at least a word's brevity.
        gap = round(gold(prompt, first) - gold(prompt, second), 9)
        if math.isinf(self.sharpness) or gap == 0:
            return 0.5 if gap == 0 else float(gap > 0)
        return 1 / (1 + math.exp(-self.sharpness * gap))


@dataclass(frozen=True)
class Gold:
    """The critic that scores every completion with its gold reward; it asks nobody, so it makes no critic calls."""

    @property
    def name(self) -> str:
        return "gold"

    def calls(self, groups: int, completions: int) -> int:
        """None: the tables are at hand."""
        return 0

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with one more feedback. Raises `UserError` for a question that is not the
        town's.
        """
        return [
            group.with_feedback(Feedback("gold", score=gold(group.prompt, c.text)) for c in group.completions)
            for group in groups
        ]
