"""Groups with feedback, and groups held in memory as an artefact's are read."""

from __future__ import annotations

from dataclasses import dataclass

from trueline.records import Completion, Feedback, Group, Prompt


@dataclass(frozen=True)
class Held:
    """Records held in memory, read as an artefact's are."""

    records: tuple

    def read(self):
        return iter(self.records)


def scored(prompt, *scores, by="rule", texts=None):
    """A group whose answers are a, b, c, ... with these scores (None: the critic abstained)."""
    names = texts or [chr(ord("a") + i) for i in range(len(scores))]
    made = Group(Prompt.of(prompt), tuple(Completion(name) for name in names))
    return made.with_feedback(Feedback(by, score=score) for score in scores)


def labelled(prompt, *labels, by="grade"):
    made = Group(Prompt.of(prompt), tuple(Completion(f"answer {i}") for i in range(len(labels))))
    return made.with_feedback(Feedback(by, label=label) for label in labels)


def criticised(prompt, *said, by="critique"):
    """said: (text, score) per answer."""
    made = Group(Prompt.of(prompt), tuple(Completion(f"answer {i}") for i in range(len(said))))
    return made.with_feedback(Feedback(by, score=score, text=text) for text, score in said)


def ranks(described):
    return [[None if one is None else one.rank for one in row] for row in described]
