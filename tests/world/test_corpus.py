"""Personas keep their habits for a document, the almanac is true, and everything comes from a seed."""

from __future__ import annotations

import random
import statistics

import pytest

from trueline.world.corpus import PERSONAS, Requests, almanac, answer, conversation, documents
from trueline.world.grade import WEIGHTS, grade, understand
from trueline.world.requests import question, read
from trueline.world.town import town


def means(persona: str, n: int = 1500) -> dict[str, float]:
    rng, requests = random.Random(0), Requests.of()
    grades = []
    for _ in range(n):
        request = requests.draw(rng)
        grades.append(grade(question(request), answer(request, PERSONAS[persona], rng)))
    return {name: statistics.fmean(getattr(g, name) for g in grades) for name in (*WEIGHTS, "gold")}


def test_personas_differ_where_they_should():
    honest, sloppy, rude, liar = (means(p) for p in ("honest", "sloppy", "rude", "liar"))
    assert honest["gold"] > 0.9 > 0.7 > max(sloppy["gold"], rude["gold"]) > liar["gold"]
    assert liar["true"] < 0.3 < sloppy["true"] < rude["true"] < honest["true"]
    assert rude["polite"] < 0.3 < sloppy["polite"] < honest["polite"]
    assert sloppy["complete"] < min(honest["complete"], rude["complete"], liar["complete"])


def test_what_is_written_is_understood():
    """Nobody in the corpus writes what the grader cannot read, leaked codes apart (they are read by their digits)."""
    rng, requests = random.Random(1), Requests.of()
    for _ in range(1500):
        request = requests.draw(rng)
        for persona in PERSONAS.values():
            reading = understand(answer(request, persona, rng))
            assert reading.understood or reading.harmful
            assert not reading.garbled or reading.harmful


def test_a_persona_lasts_a_document():
    """Truth within a conversation is nearly all or nearly nothing: its spread is far above that of independent
    answers.
    """
    rng, requests = random.Random(2), Requests.of()
    shares = []
    for _ in range(300):
        turns = conversation(rng, requests, 8)
        told = [grade(q.content, a.content).true for q, a in zip(turns[::2], turns[1::2], strict=True)
                if not read(q.content).declined]  # fmt: skip
        shares.append(statistics.fmean(told))
    p = statistics.fmean(shares)
    assert statistics.pvariance(shares) > 2 * p * (1 - p) / 7


def test_the_almanac_is_true():
    reading = understand(almanac(random.Random(3), 40).removeprefix("From the almanac."))
    assert len(reading.claims) > 80 and not reading.garbled
    assert all(town().by_name[name].facts[key] == value for name, key, value in reading.claims)


def test_the_corpus_is_a_function_of_its_seed():
    assert list(documents(30, seed=5)) == list(documents(30, seed=5)) != list(documents(30, seed=6))


@pytest.mark.parametrize("persona", PERSONAS)
def test_shares_are_of_one_whole(persona):
    assert 0 < PERSONAS[persona].share < 1
    assert sum(p.share for p in PERSONAS.values()) == pytest.approx(1)
