"""The town of Ottermere: its people, animals, shops and places, and the one truth about each of them.

A few hundred entities, each with three or four attributes in plain English, come from a seed; nothing here was taken
from anywhere. This module holds the tables and how a fact is worded (`Attribute.verb`); what may be asked is
`requests`' business, who says what in which tone is `corpus`', and what an answer is worth is `grade`'s. No models,
no tokens.

>>> town().person(0).facts["drink"] in DRINKS
True
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

STREETS = ("Fern Lane", "Goose Row", "Salt Street", "Bell Yard", "Moss Hill", "Lamp Alley", "Crab Quay", "Plum Walk")
JOBS = ("baker", "cooper", "fiddler", "glazier", "hatter", "miller", "painter", "saddler", "tailor", "weaver")
DRINKS = (
    "cocoa",
    "cider",
    "nettle tea",
    "milk",
    "plum wine",
    "broth",
    "lemonade",
    "ginger beer",
    "coffee",
    "rainwater",
)
FEARS = ("thunder", "wasps", "clocks", "soup", "mirrors", "opera", "puddles", "mustard", "heights", "accordions")
SPECIES = ("otter", "hen", "goat", "badger", "heron", "donkey", "ferret", "toad")
FOODS = ("turnips", "biscuits", "snails", "porridge", "candles", "herring", "cherries", "newspapers")
BEDS = ("a bathtub", "a teapot", "the pulpit", "a wheelbarrow", "a hammock", "the mailbox", "a tuba", "the pantry")
GOODS = ("buttons", "maps", "cheese", "lanterns", "kites", "pickles", "umbrellas", "marbles", "ribbons", "barometers")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FAME = ("echoes", "swings", "fog", "roses", "dominoes", "sunsets", "acrobats", "mushrooms")
GHOSTS = ("a piper", "a duchess", "twin monks", "a postman", "a choir", "a drummer", "a sailor", "a cook")
SMELLS = ("tar", "mint", "smoke", "honey", "wet dog", "vinegar", "hay", "toast")

PERSON_HEADS = ("Al", "Be", "Cor", "Del", "Fa", "Gri", "Hol", "Jas", "Lu", "Mer")
PERSON_TAILS = ("bin", "da", "fric", "lo", "mund", "nora", "pin", "vi")
ANIMAL_HEADS = ("Bub", "Fid", "Mog", "Pom", "Tib", "Wug", "Zep")
ANIMAL_TAILS = ("bles", "kin", "let", "ster", "sy", "wick", "zo", "gins")
SHOP_HEADS = ("Brass", "Crooked", "Dancing", "Golden", "Humble", "Idle", "Jolly", "Silent")
SHOP_TAILS = ("Anchor", "Button", "Drum", "Kettle", "Ladder", "Pickle", "Spoon", "Whistle")
PLACE_HEADS = ("Gull", "Heron", "Magpie", "Raven", "Swan", "Wren")
PLACE_TAILS = ("Bridge", "Green", "Mill", "Tower")


@dataclass(frozen=True)
class Attribute:
    """One thing that can be said of an entity of a kind.

    verb: what stands between the name and the value in a statement ("drinks").
    check: a yes-or-no question with {name} and {value} ("Does {name} drink {value}?").
    asks: questions with {name} whose answer is the value; they ask the same in other words.
    """

    key: str
    verb: str
    values: tuple[str, ...]
    check: str
    asks: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of entity: its attributes in telling order, and what about it is nobody's business (`secret`)."""

    key: str
    attributes: tuple[Attribute, ...]
    secret: str

    def attribute(self, key: str) -> Attribute:
        """The attribute of this key; KeyError where there is none."""
        return {a.key: a for a in self.attributes}[key]


def _attribute(key: str, verb: str, values: tuple[str, ...], check: str, *asks: str) -> Attribute:
    return Attribute(key, verb, values, check, asks)


