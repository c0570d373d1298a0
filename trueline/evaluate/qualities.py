"""`qualities`: what answers are like, arm beside arm: score, toxicity, fluency, diversity, length, labels.

    arms = (Written("SFT", told, fluency(told, sft)), Written("Quark", asked, fluency(asked, sft)))
    qualities(arms, toxicity="perspective", labels="grade")

One row per measure, one column per arm, all on the prompts that every arm answered; each measure stands in a module of
its own (`toxicity`, `fluency`, `distinct`, `labels`) that says what it is and what it counts. What was not asked for,
or cannot be known, is left out.

Files: `report.json` (a `Qualities`), `table.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trueline.errors import UserError
from trueline.evaluate import fluency as fluent
from trueline.evaluate import plain
from trueline.evaluate.arms import Arms, common_prompts, only, scorers
from trueline.evaluate.best import signer
from trueline.evaluate.charts import number
from trueline.evaluate.distinct import Distinct, Split, distinct
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.fluency import Fluency, read_fluency
from trueline.evaluate.headline import listed
from trueline.evaluate.labels import Distribution
from trueline.evaluate.labels import labels as distribution
from trueline.evaluate.results import Answers, choose_score, describe
from trueline.evaluate.table import share, within
from trueline.evaluate.toxicity import Reading, Toxicity
from trueline.evaluate.toxicity import toxicity as measured_toxicity
from trueline.pipeline import Work, stage
from trueline.records import Record
from trueline.store import Groups, Report

MOST_COLUMNS = 4  # more arms than this stand below each other


@dataclass(frozen=True)
class Written:
    """An arm: its answers with what critics said of them, and their `fluency`, where it was measured."""

    name: str
    samples: Groups
    fluency: Report | None = None

    def __post_init__(self) -> None:
        check_fluency(self.fluency, self.samples, f"Written({self.name!r}, fluency=...)")


def check_fluency(report: Report | None, samples: Groups, where: str) -> None:
    """Refuse what is no fluency of these answers: of others, it would stand beside the wrong scores.

    The answers before they were judged are the same answers.
    """
    if report is None:
        return
    if not isinstance(report, Report) or report.stage != "fluency":
        raise UserError(where, f"got {report!r}", "what fluency(samples, reference) made")
    read, known = report.inputs["samples"], samples
    while known != read and known.stage == "judge":
        known = known.inputs["groups"]
    while read != known and read.stage == "judge":
        read = read.inputs["groups"]
    if read != known:
        got = f"{report.name} is of {report.inputs['samples'].name}"
        raise UserError(where, got, f"the fluency of {samples.name}", "Hand the same answers to both.")


class Quality(Record, frozen=True):
    """One arm's measures; None for what was not asked for."""

    name: str
    samples: str
    answers: Answers
    distinct: tuple[Distinct, ...]
    toxicity: Toxicity | None = None
    fluency: Fluency | None = None
    labels: Distribution | None = None


class Qualities(Record, frozen=True):
    """Every arm's measures on their common prompts: `report.json`. unmatched: prompts that some arm lacks."""

    score_by: str
    prompts: int
    unmatched: int
    arms: tuple[Quality, ...]


@stage(Report, rev=1, label="qualities", estimate=lambda arms, **_: {"arms": len(arms)})
def qualities(
    work: Work,
    arms: tuple[Written, ...],
    score: str = "",
    toxicity: str = "",
    toxicity_is: Reading = "complement",
    labels: str = "",
    classes: tuple[str, ...] = (),
    split: Split = "words",
    max_unmatched: float = 0.1,
) -> None:
    """The measures of `arms`, side by side.

    score: the critic whose mean score stands there (default: the last that scored every arm, if one did). toxicity: the
    critic of toxicity, "" for none; toxicity_is: "complement" where 1 less its score is the toxicity, "score" where the
    score is. labels: the critic whose labels are counted, "" for none; classes: labels that have a row in any case, in
    this order. split: "words" parts at white space, "space" at single spaces, as the originals of distinct-n.
    max_unmatched: the largest share of prompts, from 0 to 1, that may lack an answer in some arm.
    """
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) < len(names):
        raise UserError("qualities(arms=...)", f"got {names}", "arms, each with a name of its own")
    for argument, value, known in (("split", split, ("words", "space")),
                                   ("toxicity_is", toxicity_is, ("complement", "score"))):  # fmt: skip
        if value not in known:
            raise UserError(f"qualities({argument}=...)", f"got {value!r}", " or ".join(f'"{k}"' for k in known))
    every: Arms = {arm.name: list(arm.samples.read()) for arm in arms}
    prompts, unmatched = common_prompts(every, "qualities(arms=...)", max_unmatched)
    groups = {name: only(of, prompts) for name, of in every.items()}
    by = score or choose_score(list(groups.values()), "", names)
    scored = scorers(groups, by, "qualities(score=...)") if by else dict.fromkeys(names, "")
    rows = []
    for arm in arms:
        of = groups[arm.name]
        toxic = signer(of, toxicity, f"qualities(toxicity=...) on {arm.name}") if toxicity else None
        label = signer(of, labels, f"qualities(labels=...) on {arm.name}", "label") if labels else None
        rows.append(
            Quality(
                name=arm.name,
                samples=arm.samples.name,
                answers=describe(of, scored[arm.name]),
                distinct=distinct(of, split),
                toxicity=measured_toxicity(of, toxic, toxicity_is) if toxic else None,
                fluency=read_fluency(arm.fluency, prompts) if arm.fluency else None,
                labels=distribution(of, label, classes) if label else None,
            )
        )
    found = Qualities(next(iter(scored.values())), len(prompts), unmatched, tuple(rows))
    write_figures(work, found)
    (work.dir / "table.txt").write_text(draw(found), encoding="utf-8")
    work.count("arms", len(rows))
    work.count("prompts", len(prompts))


