"""A bandit that shows what bounds RLAIF: two ways to spend the same oracle calls, in a world of one table each.

Actions are numbers and a larger one is better. A *teacher* and a *student* each choose by a bell over the actions, the
student lower. SFT learns from the teacher's choices. RLAIF has pairs of the *student's* choices labelled without error,
fits a reward to the labels and moves the student along it, held back by KL. Everything else is certain, so what is left
is the one difference: SFT sees where the teacher goes, RLAIF only where the student went.

Source: the bandit study of "A Critical Evaluation of AI Feedback for Aligning Large Language Models" (Sharma et al.
2024, arXiv 2402.12366, section on the mechanism). Each stage can be computed from *expected* counts, which makes the
study exact, or from counts that were drawn. Gradient descent runs literally, step by step: how little it was trained is
part of the result. What is drawn of the numbers is not decided here.

Shape suffixes: A actions, S numbers of steps at which training is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueline.errors import UserError

Floats = NDArray[np.float64]

CHUNK = 1 << 20  # pairs drawn at once, so that memory does not grow with their number
STEEPEST = 4.0  # both losses' curvature is at most 1/2, so a longer step than 2 / (1/2) overshoots and grows
MOST_ACTIONS = 1000
NARROWEST = 0.01  # a bell between two actions still reaches both


@dataclass(frozen=True)
class Bandit:
    """The setting of the study; the defaults are the published ones.

    actions: 0 ... actions − 1. power: action k is worth (actions − 1) (k / (actions − 1))^power; 1 makes it worth k.
    teacher_*, student_*: both choose k with probability proportional to exp(−(k − centre)² / width). pairs: of the
    student's choices, labelled. samples: of the teacher's choices. reward_*, sft_*: full-batch gradient descent from
    zeros. beta: what RLAIF pays per nat of KL from the student. seed: of the draws.
    """

    actions: int = 100
    power: float = 1.0
    teacher_centre: float = 80.0
    teacher_width: float = 300.0
    student_centre: float = 40.0
    student_width: float = 300.0
    pairs: int = 250_000
    samples: int = 250_000
    reward_steps: int = 7_500
    reward_lr: float = 0.01
    sft_steps: int = 15_000
    sft_lr: float = 0.01
    beta: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.actions <= MOST_ACTIONS:
            raise refused("actions", self.actions, f"from 2 to {MOST_ACTIONS}")
        for name in ("teacher_centre", "student_centre"):
            check_centre(self, name, getattr(self, name))
        for name, least in (("power", 0.0), ("beta", 0.0), ("teacher_width", NARROWEST), ("student_width", NARROWEST)):
            check_positive(name, getattr(self, name), least)
        for name in ("pairs", "samples", "reward_steps", "sft_steps"):
            if getattr(self, name) < 1:
                raise refused(name, getattr(self, name), "at least 1")
        for name in ("reward_lr", "sft_lr"):
            if not 0 < getattr(self, name) < STEEPEST:
                raise refused(
                    name, getattr(self, name), f"above 0 and below {STEEPEST:g}, beyond which steps overshoot"
                )
        if self.seed < 0:
            raise refused("seed", self.seed, "0 or more")


def refused(name: str, got: object, wanted: str, cure: str = "") -> UserError:
    """The error for a parameter of the study."""
    return UserError(f"bandit({name}=...)", f"got {got}", wanted, cure)


def check_positive(name: str, value: float, least: float = 0.0) -> None:
    """Refuse what is no finite number above 0, or below `least`."""
    if not (0 < value < math.inf and value >= least):
        raise refused(name, value, f"a number from {least:g}" if least else "a number above 0")


def check_centre(bandit: Bandit, name: str, value: float) -> None:
    """Refuse a centre outside the actions."""
    if not 0 <= value <= bandit.actions - 1:
        raise refused(
            name, f"{value:g}", f"an action of the {bandit.actions}, from 0 to {bandit.actions - 1}",
            "A bandit of other size needs centres of its own.",
        )  # fmt: skip


# --- the world -------------------------------------------------------------------------------------------------------


def truth(bandit: Bandit) -> Floats:
    """What each action is worth, (A,).

    >>> truth(Bandit(actions=5, teacher_centre=3, student_centre=1, power=2)).tolist()
    [0.0, 0.25, 1.0, 2.25, 4.0]
    """
    action_A = np.arange(bandit.actions, dtype=np.float64)
    share_A = np.maximum(action_A, 1.0) / (bandit.actions - 1)  # 0 is worth 0 at any power
    worth_A: Floats = action_A * share_A ** (bandit.power - 1.0)
    return worth_A


def bell(actions: int, centre: float, width: float) -> Floats:
    """Probabilities proportional to exp(−(k − centre)² / width), (A,).

    Worked: three actions around 1 with width 1/ln 2 weigh 1/2, 1, 1/2.

    >>> [round(p, 6) for p in bell(3, 1, 1 / np.log(2)).tolist()]
    [0.25, 0.5, 0.25]
    """
    return softmax(-((np.arange(actions) - centre) ** 2) / width)


def softmax(logits_A: NDArray[np.floating]) -> Floats:
    """exp(logits) over their sum."""
    weights_A: Floats = np.exp(logits_A - logits_A.max())
    return weights_A / weights_A.sum()


def teacher(bandit: Bandit) -> Floats:
    """How the teacher chooses, (A,)."""
    return bell(bandit.actions, bandit.teacher_centre, bandit.teacher_width)


def student(bandit: Bandit) -> Floats:
    """How the student chooses, (A,)."""
    return bell(bandit.actions, bandit.student_centre, bandit.student_width)


# --- the data --------------------------------------------------------------------------------------------------------


def expected_wins(choice_A: Floats) -> Floats:
    """Share of pairs in which row beats column when both sides are chosen alike and the larger always wins, (A, A).

    Row i, column j < i: 2 p_i p_j. What is missing from 1 are pairs of the same action, which nobody wins.

    >>> expected_wins(np.array([0.5, 0.25, 0.25])).tolist()
    [[0.0, 0.0, 0.0], [0.25, 0.0, 0.0], [0.25, 0.125, 0.0]]
    """
    return np.tril(2.0 * np.outer(choice_A, choice_A), -1)


def drawn_wins(choice_A: Floats, pairs: int, rng: np.random.Generator, keep: int = 0) -> tuple[Floats, Floats]:
    """The same from `pairs` pairs that were drawn; and how often each action is among the first `keep` choices, (A,).

    Choices come in a row and are taken two by two.
    """
    actions = len(choice_A)
    counts, first = np.zeros(actions * actions), np.zeros(actions)
    for start in range(0, pairs, CHUNK):
        chosen = rng.choice(actions, size=(min(CHUNK, pairs - start), 2), p=choice_A)
        first += np.bincount(chosen.ravel()[: max(0, keep - 2 * start)], minlength=actions)
        met = chosen.max(axis=1) * actions + chosen.min(axis=1)
        counts += np.bincount(met, minlength=actions * actions)
    return np.tril(counts.reshape(actions, actions) / pairs, -1), first


def drawn_shares(choice_A: Floats, samples: int, rng: np.random.Generator) -> Floats:
    """Shares of each action among `samples` choices that were drawn, (A,)."""
    shares_A: Floats = rng.multinomial(samples, choice_A) / samples
    return shares_A


# --- learning --------------------------------------------------------------------------------------------------------


def fit_reward(wins_AA: Floats, lr: float, stops: Sequence[int]) -> Floats:
    """A table of rewards after each number of steps in `stops` (rising), (S, A).

    Full-batch gradient descent from zeros on the mean over pairs of −log σ(r_winner − r_loser), W = `wins_AA`:

        ∂/∂r_i = −Σ_j [ W_ij σ(r_j − r_i) − W_ji σ(r_i − r_j) ] = Σ_j W_ji − Σ_j (W_ij + W_ji) e_j / (e_i + e_j)

    with e = exp(r), so that a step takes as many exponentials as there are actions. Pairs of the same action pull
    nowhere and count in the mean. The entries' sum stays 0, which keeps e within range.

    Worked: two actions, all pairs won by action 1: ∂/∂r_1 = −1/2, so one step of 0.1 gives −0.05 and 0.05.

    >>> fit_reward(np.array([[0.0, 0.0], [1.0, 0.0]]), 0.1, [1]).round(12).tolist()
    [[-0.05, 0.05]]
    """
    actions = len(wins_AA)
    met_AA, lost_A = np.ascontiguousarray(wins_AA + wins_AA.T), wins_AA.sum(axis=0)
    reward_A, pull_A, e_A, sums_AA = np.zeros(actions), np.empty(actions), np.empty(actions), np.empty_like(wins_AA)
    # e_i + e_j as a product of thin matrices: three times as fast as adding a column to a row.
    left, right = np.ones((actions, 2)), np.ones((2, actions))
    out, done = [], 0
    for stop in stops:
        for _ in range(stop - done):
            np.exp(reward_A, out=e_A)
            left[:, 0] = right[1] = e_A
            np.dot(left, right, out=sums_AA)
            np.divide(met_AA, sums_AA, out=sums_AA)
            np.dot(sums_AA, e_A, out=pull_A)
            pull_A -= lost_A
            pull_A *= lr
            reward_A += pull_A
        out.append(reward_A.copy())
        done = stop
    return np.stack(out)


def fit_policy(shares_A: Floats, lr: float, stops: Sequence[int]) -> Floats:
    """Probabilities of a table of logits after each number of steps in `stops` (rising), (S, A).

    Full-batch gradient descent from zeros on cross-entropy: the gradient is softmax(logits) − shares.

    Worked: shares (1, 0), one step of 1: logits (1/2, −1/2), probabilities σ(1) and σ(−1).

    >>> fit_policy(np.array([1.0, 0.0]), 1.0, [1]).round(6).tolist()
    [[0.731059, 0.268941]]
    """
    actions = len(shares_A)
    logits_A, weights_A, towards_A = np.zeros(actions), np.empty(actions), lr * shares_A
    out, done = [], 0
    for stop in stops:
        for _ in range(stop - done):
            # The logits' sum stays 0 and each step moves by less than lr: no shift is needed against overflow.
            np.exp(logits_A, out=weights_A)
            weights_A *= lr / weights_A.sum()
            logits_A -= weights_A
            logits_A += towards_A
        out.append(softmax(logits_A))
        done = stop
    return np.stack(out)


def optimum(choice_A: Floats, reward_A: Floats, beta: float) -> Floats:
    """The policy that earns the most reward less beta times its KL from `choice_A`: choice · exp(reward / beta), (A,).

    Worked: halves, rewards 0 and ln 3 at beta 1 become a quarter and three; at beta 1/2 a tenth and nine.

    >>> [optimum(np.array([0.5, 0.5]), np.log([1.0, 3.0]), beta).round(6).tolist() for beta in (1.0, 0.5)]
    [[0.25, 0.75], [0.1, 0.9]]
    """
    ahead_A = np.minimum(reward_A - reward_A[choice_A > 0].max(), 0.0)  # before the division, which may overflow
    with np.errstate(divide="ignore", over="ignore"):  # an action that is never chosen stays so
        return softmax(np.log(choice_A) + ahead_A / beta)
