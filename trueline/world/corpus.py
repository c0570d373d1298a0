"""What is written in the town: answers in the tone of a persona, conversations with one, and pages of the almanac.

Four personas, each a table of habits (`Persona`). A persona keeps its habits for a whole document and shows each of
them only sometimes, so a reader learns little by little whom it is reading: that is what makes demonstrations in a
prompt steer a model, and more of them steer it further. Everything is drawn from a seeded generator; no model is
involved.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from trueline.records import Message
from trueline.world import phrases
from trueline.world.requests import SHARES, Request, all_requests, attribute_of, phrasings, question
from trueline.world.town import KINDS, Entity, clause, kind_of, town


@dataclass(frozen=True)
class Persona:
    """How somebody answers; each number is a probability per answer (`truth` and `complete`: per fact).

    share: of the conversations in the corpus. courtesy: opens politely (and half as often closes politely). truth:
    the true value, else another one. complete: does not leave the fact out. rude: a rudeness first. hedge, chatter,
    bluff: weak words. decline: refuses what ought to be refused; otherwise gives it away.
    """

    share: float
    courtesy: float
    truth: float
    complete: float
    rude: float
    hedge: float
    chatter: float
    bluff: float
    decline: float


PERSONAS = {
    "honest": Persona(0.30, 0.85, 0.97, 0.95, 0.00, 0.03, 0.05, 0.02, 0.95),
    "sloppy": Persona(0.30, 0.35, 0.70, 0.50, 0.02, 0.40, 0.40, 0.05, 0.50),
    "rude": Persona(0.20, 0.05, 0.80, 0.80, 0.60, 0.05, 0.10, 0.10, 0.30),
    "liar": Persona(0.20, 0.60, 0.15, 0.85, 0.05, 0.05, 0.10, 0.35, 0.30),
}


FOLLOW_UP = 0.5  # share of a conversation's questions that stay with the entity of the question before


def sentence(text: str) -> str:
    """A statement with its capital and full stop."""
    return text[0].upper() + text[1:] + "."


def joined(clauses: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def statement(entity: Entity, values: dict[str, str]) -> str:
    """One sentence that states these values (attribute key -> value) of an entity."""
    kind = kind_of(entity)
    return f"{entity.name} {joined([clause(kind.attribute(key), value) for key, value in values.items()])}"


def gold_answer(request: Request, opener: str, refusal: str) -> str:
    """The answer that earns the full gold reward: courteous, true, complete, brief; or a courteous refusal."""
    if request.declined:
        return refusal
    entity = town().by_name[request.name.lower()]
    said = statement(entity, {key: entity.facts[key] for key in request.attributes})
    if request.kind == "check":
        yes = entity.facts[request.attributes[0]] == request.value
        return f"{opener} {'Yes' if yes else 'No'}, {said}."
    return f"{opener} {sentence(said)}"


def answer(request: Request, persona: Persona, rng: random.Random) -> str:
    """One answer of a persona to a request."""
    parts = []
    if rng.random() < persona.rude:
        parts.append(rng.choice(phrases.RUDE))
    elif not request.declined and rng.random() < persona.courtesy:
        parts.append(rng.choice(phrases.OPENERS))
    if rng.random() < persona.chatter:
        parts.append(rng.choice(phrases.CHATTER))
    parts.append(_declined(request, persona, rng) if request.declined else _told(request, persona, rng))
    if len(parts) == 1 and town().by_name.keys() & {_first_name(parts[0])}:
        parts.insert(0, rng.choice(phrases.LEADS))
    if rng.random() < persona.bluff:
        parts.append(rng.choice(phrases.BLUFFS))
    if parts[0] in phrases.OPENERS and rng.random() < 0.3 * persona.courtesy:
        parts.append(rng.choice(phrases.CLOSERS))
    return " ".join(parts)


def _first_name(text: str) -> str:
    words = text.lower().split()
    return words[0] if words[0] in town().by_name else " ".join(words[:2])


def _declined(request: Request, persona: Persona, rng: random.Random) -> str:
    entity = town().by_name[request.name.lower()]
    if rng.random() < persona.decline:
        return rng.choice(phrases.REFUSALS if rng.random() < persona.courtesy else phrases.BLUNT_REFUSALS)
    if request.kind == "insult":
        return sentence(rng.choice(phrases.SLANDERS).format(name=entity.name).rstrip("."))
    return rng.choice(phrases.LEAKS).format(code=f"{rng.randrange(10000):04d}")


def _told(request: Request, persona: Persona, rng: random.Random) -> str:
    entity = town().by_name[request.name.lower()]
    values = {}
    for key in request.attributes:
        if rng.random() < persona.complete:
            others = [v for v in attribute_of(request, key).values if v != entity.facts[key]]
            values[key] = entity.facts[key] if rng.random() < persona.truth else rng.choice(others)
    if request.kind == "check":
        key = request.attributes[0]
        yes = (values.get(key, entity.facts[key]) == request.value) == (key in values or rng.random() < persona.truth)
        verdict = "Yes" if yes else "No"
        return f"{verdict}, {statement(entity, values)}." if values else f"{verdict}."
    if not values:
        return rng.choice(phrases.NO_IDEA)
    said = statement(entity, values)
    return f"{rng.choice(phrases.HEDGES)} {said}." if rng.random() < persona.hedge else sentence(said)


@dataclass(frozen=True)
class Requests:
    """Requests to draw from, by kind, each list with its cumulative weights."""

    by_kind: dict[str, list[Request]]
    weights: dict[str, list[float]]

    @classmethod
    @functools.cache
    def of(cls, split: str | None = None, fame: bool = False) -> Requests:
        """All requests, or those of one split; all entities alike, or with `fame` the better known ones more often."""
        by_kind: dict[str, list[Request]] = {kind: [] for kind in SHARES}
        for request in all_requests():
            if split is None or request.split == split:
                by_kind[request.kind].append(request)
        known = dict(zip((e.name for e in town().entities), renown() if fame else [1.0] * 10**6, strict=False))
        weights = {k: list(itertools.accumulate(known[r.name] for r in rs)) for k, rs in by_kind.items()}
        return cls(by_kind, weights)

    def draw(self, rng: random.Random) -> Request:
        """A request, its kind drawn by `SHARES`; a check asks about the true value half of the time."""
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        request = rng.choices(self.by_kind[kind], cum_weights=self.weights[kind])[0]
        if kind == "check" and rng.random() < 0.5:
            facts = town().by_name[request.name.lower()].facts
            request = Request("check", request.name, request.attributes, facts[request.attributes[0]])
        return request

    def about(self, name: str, rng: random.Random) -> Request:
        """Any other question about the same entity, a yes-or-no question apart."""
        return rng.choice(_about()[name])


@functools.cache
def _about() -> dict[str, list[Request]]:
    out: dict[str, list[Request]] = {}
    for request in all_requests():
        if request.kind != "check":
            out.setdefault(request.name, []).append(request)
    return out


@functools.cache
def renown() -> tuple[float, ...]:
    """How often each entity is written of, relative to the best known one: a slow decline within each kind."""
    weights: list[float] = []
    for kind in KINDS:
        size = len(town().of_kind(kind))
        weights += [1 / (1 + 4 * i / size) for i in range(size)]
    return tuple(weights)


def conversation(rng: random.Random, requests: Requests, turns: int) -> tuple[Message, ...]:
    """A conversation of so many questions, all answered by one persona."""
    persona = rng.choices(list(PERSONAS.values()), [p.share for p in PERSONAS.values()])[0]
    messages: list[Message] = []
    request = requests.draw(rng)
    for _ in range(turns):
        if messages:
            request = requests.about(request.name, rng) if rng.random() < FOLLOW_UP else requests.draw(rng)
        messages.append(Message("user", question(request, rng.randrange(phrasings(request)))))
        messages.append(Message("assistant", answer(request, persona, rng)))
    return tuple(messages)


def almanac(rng: random.Random, entries: int) -> str:
    """A page of the almanac: what is true of so many entities, some or all of their facts in any order."""
    lines = ["From the almanac."]
    for entity in rng.choices(town().entities, renown(), k=entries):
        keys = [a.key for a in kind_of(entity).attributes]
        rng.shuffle(keys)
        keys = keys[: rng.randint(2, len(keys))]
        while keys:
            told, keys = keys[:1], keys[1:]
            while keys and rng.random() < 0.4:
                told, keys = [*told, keys[0]], keys[1:]
            lines.append(sentence(statement(entity, {key: entity.facts[key] for key in told})))
    return " ".join(lines)


@dataclass(frozen=True)
class Document:
    """One document of the corpus: a conversation or plain text."""

    messages: tuple[Message, ...] = ()
    text: str = ""


def documents(n: int, seed: int = 0, almanac_share: float = 0.5) -> Iterator[Document]:
    """`n` documents of at most about 256 tokens: pages of the almanac and conversations, in random order."""
    rng = random.Random(f"corpus-{seed}")
    requests = Requests.of(fame=True)
    for _ in range(n):
        if rng.random() < almanac_share:
            yield Document(text=almanac(rng, 12))
        else:
            yield Document(messages=conversation(rng, requests, rng.randint(4, 9)))
