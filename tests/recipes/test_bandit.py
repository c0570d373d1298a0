"""The bandit study: the published figures, exactly and by sampling, and why they are so; then its options."""

from __future__ import annotations

import dataclasses
import time

import msgspec
import numpy as np
import pytest

from trueline.cli import main
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.recipes._bandit import Study, described, said, spread, table
from trueline.recipes.bandit import Sweep, bandit, study
from trueline.store import using
from trueline.world import bandit as maths
from trueline.world.bandit import Bandit

PUBLISHED = 0.3  # how far our figures may be from the published study's re-run
QUICK = {"reward_steps": 20, "sft_steps": 20, "pairs": 500, "samples": 500, "draws": 1}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with using(tmp_path_factory.mktemp("store")):
        began = time.process_time()
        made = make(bandit())
        assert time.process_time() - began < 60  # seconds; four on an idle core
        yield made


@pytest.fixture(scope="module")
def found(report) -> Study:
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=Study)


def test_sft_earns_more_than_rlaif(found):
    """The same 250,000 oracle calls. The student earns 40.0, the teacher 78.5; RLAIF moves the student one deviation
    (12.2) up, to 51.8: a spike at 52 that holds 13 % of its choices, where 17 % of the student's were as high.
    """
    assert found.student.reward == pytest.approx(40.0205, abs=1e-3)
    assert found.teacher.reward == pytest.approx(78.5440, abs=1e-3)
    rlaif = found.exact.rlaif
    assert rlaif.reward == pytest.approx(51.8378, abs=1e-3)
    assert rlaif.mode == 52 and rlaif.peak == pytest.approx(0.1306, abs=1e-4)
    for trial in found.drawn:
        assert trial.rlaif.reward == pytest.approx(51.8, abs=PUBLISHED)
        assert trial.rlaif.mode in (51, 52, 53) and 0.13 <= trial.rlaif.peak <= 0.15


def test_sft_is_under_trained(found):
    """The logit of an action that the teacher never takes falls by lr q a step, q its probability.

    So q' = −q² or faster (what others gain is taken from it too): from 0.01, in 15,000 steps of 0.01, to at most
    1 / (100 + 150) = 0.0040. It is 0.0029. The fifty lowest actions keep 0.145 of the mass at 24.8 on average:
    0.855 · 78.5 + 0.145 · 24.8 = 70.7. After ten times the steps at most 1 / (100 + 1500) = 0.0006 is left on each, and
    SFT earns 77.8.
    """
    sft = found.exact.sft
    assert sft.reward == pytest.approx(70.6890, abs=1e-3)
    assert sft.mode == 80 and sft.peak == pytest.approx(0.03095, abs=1e-5)
    assert sft.floor == pytest.approx(0.002862, abs=1e-6)
    unseen = np.array(found.masses.sft)[:50]
    assert sft.floor < 0.004
    assert unseen.sum() == pytest.approx(0.1453, abs=1e-4)
    assert unseen @ np.arange(50) / unseen.sum() == pytest.approx(24.83, abs=0.01)
    for trial in found.drawn:
        assert trial.sft.reward == pytest.approx(70.7, abs=PUBLISHED)
        assert 77 <= trial.sft.mode <= 83 and trial.sft.floor == pytest.approx(0.0029, abs=5e-5)
        assert trial.sft.peak == pytest.approx(0.031, abs=1e-3)


def test_the_reward_is_learned_where_the_student_went(found):
    """It rises from 28 to 52, one deviation on both sides of 40, and returns outwards to the zero it began with:
    to 0.72 and 0.73 above its lowest value, half its range of 1.46.
    """
    reward = found.exact.learned
    assert (reward.lowest, reward.highest) == (28, 52)
    assert reward.range == pytest.approx(1.4565, abs=1e-4)
    assert reward.first == pytest.approx(0.7172, abs=1e-4) and reward.last == pytest.approx(0.7290, abs=1e-4)
    table_A = np.array(found.masses.learned)
    assert (
        (np.diff(table_A[28:53]) > 0).all() and (np.diff(table_A[52:]) < 0).all() and (np.diff(table_A[:29]) < 0).all()
    )
    assert table_A[99] == pytest.approx(0, abs=1e-4)
    for trial in found.drawn:
        assert trial.learned.highest in (51, 52, 53) and 26 <= trial.learned.lowest <= 29
        assert trial.learned.range == pytest.approx(1.46, abs=0.03)
        assert trial.learned.first == pytest.approx(0.72, abs=0.03) and trial.learned.last == pytest.approx(
            0.73, abs=0.03
        )


