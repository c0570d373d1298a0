"""What the bandit study found, and how it is shown: records, a table for people, a page with its figures.

`report.json` is a `Study`: every number of the table and of the figures. Which runs there are stands in `bandit`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from trueline.evaluate import plain
from trueline.evaluate.charts import number
from trueline.evaluate.panels import Bars, Curve, Mark, Panel, panels
from trueline.evaluate.sheet import Fact, Part, render
from trueline.records import Record
from trueline.world.bandit import Bandit, Floats

STUDENT, RLAIF, TEACHER, SFT, REWARD = 0, 1, 2, 3, 4
WIDE = 760
COLOURS = {STUDENT: "student", RLAIF: "RLAIF", TEACHER: "teacher", SFT: "SFT"}


class Outcome(Record, frozen=True):
    """One policy: its expected true reward, its likeliest action, that one's probability, and the smallest one."""

    reward: float
    mode: int
    peak: float
    floor: float


class Learned(Record, frozen=True):
    """A table of rewards: where it is highest and lowest, how far apart, and how far its ends are above the lowest."""

    highest: int
    lowest: int
    range: float
    first: float
    last: float


class Trial(Record, frozen=True):
    """One run of the pipeline; seed: of its draws, None where counts are the expected ones."""

    seed: int | None
    rlaif: Outcome
    sft: Outcome
    learned: Learned


class Swept(Record, frozen=True):
    """Expected true reward at one value of what is swept; drawn: RLAIF's in each of the drawn trials."""

    at: float
    student: float
    rlaif: float
    sft: float
    drawn: tuple[float, ...] = ()


class Equal(Record, frozen=True):
    """The student's centre at which RLAIF earns what SFT does, None where there is none between the swept ones.

    trained: the same beside an SFT that has become its teacher.
    """

    centre: float | None
    trained: float | None


class Masses(Record, frozen=True):
    """What the figures draw, one number per action; `seen` are the first choices of the first drawn trial."""

    truth: tuple[float, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...]
    rlaif: tuple[float, ...]
    sft: tuple[float, ...]
    learned: tuple[float, ...]
    seen: tuple[float, ...]


class Study(Record, frozen=True):
    """Everything that was found."""

    setting: dict[str, float]
    student: Outcome
    teacher: Outcome
    exact: Trial
    drawn: tuple[Trial, ...]
    betas: tuple[Swept, ...]
    times: tuple[Swept, ...]
    centres: tuple[Swept, ...]
    equal: Equal
    masses: Masses


def outcome(choice_A: Floats, truth_A: Floats) -> Outcome:
    """A policy's figures.

    >>> outcome(np.array([0.25, 0.75]), np.array([0.0, 1.0]))
    Outcome(reward=0.75, mode=1, peak=0.75, floor=0.25)
    """
    mode = int(choice_A.argmax())
    return Outcome(float(choice_A @ truth_A), mode, float(choice_A[mode]), float(choice_A.min()))


def learned(reward_A: Floats) -> Learned:
    """A learned table's figures.

    >>> learned(np.array([0.5, -1.0, 2.0, 0.0]))
    Learned(highest=2, lowest=1, range=3.0, first=1.5, last=1.0)
    """
    least = float(reward_A.min())
    ends = float(reward_A[0]) - least, float(reward_A[-1]) - least
    return Learned(int(reward_A.argmax()), int(reward_A.argmin()), float(np.ptp(reward_A)), *ends)


