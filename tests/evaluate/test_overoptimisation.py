"""Score against divergence: what is called a peak, a fall and over-optimisation, and how a report shows it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.stats import norm

from tests import folders
from tests.evaluate.graded import graded
from tests.train.online.told import Vowels, questions
from trueline import models
from trueline.errors import UserError
from trueline.evaluate.overoptimisation import (
    Logged,
    Optimised,
    change,
    errors,
    judged,
    overoptimisation,
    read_overoptimisation,
    simultaneous,
    stretches_of,
    windows,
)
from trueline.evaluate.report import Arm, report
from trueline.evaluate.sections import section
from trueline.evaluate.statistics import Z
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.train.online.ppo import PPO
from trueline.train.online.rloo import RLOO
from trueline.train.online.stage import online

CPU = Machine(device="cpu", threads=1)


def log(watched, reward=None, se=0.01, kl=None):
    """One iteration of 100 answers per number; the score rises by 0.05 an iteration, the divergence by 0.1 nats."""
    n = len(watched)
    reward = [0.05 * i for i in range(n)] if reward is None else reward
    kl = [0.1 * i for i in range(n)] if kl is None else kl
    return tuple(
        Logged(i + 1, kl[i], reward[i], 20.0, 0.0, 100, watched[i], se, se, se if watched[i] is not None else None)
        for i in range(n)
    )


def parabola(n=20):
    """Rises from 0.5 to 0.75 in the middle and falls back."""
    return [0.5 + 0.25 * (1 - ((i - n / 2) / (n / 2)) ** 2) for i in range(n)]


# --- worked numbers --------------------------------------------------------------------------------------------------


def test_a_stretch_is_the_mean_of_its_iterations():
    """Watched 0.5, 0.7, 0.9 with errors 0.03, 0.04, 0.12: 0.6 and 0.8 with sqrt(0.0009 + 0.0016) / 2 = 0.025 and
    sqrt(0.0016 + 0.0144) / 2 = 0.0632. Divergence 0, 0.1, 0.2."""
    logged = [
        Logged(i + 1, 0.1 * i, 1.0, 10.0 + i, 0.5 * i, 50, level, 0.01, 0.02, se)
        for i, (level, se) in enumerate(((0.5, 0.03), (0.7, 0.04), (0.9, 0.12)))
    ]
    one, two = stretches_of(logged, 2)
    assert (one.first, one.last, two.first, two.last) == (1, 2, 2, 3)
    assert (one.watched.mean, one.watched.se, two.watched.mean) == pytest.approx((0.6, 0.025, 0.8))
    assert two.watched.se == pytest.approx(math.sqrt(0.016) / 2)
    assert one.watched.high - one.watched.mean == pytest.approx(Z * 0.025)
    assert (one.kl.mean, one.length, one.unfinished, one.reward.n) == pytest.approx((0.05, 10.5, 0.25, 100))


def test_iterations_that_two_stretches_share_cancel_in_their_difference():
    """Errors 3, 9, 4: of the first two and the last two, 9 stands in both: sqrt(9 + 16) / 2. Levels 1, 5, 3: 3 and
    4."""
    assert windows(np.array([1.0, 5.0, 3.0]), 2).tolist() == [3, 4]
    assert errors(np.array([3.0, 9.0, 4.0]), 2, 0).tolist() == [0, 2.5]
    assert errors(np.array([3.0, 9.0, 4.0]), 2, 1).tolist() == [2.5, 0]


def test_errors_are_those_of_simulated_noise():
    generator, se_T = np.random.default_rng(1), np.array([1.0, 2.0, 0.5, 1.5, 3.0])
    drawn_BK = windows(generator.standard_normal((40_000, 5)) * se_T, 2)
    assert errors(se_T, 2, 3) == pytest.approx((drawn_BK - drawn_BK[:, 3:4]).std(0), rel=0.02)


def test_an_interval_for_all_stretches_is_wider_than_one_for_one():
    """Two stretches of one iteration differ once: the normal quantile. Of 20 against one, the largest counts: given the
    one, z, the others are independent, so that with q = 2.92 the integral of phi(z) (Phi(z + sqrt(2) q) - Phi(z -
    sqrt(2) q))^20 is 0.95 (Dunnett 1955, in the limit of many answers)."""
    assert simultaneous(np.ones(2), 1, 1) == pytest.approx(Z, abs=0.08)
    q, z = simultaneous(np.ones(21), 1, 20), np.linspace(-8, 8, 4001)
    inside = (norm.cdf(z + math.sqrt(2) * q) - norm.cdf(z - math.sqrt(2) * q)) ** 20
    assert np.trapezoid(norm.pdf(z) * inside, z) == pytest.approx(0.95, abs=0.01)
    logged = log([0.5] * 21)
    wide, narrow = (change(logged, "watched", 1, 20, 3, every=every) for every in (True, False))
    assert wide.se == narrow.se == pytest.approx(0.01 * math.sqrt(2))
    assert wide.high - wide.mean > 1.4 * (narrow.high - narrow.mean)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_score_that_rises_while_gold_falls_was_over_optimised():
    found = judged("PPO", "rater", "gold", log(parabola()))
    assert found.over is True
    assert found.stretches[found.peak].first <= 11 <= found.stretches[found.peak].last
    assert found.rise.excludes_zero and found.fall.excludes_zero and found.onward.mean > 0
    assert found.verdict.startswith("over-optimised: gold fell by 0.1") and "while rater rose by 0.4" in found.verdict
    assert re.search(r"its peak at iteration 11, 1 nats? away", found.verdict)


def test_noise_is_not_called_over_optimisation():
    """Flat gold, errors as stated: of 50 runs one or two may be accused; to compare the highest stretch with the last
    as if nobody had looked for it accuses several times as many."""
    generator, accused, naive = np.random.default_rng(0), 0, 0
    for _ in range(50):
        logged = log(list(0.7 + 0.03 * generator.standard_normal(30)), se=0.03)
        found = judged("PPO", "rater", "gold", logged)
        accused += found.over is True
        naive += change(logged, "watched", 3, 27, found.peak, every=False).excludes_zero
    assert accused <= 3 and naive >= 6


@pytest.mark.parametrize(
    ("watched", "reward", "over", "said"),
    [
        ([0.5 + 0.02 * i for i in range(12)], None, False, "gold is highest at the end"),
        ([0.5, 0.6, 0.7, 0.7, 0.71, 0.7, 0.7, 0.71, 0.7], None, False, "which cannot be told from none"),
        (parabola(), [-0.05 * i for i in range(20)], False, "it went wrong, but was not over-optimised"),
        (parabola(), [0.5] * 20, None, "compares answers with each other and has no level that could rise"),
    ],
)
def test_other_endings(watched, reward, over, said):
    found = judged("PPO", "rater", "gold", log(watched, reward))
    assert found.over is over and said in found.verdict


def test_without_a_watching_critic_or_standard_errors_nothing_is_claimed():
    found = judged("PPO", "rater", "", log([None] * 9))
    assert (found.over, found.peak, found.fall) == (None, None, None)
    assert found.verdict.startswith("nothing watched") and found.stretches[0].watched is None
    bare = judged("PPO", "rater", "gold", log(parabola(), se=None))
    assert bare.over is None and bare.fall.low is None and "was not logged" in bare.verdict
    for n in (0, 1, 2):
        assert judged("PPO", "rater", "gold", log([0.5] * n)).over in (None, False)


def test_a_stretch_is_a_twentieth_of_the_run_but_three_where_there_are_enough():
    sizes = {n: judged("r", "rater", "gold", log([0.5] * n)).stretches[0].last for n in (3, 5, 6, 30, 100)}
    assert sizes == {3: 1, 5: 2, 6: 3, 30: 3, 100: 5}
    assert judged("r", "rater", "gold", log([0.5] * 30), stretch=4).stretches[0].last == 4


# --- from a run, in a report -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A watched run in two parts with one reference, and one that nobody watched."""
    root = tmp_path_factory.mktemp("runs")
    start = models.pretrained(folders.folder(root / "tiny"))
    asked = {"sampling": Sampling(n=2, max_tokens=4), "iterations": 4, "rollout": 3, "batch_size": 6, "lr": 1e-2}
    first = online(start, questions(6), Vowels(), PPO(RLOO(), epochs=1), watch=Vowels(quiet=1), **asked)
    second = online(first, questions(6), Vowels(), PPO(RLOO(), epochs=1), watch=Vowels(quiet=1), **asked, seed=1,
                    reference=start)  # fmt: skip
    alone = online(start, questions(6), Vowels(), PPO(RLOO(), epochs=1), **asked, seed=2)
    with using(root / "store"):
        make(second, machine=CPU)
        make(alone, machine=CPU)
        yield start, first, second, alone


