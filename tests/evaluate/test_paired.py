"""Pairs of systems against one baseline: differences per prompt, never a look at overlapping bars."""

from __future__ import annotations

import pytest

from tests.evaluate.verdicts import published, simulated, verdicts
from trueline.evaluate.length import length_controlled
from trueline.evaluate.paired import Pairing, paired_table, points
from trueline.evaluate.statistics import Interval, win_rate


def test_six_prompts_by_hand():
    """a: 1, 1, 1, 0.5, 0, null; b: 0, 0.5, 1, 0.5, 1, 1. Five prompts in common, differences 1, 0.5, 0, 0, -1.

    Their mean is 0.1. a does better at two, b at one: p = 2 (1 + 3) / 8 = 1. a alone beats the baseline at p0 and p1
    (b's tie is no win), b alone at p4: the same 2 to 1.
    """
    a = verdicts([1.0, 1.0, 1.0, 0.5, 0.0, None], [0] * 6)
    b = verdicts([0.0, 0.5, 1.0, 0.5, 1.0, 1.0], [0] * 6)
    pair = Pairing({"a": a, "b": b}, resamples=50).pair("a", "b")
    assert pair.win.n == 5
    assert pair.win.mean == pytest.approx(0.1)
    assert (pair.ahead, pair.behind, pair.sign) == (2, 1, 1.0)
    assert (pair.only_first, pair.only_second, pair.mcnemar) == (2, 1, 1.0)
    back = Pairing({"a": a, "b": b}, resamples=50).pair("b", "a")
    assert (back.win.mean, back.ahead, back.only_first) == (pytest.approx(-0.1), 1, 1)
    assert back.win.low == pytest.approx(-pair.win.high)


def test_pairing_sees_what_overlapping_intervals_hide():
    """b loses where a loses and on 12 prompts more: their intervals overlap, the paired one lies above zero."""
    a = verdicts([1.0] * 100 + [0.0] * 100, [0] * 200)
    b = verdicts([1.0] * 88 + [0.0] * 112, [0] * 200)
    one, other = win_rate(a.ps).rate, win_rate(b.ps).rate
    assert one.low < other.high, "the bars overlap"
    pair = Pairing({"a": a, "b": b}, resamples=50).pair("a", "b")
    assert pair.win.excludes_zero and pair.win.mean == pytest.approx(0.06)
    assert (pair.only_first, pair.only_second) == (12, 0)
    assert pair.mcnemar == pair.sign == 2 / 2**12


def test_the_length_controlled_difference_is_that_of_the_rates():
    """All on the same prompts: the estimate is the difference of the two rates, each with the other two for others."""
    fights = dict(zip("abc", simulated(150, (1.0, 0.0, -1.0)), strict=True))
    rates = {
        name: length_controlled(of, [fights[x] for x in fights if x != name], resamples=10).adjusted.mean
        for name, of in fights.items()
    }
    for pair in Pairing(fights, resamples=200).all():
        assert pair.length.mean == pytest.approx(rates[pair.first] - rates[pair.second], abs=1e-9)
        assert pair.length.low < pair.length.mean < pair.length.high
        assert pair.length.excludes_zero


def test_a_system_does_not_differ_from_itself():
    one = simulated(60, (0.3,))[0]
    pair = Pairing({"a": one, "b": one}, resamples=50).pair("a", "b")
    assert (pair.win.mean, pair.win.low, pair.win.high, pair.sign, pair.mcnemar) == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert pair.length.mean == pair.length.se == 0.0


def test_nothing_in_common():
    pair = Pairing({"a": verdicts([1.0], [3], ["p"]), "b": verdicts([1.0], [3], ["q"])}).pair("a", "b")
    assert pair.win == pair.length == Interval(0)
    assert points(pair.win) == "–"


def test_the_six_published_systems(shared_data):
    """claude-2 beats gpt-3.5-turbo-1106 by 8.0 points, surely; alpaca-7b and its verbose self cannot be told apart."""
    folder = shared_data / "alpaca_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    pairing = Pairing(published(folder)[0], resamples=20)
    sure = pairing.pair("claude-2", "gpt-3.5-turbo-1106")
    assert 100 * sure.win.mean == pytest.approx(17.188240 - 9.177965, abs=1e-5)
    assert (sure.ahead, sure.behind, sure.only_first, sure.only_second) == (575, 228, 90, 23)
    assert sure.win.excludes_zero and sure.mcnemar < 1e-9
    alike = pairing.pair("alpaca-7b", "alpaca-7b_verbose")
    assert alike.win.n == 802 and not alike.win.excludes_zero
    text = paired_table((sure, alike))
    assert "claude-2 − gpt-3.5-turbo-1106   +8.0 ±2.2" in text
    assert "90 : 23   <0.0001" in text and max(map(len, text.splitlines())) <= 100