# --- for people ------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The lowest and the highest of what the seeds gave.

    >>> spread([51.84, 51.71, 51.9]), spread([52, 52], 0), spread([])
    ('51.7 to 51.9', '52', '–')
    """
    if not values:
        return "–"
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def table(found: Study) -> str:
    """The whole study as plain text."""
    teacher = found.setting["teacher_centre"]
    parts = [_main(found)]
    for title, heading, rows in (
        ("Beta: what a nat of KL from the student costs", "beta", found.betas),
        ("More or less training of both", "times the steps", found.times),
        (f"Another student, the teacher at {teacher:g}", "student's centre", found.centres),
    ):
        drawn = bool(rows and rows[0].drawn)
        heads = [heading, "student", "RLAIF", "SFT", "better", *(["RLAIF, drawn"] if drawn else [])]
        cells = [_cells(row, drawn) for row in rows]
        if rows:
            parts.append(plain.table(heads, cells, title=title))
    return "\n".join([*parts, "".join(f"{line}\n" for line in said(found))])


def _cells(row: Swept, drawn: bool) -> list[str]:
    earned = [f"{value:.1f}" for value in (row.student, row.rlaif, row.sft)]
    return [number(row.at), *earned, better(row), *([spread(row.drawn)] if drawn else [])]


def _main(found: Study) -> str:
    exact, drawn, reward = found.exact, found.drawn, found.exact.learned
    seeds = f"; drawn: over {len(drawn)} seed{'s' if len(drawn) > 1 else ''}" if drawn else ""
    samples, pairs, beta = (found.setting[name] for name in ("samples", "pairs", "beta"))
    each: tuple[tuple[str, Outcome, list[float]], ...] = (
        ("student", found.student, []),
        ("teacher", found.teacher, []),
        ("SFT", exact.sft, [trial.sft.reward for trial in drawn]),
        ("RLAIF", exact.rlaif, [trial.rlaif.reward for trial in drawn]),
    )
    rows = [
        [name, f"{of.reward:.2f}", spread(rewards), str(of.mode), f"{of.peak:.4f}", f"{of.floor:.4f}"]
        for name, of, rewards in each
    ]
    notes = [
        f"SFT: on {samples:,.0f} of the teacher's choices. RLAIF: from {pairs:,.0f} labelled pairs of the student's, "
        f"beta {beta:g}. Figures are in expected counts{seeds}.",
        f"The learned reward is highest at {reward.highest}, lowest at {reward.lowest}, {reward.range:.2f} apart; at "
        f"the first and last action it is {reward.first:.2f} and {reward.last:.2f} above the lowest.",
    ]
    heads = ["policy", "true reward", "drawn", "likeliest", "its probability", "smallest"]
    return plain.table(heads, rows, title="Teacher or critic: what the same oracle calls buy", notes=notes)


def better(row: Swept) -> str:
    """Who earns more."""
    return "RLAIF" if row.rlaif > row.sft else "SFT"


def said(found: Study) -> list[str]:
    """Where the two are equal, in sentences."""
    if len(found.centres) < 2:
        return ["Where RLAIF and SFT are equal was not looked for: that takes two student's centres."]
    teacher, lines = found.setting["teacher_centre"], []
    swept = f"{found.centres[0].at:g} and {found.centres[-1].at:g}"
    for centre, whom in ((found.equal.centre, "SFT as trained"), (found.equal.trained, "SFT trained to the end")):
        if centre is None:
            lines.append(f"RLAIF and {whom} are equal at no student between {swept}.")
        else:
            where = f"{abs(teacher - centre):.1f} {'below' if centre < teacher else 'above'} the teacher"
            lines.append(f"RLAIF and {whom} are equal at student {centre:.1f}, {where}.")
    return lines


# --- the page --------------------------------------------------------------------------------------------------------


def page(found: Study) -> str:
    """One self-contained HTML file: the headline, the two figures, the sweeps, the table."""
    ahead = found.exact.sft.reward - found.exact.rlaif.reward
    headline = f"{'SFT' if ahead > 0 else 'RLAIF'} earns {abs(ahead):.1f} more from the same number of oracle calls"
    lead = (
        "RLAIF learns which of its own choices are better, so it moves to the edge of what it tried and stops there. "
        "SFT learns where the teacher goes, wherever that is."
    )
    parts = (
        Part(
            "Who looks where",
            "RLAIF's labels are on pairs of the student's choices (grey), SFT's targets are the teacher's. Both are "
            "drawn with their peaks at the best reward.",
            (looks(found),),
            ((REWARD, "true reward"), (STUDENT, "student"), (TEACHER, "teacher")),
            wide=True,
        ),
        Part(
            "Where they end",
            "Above, how the policies choose. Below, the reward that was learned from comparisons, counted from its "
            "lowest value, and the true one in the same range. Where the student never went, the learned reward stays "
            "where it began, which is neither high nor low.",
            (ends(found),),
            (*COLOURS.items(), (REWARD, "reward")),
            wide=True,
        ),
        Part("What would change it", "Expected true reward, in closed form.", sweeps(found), tuple(COLOURS.items())),
        Part("All figures", f"The published setting{described(found.setting)}.", text=table(found)),
    )
    return render("Teacher or critic: a bandit", headline, lead, facts(found), parts)


def facts(found: Study) -> list[Fact]:
    """What stands at the top of the page."""
    rlaif, sft = found.exact.rlaif, found.exact.sft
    tried = sum(found.masses.student[rlaif.mode :])
    moved = (
        f"The student earned {found.student.reward:.1f}. The likeliest action is now {rlaif.mode}; {tried:.0%} of the "
        "student's own choices were there or higher."
    )
    short = f"The teacher earns {found.teacher.reward:.1f}."
    if found.times and found.times[-1].at > 1:
        short += f" Trained {found.times[-1].at:g} times as long, SFT would earn {found.times[-1].sft:.1f}."
    return [
        Fact("RLAIF", f"{rlaif.reward:.1f}", moved),
        Fact("SFT", f"{sft.reward:.1f}", short),
        Fact("Equal at student", number(found.equal.centre), " ".join(said(found))),
    ]


def described(setting: dict[str, float]) -> str:
    """What differs from the published setting.

    >>> import dataclasses
    >>> described(dataclasses.asdict(Bandit(student_centre=60, beta=1)))
    ', but for student centre 60, beta 1'
    """
    published = Bandit()
    differ = {name: value for name, value in setting.items() if value != getattr(published, name)}
    changed = [f"{name.replace('_', ' ')} {value:g}" for name, value in differ.items()]
    return f", but for {', '.join(changed)}" if changed else ""


def looks(found: Study) -> Markup:
    """What actions are worth, and who tries which: the study's first figure."""
    masses, top = found.masses, max(found.masses.truth)
    xs = range(len(masses.truth))
    seen = sum(masses.seen)
    layers: list[Curve | Bars] = [Bars("true reward", REWARD, xs, masses.truth)]
    if seen:
        layers.append(Bars(f"the first {seen:,.0f} choices", STUDENT, xs, scaled(masses.seen, masses.student, top)))
    layers.append(Curve("student", STUDENT, xs, scaled(masses.student, masses.student, top)))
    layers.append(Curve("teacher", TEACHER, xs, scaled(masses.teacher, masses.teacher, top)))
    panel = Panel("true reward; how often each is tried, in shares of the peak", layers, 250, zero=True)
    return panels("The task, the teacher and the student", [panel], "action", width=WIDE)


