"""`rounds`: what every round of a method bought, several methods beside each other.

    rounds((
        Rounds("Quark", (start, *quark), (fluency(start, sft), *(fluency(g, sft) for g in quark))),
        Rounds("ALT-RM", (start, *alt)),
    ))

A method is the answers to the same held-out prompts after each of its rounds, graded, the start first: round 0. Every
number is over the prompts that stand in all rounds of all methods, so that a curve shows the method and not the draw.
The *gain* is the last round's score less the first's, paired by prompt. Two rounds are *apart* where even their
separate intervals do not touch: more than the gain's interval asks for.

Files: `report.json` (a `RoundByRound`), `table.txt`; `report(..., also=(...,))` draws the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trueline.errors import UserError
from trueline.evaluate import lineage, plain
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.best import signer
from trueline.evaluate.charts import number
from trueline.evaluate.distinct import Distinct, Split, distinct
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.fluency import Fluency, read_fluency
from trueline.evaluate.headline import bounds, places, plus
from trueline.evaluate.qualities import check_fluency
from trueline.evaluate.results import Answers, describe, kl_per_answer, scores
from trueline.evaluate.statistics import Interval, difference
from trueline.evaluate.table import share, within
from trueline.evaluate.toxicity import Reading, Toxicity
from trueline.evaluate.toxicity import toxicity as measured_toxicity
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Groups, Logprobs, Report


@dataclass(frozen=True)
class Rounds:
    """A method round by round: the answers after each, graded; and, one per round where it was measured, their
    `fluency`, and the log-probs (`score`) of a view of them under the policy that wrote them and under the reference.
    """

    name: str
    samples: tuple[Groups, ...]
    fluency: tuple[Report, ...] = ()
    logps: tuple[tuple[Logprobs, Logprobs], ...] = ()

    def __post_init__(self) -> None:
        where = f"Rounds({self.name!r})"
        if not self.samples:
            raise UserError(where, "it has no round", "the answers after each round")
        for field in ("fluency", "logps"):
            given = len(getattr(self, field))
            if given not in (0, len(self.samples)):
                got = f"{field} has {given} entries for {len(self.samples)} rounds"
                raise UserError(where, got, "one per round, or none")
        for index, report in enumerate(self.fluency):
            check_fluency(report, self.samples[index], f"{where}, fluency of round {index}")


class Round(Record, frozen=True):
    """One round's measures; None for what was not measured. kl: KL(policy || reference) per answer, in nats."""

    round: int
    samples: str
    answers: Answers
    distinct_2: Distinct
    toxicity: Toxicity | None = None
    fluency: Fluency | None = None
    kl: Interval | None = None


class Course(Record, frozen=True):
    """One method's rounds. gain: the last round's score less the first's; apart: whether their intervals are, too."""

    name: str
    by: str
    rounds: tuple[Round, ...]
    gain: Interval | None = None
    apart: bool = False


class RoundByRound(Record, frozen=True):
    """Every method's course on the prompts that all have in common: `report.json`."""

    prompts: int
    unmatched: int
    methods: tuple[Course, ...]


@stage(Report, rev=1, label="rounds", estimate=lambda methods, **_: {"arms": sum(len(m.samples) for m in methods)})
def rounds(
    work: Work,
    methods: tuple[Rounds, ...],
    by: str = "",
    toxicity: str = "",
    toxicity_is: Reading = "complement",
    split: Split = "words",
    max_unmatched: float = 0.1,
) -> None:
    """The course of `methods` over their rounds.

    by: the critic whose scores are read (default: the last that scored every round). toxicity, toxicity_is, split: as
    for `qualities`. max_unmatched: the largest share of prompts, from 0 to 1, that may lack an answer in some round.
    """
    names = [method.name for method in methods]
    if not methods or len(set(names)) < len(names):
        raise UserError("rounds(methods=...)", f"got {names}", "methods, each with a name of its own")
    every = {
        f"{method.name}, round {index}": list(samples.read())
        for method in methods
        for index, samples in enumerate(method.samples)
    }
    prompts, unmatched = common_prompts(every, "rounds(methods=...)", max_unmatched)
    groups = {name: only(of, prompts) for name, of in every.items()}
    critics = scorers(groups, by, "rounds(by=...)")
    courses = []
    for method in methods:
        made, marks = [], []
        for index, samples in enumerate(method.samples):
            name = f"{method.name}, round {index}"
            of = groups[name]
            toxic = signer(of, toxicity, f"rounds(toxicity=...) on {name}") if toxicity else None
            marks.append(scores(of, critics[name]))
            made.append(
                Round(
                    round=index,
                    samples=samples.name,
                    answers=describe(of, critics[name]),
                    distinct_2=distinct(of, split, (2,))[0],
                    toxicity=measured_toxicity(of, toxic, toxicity_is) if toxic else None,
                    fluency=read_fluency(method.fluency[index], prompts) if method.fluency else None,
                    kl=kl_per_answer(*map(lineage.logprobs, method.logps[index])) if method.logps else None,
                )
            )
        courses.append(course(method.name, critics[f"{method.name}, round 0"], made, marks))
    found = RoundByRound(len(prompts), unmatched, tuple(courses))
    write_figures(work, found)
    (work.dir / "table.txt").write_text(draw(found), encoding="utf-8")
    work.count("arms", len(every))
    work.count("prompts", len(prompts))


