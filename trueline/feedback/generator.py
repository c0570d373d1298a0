"""`ByGenerator`: the critic that knows who wrote each answer, and believes an order of the authors. It asks nobody.

    best, fair, poor = Prompted(large, "answering", 3), Prompted(large, "hedging", 3), Prompted(small, "hedging", 1)
    drawn = judge(gather((best, fair, poor), prompts, sampling), WellFormed())
    compared = judge(drawn, ByGenerator((best, fair, poor)))
    reward = train(start, Pairs(compared), BradleyTerry())

ALMoST's rules of thumb: a larger model, more demonstrations and better ones write better answers. That is an assumption
about generators, made into comparisons of answers; what it is worth is measured (`evaluate.audit`), never taken for
granted. Every preference carries why it is believed, one text per reason in `raw`:

    size: 13b-answering-3shot (1.3e+10) > 7b-hedging-1shot (7e+09)
    shots: 3 > 1
    demonstrations: answering > hedging
    against shots: 1 < 5                     where the order goes against a rule of thumb

Answers that `WellFormed` set aside and blank ones are compared with nothing. Which of the others are, and when the
length prior bars a comparison, is `pairing`'s business.

Source: ALMoST, Kim et al. 2023 (arXiv 2305.13735).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from trueline.errors import UserError
from trueline.feedback.pairing import SPREAD, Ranked, every, published
from trueline.feedback.protocol import SHAPE, meter, unfit
from trueline.records import Group, Preference

_NAME = re.compile(r"(?P<model>.+)-(?P<style>[^-]+)-(?P<shots>\d+)shot")
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?!\w)", re.IGNORECASE)
_UNITS = {"b": 1e9, "m": 1e6}
_LABEL = re.compile(r"[\w.+-]+-([0-9a-f]{8})\b")


@dataclass(frozen=True)
class Generator:
    """Who wrote: the name that completions are signed with, and what is known of it.

    model: the model's name. size: its parameters, 0 where not known. shots: None where nothing is known of any. style:
    what its demonstrations are called.

    >>> Generator.of("llama-2-13b-hf-Faithful-3shot")  # doctest: +ELLIPSIS
    Generator(author='llama-2-13b-hf-Faithful-3shot', model='llama-2-13b-hf', size=13000000000.0, shots=3, style=...
    """

    author: str
    model: str = ""
    size: float = 0
    shots: int | None = None
    style: str = ""

    @classmethod
    def of(cls, one: Any) -> Generator:
        """Of an engine, by what it says of itself; of a name MODEL-STYLE-Nshot, by that.

        Raises `UserError` for what is neither.
        """
        author = one if isinstance(one, str) else getattr(one, "name", None)
        if not isinstance(author, str) or not author:
            raise UserError("ByGenerator(tiers)", f"got {one!r}", "engines, or names that completions are signed with")
        if not isinstance(one, str) and isinstance(getattr(one, "shots", None), int):
            return cls(author, one.model, one.size or parameters(one.model), one.shots, one.style)
        found = _NAME.fullmatch(author)
        if found is None:
            return cls(author, author, parameters(author))
        model = found["model"]
        return cls(author, model, parameters(model), int(found["shots"]), found["style"])


def key(author: str) -> str:
    """What an author is known by: a policy by its digits alone, as its label may differ from recipe to recipe.

    >>> key("small-a6149ee0-good-5shot")
    'a6149ee0-good-5shot'
    """
    return _LABEL.sub(r"\1", author)


def parameters(model: str) -> float:
    """A model's parameters, from its name; 0 where it does not say.

    >>> [parameters(name) for name in ("llama-2-13b-hf", "SmolLM-135M", "gpt-2", "tiny-7b3c4d11")]
    [13000000000.0, 135000000.0, 0, 0]
    """
    found = _SIZE.findall(model)
    return float(found[-1][0]) * _UNITS[found[-1][1].lower()] if found else 0


def reasons(better: Generator, worse: Generator) -> list[str]:
    """Why the one is believed to write better than the other, and which rules of thumb say otherwise.

    >>> reasons(Generator("a", "m", 0, 1, "good"), Generator("b", "m", 0, 5, "good"))
    ['against shots: 1 < 5']
    """
    said = []
    if better.size and worse.size and better.size != worse.size:
        more = better.size > worse.size
        sizes = f"{better.model} ({better.size:.3g}) {'>' if more else '<'} {worse.model} ({worse.size:.3g})"
        said.append(f"{'' if more else 'against '}size: {sizes}")
    elif better.model != worse.model:
        said.append(f"model: {better.model} > {worse.model}")
    if better.shots is not None and worse.shots is not None and better.shots != worse.shots:
        more = better.shots > worse.shots
        numbers = f"{better.shots} {'>' if more else '<'} {worse.shots}"
        said.append(f"{'' if more else 'against '}shots: {numbers}")
    if better.style != worse.style and better.shots and worse.shots:  # without shots a style is not seen
        said.append(f"demonstrations: {better.style} > {worse.style}")
    return said or [f"author: {better.author} > {worse.author}"]


@dataclass(frozen=True)
class ByGenerator:
    """Prefers the answer whose author stands in the better tier.

    tiers: authors, the best first, as engines or by name; a tuple of several is a tie, of which none is compared with
    another. Authors that stand in no tier are left alone. pairs: "all" compares every two answers of different tiers
    that say different things; "almost" as ALMoST's release, which lets every tier win at most once per prompt. spread:
    the length prior bars a comparison whose better answer is the shorter one and shorter than mean - spread * standard
    deviation; None is the mode's own: no prior for "all", 1/2 for "almost"; math.inf never bars. belief: the
    probability that is given to the assumed order: 1, or what an audit found. set_aside_by: the critic whose labels
    say what is not used (`WellFormed`).

    The prior is a choice: it takes out comparisons that are wrong more often than others, and what it leaves teaches
    length. In the town (docs/almost.md) it raises agreement with gold from 70 to 73 %, and the share of pairs whose
    better answer is the longer one from 55 to 73 %.
    """

    tiers: tuple[Any, ...]
    pairs: Literal["all", "almost"] = "all"
    spread: float | None = None
    belief: float = 1.0
    set_aside_by: str = SHAPE

    def __post_init__(self) -> None:
        if not isinstance(self.tiers, tuple | list):
            raise UserError("ByGenerator(tiers)", f"got {self.tiers!r}", "a tuple of authors, the best first")
        object.__setattr__(self, "tiers", tuple(self.tiers))
        names = [key(one.author) for tier in self.ranks for one in tier]
        if len(self.tiers) < 2 or not all(self.ranks):
            got = f"{len(self.tiers)} tier" + ("" if len(self.tiers) == 1 else "s")
            cure = "Authors in a tuple of their own are a tie; write (best, other), not ((best, other),)."
            raise UserError("ByGenerator(tiers)", got, "two tiers at least, none empty", cure)
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise UserError("ByGenerator(tiers)", f"{', '.join(twice)} stands in them twice", "each author once")
        if self.pairs not in ("all", "almost"):
            raise UserError("ByGenerator(pairs=...)", f"got {self.pairs!r}", '"all" or "almost"')
        if self.spread is not None and not self.spread >= 0:
            raise UserError("ByGenerator(spread=...)", f"got {self.spread!r}", "a number of at least 0, or None")
        if not 0.5 < self.belief <= 1:
            raise UserError("ByGenerator(belief=...)", f"got {self.belief!r}", "more than 0.5, at most 1")

    @property
    def name(self) -> str:
        return "generator" if self.pairs == "all" else "generator:almost"

    def calls(self, groups: int, completions: int) -> int:
        """None: who wrote an answer stands beside it."""
        return 0

    @property
    def prior(self) -> float | None:
        """The spread in force; None where nothing is barred."""
        if self.spread is None:
            return SPREAD if self.pairs == "almost" else None
        return None if math.isinf(self.spread) else self.spread

    @cached_property
    def ranks(self) -> list[list[Generator]]:
        """The tiers, the best first."""
        return [
            [Generator.of(one) for one in (tier if isinstance(tier, tuple | list) else (tier,))] for tier in self.tiers
        ]

    @cached_property
    def known(self) -> dict[str, tuple[int, int, Generator]]:
        """Tier, place in the whole order, and what is known of an author, by its key."""
        told = [(tier, one) for tier, of in enumerate(self.ranks) for one in of]
        return {key(one.author): (tier, place, one) for place, (tier, one) in enumerate(told)}

    def survey(self, groups: Sequence[Group]) -> None:
        """Refuse tiers that were not generated, and an author all of whose answers were set aside."""
        names, fit, why = dict[str, str](), Counter[str](), dict[str, Counter[str]]()
        for group in groups:
            for completion, said in _with_feedback(group):
                author = key(completion.author)
                names[author] = completion.author
                aside = unfit(said, self.set_aside_by)
                fit[author] += not aside and bool(completion.text.strip())
                label = next((one.label for one in reversed(said) if one.by == self.set_aside_by), None)
                why.setdefault(author, Counter())[(label if aside else None) or "blank"] += 1
        missing = [one.author for id, (_, _, one) in self.known.items() if id not in names]
        if missing and groups:
            generated = ", ".join(sorted(names.values())) or "nothing"
            raise UserError("ByGenerator(tiers)", f"no answer is by {', '.join(missing)}", f"some of {generated}")
        for author in self.known if groups else ():
            if not fit[author]:
                told = ", ".join(f"{label} {n}" for label, n in why[author].most_common())
                raise UserError(
                    f"ByGenerator, {names[author]}", f"all of its {why[author].total()} answers are set aside ({told})",
                    "some that can be compared", "Look at its answers; leave it out, or loosen WellFormed(...).",
                )  # fmt: skip

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each with one preference per pair, the better answer on the left.

        Counted: set_aside and blank answers, unranked ones, and barred, comparisons that the length prior kept out.
        """
        return [group.with_preferences(self._preferences(group)) for group in groups]

    def _preferences(self, group: Group) -> Iterator[Preference]:
        told = list(_with_feedback(group))
        found = [(self.known.get(key(completion.author)), i) for i, (completion, _) in enumerate(told)]
        # By their place in the order, so that a group's own order means nothing but among one author's answers.
        order = sorted(((one, i) for one, i in found if one is not None), key=lambda x: (x[0][1], x[1]))
        answers = [Ranked(tier, told[i][0].text, unfit(told[i][1], self.set_aside_by)) for (tier, _, _), i in order]
        pairs, blocked = (every if self.pairs == "all" else published)(answers, self.prior)
        for name, n in (
            ("unranked", len(told) - len(order)),
            ("set_aside", sum(one.unfit for one in answers)),
            ("blank", sum(not one.usable and not one.unfit for one in answers)),
            ("barred", blocked),
        ):
            if n:
                meter(name, n)
        for better, worse in pairs:
            (left, i), (right, j) = order[better], order[worse]
            yield Preference(i, j, self.belief, self.name, raw=tuple(reasons(left[2], right[2])))


def _with_feedback(group: Group) -> Iterator[tuple[Any, Any]]:
    """Each completion with what was said of it."""
    return zip(group.completions, group.feedback or ((),) * len(group.completions), strict=True)


def comparison_rows(group: Group, by: str) -> Iterator[dict[str, str]]:
    """The comparisons of critic `by` as rows of ALMoST's comparison.json: prompt, chosen, rejected, and in `meta` who
    wrote them."""
    for one in group.preferences:
        if one.by == by and one.p is not None and one.p != 0.5:
            better, worse = (one.left, one.right) if one.p > 0.5 else (one.right, one.left)
            chosen, rejected = group.completions[better], group.completions[worse]
            meta = f"{chosen.author}-vs-{rejected.author}"
            yield {"prompt": group.prompt.text, "chosen": chosen.text, "rejected": rejected.text, "meta": meta}