def test_no_beta_reaches_the_teacher(found):
    """Beta to 0 puts all mass on the highest learned reward, at 52; a larger one stays with the student."""
    exact = {0.01: 52.2940, 0.05: 52.0968, 0.1: 51.8378, 0.5: 48.0418, 1.0: 44.7697}
    published = {0.01: 52.3, 0.05: 52.1, 0.1: 51.8, 0.5: 48.0, 1.0: 44.8}
    assert [row.at for row in found.betas] == list(exact)
    for row in found.betas:
        assert row.rlaif == pytest.approx(exact[row.at], abs=1e-3)
        assert row.rlaif == pytest.approx(published[row.at], abs=0.051)
        assert row.sft == found.exact.sft.reward
        assert len(row.drawn) == 3 and row.drawn == pytest.approx([published[row.at]] * 3, abs=PUBLISHED)


def test_more_steps_help_both_and_do_not_change_the_order(found):
    rows = {row.at: row for row in found.times}
    assert rows[1].rlaif == found.exact.rlaif.reward and rows[1].sft == found.exact.sft.reward
    assert rows[10].rlaif == pytest.approx(56.9038, abs=1e-3) and rows[10].sft == pytest.approx(77.7636, abs=1e-3)
    assert all(row.rlaif < row.sft for row in found.times)


def test_a_student_near_the_teacher_gains_more_from_labels(found):
    """RLAIF adds 11.8 wherever the student is, SFT's 70.7 does not depend on it: equal at 70.7 − 11.8 = 58.9. Beside a
    teacher that was learned fully, 78.5 − 11.8 = 66.7.
    """
    rows = {row.at: row for row in found.centres}
    for centre, rlaif in ((40, 51.8378), (50, 61.8328), (60, 71.8285), (70, 81.7796)):
        assert rows[centre].rlaif == pytest.approx(rlaif, abs=1e-3)
        assert rows[centre].rlaif == pytest.approx(centre + 11.8, abs=PUBLISHED)
        assert rows[centre].sft == found.exact.sft.reward
    assert found.equal.centre == pytest.approx(58.86, abs=0.02)
    assert found.equal.trained == pytest.approx(66.74, abs=0.02)
    assert [row.rlaif > row.sft for row in found.centres] == [False, False, False, True, True, True]


def test_the_table_and_the_page_hold_the_figures(report):
    text, html = (report.path / "table.txt").read_text(), (report.path / "report.html").read_text()
    assert max(len(line) for line in text.splitlines()) <= 100
    for figure in ("40.02", "78.54", "51.84", "70.69", "56.9", "77.8", "52.3 to 52.6"):
        assert figure in text
    assert "RLAIF and SFT as trained are equal at student 58.9, 21.1 below the teacher." in text
    assert "SFT earns 18.9 more from the same number of oracle calls" in html
    assert html.count("<svg") == 5 and "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert "equal at 58.9" in html and "The published setting." in html
    assert report.record["counts"] == {"draws": 3, "pairs": 750_000, "samples": 750_000}


def test_figures_hold_what_was_drawn(found):
    masses = found.masses
    assert sum(masses.seen) == 1_500 and abs(np.array(masses.seen) @ np.arange(100) / 1_500 - 40) < 1.3
    for policy in (masses.student, masses.teacher, masses.rlaif, masses.sft):
        assert len(policy) == 100 and sum(policy) == pytest.approx(1)
    assert masses.truth == tuple(range(100))


def test_sampling_for_longer_agrees_too():
    """75,000 steps on drawn pairs: a reward that nobody contradicted at the edge goes on rising there."""
    setting = Bandit()
    student_A, rng = maths.student(setting), np.random.default_rng(3)
    wins_AA, _ = maths.drawn_wins(student_A, setting.pairs, rng)
    reward_A = maths.fit_reward(wins_AA, setting.reward_lr, [75_000])[0]
    assert maths.optimum(student_A, reward_A, 0.1) @ maths.truth(setting) == pytest.approx(56.9, abs=PUBLISHED)