def read_qualities(report: Report) -> Qualities:
    """The result of a made `qualities`."""
    if report.stage != "qualities":
        raise UserError(report.name, "it is no table of qualities", "what qualities(arms) made")
    return read_figures(report, Qualities)


# --- as text ---------------------------------------------------------------------------------------------------------


def draw(found: Qualities) -> str:
    """The measures as plain text: a row each, a column per arm, blocks of four arms below each other."""
    told = {arm.name: cells(found, arm) for arm in found.arms}
    names = list(dict.fromkeys(name for of in told.values() for name in of))
    blocks = [found.arms[at : at + MOST_COLUMNS] for at in range(0, len(found.arms), MOST_COLUMNS)]
    drawn = []
    for block in blocks:
        rows = [[name, *(told[arm.name].get(name, "–") for arm in block)] for name in names]
        known = [row for row in rows if any(cell != "–" for cell in row[1:])]
        below = notes(found) if block is blocks[-1] else ()
        drawn.append(plain.table(["measure", *(arm.name for arm in block)], known, notes=below))
    return "\n".join(drawn)


def cells(found: Qualities, arm: Quality) -> dict[str, str]:
    """One arm's measures in words, by what they are called; those that no arm has are left to be missing."""
    out = {f"score by {found.score_by}": within(arm.answers.score)} if found.score_by else {}
    if arm.toxicity:
        out["maximum toxicity"] = within(arm.toxicity.maximum)
        out["toxic prompts %"] = within(arm.toxicity.probability, 100, 1)
    if arm.fluency:
        out |= dict(fluent.rows(arm.fluency))
    for one in arm.distinct:
        n = one.n
        out[f"distinct-{n} / words"] = within(one.words)
        if n > 1:  # of single words both are the same
            out[f"distinct-{n} / {n}-grams"] = within(one.ngrams)
        out[f"distinct-{n} of all / words"] = number(one.corpus_words)
        if n > 1:
            out[f"distinct-{n} of all / {n}-grams"] = number(one.corpus_ngrams)
    out |= {"characters": within(arm.answers.characters), "tokens": within(arm.answers.tokens)}
    out["cut %"] = share(arm.answers.cut)
    for row in arm.labels.rows if arm.labels else ():
        out[f"{row.label or 'no label'} %"] = within(row.share, 100, 1)
    return out


def notes(found: Qualities) -> list[str]:
    """What a reader of the table has to know: the unit, who judged, what was left out."""
    out = [
        f"±: half the 95% interval over {found.prompts:,} prompts.",
        "Distinct-n is the mean over prompts; of all, it is over all answers at once, and falls with their number.",
    ]
    if found.unmatched:
        out.append(f"{found.unmatched:,} prompts are not in every arm, and in no number.")
    of: dict[str, list[str]] = {}
    for arm in found.arms:
        for said in counted(arm):
            of.setdefault(said, []).append(arm.name)
    for said, names in of.items():
        whose = "" if len(names) == len(found.arms) else f"{listed(names)}: "
        out.append(f"{whose}{said if whose else said[:1].upper() + said[1:]}.")
    return out


def counted(arm: Quality) -> list[str]:
    """What an arm's measures left out, and by whom they are."""
    out = []
    if toxic := arm.toxicity:
        each = f"{toxic.fewest}" if toxic.fewest == toxic.most else f"{toxic.fewest} to {toxic.most}"
        said = f"toxicity by {toxic.by} over {each} answers to a prompt"
        said += f", {toxic.abstained:,} answers without a score" if toxic.abstained else ""
        out.append(said + (f", {toxic.skipped:,} prompts skipped for want of one" if toxic.skipped else ""))
    if fluency := arm.fluency:
        said = f"perplexity under {fluency.reference}"
        said += f", {fluency.empty:,} empty answers skipped" if fluency.empty else ""
        said += f", {fluency.long:,} too long for it" if fluency.long else ""
        out.append(said + (f", {fluency.discarded:,} of 10,000 or more discarded" if fluency.discarded else ""))
    if arm.labels:
        out.append(f"labels by {arm.labels.by}")
    return out
