"""The rules of thumb, measured in gold reward on the shipped models: intervals of 95% that do not overlap.

Bigger beats smaller, more shots beat fewer, good demonstrations beat sloppy ones, SFT on the teacher's answers beats
the base. (That DPO on critic labels beats SFT is the tour's test.)
"""

from __future__ import annotations

import json
import statistics

import pytest

from trueline import world
from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.pipeline import make
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations

N = 600
SAMPLING = Sampling(max_tokens=64, seed=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with using(tmp_path_factory.mktemp("store")) as chosen:
        yield chosen


def interval(policy, shots: int = 0, style: str = "good") -> tuple[float, float]:
    """The 95% interval of the mean gold reward on the test split."""
    groups = draw(policy, world.prompts(N, split="test", shots=shots, style=style), SAMPLING)
    make(groups)
    scores = [world.gold(g.prompt, g.completions[0].text) for g in groups.read()]
    mean, half = statistics.fmean(scores), 1.96 * statistics.stdev(scores) / N**0.5
    return mean - half, mean + half


def above(better: tuple[float, float], worse: tuple[float, float], margin: float = 0.0) -> bool:
    return better[0] > worse[1] + margin


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_provenance_lies_beside_the_weights(size):
    told = json.loads((world.MODELS / size / "provenance.json").read_text())
    assert told["loss"][-1][1] < 0.5 * told["loss"][0][1]
    assert told["gold reward"]["5"]["mean"] > told["gold reward"]["0"]["mean"]


def test_identity_is_the_content_not_the_place():
    assert fingerprint(world.base("tiny")) == fingerprint(world.base("tiny"))
    assert fingerprint(world.base("tiny")) != fingerprint(world.base("small"))
    with pytest.raises(UserError, match='Did you mean "small"'):
        world.base("smal")


@pytest.mark.slow
def test_bigger_beats_smaller_at_the_same_prompt(store):
    """Asked without shots both answer as anybody in the corpus might; told as whom, the bigger one does it better."""
    assert above(interval(world.base("small"), 5), interval(world.base("tiny"), 5))


@pytest.mark.slow
def test_more_shots_beat_fewer(store):
    """Three steps that the small model tells apart; the tiny one gains most of what shots give it from the first."""
    none, one, five = (interval(world.base("small"), shots) for shots in (0, 1, 5))
    assert above(one, none)
    assert above(five, one)
    none, five = (interval(world.base("tiny"), shots) for shots in (0, 5))
    assert above(five, none)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_good_demonstrations_beat_sloppy_ones(store, size):
    assert above(interval(world.base(size), 5), interval(world.base(size), 5, "sloppy"), margin=0.05)


@pytest.mark.slow
def test_sft_on_the_teacher_beats_the_base(store):
    base = world.base("tiny")
    taught = draw(world.Teacher(), world.prompts(256, split="sft"), Sampling())
    sft = train(base, Demonstrations(taught), SFT(), epochs=3, lr=1e-3)
    assert above(interval(sft), interval(base), margin=0.05)
