"""The bandit's maths: worked numbers, the same descents by automatic differentiation, drawn counts beside expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.world import bandit as maths
from trueline.world.bandit import Bandit

SMALL = Bandit(actions=12, teacher_centre=9, teacher_width=8, student_centre=4, student_width=8)


def by_autograd(loss, start, steps, lr):
    table = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([table], lr=lr)
    for _ in range(steps):
        descent.zero_grad()
        loss(table).backward()
        descent.step()
    return table.detach()


def test_the_choices_are_bells_cut_off_at_the_ends():
    """The student's ends are 3.3 and 4.8 deviations away, so its mean is its centre but for 0.02.

    The teacher (centre 80, deviation √150 = 12.25) lacks what would lie above 99.5, which is 1.592 deviations up: its
    mean is φ(1.592) / Φ(1.592) = 0.1123 / 0.9443 = 0.119 deviations lower, 80 − 1.46 = 78.54.
    """
    published = Bandit()
    truth_A, student_A, teacher_A = maths.truth(published), maths.student(published), maths.teacher(published)
    assert truth_A.tolist() == list(range(100))
    assert student_A @ truth_A == pytest.approx(40.0205, abs=1e-4)
    assert teacher_A @ truth_A == pytest.approx(78.5440, abs=1e-4)
    assert student_A[52] / student_A[40] == pytest.approx(np.exp(-144 / 300), rel=1e-12)


def test_reward_is_fitted_by_the_descent_that_was_written_down():
    """Against torch's SGD on the mean of −log σ(r_winner − r_loser) over listed pairs, ties among them as log 2."""
    rng = np.random.default_rng(5)
    pairs = rng.choice(SMALL.actions, size=(400, 2), p=maths.student(SMALL))
    larger, smaller = torch.tensor(pairs.max(axis=1)), torch.tensor(pairs.min(axis=1))
    wins_AA = np.zeros((SMALL.actions, SMALL.actions))
    np.add.at(wins_AA, (pairs.max(axis=1), pairs.min(axis=1)), 1 / 400)

    def loss(r_A):
        return -torch.nn.functional.logsigmoid(r_A[larger] - r_A[smaller]).mean()

    found = maths.fit_reward(np.tril(wins_AA, -1), 0.5, [3, 40])
    for steps, reward_A in zip((3, 40), found, strict=True):
        np.testing.assert_allclose(reward_A, by_autograd(loss, np.zeros(SMALL.actions), steps, 0.5), atol=1e-13)


def test_the_reward_rises_first_where_the_student_both_goes_and_wins():
    """After one step from zeros the reward of k is lr/2 · 2 p_k (P(below k) − P(above k)).

    In the continuum that is φ(x) (2Φ(x) − 1), highest where x (2Φ(x) − 1) = 2φ(x): x = 0.877 deviations, 40 + 10.7. So
    the first peak stands at 51; more steps move it outwards, where the student goes less often.
    """
    student_A = maths.student(Bandit())
    first_A, later_A, late_A = maths.fit_reward(maths.expected_wins(student_A), 0.01, [1, 7_500, 20_000])
    below_A = np.cumsum(student_A) - student_A
    np.testing.assert_allclose(first_A, 0.01 * student_A * (below_A - (1 - below_A - student_A)), atol=1e-15)
    assert (first_A.argmax(), later_A.argmax()) == (51, 52) and late_A.argmax() > 52


def test_sft_is_the_descent_that_was_written_down():
    """Against torch's SGD on the cross-entropy of listed choices."""
    chosen = torch.tensor(np.random.default_rng(6).choice(SMALL.actions, size=300, p=maths.teacher(SMALL)))
    shares_A = np.bincount(chosen.numpy(), minlength=SMALL.actions) / 300

    def loss(logits_A):
        return torch.nn.functional.cross_entropy(logits_A.expand(300, -1), chosen)

    found = maths.fit_policy(shares_A, 0.5, [3, 40])
    for steps, policy_A in zip((3, 40), found, strict=True):
        wanted = by_autograd(loss, np.zeros(SMALL.actions), steps, 0.5).softmax(0)
        np.testing.assert_allclose(policy_A, wanted, atol=1e-13)


def test_the_leash_earns_the_most_that_reward_less_kl_allows():
    """J(π) = E r − beta KL(π‖student) is beta log Σ student exp(r / beta) at the optimum; nothing near is better."""
    rng = np.random.default_rng(7)
    choice_A, reward_A, beta = maths.student(SMALL), rng.normal(size=12), 0.3
    best_A = maths.optimum(choice_A, reward_A, beta)

    def worth(policy_A):
        return policy_A @ reward_A - beta * policy_A @ np.log(policy_A / choice_A)

    assert worth(best_A) == pytest.approx(beta * np.log(choice_A @ np.exp(reward_A / beta)), abs=1e-12)
    for _ in range(20):
        near_A = maths.softmax(np.log(best_A) + 0.1 * rng.normal(size=12))
        assert worth(near_A) < worth(best_A)


