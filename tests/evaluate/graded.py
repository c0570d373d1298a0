"""Graded answers written down, for the tests of what answers are like: no model, every number can be worked by hand.

graded(scores=((0.9, 0.1), (0.5, None)))        two prompts of two answers, scored by "gold"
"""

from __future__ import annotations

from collections.abc import Sequence

from trueline.pipeline import Work, stage
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.store import Groups

Scores = Sequence[Sequence[float | None]]


def groups(
    scores: Scores, texts: Sequence[Sequence[str]] = (), labels: Sequence[Sequence[str | None]] = (),
    by: str = "gold", ask: str | None = None, first: int = 0, question: str = "question",
) -> list[Group]:  # fmt: skip
    """A group per row of scores: prompts q0, q1, ... numbered from `first`, answers as in `texts` or numbered."""
    out = []
    for n, row in enumerate(scores):
        said = [texts[n][i] if texts else f"answer {i} of {n}" for i in range(len(row))]
        feedback: list[tuple[Feedback, ...]] = [(Feedback(by, score),) for score in row]
        if labels:
            feedback = [(*f, Feedback("grade", label=label)) for f, label in zip(feedback, labels[n], strict=True)]
        prompt = Prompt.of(f"{question} {n + first}", id=f"q{n + first}")
        out.append(Group(prompt, tuple(Completion(t, "policy", ask=ask) for t in said), tuple(feedback)))
    return out


@stage(Groups, name="graded")
def graded(
    work: Work,
    scores: tuple[tuple[float | None, ...], ...],
    texts: tuple[tuple[str, ...], ...] = (),
    labels: tuple[tuple[str | None, ...], ...] = (),
    by: str = "gold",
    ask: str | None = None,
    first: int = 0,
    question: str = "question",
) -> None:
    """`groups` as an artefact."""
    made = groups(scores, texts, labels, by, ask, first, question)
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", made))
    work.count("samples", sum(len(group.completions) for group in made))
