"""AlpacaEval's own procedure: its steps by hand, its acceptance anchors, its files."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from trueline.errors import UserError
from trueline.evaluate.alpaca_length import Inputs, as_published, difficulty, extreme, gamed, predicted
from trueline.evaluate.logistic import sigmoid
from trueline.store import File

N = 805
GENERATOR = np.random.default_rng(11)
GAMMA = GENERATOR.normal(0, 1.5, N)


def gamed_rows(slope: float = -1.6) -> tuple[tuple[float, float, float], ...]:
    """Two gamed baselines whose verdicts follow length with this slope, at no strength of their own."""
    generator = np.random.default_rng(12)
    x1 = np.tanh(np.concatenate([generator.normal(-0.6, 1, N), generator.normal(0.5, 1, N)]))
    gamma = np.tile(GAMMA, 2)
    y = sigmoid(slope * x1 + 0.8 * gamma + generator.normal(size=2 * N))
    return tuple(zip(x1.tolist(), gamma.tolist(), y.tolist(), strict=True))


def test_a_system_against_itself_is_one_half():
    itself = as_published([0.5] * N, [0] * N, range(N), Inputs(tuple(GAMMA), gamed_rows()))
    assert (itself.rate, itself.spread, itself.weights) == (0.5, 0.0, (0.0, 0.0, 0.0))


def test_known_weights_are_found():
    """x3 = -1.18, x1 = -1.87, x2 = 1 (claude-2's, about): soft verdicts made by them give them back, and the rate is
    the mean of sigma(-1.18 + gamma)."""
    ahead = GENERATOR.normal(-900, 850, N).astype(int)
    x1 = np.tanh(-ahead / ahead.std(ddof=1))
    found = as_published(sigmoid(-1.18 - 1.87 * x1 + GAMMA).tolist(), ahead, range(N), Inputs(tuple(GAMMA)))
    assert found.weights == pytest.approx((-1.87, 1.0, -1.18), abs=0.02)
    assert found.rate == pytest.approx(float(sigmoid(-1.18 + GAMMA).mean()), abs=2e-3)
    assert found.spread == pytest.approx(float(sigmoid(-1.18 + GAMMA).std(ddof=1)) / math.sqrt(N), rel=0.02)


def test_a_gamed_system_is_pulled_down_by_the_gamed_baselines():
    """Some 70 characters against 300 to 4,000: without step 2 the slope explains its losses, with it hardly."""
    ahead = 70 - GENERATOR.integers(300, 4000, N)
    x1 = np.tanh(-ahead / ahead.std(ddof=1))
    ps = sigmoid(-6 * x1 + 0.6 * GAMMA + GENERATOR.normal(size=N)).tolist()
    free = as_published(ps, ahead, range(N), Inputs(tuple(GAMMA)))
    held = as_published(ps, ahead, range(N), Inputs(tuple(GAMMA), gamed_rows()))
    assert free.weights[0] < -4 < held.weights[0] < -1.5
    assert held.rate < free.rate - 0.1


def test_difficulty_goes_by_place_in_the_list():
    """The rows of a file in any order, or half of them, have the gamma of their instruction; nulls are predicted."""
    ahead = GENERATOR.normal(-900, 850, N).astype(int)
    ps = sigmoid(-1.0 + GAMMA).tolist()
    inputs = Inputs(tuple(GAMMA))
    order = np.random.default_rng(0).permutation(N)
    straight = as_published(ps, ahead, range(N), inputs)
    turned = as_published([ps[i] for i in order], ahead[order], order.tolist(), inputs)
    assert turned.rate == pytest.approx(straight.rate, abs=5e-3), "other folds, the same rows"
    with_nulls = as_published([None if i % 9 == 0 else p for i, p in enumerate(ps)], ahead, range(N), inputs)
    assert with_nulls.rate == pytest.approx(straight.rate, abs=5e-3)
    wrong = as_published(ps, ahead, order.tolist(), inputs)
    assert abs(wrong.weights[1]) < 0.1 < straight.weights[1], "a misaligned gamma says nothing"


def test_two_systems_meet_by_their_published_weights():
    """theta 1 and psi 1 against theta 1 and psi 0 on gamma (2, -2): the mean of sigma(2) and sigma(-2) is one half."""
    inputs = Inputs((2.0, -2.0))
    assert predicted((-1.6, 1.0, 1.0), (-1.2, 0.0, 1.0), inputs) == pytest.approx(0.5)
    there, back = predicted((0, 1, 0.7), (0, 0.5, 0), inputs), predicted((0, 0.5, 0), (0, 1, 0.7), inputs)
    assert there + back == pytest.approx(1)


@pytest.mark.parametrize(
    ("raw", "controlled", "expected"),
    [(0.20, 0.09, True), (0.20, 0.11, False), (0.5, 0.37, True), (0.5, 0.63, True), (0.5, 0.62, False)],
)
def test_changes_that_go_too_far(raw, controlled, expected):
    """Raw 20: under 10 (20 - 10; a quarter would be 15); raw 50: under 37.5 or over 62.5."""
    assert extreme(raw, controlled) is expected


def table(path, columns, rows) -> File:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return File(path)


COLUMNS = ["model", "preference", "std_delta_len", "index", "instruction_difficulty", "not_gamed_baseline"]


def test_the_files_of_the_data_set(tmp_path):
    rows = [["verbose", 0.9, -1.0, 0, 0.3, False], ["verbose", "", 0.5, 1, -0.7, False]]
    rows.append(["concise", 0.2, 1.0, 0, 0.3, False])
    inputs = gamed(table(tmp_path / "df_gamed.csv", COLUMNS, rows))
    assert inputs.gamma == (0.3, -0.7)
    assert inputs.rows == ((math.tanh(-1.0), 0.3, 0.9), (math.tanh(1.0), 0.3, 0.2)), "the null is left out"
    only = difficulty(table(tmp_path / "instruction_difficulty.csv", ["", "0"], [[1, -0.7], [0, 0.3]]))
    assert only == Inputs((0.3, -0.7))


def test_files_that_are_none(tmp_path):
    wrong = {
        "it has the columns model": table(tmp_path / "a.csv", COLUMNS[:1], [["x"]]),
        "preference is 1.5": table(tmp_path / "b.csv", COLUMNS, [["x", 1.5, 0, 0, 0, False]]),
        "'long'; a number": table(tmp_path / "c.csv", COLUMNS, [["x", 0.5, "long", 0, 0, False]]),
        "positions run from 1 to 1": table(tmp_path / "d.csv", COLUMNS, [["x", 0.5, 0, 1, 0, False]]),
        "it has no rows": table(tmp_path / "e.csv", COLUMNS, []),
    }
    for message, file in wrong.items():
        with pytest.raises(UserError, match=message):
            gamed(file)