def test_no_beta_is_too_small_or_too_large():
    """A leash of no length stays the student; none at all picks the best action that the student ever takes."""
    choice_A, reward_A = np.array([0.5, 0.5, 0.0]), np.array([0.0, 1.0, 9.0])
    assert maths.optimum(choice_A, reward_A, 1e308).tolist() == [0.5, 0.5, 0.0]
    assert maths.optimum(choice_A, reward_A, 5e-324).tolist() == [0.0, 1.0, 0.0]


def test_drawn_counts_are_the_expected_ones_but_for_chance(monkeypatch):
    """Two million pairs of twelve actions: a share near 0.02 has a deviation of 0.0001, all 66 are within five of it.

    The chunks in which they are drawn change no total, and the first choices are counted as they came.
    """
    choice_A = maths.student(SMALL)
    monkeypatch.setattr(maths, "CHUNK", 300_000)
    wins_AA, first_A = maths.drawn_wins(choice_A, 2_000_000, np.random.default_rng(8), keep=1_000)
    assert np.abs(wins_AA - maths.expected_wins(choice_A)).max() < 5e-4
    assert np.triu(wins_AA).sum() == 0 and np.abs(wins_AA * 2_000_000 - np.round(wins_AA * 2_000_000)).max() < 1e-6
    row = np.random.default_rng(8).choice(12, size=(300_000, 2), p=choice_A).ravel()[:1_000]
    assert first_A.tolist() == np.bincount(row, minlength=12).tolist()
    shares_A = maths.drawn_shares(choice_A, 2_000_000, np.random.default_rng(9))
    assert shares_A.sum() == pytest.approx(1) and np.abs(shares_A - choice_A).max() < 2e-3


def test_few_pairs_have_fewer_first_choices():
    wins_AA, first_A = maths.drawn_wins(maths.student(SMALL), 3, np.random.default_rng(0), keep=1_500)
    assert first_A.sum() == 6 and wins_AA.sum() <= 1 + 1e-12


@given(st.integers(2, 30), st.floats(0, 1), st.floats(0.01, 1e4), st.floats(0.001, 3.99))
@settings(max_examples=60, deadline=None)
def test_learning_stays_within_bounds(actions, place, width, lr):
    """Whatever is tried: shares of pairs won and tied make 1, rewards sum to 0, the loss falls, nothing overflows."""
    choice_A = maths.bell(actions, place * (actions - 1), width)
    assert choice_A.sum() == pytest.approx(1)
    wins_AA = maths.expected_wins(choice_A)
    assert wins_AA.sum() + (choice_A**2).sum() == pytest.approx(1)
    rewards = maths.fit_reward(wins_AA, lr, [0, 5, 50])
    assert np.abs(rewards.sum(axis=1)).max() < 1e-9
    losses = [(wins_AA * np.logaddexp(0, r_A[None, :] - r_A[:, None])).sum() for r_A in rewards]
    assert losses[0] + 1e-12 >= losses[1] >= losses[2] - 1e-12
    policies = maths.fit_policy(choice_A, lr, [0, 5, 50])
    assert np.isfinite(policies).all() and policies[0].tolist() == pytest.approx([1 / actions] * actions)
    distances = [np.abs(policy_A - choice_A).sum() for policy_A in policies]
    assert distances[2] <= distances[0] + 1e-9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"actions": 1}, "from 2 to 1000"),
        ({"actions": 50}, r"teacher_centre=...\): got 80; an action of the 50, from 0 to 49"),
        ({"student_centre": -1}, "student_centre"),
        ({"student_centre": float("nan")}, "student_centre"),
        ({"teacher_width": 0.0}, "a number from 0.01"),
        ({"student_width": float("inf")}, "student_width"),
        ({"power": 0.0}, "above 0"),
        ({"pairs": 0}, "at least 1"),
        ({"samples": -3}, "at least 1"),
        ({"reward_steps": 0}, "at least 1"),
        ({"sft_steps": 0}, "at least 1"),
        ({"reward_lr": 4.0}, "overshoot"),
        ({"sft_lr": 0.0}, "above 0 and below 4"),
        ({"beta": 0.0}, "above 0"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_settings_that_make_no_bandit_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        Bandit(**wrong)
