"""Win rates, intervals and the length model, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.evaluate.statistics import (
    Interval,
    difference,
    fit_logistic,
    from_alpaca_eval,
    length_controlled,
    mean_interval,
    per_prompt,
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
    assert length_controlled([None], [1], [2]).adjusted == Interval(0)


def test_per_prompt_means():
    assert per_prompt([1.0, None, 0.0, None], ["a", "a", "a", "b"]) == {"a": 0.5, "b": None}


def test_logistic_fit_without_length_is_the_log_odds():
    """Three wins of four, all of equal length: theta = log 3 (up to the small ridge)."""
    coefs = fit_logistic(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0]), np.ones((1, 4)), ridge=1e-9)
    assert coefs[0] == pytest.approx([math.log(3), 0.0], abs=1e-6)


def test_logistic_fit_solves_two_groups_exactly():
    """x = -1: 1 win of 4, x = +1: 3 of 4. Saturated: theta - phi = -log 3, theta + phi = log 3, so (0, log 3)."""
    x = np.repeat([-1.0, 1.0], 4)
    y = np.array([1.0, 0, 0, 0, 1, 1, 1, 0])
    coefs = fit_logistic(x, y, np.ones((1, 8)), ridge=1e-9)
    assert coefs[0] == pytest.approx([0.0, math.log(3)], abs=1e-6)


def test_a_judge_that_only_counts_characters_is_unmasked():
    """The longer answer wins 9 of 10; left is longer in 90 of 100 pairs: 82 % raw, one half at equal length.

    sd of 90 gaps of 40 and 10 of -40 is 24.121, x = tanh(40 / sd) = 0.9300 or -0.9300. Two groups, two coefficients:
    theta + 0.93 phi = log 9 and theta - 0.93 phi = -log 9, so theta = 0 and phi = log 9 / 0.93 = 2.3626.
    """
    gaps = [40] * 90 + [-40] * 10
    ps = [1.0] * 81 + [0.0] * 9 + [1.0] * 1 + [0.0] * 9
    assert win_rate(ps).rate.mean == pytest.approx(0.82)
    controlled = length_controlled(ps, [100 + gap for gap in gaps], [100] * 100)
    assert controlled.adjusted.mean == pytest.approx(0.5, abs=1e-3)
    assert controlled.length_effect == pytest.approx(2.3626, abs=0.005)
    assert controlled.not_longer.mean == pytest.approx(0.1)
    assert controlled.not_longer.n == 10
    assert controlled.longer == 0.9
    assert not controlled.extrapolated


def test_a_judge_that_ignores_length_is_left_alone():
    """Left wins three of four whatever the length: adjusting changes nothing."""
    gaps = [-30, -30, -30, -30, 30, 30, 30, 30] * 10
    ps = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0] * 10
    controlled = length_controlled(ps, [100 + gap for gap in gaps], [100] * 80)
    assert controlled.adjusted.mean == pytest.approx(0.75, abs=0.001)
    assert controlled.length_effect == pytest.approx(0.0, abs=1e-6)
    assert controlled.not_longer.mean == 0.75
    assert controlled.adjusted.low < 0.75 < controlled.adjusted.high


def test_a_clean_sweep_stays_finite():
    """All won at all lengths: the ridge keeps theta finite and the adjusted rate near one."""
    controlled = length_controlled([1.0] * 50, list(range(50)), [25] * 50)
    assert 0.97 < controlled.adjusted.mean < 1.0


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_fit_is_where_the_penalised_likelihood_is_flat(rows):
    """At the fitted (theta, phi) both partial derivatives of the objective are zero, separated data included."""
    x, y, weights = (np.asarray(column, dtype=float) for column in zip(*rows, strict=True))
    ((theta, phi),) = fit_logistic(x, y, weights[None], ridge=1e-2)
    residual = weights * (y - 1 / (1 + np.exp(-(theta + phi * x))))
    assert residual.sum() - 1e-2 * theta == pytest.approx(0, abs=1e-6)
    assert (residual * x).sum() - 1e-2 * phi == pytest.approx(0, abs=1e-6)


@given(st.lists(verdicts, min_size=1, max_size=30), st.data())
def test_swapping_the_sides_mirrors_every_number(ps, data):
    """duel(a, b) + duel(b, a) = 1: rate, interval ends, both length-controlled rates where they are defined."""
    n = len(ps)
    left = data.draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))
    right = data.draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))
    swapped = [None if p is None else 1 - p for p in ps]
    one, other = win_rate(ps), win_rate(swapped)
    assert (one.wins, one.losses, one.abstained) == (other.losses, other.wins, other.abstained)
    a, b = length_controlled(ps, left, right, resamples=20), length_controlled(swapped, right, left, resamples=20)
    for x, y in ((one.rate, other.rate), (a.adjusted, b.adjusted)):
        if x.mean is None:
            assert y.mean is None
            continue
        assert x.mean + y.mean == pytest.approx(1.0)
        assert x.low + y.high == pytest.approx(1.0)
        assert 0.0 <= x.low <= x.high <= 1.0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.floats(-3, 3))
def test_intervals_move_with_their_values(values, by):
    moved = mean_interval([value + by for value in values], resamples=200)
    expected = mean_interval(values, resamples=200).shifted(by)
    assert (moved.mean, moved.low, moved.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=1e-9)


def test_the_published_alpaca_eval_results_come_out(shared_data):
    """Six systems' published annotations give the leaderboard's win rates, standard errors and counts to 1e-9.

    All six write shorter answers than the baseline and the judge likes length, so the rate at equal length is higher
    than the raw one for each; for the shortest it is an extrapolation, and says so.
    """
    folder = shared_data / "alpaca_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    reference = {row["instruction"]: row["output"] for row in rows("reference_gpt4_1106_preview.jsonl")}
    annotations = rows("gpt4turbo_weighted_prefs_6_systems.jsonl")
    board = rows("leaderboard_v2_6_systems.jsonl")
    assert len(board) == 6
    for published in board:
        mine = [row for row in annotations if row["generator_2"] == published[""]]
        ps = [from_alpaca_eval(row["preference"]) for row in mine]
        result = win_rate(ps)
        assert 100 * result.rate.mean == pytest.approx(float(published["win_rate"]), abs=1e-9)
        assert 100 * result.rate.se == pytest.approx(float(published["standard_error"]), abs=1e-9)
        counts = (result.wins, result.losses, result.ties, result.rate.n)
        assert counts == tuple(int(published[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total"))
        lengths = [[len(row["output_2"]) for row in mine], [len(reference[row["instruction"]]) for row in mine]]
        controlled = length_controlled(ps, *lengths, resamples=20)
        assert controlled.length_effect > 0
        assert controlled.adjusted.mean > result.rate.mean
        assert controlled.extrapolated == (controlled.longer < 0.05)
        if published[""] == "alpaca-7b":
            assert controlled.extrapolated