def course(name: str, by: str, made: Sequence[Round], marks: Sequence[Mapping[str, float | None]]) -> Course:
    """A method's rounds with what lies between the first and the last; marks: score per prompt of each round."""
    if len(made) < 2:
        return Course(name, by, tuple(made))
    first, last = made[0].answers.score, made[-1].answers.score
    ends = (first.low, first.high, last.low, last.high)
    apart = None not in ends and (first.high < last.low or last.high < first.low)  # type: ignore[operator]
    return Course(name, by, tuple(made), difference(marks[-1], marks[0]), apart)


def read_rounds(report: Report) -> RoundByRound:
    """The result of a made `rounds`."""
    if report.stage != "rounds":
        raise UserError(report.name, "it is no course of rounds", "what rounds(methods) made")
    return read_figures(report, RoundByRound)


def distinct_2(one: Round) -> Interval:
    """Distinct-2 over words: per prompt where prompts have several answers, else over all answers, without an interval.

    Of a single answer it would say next to nothing.
    """
    several = one.answers.samples > one.answers.characters.n
    return one.distinct_2.words if several else Interval(0, one.distinct_2.corpus_words)


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(found: RoundByRound) -> str:
    """A row per round, a block per method; columns in which no round has anything to say are left out."""
    headings = [
        "method",
        "round",
        "score",
        "toxicity",
        "perplexity",
        "of tokens",
        "chars",
        "distinct-2",
        "KL",
        "cut %",
    ]
    rows: list[list[str]] = []
    for method in found.methods:
        rows += [[""] * len(headings)] if rows else []
        rows += [[method.name if one.round == 0 else "", str(one.round), *cells(one)] for one in method.rounds]
    known = [at for at in range(len(headings)) if any(row[at] not in ("", "–") for row in rows)]
    kept = [[row[at] for at in known] for row in rows]
    return plain.table([headings[at] for at in known], kept, notes=notes(found), left=2)


def cells(one: Round) -> list[str]:
    """A round's measures in words."""
    return [
        within(one.answers.score),
        within(one.toxicity.maximum) if one.toxicity else "–",
        number(one.fluency.samples.mean) if one.fluency else "–",
        number(one.fluency.corpus.mean) if one.fluency else "–",
        number(one.answers.characters.mean),
        number(distinct_2(one).mean),
        number(one.kl.mean, 2) if one.kl else "–",
        share(one.answers.cut),
    ]


def notes(found: RoundByRound) -> list[str]:
    """Each method's gain, and what the columns mean."""
    out = []
    for method in found.methods:
        gain = method.gain
        if gain is not None and gain.mean is not None:
            said = f"{plus(gain.mean, places(gain))} ({bounds(gain, plus)})"
            touch = "do not touch" if method.apart else "touch"
            out.append(f"{method.name}: round {len(method.rounds) - 1} less round 0 {said}; their intervals {touch}.")
    critics = sorted({method.by for method in found.methods})
    out.append(
        f"Scores by {', '.join(critics)} on the same {found.prompts:,} prompts; ±: half the 95% interval over them."
    )
    if found.unmatched:
        out.append(f"{found.unmatched:,} prompts are not in every round, and in no number.")
    references = sorted({one.fluency.reference for of in found.methods for one in of.rounds if one.fluency})
    if references:
        said = "mean over answers; of tokens: that of all answers as one text"
        out.append(f"Perplexity under {', '.join(references)}, {said}.")
    toxic = sorted({one.toxicity.by for of in found.methods for one in of.rounds if one.toxicity})
    if toxic:
        out.append(f"Toxicity by {', '.join(toxic)}: the most toxic answer to a prompt, on average.")
    return out
