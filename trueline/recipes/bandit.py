"""The bandit study of RLAIF, critically evaluated: why labelled preferences may buy less than better demonstrations.

    trueline make bandit

A student and a teacher choose among a hundred actions, the student worse ones. The same number of oracle calls goes
into the teacher's choices for SFT, or into labels on pairs of the student's choices for RLAIF: a reward is fitted to
the labels and followed under a KL leash. RLAIF cannot learn what the student never tried; SFT can. All is computed from
expected counts, and again from drawn ones; the sweeps say what would have to change for RLAIF to win (docs/bandit.md).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueline.evaluate.figures import write_figures
from trueline.pipeline import Work, stage
from trueline.recipes import _bandit as shown
from trueline.recipes._bandit import Equal, Masses, Study, Swept, Trial
from trueline.store import Report
from trueline.world import bandit as maths
from trueline.world.bandit import Bandit, Floats

FIRST = 1_500  # of the student's choices, drawn as a histogram
CLOSE = 5e-5  # how near to equal is equal, as a share of the best reward


@dataclass(frozen=True)
class Sweep:
    """What else is run, in closed form: rising values, none of them twice.

    betas: RLAIF's. times: multiples of both numbers of steps. centres: the student's.
    """

    betas: tuple[float, ...]
    times: tuple[float, ...]
    centres: tuple[float, ...]

    def check(self, bandit: Bandit) -> None:
        """Raise `UserError` for values that this bandit cannot take."""
        for beta in self.betas:
            maths.check_positive("betas", beta)
        for times in self.times:
            maths.check_positive("times", times)
            if round(times * min(bandit.reward_steps, bandit.sft_steps)) < 1:
                raise maths.refused("times", f"{times:g}", "at least one step of each training")
        for centre in self.centres:
            maths.check_centre(bandit, "centres", centre)


def bandit(
    *,
    actions: int = 100,
    power: float = 1.0,
    teacher_centre: float = 80.0,
    teacher_width: float = 300.0,
    student_centre: float = 40.0,
    student_width: float = 300.0,
    pairs: int = 250_000,
    samples: int = 250_000,
    reward_steps: int = 7_500,
    reward_lr: float = 0.01,
    sft_steps: int = 15_000,
    sft_lr: float = 0.01,
    beta: float = 0.1,
    seed: int = 0,
    draws: int = 3,
    betas: tuple[float, ...] = (1.0, 0.5, 0.1, 0.05, 0.01),
    times: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
    centres: tuple[float, ...] = (30.0, 40.0, 50.0, 60.0, 70.0, 80.0),
) -> Report:
    """Compare SFT on a teacher with RLAIF on a student's own choices, in a bandit where all can be computed.

    Args:
        actions: how many there are; their number is their rank, 0 the worst.
        power: an action is worth its number at 1; above 1 the best stand out, below 1 the worst do.
        teacher_centre: action about which the teacher chooses.
        teacher_width: it chooses action k with probability proportional to exp(-(k - centre)^2 / width).
        student_centre: action about which the student chooses.
        student_width: as the teacher's; 300 is a standard deviation of 12.2 actions.
        pairs: pairs of the student's choices that are labelled, without error: the larger wins.
        samples: choices of the teacher for SFT; as many oracle calls as there are labels.
        reward_steps: full-batch gradient steps of the reward model.
        reward_lr: their learning rate, below 4.
        sft_steps: full-batch gradient steps of SFT.
        sft_lr: their learning rate, below 4.
        beta: what RLAIF pays in reward per nat of KL from the student.
        seed: of the first draw; each further one takes the next.
        draws: how often choices are drawn instead of expected; 0 for expected counts alone.
        betas: values of beta to sweep over.
        times: multiples of both numbers of steps to sweep over.
        centres: the student's centres to sweep over; where RLAIF earns what SFT does is looked for between them.
    """
    setting = Bandit(
        actions, power, teacher_centre, teacher_width, student_centre, student_width, pairs, samples,
        reward_steps, reward_lr, sft_steps, sft_lr, beta, seed if draws else 0,
    )  # fmt: skip
    sweep = Sweep(tuple(sorted(set(betas))), tuple(sorted(set(times))), tuple(sorted(set(centres))))
    sweep.check(setting)
    if draws < 0:
        raise maths.refused("draws", draws, "0 or more")
    return bandit_study(setting, sweep, draws)


@stage(Report, rev=1, label="bandit", estimate=lambda bandit, draws, **_: {"draws": draws})
def bandit_study(work: Work, bandit: Bandit, sweep: Sweep, draws: int) -> None:
    """The study of one bandit. Files: `report.json` (a `Study`), `table.txt`, `report.html`."""
    runs = 2 + draws + len(sweep.centres)
    with work.progress(runs, "runs") as meter:
        found = study(bandit, sweep, draws, meter.advance)
    write_figures(work, found)
    (work.dir / "table.txt").write_text(shown.table(found), encoding="utf-8")
    (work.dir / "report.html").write_text(shown.page(found), encoding="utf-8")
    work.count("draws", draws)
    work.count("pairs", draws * bandit.pairs)
    work.count("samples", draws * bandit.samples)


def study(bandit: Bandit, sweep: Sweep, draws: int, done: Callable[[], None] = lambda: None) -> Study:
    """All runs; `done` is called after each."""
    truth_A, student_A, teacher_A = maths.truth(bandit), maths.student(bandit), maths.teacher(bandit)
    wins_AA = maths.expected_wins(student_A)

    # One descent serves all its lengths: what is looked at after 7,500 steps of 75,000 is what 7,500 steps give.
    lengths = sorted({1.0, *sweep.times})
    rewards = dict(
        zip(lengths, maths.fit_reward(wins_AA, bandit.reward_lr, stops(bandit.reward_steps, lengths)), strict=True)
    )
    policies = dict(
        zip(lengths, maths.fit_policy(teacher_A, bandit.sft_lr, stops(bandit.sft_steps, lengths)), strict=True)
    )
    done()
    reward_A, sft_A = rewards[1.0], policies[1.0]
    rlaif_A = maths.optimum(student_A, reward_A, bandit.beta)

    drawn, drawn_rewards, seen_A = [], [], np.zeros(bandit.actions)
    for at in range(draws):
        trial, drawn_A, first_A = draw(bandit, bandit.seed + at)
        drawn.append(trial)
        drawn_rewards.append(drawn_A)
        seen_A = seen_A if at else first_A
        done()

    def earned(choice_A: Floats) -> float:
        return float(choice_A @ truth_A)

    def under(beta: float) -> Swept:
        """The same rewards followed at another beta, the expected and the drawn ones."""
        every = [earned(maths.optimum(student_A, of_A, beta)) for of_A in (reward_A, *drawn_rewards)]
        return Swept(beta, earned(student_A), every[0], earned(sft_A), tuple(every[1:]))

    longer, nearer = [], []
    for times in sweep.times:
        followed_A = maths.optimum(student_A, rewards[times], bandit.beta)
        longer.append(Swept(times, earned(student_A), earned(followed_A), earned(policies[times])))
    for centre in sweep.centres:
        start_A = maths.student(replace(bandit, student_centre=centre))
        nearer.append(Swept(centre, earned(start_A), rlaif_from(bandit, start_A), earned(sft_A)))
        done()
    equal = Equal(crossing(bandit, nearer, earned(sft_A)), crossing(bandit, nearer, earned(teacher_A)))
    done()
    masses = (truth_A, student_A, teacher_A, rlaif_A, sft_A, reward_A, seen_A)
    return Study(
        setting=dataclasses.asdict(bandit),
        student=shown.outcome(student_A, truth_A),
        teacher=shown.outcome(teacher_A, truth_A),
        exact=Trial(None, shown.outcome(rlaif_A, truth_A), shown.outcome(sft_A, truth_A), shown.learned(reward_A)),
        drawn=tuple(drawn),
        betas=tuple(under(beta) for beta in sweep.betas),
        times=tuple(longer),
        centres=tuple(nearer),
        equal=equal,
        masses=Masses(*(tuple(values.tolist()) for values in masses)),
    )


def stops(steps: int, lengths: Sequence[float]) -> list[int]:
    """Numbers of steps after which a descent is looked at.

    >>> stops(7500, [0.1, 1.0, 10.0])
    [750, 7500, 75000]
    """
    return [round(length * steps) for length in lengths]


def draw(bandit: Bandit, seed: int) -> tuple[Trial, Floats, Floats]:
    """One run on choices that were drawn, its learned reward, and the student's first choices, counted, both (A,)."""
    rng = np.random.default_rng(seed)
    truth_A, student_A = maths.truth(bandit), maths.student(bandit)
    wins_AA, first_A = maths.drawn_wins(student_A, bandit.pairs, rng, FIRST)
    shares_A = maths.drawn_shares(maths.teacher(bandit), bandit.samples, rng)
    reward_A = maths.fit_reward(wins_AA, bandit.reward_lr, [bandit.reward_steps])[0]
    sft_A = maths.fit_policy(shares_A, bandit.sft_lr, [bandit.sft_steps])[0]
    rlaif_A = maths.optimum(student_A, reward_A, bandit.beta)
    trial = Trial(seed, shown.outcome(rlaif_A, truth_A), shown.outcome(sft_A, truth_A), shown.learned(reward_A))
    return trial, reward_A, first_A


