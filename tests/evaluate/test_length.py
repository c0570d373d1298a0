"""Length control: by hand where the model is saturated, by simulation where the truth is known, and on AlpacaEval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluate.verdicts import mirrored, published, simulated, verdicts
from trueline.evaluate.length import NOBODY, Others, Verdicts, joint, length_controlled, others_of, together
from trueline.evaluate.logistic import sigmoid
from trueline.evaluate.statistics import Interval, win_rate

chances = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


def test_a_judge_that_only_counts_characters_is_unmasked():
    """The longer answer wins 9 of 10; left is longer in 90 of 100 pairs: 82 % raw, one half at equal length.

    sd of 90 gaps of 40 and 10 of -40 is 24.121, x = tanh(40 / sd) = 0.9300 or -0.9300. Two groups, two coefficients:
    theta + 0.93 phi = log 9 and theta - 0.93 phi = -log 9, so theta = 0 and phi = log 9 / 0.93 = 2.3626. Ten pairs on
    one side are not many: phi's prior (mean 0, sd 2) draws it in to 2.19, which leaves 53 %.
    """
    gaps = [40] * 90 + [-40] * 10
    ps = [1.0] * 81 + [0.0] * 9 + [1.0] * 1 + [0.0] * 9
    assert win_rate(ps).rate.mean == pytest.approx(0.82)
    controlled = length_controlled(verdicts(ps, gaps))
    assert controlled.adjusted.mean == pytest.approx(0.53, abs=0.003)
    assert controlled.length_effect == pytest.approx(2.19, abs=0.005)
    assert controlled.not_longer.mean == pytest.approx(0.1)
    assert controlled.not_longer.n == 10
    assert controlled.longer == 0.9
    assert not controlled.extrapolated
    known = length_controlled(verdicts(ps, gaps), slope=(math.log(9) / 0.93, 0.01))
    assert known.adjusted.mean == pytest.approx(0.5, abs=2e-3), "with the slope known, theta is what is left"


def test_a_judge_that_ignores_length_is_left_alone():
    """Left wins three of four whatever the length: adjusting changes nothing."""
    gaps = [-30, -30, -30, -30, 30, 30, 30, 30] * 10
    ps = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0] * 10
    controlled = length_controlled(verdicts(ps, gaps))
    assert controlled.adjusted.mean == pytest.approx(0.75, abs=0.001)
    assert controlled.length_effect == pytest.approx(0.0, abs=1e-6)
    assert controlled.not_longer.mean == 0.75
    assert controlled.adjusted.low < 0.75 < controlled.adjusted.high
    assert (controlled.difficulty, controlled.others) == (None, 0)


def test_a_clean_sweep_stays_finite():
    """All won at all lengths: the priors keep the coefficients finite and the adjusted rate near one."""
    controlled = length_controlled(verdicts([1.0] * 50, range(-25, 25)))
    assert 0.97 < controlled.adjusted.mean < 1.0


def test_nothing_decided_and_one_prompt():
    assert length_controlled(verdicts([None], [-1])).adjusted == Interval(0)
    one = length_controlled(verdicts([1.0], [5]))
    assert (one.adjusted.n, one.adjusted.se) == (1, None)
    assert others_of([verdicts([None], [1]), verdicts([1.0], [1])]) == NOBODY, "one that decided is not several"


def test_against_itself_a_system_has_one_half_exactly():
    """All ties, no difference in length: 50, whatever the others' verdicts say of the prompts."""
    others = simulated(60, (-1.0, 0.5, 2.0))
    itself = verdicts([0.5] * 60, [0] * 60)
    for fights in ([], others):
        controlled = length_controlled(itself, fights, resamples=50)
        assert controlled.adjusted.mean == 0.5
        assert (controlled.adjusted.low, controlled.adjusted.high) == (0.5, 0.5)
    assert length_controlled(itself, others, slope=(1.6, 0.27), resamples=50).adjusted.mean == 0.5


