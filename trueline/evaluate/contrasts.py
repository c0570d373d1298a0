"""`contrasts`: what one arm has over another, and one gain over another, paired by prompt; fair or not, said aloud.

    contrasts(
        (("B", b), ("C", c), ("E", e), ("F", f)),
        (Contrast("C - B", ("C",), ("B",)), Contrast("(C - B) - (F - E)", ("C", "E"), ("B", "F"))),
    )

A contrast is a sum of arms less a sum of arms, computed per prompt, so that what prompts have in common cancels; its
interval is over prompts. *fair* is the recipe's word: whether both sides had the same oracle to learn from.

Worked: scores of two prompts C (1, 0.6), B (0.5, 0.4), F (1, 0.7), E (0.9, 0.7): C - B is 0.35, F - E is 0.05, and
(C - B) - (F - E) the mean of 0.4 and 0.2, 0.3.

Files: `report.json` (a `Contrasted`), `table.txt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trueline.errors import UserError, closest
from trueline.evaluate import plain
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.figures import write_figures
from trueline.evaluate.headline import places, plus
from trueline.evaluate.results import scores
from trueline.evaluate.statistics import Interval, mean_interval
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Groups, Report


@dataclass(frozen=True)
class Contrast:
    """The arms `plus` together, less the arms `minus`. unfair: why the two sides are no fair comparison, "" if they
    are."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    unfair: str = ""

    def __post_init__(self) -> None:
        if not self.plus or len(self.plus) != len(self.minus):
            got = f"{len(self.plus)} arms less {len(self.minus)}"
            raise UserError(f"Contrast({self.name!r})", got, "as many on either side, one at least")


class Found(Record, frozen=True):
    """One contrast's figure. apart: whether 0 lies outside of the interval."""

    name: str
    gain: Interval
    apart: bool
    unfair: str = ""


class Contrasted(Record, frozen=True):
    """All contrasts: `report.json`."""

    by: str
    prompts: int
    found: tuple[Found, ...]


@stage(Report, rev=1, label="contrasts", estimate=lambda arms, **_: {"arms": len(arms)})
def contrasts(
    work: Work,
    arms: tuple[tuple[str, Groups], ...],
    wanted: tuple[Contrast, ...],
    by: str = "",
    max_unmatched: float = 0.1,
) -> None:
    """The contrasts of graded arms on the prompts that all of them answered.

    by: the critic whose scores are read (default: the last that scored every arm). max_unmatched: the largest share of
    prompts, from 0 to 1, that may lack an answer in some arm.
    """
    every = {name: list(groups.read()) for name, groups in arms}
    for name in {name for one in wanted for name in (*one.plus, *one.minus)} - set(every):
        raise UserError("contrasts(wanted=...)", f'no arm is named "{name}"', "", closest(name, list(every)))
    prompts, _ = common_prompts(every, "contrasts(arms=...)", max_unmatched)
    groups = {name: only(of, prompts) for name, of in every.items()}
    critics = scorers(groups, by, "contrasts(by=...)")
    marks = {name: scores(of, critics[name]) for name, of in groups.items()}
    found = []
    for one in wanted:
        gain = mean_interval(gains(one, marks))
        apart = gain.low is not None and gain.high is not None and not gain.low <= 0 <= gain.high
        found.append(Found(one.name, gain, apart, one.unfair))
    result = Contrasted(next(iter(critics.values())), len(prompts), tuple(found))
    write_figures(work, result)
    (work.dir / "table.txt").write_text(draw(result), encoding="utf-8")
    work.count("arms", len(arms))


def gains(one: Contrast, marks: Mapping[str, Mapping[str, float | None]]) -> list[float]:
    """The contrast on every prompt on which all its arms have a score."""
    out = []
    for prompt in marks[one.plus[0]]:
        left = [marks[name].get(prompt) for name in one.plus]
        right = [marks[name].get(prompt) for name in one.minus]
        known = [x for x in (*left, *right) if x is not None]
        if len(known) == len(left) + len(right):
            out.append(sum(known[: len(left)]) - sum(known[len(left) :]))
    return out


def draw(result: Contrasted) -> str:
    """The table: each contrast, its interval, and whether it is fair."""
    rows = []
    for one in result.found:
        digits = places(one.gain)
        interval = f"{plus(one.gain.low or 0.0, digits)} to {plus(one.gain.high or 0.0, digits)}"
        said = "yes" if one.apart else "cannot be told"
        rows.append([one.name, plus(one.gain.mean or 0.0, digits), interval, said, one.unfair or "fair"])
    notes = [f"{result.by} score, paired over {result.prompts} prompts; intervals 95 %, not widened for their number."]
    return plain.table(["contrast", "gain", "interval", "real", "fair"], rows, notes=notes)
