"""Logistic regression on soft labels: what the length-controlled win rates are made of. Pure numpy.

Two fits of  logit P(y = 1) = x . b : with a normal prior on b, for many sets of weights at once (a bootstrap is one
call), and with an L1 penalty whose strength is chosen by cross-validation (what AlpacaEval publishes).

A soft label y in 0..1 counts y times as a win and 1 - y times as a loss.

Shape suffixes: N rows, K coefficients, B sets of weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STRENGTHS = np.logspace(-4, 4, 10)  # scikit-learn's grid of ten values for C, the inverse of the penalty's strength
FOLDS = 5
_NEWTON_STEPS = 60
_SWEEPS = 200
_ENOUGH = 1e-9
_CLOSE = 1e-6  # of a Newton step: what is left after it is about its square


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)) without overflow, exactly symmetric about zero."""
    out: Floats = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(z)))
    return out


def fit(
    x_NK: Floats, y_N: Floats, weights_BN: Floats, precision_K: Floats, centre_K: Floats, start_K: Floats | None = None
) -> Floats:
    """[B, K] coefficients with the largest posterior density, one row per set of weights.

    The prior is normal, with precision (1 / variance) `precision_K` about `centre_K`; without one, separated data have
    no finite answer. Newton's method; steps longer than 1 are shortened to 1: where the curve is flat, its own would
    overshoot. Worked: three wins of four rows of x = 1 and a flat prior give log 3.
    """
    n, k = x_NK.shape
    start_K = centre_K if start_K is None else start_K
    coefs_BK = np.tile(np.asarray(start_K, dtype=np.float64), (len(weights_BN), 1))
    squares_NKK = (x_NK[:, :, None] * x_NK[:, None, :]).reshape(n, k * k)
    for _ in range(_NEWTON_STEPS):
        p_BN = sigmoid(coefs_BK @ x_NK.T)
        slope_BK = (weights_BN * (y_N - p_BN)) @ x_NK - precision_K * (coefs_BK - centre_K)
        curve_BKK = ((weights_BN * p_BN * (1 - p_BN)) @ squares_NKK).reshape(-1, k, k) + np.diag(precision_K)
        step_BK = np.linalg.solve(curve_BKK, slope_BK[:, :, None])[:, :, 0]
        length_B = np.abs(step_BK).max(axis=1)
        coefs_BK += step_BK / np.maximum(length_B, 1.0)[:, None]
        if length_B.max(initial=0.0) < _CLOSE:
            break
    return coefs_BK


def loss(x_NK: Floats, y_N: Floats, weights_N: Floats, coefs_K: Floats) -> float:
    """Mean weighted log loss of soft labels, probabilities kept 1e-15 away from 0 and 1."""
    p_N = np.clip(sigmoid(x_NK @ coefs_K), 1e-15, 1 - 1e-15)
    return float(-np.mean(weights_N * (y_N * np.log(p_N) + (1 - y_N) * np.log(1 - p_N))))


def fit_l1(x_NK: Floats, y_N: Floats, weights_N: Floats, c: float) -> Floats:
    """[K] coefficients with the least  sum of |b|  +  c * weighted log loss summed over rows (liblinear's objective).

    Newton's method, each quadratic piece minimised by coordinate descent with soft thresholds, each step halved until
    the objective falls.
    """
    coefs_K = np.zeros(x_NK.shape[1])

    def objective(b_K: Floats) -> float:
        z_N = x_NK @ b_K
        return float(np.abs(b_K).sum() + c * (weights_N * (np.logaddexp(0, z_N) - y_N * z_N)).sum())

    value = objective(coefs_K)
    for _ in range(_NEWTON_STEPS):
        p_N = sigmoid(x_NK @ coefs_K)
        slope_K = c * x_NK.T @ (weights_N * (p_N - y_N))
        curve_KK = c * (x_NK * (weights_N * p_N * (1 - p_N))[:, None]).T @ x_NK + 1e-12 * np.eye(len(coefs_K))
        step_K = _lasso(curve_KK, slope_K, coefs_K) - coefs_K
        size, after = 1.0, objective(coefs_K + step_K)
        while after > value and size > 1e-10:
            size /= 2
            after = objective(coefs_K + size * step_K)
        if after >= value:
            break
        coefs_K, value = coefs_K + size * step_K, after
        if np.abs(size * step_K).max() < _ENOUGH:
            break
    return coefs_K


def _lasso(curve_KK: Floats, slope_K: Floats, start_K: Floats) -> Floats:
    """Least  slope . (b - start) + (b - start) . curve . (b - start) / 2 + sum of |b|, by coordinates."""
    b_K = start_K.copy()
    for _ in range(_SWEEPS):
        before_K = b_K.copy()
        for k in range(len(b_K)):
            gradient = slope_K[k] + curve_KK[k] @ (b_K - start_K)
            free = b_K[k] - gradient / curve_KK[k, k]
            b_K[k] = np.sign(free) * max(abs(free) - 1 / curve_KK[k, k], 0.0)
        if np.abs(b_K - before_K).max() < _ENOUGH / 10:
            break
    return b_K


def fit_l1_cv(x_NK: Floats, y_N: Floats, weights_N: Floats) -> tuple[Floats, float]:
    """[K] coefficients and the strength C that five folds chose: least held-out log loss, the first of equals.

    Row i is in fold i mod 5. Both copies of a soft label stay in one fold.
    """
    fold_N = np.arange(len(y_N)) % FOLDS
    held_out = []
    for c in STRENGTHS:
        losses = []
        for fold in range(FOLDS):
            kept, out = fold_N != fold, fold_N == fold
            coefs_K = fit_l1(x_NK[kept], y_N[kept], weights_N[kept], c)
            losses.append(loss(x_NK[out], y_N[out], weights_N[out], coefs_K))
        held_out.append(np.mean(losses))
    best = float(STRENGTHS[int(np.argmin(held_out))])
    return fit_l1(x_NK, y_N, weights_N, best), best