def test_more_rounds_do_not_lift_the_bound():
    """Labels on pairs of what RLAIF now chooses: 51.8, 55.4, 56.0. A spike explores less than the student did."""
    setting = Bandit()
    choice_A, earned = maths.student(setting), []
    for _ in range(3):
        reward_A = maths.fit_reward(maths.expected_wins(choice_A), setting.reward_lr, [setting.reward_steps])[0]
        choice_A = maths.optimum(choice_A, reward_A, setting.beta)
        earned.append(choice_A @ maths.truth(setting))
    assert earned == pytest.approx([51.84, 55.40, 56.00], abs=0.01)


# --- options and refusals --------------------------------------------------------------------------------------------


def test_nothing_drawn_and_nothing_swept(tmp_path):
    """Closed form alone: no seeds, no sweeps, no histogram, no place to look for equality."""
    found = study(Bandit(reward_steps=10, sft_steps=10), Sweep((), (), ()), 0)
    assert found.drawn == () and found.betas == () and sum(found.masses.seen) == 0
    assert found.equal.centre is None and found.equal.trained is None
    assert "not looked for" in said(found)[0]
    assert "Beta" not in table(found) and spread([]) in table(found)


def test_where_labels_always_win_there_is_no_crossing():
    found = study(Bandit(reward_steps=10, sft_steps=1), Sweep((), (), (70.0, 80.0)), 0)
    assert found.equal.centre is None
    assert said(found)[0] == "RLAIF and SFT as trained are equal at no student between 70 and 80."


def test_shape_of_the_truth_changes_what_is_earned_and_not_what_is_learned():
    """Labels say which is better, not by how much."""
    sweep = Sweep((), (), ())
    line, curve = (study(Bandit(power=power, reward_steps=50, sft_steps=50), sweep, 0) for power in (1.0, 2.0))
    assert line.masses.rlaif == curve.masses.rlaif and line.masses.sft == curve.masses.sft
    assert curve.exact.rlaif.reward == pytest.approx(np.array(curve.masses.rlaif) @ (np.arange(100) ** 2 / 99))


def test_what_differs_from_the_published_setting_is_said():
    assert described(dataclasses.asdict(Bandit())) == ""
    assert (
        described(dataclasses.asdict(Bandit(student_centre=60, pairs=1000)))
        == ", but for student centre 60, pairs 1000"
    )


def test_every_option_is_part_of_the_identity(tmp_path):
    with using(tmp_path):
        usual = bandit().fingerprint
        for option in (
            {"power": 2.0}, {"teacher_centre": 81.0}, {"teacher_width": 200.0}, {"student_centre": 41.0}, {"seed": 1},
            {"student_width": 200.0}, {"pairs": 9}, {"samples": 9}, {"reward_steps": 9}, {"reward_lr": 0.1},
            {"sft_steps": 9}, {"sft_lr": 0.1}, {"beta": 1.0}, {"draws": 1}, {"betas": (1.0,)}, {"times": (1.0,)},
            {"centres": (50.0,)}, {"actions": 101},
        ):  # fmt: skip
            assert bandit(**option).fingerprint != usual, option
        assert bandit(betas=(1.0, 0.01, 0.5, 0.1, 0.05, 0.1)).fingerprint == usual


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    assert main(["make", "bandit", *words, "--actions", "30", "--teacher-centre", "25", "--student-centre", "10",
                 "--centres", "5", "15", "--times", "1", "--store", "store"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "student's centre" in shown and "teacher at 25" in shown
    assert ", but for actions 30, teacher centre 25" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"betas": (0.1, 0.0)}, "betas"),
        ({"times": (float("inf"),)}, "times"),
        ({"times": (1e-5,)}, "at least one step"),
        ({"centres": (40.0, 100.0)}, "from 0 to 99"),
        ({"draws": -1}, "draws"),
        ({"actions": 60}, "of other size needs centres of its own"),
    ],
)
def test_refusals_come_before_anything_is_run(wrong, wanted, tmp_path):
    with using(tmp_path), pytest.raises(UserError, match=wanted):
        bandit(**wrong)