@settings(max_examples=25)
@given(st.integers(1, 14), st.integers(0, 3), st.data())
def test_changing_the_sides_mirrors_the_rate(n, systems, data):
    """LC(m, b) = 1 - LC(b, m), with and without other systems, abstentions and several pairs of a prompt included."""
    prompts = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n))

    def one() -> Verdicts:
        ps = data.draw(st.lists(chances, min_size=n, max_size=n))
        return verdicts(ps, data.draw(st.lists(st.integers(-50, 50), min_size=n, max_size=n)), prompts)

    mine, others = one(), [one() for _ in range(systems)]
    there = length_controlled(mine, others, resamples=20)
    back = length_controlled(mirrored(mine), [mirrored(of) for of in others], resamples=20)
    if there.adjusted.mean is None:
        assert back.adjusted.mean is None
        return
    assert there.adjusted.mean + back.adjusted.mean == pytest.approx(1.0, abs=1e-6)
    assert there.adjusted.low + back.adjusted.high == pytest.approx(1.0, abs=1e-6)
    assert there.length_effect == pytest.approx(back.length_effect, abs=1e-5)
    assert 0.0 <= there.adjusted.low <= there.adjusted.high <= 1.0


def test_prompts_weigh_alike_however_many_pairs_they_have():
    """Prompt a won on three pairs, b lost on one, no differences in length: theta is 0, the rate 1/2 and not 3/4."""
    controlled = length_controlled(verdicts([1.0, 1.0, 1.0, 0.0], [0] * 4, "aaab"))
    assert controlled.adjusted.mean == pytest.approx(0.5, abs=1e-9)
    assert controlled.adjusted.n == 2


def test_own_verdicts_do_not_enter_the_difficulty():
    """Cross-fitting: turning a system's own verdicts round changes nothing in what the others are asked for."""
    mine, *others = simulated(80, (0.0, -1.0, 1.0))
    assert others_of(others).gamma == others_of(list(others)).gamma
    turned = verdicts([1 - p for p in mine.ps], mine.ahead)
    rates = together({"mine": mine, "b": others[0], "c": others[1]}, resamples=10)
    after = together({"mine": turned, "b": others[0], "c": others[1]}, resamples=10)
    assert rates["mine"].others == 2 and rates["b"] != after["b"]


def test_the_joint_fit_is_where_its_density_is_flat():
    """Every derivative of the penalised log-likelihood in theta_m, phi_m and gamma_x is zero."""
    fights = simulated(40, (-1.5, 0.0, 1.0))
    gamma, phi, variance = joint(fights)
    g = np.asarray([gamma[f"p{i}"] for i in range(40)])
    missing = np.zeros(40)
    for of, slope in zip(fights, phi, strict=True):
        y, x = np.asarray(of.ps), of.x_N
        low, high = -20.0, 20.0  # theta by bisection of its own derivative
        for _ in range(80):
            theta = (low + high) / 2
            rest = (y - sigmoid(theta + slope * x + g)).sum() - theta / 100
            low, high = (theta, high) if rest > 0 else (low, theta)
        rest = y - sigmoid(theta + slope * x + g)
        assert (rest * x).sum() - slope / 4 == pytest.approx(0, abs=1e-5)
        missing += rest
    assert missing - g / 1.5**2 == pytest.approx(np.zeros(40), abs=1e-5)
    assert (variance > 0).all() and variance.shape == (3,)


def test_a_known_truth_is_found_with_and_without_others():
    """3,000 prompts, systems that are one sd longer, phi = 1.6: raw rates flatter by 20 points, length-controlled ones
    come back to the mean of sigma(theta + gamma) within what 3,000 coins can say."""
    truth = {theta: float(sigmoid(theta + np.random.default_rng(0).normal(size=3000)).mean()) for theta in (-1.0, 0.0)}
    fights = simulated(3000, (-1.0, 0.0, 0.5, -0.5), longer=1.0)
    for theta, mine in zip((-1.0, 0.0), fights, strict=False):
        raw = win_rate(mine.ps).rate
        for others in ([], [of for of in fights if of is not mine]):
            found = length_controlled(mine, others, resamples=200).adjusted
            assert abs(raw.mean - truth[theta]) > 0.1
            assert abs(found.mean - truth[theta]) < 0.045
            assert found.low - 0.02 < truth[theta] < found.high + 0.02


def test_the_standard_error_is_the_spread_of_repetitions():
    """Of 40 repetitions of 400 prompts the rates spread as much as the bootstrap says (within a third)."""
    repeated = [length_controlled(simulated(400, (0.2,), seed=seed)[0], resamples=100).adjusted for seed in range(40)]
    spread = np.std([one.mean for one in repeated], ddof=1)
    assert np.mean([one.se for one in repeated]) == pytest.approx(spread, rel=0.33)
    assert sum(one.low < np.mean([r.mean for r in repeated]) < one.high for one in repeated) >= 34


