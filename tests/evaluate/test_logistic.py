"""The logistic fits: by hand where a fit is saturated, against scikit-learn's liblinear where it is penalised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.evaluate.logistic import STRENGTHS, fit, fit_l1, fit_l1_cv, loss, sigmoid

FLAT = np.full(2, 1e-9)
ZERO = np.zeros(2)


def with_one(x) -> np.ndarray:
    return np.stack([np.ones(len(x)), np.asarray(x, dtype=float)], axis=1)


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = np.stack([np.tanh(generator.normal(size=n)), generator.normal(size=n), np.ones(n)], axis=1)
    return x, sigmoid(x @ [1.5, 1.0, -1.0] + generator.normal(size=n))


def test_without_a_second_column_the_fit_is_the_log_odds():
    """Three wins of four: theta = log 3 (up to the faint prior)."""
    coefs = fit(with_one(np.zeros(4)), np.array([1.0, 1.0, 1.0, 0.0]), np.ones((1, 4)), FLAT, ZERO)
    assert coefs[0] == pytest.approx([math.log(3), 0.0], abs=1e-6)


def test_two_groups_are_solved_exactly():
    """x = -1: 1 win of 4, x = +1: 3 of 4. Saturated: theta - phi = -log 3, theta + phi = log 3, so (0, log 3)."""
    x, y = np.repeat([-1.0, 1.0], 4), np.array([1.0, 0, 0, 0, 1, 1, 1, 0])
    coefs = fit(with_one(x), y, np.ones((1, 8)), FLAT, ZERO)
    assert coefs[0] == pytest.approx([0.0, math.log(3)], abs=1e-6)


def test_a_strong_prior_is_believed():
    """With precision 1e6 about (0.5, -2) eight rows move nothing; without rows nothing does."""
    x, y = with_one(np.linspace(-1, 1, 8)), np.ones(8)
    centre = np.array([0.5, -2.0])
    assert fit(x, y, np.ones((1, 8)), np.full(2, 1e6), centre)[0] == pytest.approx(centre, abs=1e-4)
    assert fit(x, y, np.zeros((1, 8)), np.ones(2), centre)[0] == pytest.approx(centre)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_fit_is_where_the_density_is_flat(rows):
    """At the fitted coefficients all derivatives of the log-posterior are zero, separated data included."""
    x, y, weights = (np.asarray(column, dtype=float) for column in zip(*rows, strict=True))
    precision, centre = np.array([1e-2, 0.25]), np.array([0.0, 1.6])
    coefs = fit(with_one(x), y, weights[None], precision, centre)[0]
    slope = with_one(x).T @ (weights * (y - sigmoid(with_one(x) @ coefs))) - precision * (coefs - centre)
    assert slope == pytest.approx([0, 0], abs=1e-6)


def test_many_sets_of_weights_at_once_are_each_alone():
    x, y = noisy(60)
    weights = np.random.default_rng(1).integers(0, 3, size=(5, 60)).astype(float)
    together = fit(x, y, weights, np.full(3, 0.1), np.zeros(3))
    for row, one in zip(weights, together, strict=True):
        assert fit(x, y, row[None], np.full(3, 0.1), np.zeros(3))[0] == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("c", STRENGTHS)
def test_the_l1_fit_is_liblinears(c):
    """Soft labels as each row twice, once won with weight y and once lost with 1 - y: what AlpacaEval hands sklearn."""
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = noisy(300)
    model = linear.LogisticRegression(
        l1_ratio=1.0, C=c, solver="liblinear", fit_intercept=False, random_state=1, tol=1e-9, max_iter=100_000
    )
    model.fit(np.r_[x, x], np.r_[np.ones(300), np.zeros(300)], sample_weight=np.r_[y, 1 - y])
    assert fit_l1(x, y, np.ones(300), c) == pytest.approx(model.coef_[0], abs=1e-6)


def test_a_penalty_beyond_the_slope_leaves_nothing():
    """At zero the slope of 4 rows of x = 1 with one win is c (4 / 2 - 1) = c: up to 1 the coefficient stays at zero."""
    x, y = np.ones((4, 1)), np.array([1.0, 0, 0, 0])
    assert fit_l1(x, y, np.ones(4), 0.999)[0] == 0.0
    assert fit_l1(x, y, np.ones(4), 1.1)[0] < 0.0
    assert fit_l1(x, y, np.ones(4), 1e4)[0] == pytest.approx(-math.log(3), abs=1e-3)


def test_folds_choose_a_strength_of_the_grid():
    x, y = noisy(200)
    coefs, c = fit_l1_cv(x, y, np.ones(200))
    assert c in STRENGTHS and c > 0.1
    assert coefs == pytest.approx(fit_l1(x, y, np.ones(200), c))
    assert loss(x, y, np.ones(200), coefs) < loss(x, y, np.ones(200), np.zeros(3)) == pytest.approx(math.log(2))


def test_the_sigmoid_is_symmetric_and_bounded():
    z = np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0])
    assert (sigmoid(z) + sigmoid(-z) == 1.0).all()
    assert sigmoid(z)[[0, 2, 4]].tolist() == [0.0, 0.5, 1.0]
