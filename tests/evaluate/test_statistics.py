"""Win rates, intervals and tests, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.evaluate.statistics import (
    Interval,
    difference,
    from_alpaca_eval,
    mean_interval,
    per_prompt,
    sign_test,
    win_rate,
)
from trueline.records import Preference

verdicts = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


def test_win_rate_of_alpaca_eval_preferences():
    """Preferences 1, 2, 0, null: output_2 loses, wins, ties, nothing: (0 + 1 + 0.5) / 3 = 50 %.

    The sample standard deviation of (0, 1, 0.5) is 0.5; over the root of 3: 28.8675 %.
    """
    result = win_rate([from_alpaca_eval(x) for x in (1, 2, 0, None)])
    assert 100 * result.rate.mean == 50.0
    assert result.rate.n == 3
    assert 100 * result.rate.se == pytest.approx(28.8675, abs=1e-4)
    assert (result.wins, result.losses, result.ties, result.abstained, result.pairs) == (1, 1, 1, 1, 4)


def test_several_pairs_of_one_prompt_weigh_as_one_prompt():
    """Prompt a: wins on all of three pairs, b: loses its one. Over prompts (1 + 0) / 2, not 3/4."""
    result = win_rate([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert result.rate.mean == 0.5
    assert result.rate.n == 2
    assert (result.wins, result.losses) == (3, 1)


def test_flips_are_counted_among_pairs_decided_in_both_orders():
    """(0.9, 0.3) flips; (0.9, 0.6) agrees; (0.5, 0.1) has a tie and is none; (0.9, None) is not decided in both."""
    orders = [(0.9, 0.3), (0.9, 0.6), (0.5, 0.1), (0.9, None), ()]
    flipped = [Preference(0, 1, orders=pair).flipped for pair in orders]
    assert flipped == [True, False, False, None, None]
    result = win_rate([0.6, 0.75, 0.3, None, 0.5], flipped=flipped)
    assert (result.flips, result.both_orders) == (1, 3)
    assert result.flip_rate == pytest.approx(1 / 3)
    assert win_rate([0.5]).flip_rate is None


def test_bootstrap_interval_of_a_mean():
    """100 prompts, half 0 and half 1: se = 0.50252 / 10; the interval is about the mean plus or minus 1.96 se."""
    interval = mean_interval([0.0, 1.0] * 50)
    assert interval.mean == 0.5
    assert interval.se == pytest.approx(math.sqrt(25 / 99) / 10)
    assert interval.low == pytest.approx(0.5 - 1.96 * interval.se, abs=0.011)
    assert interval.high == pytest.approx(0.5 + 1.96 * interval.se, abs=0.011)
    assert mean_interval([0.0, 1.0] * 50) == interval, "the seed is stated, so the interval repeats"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """200 draws of 80 fair coins: the 95 % interval holds 0.5 in about 190 of them (three sd of that count: 9.2)."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        interval = mean_interval(list(generator.integers(0, 2, 80).astype(float)), resamples=1000)
        held += interval.low <= 0.5 <= interval.high
    assert 178 <= held <= 200


def test_pairing_by_prompt_shows_what_separate_intervals_hide():
    """Prompts differ by 1, arms by 0.1 on every prompt: the paired difference is 0.1 exactly."""
    left = {str(i): i + 0.1 for i in range(10)} | {"only left": 5.0}
    right: dict[str, float | None] = {str(i): float(i) for i in range(10)} | {"abstained": None}
    gap = difference(left, right)
    assert gap.n == 10
    assert gap.mean == pytest.approx(0.1)
    assert gap.excludes_zero
    assert not mean_interval([-1.0, 1.0] * 10).excludes_zero


def test_nothing_seen_and_one_prompt():
    assert mean_interval([None]) == Interval(0)
    assert mean_interval([0.25]) == Interval(1, 0.25, None, 0.25, 0.25)
    assert not mean_interval([0.25]).excludes_zero
    assert not Interval(0).excludes_zero
    assert win_rate([None]).rate == Interval(0)


def test_per_prompt_means():
    assert per_prompt([1.0, None, 0.0, None], ["a", "a", "a", "b"]) == {"a": 0.5, "b": None}


@given(st.lists(verdicts, min_size=1, max_size=30))
def test_swapping_the_sides_mirrors_every_number(ps):
    """duel(a, b) + duel(b, a) = 1: rate, interval ends, the discrete rate."""
    one, other = win_rate(ps), win_rate([None if p is None else 1 - p for p in ps])
    assert (one.wins, one.losses, one.abstained) == (other.losses, other.wins, other.abstained)
    if one.rate.mean is None:
        assert other.rate.mean is None and one.discrete is None
        return
    assert one.rate.mean + other.rate.mean == pytest.approx(1.0)
    assert one.rate.low + other.rate.high == pytest.approx(1.0)
    assert one.discrete + other.discrete == pytest.approx(1.0)
    assert 0.0 <= one.rate.low <= one.rate.high <= 1.0


def test_the_discrete_rate_rounds_every_verdict():
    """0.51 and 0.9 are wins, 0.49 a loss, one half a tie: (1 + 1 + 0 + 0.5) / 4, and the abstention is in no rate."""
    assert win_rate([0.51, 0.9, 0.49, 0.5, None]).discrete == 0.625
    assert win_rate([None]).discrete is None


def test_the_sign_test_by_hand():
    """8 of 9: 2 (C(9,0) + C(9,1)) / 512 = 20/512. 5 of 5: 2/32. Nothing, or as many on either side: 1."""
    assert sign_test(8, 1) == sign_test(1, 8) == 20 / 512
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(0, 0) == sign_test(4, 4) == 1.0
    assert 0 < sign_test(3000, 2000) < 1e-40, "thousands of prompts are no trouble"


def test_the_sign_test_is_scipys():
    scipy = pytest.importorskip("scipy.stats")
    for ahead, behind in ((3, 9), (60, 41), (0, 7), (500, 420)):
        expected = scipy.binomtest(ahead, ahead + behind, 0.5).pvalue
        assert sign_test(ahead, behind) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.floats(-3, 3))
def test_intervals_move_with_their_values(values, by):
    moved = mean_interval([value + by for value in values], resamples=200)
    expected = mean_interval(values, resamples=200).shifted(by)
    assert (moved.mean, moved.low, moved.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=1e-9)