def test_a_run_in_parts_is_read_as_one(runs):
    _, first, second, alone = runs
    made = make(overoptimisation((Optimised("RLOO", (first, second)), Optimised("blind", (alone,)))))
    told, blind = read_overoptimisation(made).runs
    assert [one.iteration for one in told.logged] == list(range(1, 9))
    assert [one.reward for one in told.logged] == [one.watched for one in told.logged], "one critic, twice"
    assert all(one.watched_se > 0 and one.kl_se >= 0 for one in told.logged)
    assert (told.by, told.watched_by, blind.watched_by) == ("vowels", "vowels", "")
    assert abs(told.logged[0].kl) < 1e-4 < abs(told.logged[4].kl), "the second part's divergence is from the start"
    text = (made.path / "table.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert {"start", "end"} <= set(text.split()) and "blind: nothing watched" in text
    assert "all stretches of a run at once" in text
    alone_text = (make(overoptimisation((Optimised("blind", (alone,)),))).path / "table.txt").read_text()
    assert "watched" not in alone_text.splitlines()[0] and "all stretches" not in alone_text
    assert {a.name for a in made.parents} == {first.name, second.name, alone.name}


def test_a_report_draws_the_curves(runs):
    _, first, second, alone = runs
    both = overoptimisation((Optimised("RLOO", (first, second)),))
    blind = overoptimisation((Optimised("blind", (alone,)),))
    answers = graded(((0.5,), (0.7,)))
    made = make(report("RLOO", (Arm("SFT", answers), Arm("RLOO", answers, second)), also=(both, blind)))
    page = (made.path / "report.html").read_text()
    assert page.count("<h2>Score against divergence</h2>") == 2 and "nats (root scale)" in page
    assert page.count("watched: vowels") == 2 and page.count("learned from: vowels") == 4
    assert re.search(r">peak, \d", page)
    logged = re.findall("<figcaption>(Loss|reward|watched|kl/answer|length|abstained)</figcaption>", page)
    assert logged == ["reward", "watched", "kl/answer", "length"] * 2, "what is charted of both parts of the training"
    for one, curves in ((both, 2), (blind, 1)):
        drawn = section(make(one), {"SFT": 0, "RLOO": 1})
        assert len(drawn.charts) == 3
        for chart, most in zip(drawn.charts, (curves, curves, 3), strict=True):
            frame = ET.fromstring(str(chart)).find("svg")
            _, _, width, height = map(float, frame.get("viewBox").split())
            lines = [line for line in frame.iter("polyline") if len(line.get("points").split()) > 1]
            assert len(lines) == most
            for mark in frame.iter():
                for name, end in (("cx", width), ("x1", width), ("cy", height), ("y1", height)):
                    assert mark.get(name) is None or -0.01 <= float(mark.get(name)) <= end + 0.01


def test_refusals(runs):
    start, first, _, alone = runs
    with pytest.raises(UserError, match="it has no policy"):
        Optimised("PPO", ())
    with pytest.raises(UserError, match="was not made by online"):
        Optimised("PPO", (start,))
    with pytest.raises(UserError, match="different watch= critics; one for all"):
        Optimised("PPO", (first, alone))
    stray = online(first, questions(6), Vowels(), PPO(RLOO()), watch=Vowels(quiet=1))
    with pytest.raises(UserError, match=r"different references.*one for all"):
        Optimised("PPO", (first, stray))
    with pytest.raises(UserError, match="each with a name of its own"):
        make(overoptimisation((Optimised("PPO", (first,)), Optimised("PPO", (alone,)))))
    with pytest.raises(UserError, match=r"stretch=.*got -1"):
        make(overoptimisation((Optimised("PPO", (first,)),), stretch=-1))
    with pytest.raises(UserError, match="it is no curve of over-optimisation"):
        read_overoptimisation(make(graded(((0.5,),))))