def rlaif_from(bandit: Bandit, student_A: Floats) -> float:
    """What RLAIF earns from a student, in expected counts."""
    reward_A = maths.fit_reward(maths.expected_wins(student_A), bandit.reward_lr, [bandit.reward_steps])[0]
    return float(maths.optimum(student_A, reward_A, bandit.beta) @ maths.truth(bandit))


def crossing(bandit: Bandit, swept: Sequence[Swept], other: float) -> float | None:
    """The student's centre at which RLAIF earns `other`: the first between two swept centres, by false position.

    RLAIF's gain hardly depends on where the student is, so the curve is nearly straight and a few runs are enough.
    None where it crosses nowhere.
    """
    for below, above in itertools.pairwise(swept):
        if (below.rlaif - other) * (above.rlaif - other) > 0:
            continue
        low, high = (below.at, below.rlaif - other), (above.at, above.rlaif - other)
        for turn in range(24):
            # Every other time the middle: false position alone may creep up from one side.
            straight = low[1] / (low[1] - high[1]) if low[1] != high[1] else 0.0
            centre = low[0] + (high[0] - low[0]) * (0.5 if turn % 2 else straight)
            gap = rlaif_from(bandit, maths.student(replace(bandit, student_centre=centre))) - other
            if abs(gap) <= CLOSE * (bandit.actions - 1):
                break
            low, high = ((centre, gap), high) if gap * low[1] > 0 else (low, (centre, gap))
        return centre
    return None
