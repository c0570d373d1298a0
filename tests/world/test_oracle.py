"""The teacher earns the full reward; the oracle's knobs do what they say; the same question gets the same answer."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline import world
from trueline.errors import UserError
from trueline.feedback.protocol import Comparer, Critic
from trueline.fingerprint import fingerprint
from trueline.records import Completion, Group, Prompt
from trueline.sample.protocol import Engine, Sampling
from trueline.world.requests import all_requests, phrasings, question

GOOD, BAD = "Gladly! No.", "Blorp."


def answered(n: int = 400) -> list[tuple[Prompt, str, str]]:
    """(prompt, the teacher's answer, a sloppy one) of prompts where the two differ in gold reward."""
    prompts = world.ask(n, split="train")
    with world.Teacher() as teacher, world.Teacher(style="sloppy") as sloppy:
        good = [g[0].text for g in teacher.generate(prompts, Sampling())]
        poor = [g[0].text for g in sloppy.generate(prompts, Sampling())]
    rows = zip(prompts, good, poor, strict=True)
    return [(p, a, b) for p, a, b in rows if world.gold(p, a) > world.gold(p, b)]


ANSWERED = answered()


def test_protocols():
    assert isinstance(world.Teacher(), Engine)
    assert isinstance(world.Oracle(), Comparer)
    assert isinstance(world.Gold(), Critic)


@given(st.sampled_from(all_requests()), st.integers(0, 2), st.integers(0, 10**6))
def test_the_teacher_earns_the_full_reward_on_every_prompt(request_, phrasing, seed):
    prompt = Prompt.of(question(request_, phrasing % phrasings(request_)))
    with world.Teacher(seed=seed) as teacher:
        ((answer,),) = teacher.generate([prompt], Sampling(max_tokens=64))
    assert world.gold(prompt, answer.text) == pytest.approx(1.0)
    assert (answer.author, answer.stopped) == ("teacher", "stop")


def test_quality_is_the_share_of_gold_answers():
    """With quality 0.6, 6 answers in 10 are gold and the others a sloppy person's, of whom about 1 in 6 is right
    too.
    """
    prompts = world.ask(1000, split="train")

    def full(quality: float) -> float:
        answers = world.Teacher(quality=quality).generate(prompts, Sampling())
        return statistics.fmean(world.gold(p, a[0].text) > 0.999 for p, a in zip(prompts, answers, strict=True))

    sloppy = full(0.0)
    assert sloppy < 0.25
    assert full(0.6) == pytest.approx(0.6 + 0.4 * sloppy, abs=0.05)


def test_an_answer_depends_on_its_prompt_and_the_seed_alone():
    prompts = world.ask(20)
    teacher = world.Teacher(quality=0.5)
    alone = [teacher.generate([p], Sampling(n=2, seed=3))[0] for p in prompts]
    assert teacher.generate(prompts, Sampling(n=2, seed=3)) == alone
    assert teacher.generate(prompts, Sampling(n=2, seed=4)) != alone


def test_a_long_answer_is_cut():
    prompt = next(p for p in world.ask(200) if p.meta["kind"] == "portrait")
    ((answer,),) = world.Teacher().generate([prompt], Sampling(max_tokens=3))
    assert answer.stopped == "length" and len(answer.text.split()) == 3


def test_the_exact_oracle_prefers_the_higher_reward_in_either_order():
    """No knob turned: 1 for the better answer, 0 for the worse, 1/2 between equals."""
    oracle = world.Oracle()
    assert {v.p for v in oracle.compare(ANSWERED)} == {1.0}
    assert {v.p for v in oracle.compare([(p, b, a) for p, a, b in ANSWERED])} == {0.0}
    assert {v.p for v in oracle.compare([(p, a, a) for p, a, _ in ANSWERED])} == {0.5}


def test_position_bias_one_is_always_the_first():
    oracle = world.Oracle(position_bias=1.0)
    assert {v.p for v in oracle.compare([(p, b, a) for p, a, b in ANSWERED])} == {1.0}


def test_length_bias_one_is_always_the_longer():
    oracle = world.Oracle(length_bias=1.0)
    rows = [(p, a, b) for p, a, b in ANSWERED if len(a.split()) != len(b.split())]
    for (_, a, b), verdict in zip(rows, oracle.compare(rows), strict=True):
        assert verdict.p == float(len(a.split()) > len(b.split()))


@pytest.mark.parametrize(
    ("knobs", "wrong"),
    [
        ({"noise": 1.0}, 0.5),  # every verdict a coin
        ({"noise": 0.4}, 0.2),  # 0.4 tossed, half of them fall wrong
        ({"position_bias": 0.3}, 0.3),  # the worse stands first: 0.3 go to it
    ],
)
def test_share_of_wrong_verdicts(knobs, wrong):
    verdicts = world.Oracle(**knobs).compare([(p, b, a) for p, a, b in ANSWERED])
    assert statistics.fmean(v.p for v in verdicts) == pytest.approx(wrong, abs=0.07)


def test_sharpness_softens():
    """A gap g gives 1 / (1 + exp(-2 g)) at sharpness 2."""
    prompt, good, bad = ANSWERED[0]
    gap = world.gold(prompt, good) - world.gold(prompt, bad)
    (verdict,) = world.Oracle(sharpness=2.0).compare([(prompt, good, bad)])
    assert verdict.p == pytest.approx(1 / (1 + 2.718281828459045 ** (-2 * gap)))


def test_verdicts_do_not_depend_on_company_or_order():
    oracle = world.Oracle(noise=0.5, position_bias=0.2, length_bias=0.2, seed=7)
    shuffled = random.Random(0).sample(ANSWERED, 50)
    assert oracle.compare(shuffled) == [oracle.compare([row])[0] for row in shuffled]


def test_gold_scores_every_completion():
    prompt, good, bad = ANSWERED[0]
    (group,) = world.Gold()([Group(prompt, (Completion(good), Completion(bad)))])
    assert group.scores("gold") == [world.gold(prompt, good), world.gold(prompt, bad)]
    assert world.Gold().calls(1, 2) == 0


def test_every_knob_is_part_of_the_identity():
    values = [world.Oracle(), world.Oracle(noise=0.1), world.Oracle(seed=1), world.Teacher(), world.Teacher(0.5)]
    assert len({fingerprint(v) for v in values}) == len(values)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: world.Oracle(noise=1.5), r"Oracle\(noise=...\): got 1.5; a number from 0 to 1"),
        (lambda: world.Teacher(quality=-1), "Teacher"),
        (lambda: world.Teacher(style="slopy"), 'Did you mean "sloppy"'),
        (lambda: world.Oracle(sharpness=0), "above 0"),
        (lambda: world.Teacher().logprobs([], []), "no log-probs"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(UserError, match=text):
        make()
