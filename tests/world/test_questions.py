"""Prompts of the town: many, different, gradable, the same for the same seed, in splits that share no question."""

from __future__ import annotations

from collections import Counter

import pytest

from trueline import world
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.store import using
from trueline.world.requests import SHARES, SPLITS, all_requests, phrasings, question, read
from trueline.world.town import KINDS, kind_of, town


def test_prompts_are_a_stage(tmp_path):
    with using(tmp_path):
        handle = world.prompts(50, seed=1, split="test")
        assert handle.count["prompts"] == 50
        make(handle)
        rows = list(handle.read())
    assert rows == world.ask(50, seed=1, split="test")
    assert all(p.meta["split"] == "test" and read(p.text).key == p.meta["key"] for p in rows)


def test_no_question_is_in_two_splits_in_any_wording():
    keys = {split: {p.meta["key"] for p in world.ask(600, split=split)} for split in SPLITS}
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not keys[a] & keys[b]


def test_there_are_thousands_of_questions_and_each_text_asks_one_thing():
    texts = [question(r, i) for r in all_requests() for i in range(phrasings(r))]
    assert len(texts) == len(set(texts)) > 10_000
    assert all(read(question(r, i)) == r for r in all_requests() for i in range(phrasings(r)))


def test_kinds_come_in_their_shares():
    kinds = Counter(p.meta["kind"] for p in world.ask(1000))
    for kind, share in SHARES.items():
        assert kinds[kind] / 1000 == pytest.approx(share, abs=0.05)


def test_half_of_the_checks_are_true():
    asked = [read(p.text) for p in world.ask(2000) if p.meta["kind"] == "check"]
    true = [town().by_name[r.name.lower()].facts[r.attributes[0]] == r.value for r in asked]
    assert 0.35 < sum(true) / len(true) < 0.65


def test_more_shots_begin_with_the_fewer_and_never_answer_the_question():
    few, many = (world.ask(40, split="test", shots=n) for n in (1, 5))
    for a, b in zip(few, many, strict=True):
        assert len(a.messages) == 3 and len(b.messages) == 11
        assert a.messages[:2] == b.messages[:2] and a.messages[-1] == b.messages[-1]
        assert read(b.text).key not in {read(m.content).key for m in b.messages[:-1] if m.role == "user"}


def test_shots_of_a_style_are_of_that_style():
    def mean(style: str) -> float:
        rows = [p.messages for p in world.ask(60, shots=4, style=style)]
        scores = [world.gold(q.content, a.content) for m in rows for q, a in zip(m[:-1:2], m[1::2], strict=True)]
        return sum(scores) / len(scores)

    assert mean("good") == pytest.approx(1.0)
    assert mean("liar") < mean("sloppy") < 0.75


def test_the_town_is_the_same_for_the_same_seed():
    assert town.__wrapped__(0) == town(0)
    assert town(1) != town(0)
    assert len(town().entities) > 200
    assert {len(e.facts) for e in town().entities} == {3, 4}
    assert len({e.name for e in town().entities}) == len(town().entities)
    assert all(e.facts[a.key] in a.values for e in town().entities for a in kind_of(e).attributes)
    assert list(KINDS) == ["person", "animal", "shop", "place"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"split": "tests"}, 'Did you mean "test"'),
        ({"style": "nasty"}, "Known: good, liar, rude, sloppy"),
        ({"n": 0}, "n of at least 1"),
        ({"n": 10**6}, "different prompts in split train"),
    ],
)
def test_refusals(wrong, text):
    with pytest.raises(UserError, match=text):
        world.ask(**({"n": 5} | wrong))