def test_a_system_that_is_never_longer_borrows_the_others_slope():
    """Shorter on every prompt by far, its own phi is a guess about 0; with others it stands near theirs, phi = 1.6."""
    short = simulated(400, (0.5,), phi=1.6, longer=-3.0, seed=3)[0]
    others = simulated(400, (0.0, 1.0, -1.0), phi=1.6, seed=4)
    alone, helped = length_controlled(short, resamples=50), length_controlled(short, others, resamples=50)
    assert alone.extrapolated and helped.extrapolated
    lent = others_of(others)
    assert lent.centre == pytest.approx(1.8, abs=0.4), "given gamma; coins of four systems"
    assert 0.5 <= lent.spread < 0.8
    assert abs(helped.length_effect - lent.centre) < abs(alone.length_effect - lent.centre)
    assert others_of(others, slope=(1.0, 0.1)) == Others(lent.gamma, 1.0, 0.1, 3)


def test_a_system_cut_to_nothing_is_held_down_by_what_is_known_of_the_judge():
    """Some 70 characters against 300 to 4,000: it wins a few prompts, those where the baseline says little.

    Its own slope, 6, would excuse every loss by shortness and promise 50 %; a judge known to favour length by 1.6
    (sd 0.27) excuses less.
    """
    generator = np.random.default_rng(5)
    ahead = 70 - generator.integers(300, 4000, 800)
    ps = (generator.random(800) < sigmoid(6 * np.tanh(ahead / ahead.std(ddof=1)))).astype(float)
    mine = verdicts(ps.tolist(), ahead.tolist())
    free, held = (length_controlled(mine, slope=slope, resamples=20).adjusted for slope in ((0.0, 20.0), (1.6, 0.27)))
    assert win_rate(mine.ps).rate.mean < 0.05
    assert held.mean < 0.2 < 0.4 < free.mean


@pytest.fixture(scope="module")
def six(shared_data):
    folder = shared_data / "alpaca_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return published(folder)


def test_the_published_alpaca_eval_win_rates_come_out(six):
    """Every system's published annotations give the leaderboard's win rate, standard error and counts to 1e-9."""
    fights, board = six
    assert len(board) == 6
    for system, row in board.items():
        result = win_rate(fights[system].ps)
        assert 100 * result.rate.mean == pytest.approx(float(row["win_rate"]), abs=1e-9)
        assert 100 * result.rate.se == pytest.approx(float(row["standard_error"]), abs=1e-9)
        assert 100 * result.discrete == pytest.approx(float(row["discrete_win_rate"]), abs=1e-9)
        counts = (result.wins, result.losses, result.ties, result.rate.n)
        assert counts == tuple(int(row[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total"))


DIFFERENCES = {  # ours less the published length-controlled rate, in points: alone, with the others, with the slope too
    "claude-2": (8.4, 6.5, 4.2),
    "gpt-3.5-turbo-1106": (17.5, 9.7, 3.3),
    "vicuna-13b": (4.7, 2.7, 1.6),
    "alpaca-7b_verbose": (2.6, -0.1, -1.1),
    "alpaca-7b": (12.0, 2.9, 0.2),
    "alpaca-7b_concise": (7.4, 2.0, 0.2),
}


def test_the_published_length_controlled_rates_are_as_near_as_docs_duel_says(six):
    """All six are shorter than the baseline, and the judge favours length: at equal length each does better than raw.

    The published fits are held down by rows that are not public. Without them ours are higher; what the other five
    systems say brings them nearer, and the slope of the gamed baselines (1.6, and 161 rows' worth of certainty) nearer.
    """
    fights, board = six
    pooled, held = together(fights, resamples=10), together(fights, slope=(1.6, 0.27), resamples=10)
    for system, row in board.items():
        alone = length_controlled(fights[system], resamples=10)
        known = float(row["length_controlled_winrate"])
        found = [100 * of.adjusted.mean - known for of in (alone, pooled[system], held[system])]
        assert found == pytest.approx(DIFFERENCES[system], abs=0.06)
        assert alone.adjusted.mean > win_rate(fights[system].ps).rate.mean
        assert pooled[system].length_effect > 1 and pooled[system].others == 5
        assert alone.extrapolated == (system in ("alpaca-7b", "alpaca-7b_concise", "gpt-3.5-turbo-1106"))
    mean = np.abs(np.asarray(list(DIFFERENCES.values()))).mean(axis=0)
    assert mean == pytest.approx([8.77, 3.98, 1.77], abs=0.05)
