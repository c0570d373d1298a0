"""What a biased judge costs, measured in the town: in the labels at once, and in what is trained on them (slow)."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from trueline import world
from trueline.evaluate.length import Verdicts, length_controlled
from trueline.evaluate.statistics import difference, win_rate
from trueline.feedback.annotator import Annotator
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge, tally
from trueline.feedback.switching import AlpacaEvalOrder
from trueline.machine import Machine
from trueline.machine import using as on
from trueline.pipeline import make
from trueline.records import Completion, Group, Prompt
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations, Pairs
from trueline.world.corpus import Requests

TEACHERS = (world.Teacher(), world.Teacher(style="liar"), world.Teacher(style="sloppy"))


def critic(orders=2, order="tossed", **weak):
    return Compare(Annotator(world.Judge(**weak), wording="town-pair"), orders=orders, order=order)


def answered(n):
    """`n` questions, answered by a good teacher, a liar and a sloppy one in a random order."""
    rng, requests = random.Random(7), Requests.of("train")
    prompts = [Prompt.of(world.questions.question(requests.draw(rng), 0), id=str(i)) for i in range(n)]
    said = [[teacher.generate([p], Sampling())[0][0].text for teacher in TEACHERS] for p in prompts]
    return [
        Group(p, tuple(map(Completion, rng.sample(texts, len(texts))))) for p, texts in zip(prompts, said, strict=True)
    ]


def right_wrong(groups) -> Counter[str]:
    """Of the pairs with a better answer: how many are labelled right, wrong, and as a tie."""
    found: Counter[str] = Counter()
    for group in groups:
        for preference in group.preferences:
            left, right = (
                world.gold(group.prompt, group.completions[i].text) for i in (preference.left, preference.right)
            )
            if abs(left - right) > 1e-9:
                tie = preference.p == 0.5
                found["tie" if tie else "right" if (preference.p > 0.5) is (left > right) else "wrong"] += 1
    return found


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store"), on(Machine(threads=1)):
        yield


@pytest.mark.parametrize("order", ["tossed", "left", AlpacaEvalOrder()], ids=["tossed", "left", "alpaca_eval"])
def test_one_order_takes_in_position_bias_and_two_do_not(order):
    """A judge that says "first" to 80 % of its questions whatever they are.

    Asked once it is wrong where it says so of the worse answer: half of 80 %. Asked in both orders it says so once of
    each, and the label is a tie, except in the 20 % in which it looked when the worse answer stood first: never wrong.
    """
    groups = answered(150)
    whole = sum(right_wrong(critic()(groups)).values())
    once = right_wrong(critic(1, order, position_bias=0.8)(groups))
    both = right_wrong(critic(position_bias=0.8)(groups))
    assert sum(once.values()) == sum(both.values()) == whole > 300
    assert 0.32 < once["wrong"] / whole < 0.48 and once["tie"] == 0
    assert both["wrong"] == 0 and 0.12 < both["right"] / whole < 0.28
    assert right_wrong(critic(1, order)(groups))["wrong"] == right_wrong(critic()(groups))["wrong"] == 0


def test_the_counts_show_which_bias_it_is():
    """Flips tell of the position; length bias flips no more than noise does and shows in who wins."""
    groups = answered(150)
    fair, first, longer = (critic(**weak) for weak in ({}, {"position_bias": 0.8}, {"length_bias": 0.8}))
    counts = [tally(one(groups), one.name) for one in (fair, first, longer)]
    share = [c["longer_wins"] / (c["longer_wins"] + c["shorter_wins"]) for c in counts]
    assert counts[0].get("flips", 0) == 0 and counts[1]["flips"] > 0.6 * counts[1]["compared"]
    assert counts[2]["flips"] < 0.25 * counts[2]["compared"]
    assert share[2] > 0.85 and share[2] - share[0] > 0.2 and abs(share[1] - share[0]) < 0.15


def test_the_length_controlled_rate_exposes_a_taste_for_length():
    """Two teachers alike, one of whom adds nothing, one or two sentences that say nothing.

    A fair judge holds them against it: 29 % of wins, 32 at equal length. One that prefers the longer answer in 80 % of
    its questions gives 71 %, of which 51 are left at equal length.
    """
    prompts = [group.prompt for group in answered(300)]
    idle, teachers = " I am glad to be asked.", [world.Teacher(quality=0.5, seed=seed) for seed in (1, 2)]
    said = [[teacher.generate([p], Sampling())[0][0].text for p in prompts] for teacher in teachers]
    pairs = [
        Group(p, (Completion(one + idle * (i % 3)), Completion(other)))
        for i, (p, one, other) in enumerate(zip(prompts, *said, strict=True))
    ]
    found = {}
    for name, weak in (("fair", {}), ("longer", {"length_bias": 0.8})):
        verdicts = Verdicts.of(critic(**weak)(pairs), critic(**weak).name)
        raw, adjusted = win_rate(verdicts.ps, verdicts.prompts).rate, length_controlled(verdicts).adjusted
        found[name] = (raw.mean, adjusted.mean)
    assert found["fair"] == (pytest.approx(0.287, abs=0.02), pytest.approx(0.318, abs=0.03))
    assert found["longer"] == (pytest.approx(0.706, abs=0.02), pytest.approx(0.506, abs=0.03))


@pytest.mark.slow
def test_training_on_one_order_loses_what_both_orders_keep():
    """DPO from a taught start on the labels of a fair judge, and of one that says "first" to 80 %, once and both ways.

    Gold reward gained over the start on 400 held-out questions, paired; measured: fair 0.10, once 0.01, both 0.06.
    """
    asked, held_out = world.prompts(300, split="train"), world.prompts(400, split="test")
    taught = draw(world.Teacher(quality=0.5), world.prompts(200, split="sft"))
    fit = partial(train, max_length=256)
    start = fit(world.base("tiny"), Demonstrations(taught), SFT(), epochs=2, lr=5e-4)
    drawn = draw(start, asked, Sampling(n=4))

    def gold(policy) -> dict[str, float]:
        graded = judge(draw(policy, held_out, Sampling()), world.Gold())
        make(graded)
        return {group.prompt.id: group.scores()[0] for group in graded.read()}

    def trained(orders, **weak) -> dict[str, float]:
        labels = judge(drawn, Compare(critic(**weak).by, orders=orders, pairs="adjacent"))
        return gold(fit(start, Pairs(labels), DPO(beta=0.1), lr=1e-4))

    before, fair, once = gold(start), trained(2), trained(1, position_bias=0.8)
    both = trained(2, position_bias=0.8)
    gains = {name: difference(after, before) for name, after in (("fair", fair), ("once", once), ("both", both))}
    assert gains["fair"].low > 0 and gains["both"].low > 0
    assert gains["once"].mean < gains["fair"].mean / 3
    assert difference(both, once).low > 0
