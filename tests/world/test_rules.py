"""ALMoST's rules of thumb in the town, each by itself, held against gold; nothing of gold is in the order."""

from __future__ import annotations

import pytest

from trueline import world
from trueline.evaluate.audit import audit, read
from trueline.feedback.generator import ByGenerator
from trueline.feedback.judge import judge
from trueline.feedback.shape import WellFormed
from trueline.pipeline import make
from trueline.sample.pooled import gather
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Sampling
from trueline.sample.shots import Shots
from trueline.store import using

SIZES = {"small": 2_030_016, "tiny": 572_640}


def generator(size: str, style: str, shots: int) -> Prompted:
    shown = Shots.of(style, world.demonstrations(32, style))
    return Prompted(world.base(size), shown, shots, form="chat", seed=0, size=SIZES[size])


@pytest.mark.slow
def test_bigger_more_and_better_shots_are_believed_rightly(tmp_path):
    """One answer of each to 160 questions: the intervals of all three rules lie above one half."""
    best = generator("small", "good", 5)
    tiers = (best, (generator("small", "good", 1), generator("tiny", "good", 5), generator("small", "sloppy", 5)))
    with using(tmp_path):
        drawn = gather((best, *tiers[1]), world.prompts(160, split="train", seed=7), Sampling(max_tokens=64))
        fit = judge(drawn, WellFormed(least=1, rules=("short", "asks", "unfinished", "turn")))
        found = read(make(audit(judge(fit, ByGenerator(tiers)), world.Gold())))
    assert {one.name for one in found.rules} == {"shots", "size", "demonstrations"}
    for one in (*found.rules, found.overall):
        assert one.agreement.low > 0.5, one
    assert found.overall.agreement.mean > found.longer.mean