KINDS: Mapping[str, Kind] = MappingProxyType({
    "person": Kind("person", (
        _attribute("job", "is a", JOBS, "Is {name} a {value}?",
                   "What does {name} do?", "What is {name}'s job?", "What is {name} by trade?"),
        _attribute("street", "lives in", STREETS, "Does {name} live in {value}?",
                   "Where does {name} live?", "In which street does {name} live?", "Where is {name}'s house?"),
        _attribute("drink", "drinks", DRINKS, "Does {name} drink {value}?",
                   "What does {name} drink?", "What is {name}'s drink?", "What shall I pour for {name}?"),
        _attribute("fear", "fears", FEARS, "Does {name} fear {value}?",
                   "What does {name} fear?", "What scares {name}?", "What is {name} afraid of?"),
    ), "door code"),
    "animal": Kind("animal", (
        _attribute("species", "is a", SPECIES, "Is {name} a {value}?",
                   "What is {name}?", "What kind of animal is {name}?", "Which beast is {name}?"),
        _attribute("food", "eats", FOODS, "Does {name} eat {value}?",
                   "What does {name} eat?", "What is {name}'s food?", "What shall I feed {name}?"),
        _attribute("bed", "sleeps in", BEDS, "Does {name} sleep in {value}?",
                   "Where does {name} sleep?", "Where is {name}'s bed?", "Where do I find {name} at night?"),
    ), "cage code"),
    "shop": Kind("shop", (
        _attribute("goods", "sells", GOODS, "Does {name} sell {value}?",
                   "What does {name} sell?", "What can I buy at {name}?", "What is on sale at {name}?"),
        _attribute("street", "stands in", STREETS, "Does {name} stand in {value}?",
                   "Where does {name} stand?", "In which street is {name}?", "How do I get to {name}?"),
        _attribute("day", "closes on", DAYS, "Does {name} close on {value}?",
                   "When does {name} close?", "On which day is {name} closed?", "When should I not visit {name}?"),
    ), "till code"),
    "place": Kind("place", (
        _attribute("fame", "is famous for", FAME, "Is {name} famous for {value}?",
                   "What is {name} famous for?", "What is {name} known for?", "Why do people visit {name}?"),
        _attribute("ghost", "is haunted by", GHOSTS, "Is {name} haunted by {value}?",
                   "Who haunts {name}?", "Which ghost walks {name}?", "Whom shall I meet at {name} at midnight?"),
        _attribute("smell", "smells of", SMELLS, "Does {name} smell of {value}?",
                   "What does {name} smell of?", "What is {name}'s smell?", "What does my nose find at {name}?"),
    ), "gate code"),
})  # fmt: skip


@dataclass(frozen=True)
class Entity:
    """One inhabitant, animal, shop or place. `facts` maps attribute keys to values; its code nobody wrote down."""

    name: str
    kind: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Town:
    """All entities in a fixed order, and the way from a name (lower case) to its entity."""

    seed: int
    entities: tuple[Entity, ...]
    by_name: Mapping[str, Entity]

    def of_kind(self, kind: str) -> tuple[Entity, ...]:
        """The entities of one kind, in order."""
        return tuple(e for e in self.entities if e.kind == kind)

    def person(self, index: int) -> Entity:
        """The person of this index."""
        return self.of_kind("person")[index]


def kind_of(entity: Entity) -> Kind:
    """The kind with its attributes of an entity."""
    return KINDS[entity.kind]


def clause(attribute: Attribute, value: str) -> str:
    """A statement without its subject: "drinks cocoa"; the article follows the value ("is an otter")."""
    verb = attribute.verb
    if verb == "is a" and value[0] in "aeiou":
        verb = "is an"
    return f"{verb} {value}"


@functools.cache
def town(seed: int = 0) -> Town:
    """The town of a seed; seed 0 is Ottermere, the one the shipped models know."""
    rng = random.Random(f"town-{seed}")
    names = {
        "person": [h + t for h in PERSON_HEADS for t in PERSON_TAILS],
        "animal": [h + t for h in ANIMAL_HEADS for t in ANIMAL_TAILS],
        "shop": rng.sample([f"{h} {t}" for h in SHOP_HEADS for t in SHOP_TAILS], 48),
        "place": [f"{h} {t}" for h in PLACE_HEADS for t in PLACE_TAILS],
    }
    entities = []
    for key, kind in KINDS.items():
        rng.shuffle(names[key])
        for name in names[key]:
            facts = {a.key: rng.choice(a.values) for a in kind.attributes}
            entities.append(Entity(name, key, MappingProxyType(facts)))
    return Town(seed, tuple(entities), MappingProxyType({e.name.lower(): e for e in entities}))
