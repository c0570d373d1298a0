"""The pool of described answers, and the view that trains on it: alignment by conditioning.

    Conditioned((judged,), QuantilePhrases.tldr(), PerClass(2))       one round, two answers of each quantile (ALT-RM)
    Conditioned(rounds, QuantileTokens.toxicity())                    every answer of all rounds (Quark)

Rounds are merged, the oldest first; what stands at the same messages is one prompt, however often it was drawn. The
condition describes the whole pool, so that quantiles are of the pool. Each picked answer becomes an example: the bare
prompt, the answer, and beside them the rendered condition, which nobody ever has to find again in a text.

What an answer's critic did not say is not made up: an answer on which it abstained is no example. Where everything is
trained it counts as dropped; where some are picked it counts as left out, like an answer in no class and a class that a
prompt has no answer of. A prompt whose answers all are without a description is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import msgspec

from trueline.conditions.protocol import NO_CLASS, Condition, Described
from trueline.errors import UserError
from trueline.records import Group, content_hash
from trueline.train.picks import Candidates, Everything, PerClass, PerPrompt, Picker, shuffled, tokens_of
from trueline.train.views import Answer, Example

if TYPE_CHECKING:
    from trueline.store import Groups

Floor = Literal["exact", "float"]

__all__ = ["Conditioned", "Entry", "Everything", "PerClass", "PerPrompt", "kept", "pool"]


@dataclass(eq=False)
class Entry:
    """One prompt of the pool with all its answers. lengths: tokens of each, None where they are not known; the answers
    themselves hold none, as a pool of many rounds has to fit into memory. key: hash of the prompt's messages."""

    key: str
    group: Group
    lengths: list[int | None]

    @classmethod
    def of(cls, group: Group) -> Entry:
        return cls(message_key(group), lean(group), [tokens_of(c) for c in group.completions])

    def extend(self, group: Group) -> None:
        """Put another group's answers behind these."""
        more = lean(group)
        completions = (*self.group.completions, *more.completions)
        feedback = (*self.group.feedback, *more.feedback)
        self.group = msgspec.structs.replace(self.group, completions=completions, feedback=feedback)
        self.lengths += [tokens_of(c) for c in group.completions]

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all answers but these."""
        completions = tuple(self.group.completions[i] for i in indices)
        feedback = tuple(self.group.feedback[i] for i in indices)
        self.group = msgspec.structs.replace(self.group, completions=completions, feedback=feedback)
        self.lengths = [self.lengths[i] for i in indices]


def message_key(group: Group) -> str:
    """What makes two prompts the same: their messages, whatever their ids."""
    return content_hash([(m.role, m.content) for m in group.prompt.messages])


def lean(group: Group) -> Group:
    """A group with one tuple of feedback per completion, and without what nobody reads any more."""
    completions = tuple(msgspec.structs.replace(c, tokens=None, logprobs=None) for c in group.completions)
    feedback = tuple(tuple(msgspec.structs.replace(f, raw=None) for f in said) for said in group.feedback)
    return Group(group.prompt, completions, feedback or ((),) * len(completions))


def kept(n: int, drop: float, floor: Floor = "exact") -> int:
    """How many of `n` answers stay where the share `drop` of them goes: the whole part of n (1 - drop).

    "exact" computes it as written; "float" as the authors' code, where rounding may lose one:

    >>> kept(10, 0.9), kept(10, 0.9, "float"), kept(10, 0.8), kept(10, 0.8, "float")
    (1, 0, 2, 1)
    """
    return int(n * (1 - drop)) if floor == "float" else int(n * (1 - Fraction(str(float(drop)))))


def pool(
    rounds: Sequence[Iterable[Group]], condition: Condition, drop: float = 0.0, seed: int = 0, floor: Floor = "exact"
) -> list[Entry]:
    """The entries of all rounds, prompts and answers in the order in which they came.

    Before a round is added, each class of each prompt's answers loses the share `drop`: random ones, chosen by the
    seed, the prompt, the class and the round. Answers on which a critic abstained are a class of their own here.
    """
    entries: dict[str, Entry] = {}
    for number, groups in enumerate(rounds):
        if number and drop > 0:
            entries = dropped(entries, condition, drop, f"{seed}\0{number}", floor)
        for group in groups:
            key = message_key(group)
            if key in entries:
                entries[key].extend(group)
            else:
                entries[key] = Entry.of(group)
    return list(entries.values())


def dropped(entries: dict[str, Entry], condition: Condition, drop: float, key: str, floor: Floor) -> dict[str, Entry]:
    """The entries with fewer answers, those without any gone."""
    for entry, said in zip(entries.values(), described(entries.values(), condition), strict=True):
        classes: dict[int | None, list[int]] = {}
        for index, one in enumerate(said):
            classes.setdefault(None if one is None else one.rank, []).append(index)
        stay = [
            shuffled(members, f"{key}\0{entry.key}\0{rank}")[: kept(len(members), drop, floor)]
            for rank, members in classes.items()
        ]
        entry.keep(sorted(index for members in stay for index in members))
    return {key: entry for key, entry in entries.items() if entry.group.completions}


def described(entries: Iterable[Entry], condition: Condition) -> list[list[Described | None]]:
    """What the condition says of each answer, the whole pool at once."""
    return condition.describe([entry.group for entry in entries])


@dataclass(frozen=True)
class Conditioned:
    """Described answers of one or several rounds: one example per picked answer.

    rounds: judged groups, the oldest first. condition: what describes the answers, the same that asks for them. pick:
    which answers of a prompt are trained. drop: the share of the older answers that goes before each newer round joins,
    0 keeps all (Quark against toxicity), 1 leaves the last round alone (ALT). seed: of what is dropped and picked.
    floor: how `drop` is rounded (`kept`).
    """

    rounds: tuple[Groups, ...]
    condition: Condition
    pick: Picker = field(default_factory=Everything)
    drop: float = 0.0
    seed: int = 0
    floor: Floor = "exact"

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, tuple) or not self.rounds:
            raise UserError("Conditioned(rounds)", f"got {self.rounds!r:.80}", "a tuple of groups", "Write (groups,).")
        if not isinstance(self.condition, Condition) or isinstance(self.condition, type):
            raise UserError("Conditioned(condition)", f"got {self.condition!r:.80}", "a condition: Labels(), ...")
        if not isinstance(self.pick, Picker) or isinstance(self.pick, type):
            raise UserError("Conditioned(pick=...)", f"got {self.pick!r:.80}", "a pick: Everything(), PerClass(2), ...")
        if not 0 <= self.drop <= 1:
            raise UserError("Conditioned(drop=...)", f"got {self.drop!r}", "a share from 0 to 1")
        if self.floor not in ("exact", "float"):
            raise UserError("Conditioned(floor=...)", f"got {self.floor!r}", '"exact" or "float"')
        classes = self.condition.classes
        if isinstance(self.pick, PerPrompt) and self.pick.fill == "none" and self.pick.n < classes:
            got, wanted = f"n={self.pick.n} answers over {classes} classes", f"{classes} or more"
            raise UserError("PerPrompt(n=...)", got, wanted, 'Or fill="class".')

    def expected(self) -> int:
        """What the pick takes of the answers that stay, were all prompts different."""
        last = len(self.rounds) - 1
        shares = [(1 - self.drop) ** (last - i) for i in range(last + 1)]
        counts = [(share, groups.count) for share, groups in zip(shares, self.rounds, strict=True) if share]
        prompts = sum(count.get("groups", 0) for _, count in counts)
        answers = sum(share * count.get("samples", 0) for share, count in counts)
        return round(prompts * self.pick.expected(answers / prompts, self.condition.classes)) if prompts else 0

    def examples(self) -> Iterator[Example]:
        rounds = self.rounds[-1:] if self.drop == 1 else self.rounds
        entries = pool([groups.read() for groups in rounds], self.condition, self.drop, self.seed, self.floor)
        for entry, said in zip(entries, described(entries, self.condition), strict=True):
            yield from self._of(entry, said)

    def _of(self, entry: Entry, said: Sequence[Described | None]) -> Iterator[Example]:
        messages, completions = entry.group.prompt.messages, entry.group.completions
        if all(one is None for one in said):
            yield Example(messages, skip="the critic abstained on all answers" if said else "no completions")
            return
        words = [len(completion.text.split()) for completion in completions]
        ranks = [None if one is None else one.rank for one in said]
        key = f"{self.seed}\0{entry.key}"
        picked = self.pick(Candidates(ranks, entry.lengths, words, self.condition.classes, key))
        for index in picked:
            one = said[index]
            if one is not None:
                condition = self.condition.render(one)
                yield Example(messages, (Answer.of(completions[index]),), condition=condition, rank=one.rank)
        everything = isinstance(self.pick, Everything)
        for index in sorted(set(range(len(ranks))) - set(picked)):
            answers = (Answer.of(completions[index]),)
            if ranks[index] == NO_CLASS:
                yield Example(messages, answers, left_out="in no class")
            elif ranks[index] is None and everything:
                yield Example(messages, answers, skip="the critic abstained")
            elif ranks[index] is None:
                yield Example(messages, answers, left_out="the critic abstained")
        if not everything:
            for rank in sorted(set(range(self.condition.classes)) - set(ranks)):
                yield Example(messages, left_out=f"no answer of class {rank}")
