"""Views: pure functions from groups to training examples. The view and the objective are the method.

A view is a frozen dataclass over an artefact; calling `examples()` reads it. Nothing is left out silently: a row that
cannot teach (an abstention, a group without scores to choose by) is yielded with the reason in `skip` and counts as
dropped, a row the view was asked to leave out (a tie, a small margin) with the reason in `left_out`. Tokens, lengths
and masks are `rows`' business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from trueline.conditions.protocol import NO_CLASS
from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.records import Completion, Group, Message, content_hash

if TYPE_CHECKING:
    from trueline.store import Groups, Prompts


@dataclass(frozen=True)
class Answer:
    """One assistant turn: its text, and whether its author ended it (a cut answer never trains an end-of-turn)."""

    text: str
    ended: bool = True

    @classmethod
    def of(cls, completion: Completion) -> Answer:
        return cls(completion.text, completion.stopped == "stop")


@dataclass(frozen=True)
class Example:
    """What one row teaches.

    messages: the conversation before the answers. answers: one (a demonstration) or two (a pair). p: probability that
    answers[0] is the better of two. whole: every token is trained, not the answer alone (a document: `messages` as
    one conversation, or a single answer as plain text). turns: "all" trains the assistant's earlier turns in
    `messages` too. skip: why the row cannot teach; it is dropped and counted. left_out: why the view's own settings
    leave it out; it is counted, and not held against the data. labels: what the answer was scored, (attribute, score)
    each. condition: the rendered condition that stands in front of the prompt (`conditions`), "" for none; `messages`
    stay bare. rank: the class that the condition says, 0 the best, for reports; -1 for none. key: hash of condition,
    messages and answers, so that equal rows share their reference log-probs.

    >>> Example((Message("user", "Who bakes?"),), (Answer("Ada."), Answer("Go away."))).p
    1.0
    """

    messages: tuple[Message, ...]
    answers: tuple[Answer, ...] = ()
    p: float = 1.0
    whole: bool = False
    skip: str = ""
    left_out: str = ""
    turns: Literal["last", "all"] = "last"
    labels: tuple[tuple[str, float], ...] = ()
    condition: str = ""
    rank: int = NO_CLASS
    key: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            said = [(m.role, m.content) for m in self.messages]
            content = [said, [(a.text, a.ended) for a in self.answers], self.whole]
            # Left out where there is none, so that keys of the past stay what they are.
            content += [self.condition] if self.condition else []
            object.__setattr__(self, "key", content_hash(content, 24))


@runtime_checkable
class View(Protocol):
    """What `train` reads: a frozen dataclass whose fields name the artefacts it is a function of."""

    def examples(self) -> Iterator[Example]: ...


@runtime_checkable
class Pick(Protocol):
    """Which completions of a group are demonstrations: their indices, best first."""

    def __call__(self, group: Group) -> list[int]: ...


@dataclass(frozen=True)
class All:
    """Every completion."""

    def __call__(self, group: Group) -> list[int]:
        return list(range(len(group.completions)))


@dataclass(frozen=True)
class First:
    """The first completion."""

    def __call__(self, group: Group) -> list[int]:
        return [0] if group.completions else []


@dataclass(frozen=True)
class Best:
    """The `n` best completions of each group, by score where there are scores, else by mean preference.

    `by` names the critic whose word counts ("" is any). A completion on which every critic abstained is never picked; a
    group's only completion always is. Equal ones stay in the order in which they were sampled.
    """

    n: int = 1
    by: str = ""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError("Best(n=...)", f"got {self.n}", "at least 1")

    def __call__(self, group: Group) -> list[int]:
        if len(group.completions) == 1:
            return [0]
        values = group.scores(self.by or None)
        if all(value is None for value in values):
            values = mean_preference(group, self.by)
        known = [(-value, index) for index, value in enumerate(values) if value is not None]
        return [index for _, index in sorted(known)[: self.n]]


def expected_examples(view: View) -> int:
    """How many examples a view will give, as far as the counts of its artefacts tell: an estimate for the plan."""
    expected = getattr(view, "expected", None)
    return int(expected()) if expected is not None else 0


def expected_tokens(view: View, max_length: int) -> int:
    """Tokens of a view's examples, for the plan: from the texts' lengths where they are there, else at most."""
    n = expected_examples(view)
    sources = [x for x in (getattr(view, name, None) for name in ("groups", "prompts")) if x is not None]
    sources += getattr(view, "rounds", ())
    if not all(getattr(source, "made", False) for source in sources):
        return n * max_length * (2 if isinstance(view, Pairs) else 1)
    sizes = []
    for example in itertools.islice(view.examples(), 64):
        said = len(example.condition) + sum(len(m.content) for m in example.messages)
        # About four characters to a token, plus the markers of a turn.
        sizes.append(sum(min(max_length, (said + len(a.text)) // 4 + 8) for a in example.answers or (Answer(""),)))
    return n * sum(sizes) // max(1, len(sizes))


def mean_preference(group: Group, by: str = "") -> list[float | None]:
    """Of each completion, the mean probability that it beats what it was compared with; None: never compared."""
    wins: list[list[float]] = [[] for _ in group.completions]
    for preference in group.preferences:
        if preference.p is not None and (not by or preference.by == by):
            wins[preference.left].append(preference.p)
            wins[preference.right].append(1 - preference.p)
    return [sum(w) / len(w) if w else None for w in wins]


@dataclass(frozen=True)
class Demonstrations:
    """Answers to imitate: of each group those that `pick` chooses, one example each.

    turns: "last" trains the answer alone, "all" the assistant's earlier turns in the prompt too.
    """

    groups: Groups
    pick: Pick = field(default_factory=Best)
    turns: Literal["last", "all"] = added("last")

    def __post_init__(self) -> None:
        if self.turns not in ("last", "all"):
            raise UserError("Demonstrations(turns=...)", f'got "{self.turns}"', '"last" or "all"')

    def expected(self) -> int:
        """One example per group (every completion, for `All`)."""
        count = self.groups.count
        return count.get("samples" if isinstance(self.pick, All) else "groups", 0) * getattr(self.pick, "n", 1)

    def examples(self) -> Iterator[Example]:
        for group in self.groups.read():
            picked = self.pick(group)
            for index in picked:
                yield Example(group.prompt.messages, (Answer.of(group.completions[index]),), turns=self.turns)
            if not picked:
                reason = "no score or preference to choose by" if group.completions else "no completions"
                yield Example(group.prompt.messages, skip=reason)


@dataclass(frozen=True)
class AsAsked:
    """Every answer behind the condition that it was sampled under: what its author's log-probs are of.

    An example's key is that of the answer to the bare prompt, so that a reference's log-probs of
    `Demonstrations(groups, All())` meet them.
    """

    groups: Groups

    def expected(self) -> int:
        """One example per completion."""
        return self.groups.count.get("samples", 0)

    def examples(self) -> Iterator[Example]:
        for group in self.groups.read():
            for completion in group.completions:
                bare = Example(group.prompt.messages, (Answer.of(completion),))
                yield replace(bare, condition=completion.ask or "", key=bare.key)


@dataclass(frozen=True)
class Pairs:
    """Two answers and which is better: one example per preference of each group.

    A group without preferences but with scores gives one pair, its best against its worst. min_margin: pairs decided by
    less are left out; the margin is |2 p - 1| of a preference and the difference of two scores. ties: "soft" trains p =
    1/2 as what it is, "drop" leaves ties out. by: the critic whose preferences count ("" is any).
    """

    groups: Groups
    min_margin: float = 0.0
    ties: Literal["soft", "drop"] = "soft"
    by: str = ""

    def __post_init__(self) -> None:
        if self.ties not in ("soft", "drop"):
            raise UserError("Pairs(ties=...)", f'got "{self.ties}"', '"soft" or "drop"')
        if self.min_margin < 0:
            raise UserError("Pairs(min_margin=...)", f"got {self.min_margin}", "0 or more")

    def expected(self) -> int:
        """As many as there are preferences; before they are made, one for every two completions."""
        count = self.groups.count
        return count.get("preferences", max(count.get("groups", 0), count.get("samples", 0) // 2))

    def examples(self) -> Iterator[Example]:
        for group in self.groups.read():
            found = False
            for left, right, p, margin in self.decided(group):
                found = True
                answers = (Answer.of(group.completions[left]), Answer.of(group.completions[right]))
                skip = left_out = ""
                if p is None:
                    skip, p = "the critic abstained", 0.5
                elif margin < self.min_margin:
                    left_out = "decided by less than min_margin"
                elif p == 0.5 and self.ties == "drop":
                    left_out = "tie"
                yield Example(group.prompt.messages, answers, p, skip=skip, left_out=left_out)
            if not found:
                yield Example(group.prompt.messages, skip="no preference and no two scores")

    def decided(self, group: Group) -> Iterator[tuple[int, int, float | None, float]]:
        """(first, second, p, margin) of each comparison in the group."""
        preferences = [x for x in group.preferences if not self.by or x.by == self.by]
        for preference in preferences:
            p = preference.p
            yield preference.left, preference.right, p, abs(2 * p - 1) if p is not None else 0.0
        if preferences:
            return
        scores = group.scores(self.by or None)
        ranked = sorted((-score, index) for index, score in enumerate(scores) if score is not None)
        if len(ranked) >= 2:
            margin = ranked[-1][0] - ranked[0][0]
            yield ranked[0][1], ranked[-1][1], 1.0 if margin > 0 else 0.5, margin


@dataclass(frozen=True)
class Rated:
    """Answers and what they were scored for: one example per completion, its labels the scores by critic.

    The critics are the attributes ("helpfulness", "verbosity", ...); `attributes` names those that count, () is all.
    An attribute that a completion has no score for is left out of its labels; a completion without any is dropped.
    """

    groups: Groups
    attributes: tuple[str, ...] = ()

    def expected(self) -> int:
        """One example per completion."""
        return self.groups.count.get("samples", 0)

    def examples(self) -> Iterator[Example]:
        for group in self.groups.read():
            said = group.feedback or ((),) * len(group.completions)
            for completion, feedback in zip(group.completions, said, strict=True):
                scores = {f.by: f.score for f in feedback if f.score is not None}
                names = self.attributes or tuple(scores)
                labels = tuple((name, scores[name]) for name in names if name in scores)
                answers = (Answer.of(completion),)
                yield Example(group.prompt.messages, answers, labels=labels, skip="" if labels else "nobody scored it")


@dataclass(frozen=True)
class Documents:
    """Whole texts to predict token by token, as in pretraining: each prompt's messages are one document.

    form "chat": the messages as one conversation, every token trained, markers of the turns too. form "text": the
    messages' contents joined by blank lines, as plain text that ends with the end-of-turn token.
    """

    prompts: Prompts
    form: Literal["chat", "text"] = "chat"

    def __post_init__(self) -> None:
        if self.form not in ("chat", "text"):
            raise UserError("Documents(form=...)", f'got "{self.form}"', '"chat" or "text"')

    def expected(self) -> int:
        """One example per prompt."""
        return self.prompts.count.get("prompts", 0)

    def examples(self) -> Iterator[Example]:
        for prompt in self.prompts.read():
            if self.form == "chat":
                yield Example(prompt.messages, whole=True)
            else:
                text = "\n\n".join(m.content for m in prompt.messages)
                yield Example((), (Answer(text),), whole=True)