def scaled(masses: Sequence[float], of: Sequence[float], top: float) -> list[float]:
    """Masses as shares of their sum, with the peak of the distribution `of` drawn at `top`."""
    factor = top / max(of) / sum(masses)
    return [mass * factor for mass in masses]


def ends(found: Study) -> Markup:
    """Policies above, rewards below: the study's second figure."""
    masses = found.masses
    xs = range(len(masses.truth))
    least, most = min(masses.learned), max(masses.learned)
    risen = [reward - least for reward in masses.learned]
    true = [(most - least) * worth / max(masses.truth) for worth in masses.truth]
    above = Panel(
        "probability of each action",
        [
            Curve("teacher", TEACHER, xs, masses.teacher, dashed=True),
            Curve("student", STUDENT, xs, masses.student, dashed=True),
            Curve("SFT", SFT, xs, masses.sft),
            Curve("RLAIF", RLAIF, xs, masses.rlaif),
        ],
        230, zero=True,
    )  # fmt: skip
    below = Panel(
        "reward: learned, and true in the same range (dashed)",
        [Curve("true reward", REWARD, xs, true, dashed=True), Curve("learned reward", REWARD, xs, risen)],
        150, zero=True,
    )  # fmt: skip
    return panels("Policies, and the reward behind RLAIF", [above, below], "action", width=WIDE)


def sweeps(found: Study) -> tuple[Markup, ...]:
    """Expected true reward over beta, training and the student's centre."""
    drawn = []
    for title, x_label, rows, marks, log in (
        ("Another student", "student's centre", found.centres, _marks(found), False),
        ("More or less training of both", "times the steps", found.times, (), True),
        ("A looser or tighter leash", "beta, tighter to the right", found.betas, (), True),
    ):
        xs = [row.at for row in rows]
        layers = [
            Curve("teacher", TEACHER, xs, [found.teacher.reward] * len(xs), dashed=True),
            Curve("student", STUDENT, xs, [row.student for row in rows], dashed=True),
            Curve("SFT", SFT, xs, [row.sft for row in rows], dots=True),
            Curve("RLAIF", RLAIF, xs, [row.rlaif for row in rows], dots=True),
        ]
        drawn.append(panels(title, [Panel("expected true reward", layers)], x_label, marks=marks, log=log))
    return tuple(chart for chart in drawn if chart)


def _marks(found: Study) -> tuple[Mark, ...]:
    centre = found.equal.centre
    return (Mark(centre, f"equal at {centre:.1f}"),) if centre is not None else ()
