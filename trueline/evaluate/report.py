"""`report`: which method won, by how much, is it real, is it just longer, what did it cost; as a table and a page.

    report("Tour", (Arm("SFT", sft_samples, sft), Arm("DPO", dpo_samples, dpo)), (duel(dpo_samples, sft_samples, ...),))

Arms are compared on the prompts they have in common; each arm's samples carry what critics said of them (`judge`), a
duel belongs to the arm whose samples it compared. Files: `report.json` (a `results.Result`: every number),
`table.txt`, `report.html`. Gathering stands in `results` and `lineage`, laying out in `table` and `page`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from trueline.errors import UserError, closest
from trueline.evaluate import accuracy, lineage, results
from trueline.evaluate.duel import PAIRS, Duel, decide, swapped
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import headline, listed, winner
from trueline.evaluate.length import LengthControlled, Verdicts, together
from trueline.evaluate.paired import Paired, Pairing, paired_table
from trueline.evaluate.results import ArmResult, Result
from trueline.evaluate.statistics import Interval, difference, mean_interval, per_prompt
from trueline.fingerprint import added
from trueline.pipeline import Work, stage, upstream
from trueline.records import Group, Preference, read_jsonl
from trueline.store import Artifact, Groups, Logprobs, Policy, Report

if TYPE_CHECKING:
    from trueline.evaluate.page import Material

ALIKE = 0.1  # answers whose lengths differ by at most this share of the longer one count as alike


@dataclass(frozen=True)
class Arm:
    """One method: its answers, judged, and the policy that wrote them (None: a teacher or another engine).

    logps and reference_logps, both from `score` on one view of all `samples`, give KL(policy || reference). pairs is
    the policy's `accuracy` on held-out pairs.
    """

    name: str
    samples: Groups
    policy: Policy | None = None
    logps: Logprobs | None = None
    reference_logps: Logprobs | None = None
    pairs: Report | None = None

    def __post_init__(self) -> None:
        for field, kind in (("samples", Groups), ("policy", Policy), ("pairs", Report)):
            value = getattr(self, field)
            if not isinstance(value, kind) and (value is not None or field == "samples"):
                raise UserError(f"Arm({self.name!r}, {field}=...)", f"got {value!r}", f"a handle on {kind.__name__}")


@dataclass(frozen=True)
class Fought:
    """A duel from the arm's side: its result, and its pairs with the arm's answer first."""

    artifact: Report
    result: Duel
    pairs: Sequence[Group]


def _estimate(arms: tuple[Arm, ...], duels: tuple[Report, ...], baseline: str, **_: Any) -> dict[str, int]:
    check(arms, duels, baseline)  # a plan says so before anything was paid for
    return {"arms": len(arms)}


@stage(Report, rev=2, label="report", estimate=_estimate)
def report(
    work: Work,
    title: str,
    arms: tuple[Arm, ...],
    duels: tuple[Report, ...] = (),
    baseline: str = "",
    score: str = "",
    show: int = 60,
    also: tuple[Report, ...] = added(()),
) -> None:
    """The table and the page that compare `arms`.

    baseline: name of the arm that the others are measured against (default: the right side of the duels, else the
    first arm). score: the critic whose scores stand in the table (default: the last that scored every arm). show: how
    many prompts stand side by side on the page. also: what stands below: curves (`climb`, `rounds`,
    `overoptimisation`), whether classes come out as asked (`control`), what the answers are like (`qualities`),
    benchmark tables (`scoreboard`, `measure`).
    """
    from trueline.evaluate.page import render
    from trueline.evaluate.sections import Section, sections
    from trueline.evaluate.table import draw

    base = check(arms, duels, baseline)
    colours = paint(arms, base)
    below = sections(also, colours)
    groups = {arm.name: list(arm.samples.read()) for arm in arms}
    by = results.choose_score(list(groups.values()), score, list(groups))
    marks = {name: results.scores(of, by) for name, of in groups.items()} if by else {}
    fought = dict(match(arms, duels, base))
    lengths, pairs = meet(fought)
    rows = []
    for arm in arms:
        gap = difference(marks[arm.name], marks[base]) if by and arm.name != base else None
        row = _row(arm, colours[arm.name], groups[arm.name], by, gap, fought.get(arm.name))
        rows.append(msgspec.structs.replace(row, length=lengths.get(arm.name)))
    told = [x for arm in arms for x in (arm.samples, arm.policy, arm.pairs, arm.logps, arm.reference_logps) if x]
    steps = tuple(lineage.step(artifact) for artifact in upstream(*told, *duels, *also))
    result = Result(title, base, by, tuple(rows), steps=steps, paired=pairs)
    best = winner(result)
    close = (
        results.rivals(best.name, marks) if by and best else results.rivals_by_wins(best.name, pairs) if best else ()
    )
    result = msgspec.structs.replace(result, close=close)
    result = msgspec.structs.replace(result, headline=headline(result))
    write_figures(work, result)
    if pairs:
        text = paired_table(pairs, of=best.name if best else "")
        below = [Section("Arm against arm", next(iter(fought.values())).artifact.name, text), *below]
    tables = [draw(result), *(f"{one.title} ({one.artefact})\n\n{one.text}" for one in below)]
    (work.dir / "table.txt").write_text("\n".join(tables), encoding="utf-8")
    page = render(result, _material(result, arms, groups, marks, fought, show), below)
    (work.dir / "report.html").write_text(page, encoding="utf-8")
    work.count("arms", len(arms))


def check(arms: Sequence[Arm], duels: Sequence[Report], baseline: str) -> str:
    """The baseline's name; raises `UserError` for arms or duels that make no report."""
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) != len(names) or "" in names:
        raise UserError("report(arms=...)", f"arms named {names}", "at least one, each with a name of its own")
    ends = [(duel, side(arms, duel, "left").name, side(arms, duel, "right").name) for duel in duels]
    right = sorted({end for _, _, end in ends})
    if not baseline and len(right) > 1:
        raise UserError(
            "report(duels=...)", f"the duels are against {listed(right)}", "one baseline for all",
            "Name it: report(..., baseline=...).",
        )  # fmt: skip
    base = baseline or (right[0] if right else names[0])
    if base not in names:
        raise UserError("report(baseline=...)", f"no arm is named {base!r}", "", closest(base, names))
    for duel, *two in ends:
        if base not in two:
            raise UserError(
                f"report, {duel.name}", f"it compares {listed(two)}", f"duels against the baseline {base}",
                "Leave it out, or name another baseline.",
            )  # fmt: skip
    return base


def side(arms: Sequence[Arm], duel: Report, which: str) -> Arm:
    """The arm whose samples (judged since, or not) stand on the `which` side of a duel."""
    fought = duel.inputs.get(which)
    for arm in arms:
        if isinstance(fought, Artifact) and any(fought == version for version in versions(arm.samples)):
            return arm
    raise UserError(
        f"report, {duel.name}",
        f"its {which} side is {getattr(fought, 'name', fought)}",
        "the samples of one of the arms",
        "Hand the same samples to duel and to Arm, or add the missing arm.",
    )


def versions(samples: Groups) -> Iterator[Artifact]:
    """The samples and what they were before each judging."""
    seen: Artifact = samples
    yield seen
    while seen.stage == "judge":
        seen = seen.inputs["groups"]
        yield seen


def match(arms: Sequence[Arm], duels: Sequence[Report], baseline: str) -> Iterator[tuple[str, Fought]]:
    """(arm name, duel from its side) of every duel against the baseline."""
    for artifact in duels:
        left = side(arms, artifact, "left").name
        result = read_figures(artifact, Duel)
        pairs = list(read_jsonl(artifact.path / PAIRS, Group))
        if left == baseline:
            left = side(arms, artifact, "right").name
            pairs = swapped(pairs)
            ends = [(end.name, end.fingerprint) for end in (result.right, result.left)]
            result = decide(pairs, result.critic, ends[0], ends[1], result.unmatched)
        yield left, Fought(artifact, result, pairs)


def meet(fought: Mapping[str, Fought]) -> tuple[dict[str, LengthControlled], tuple[Paired, ...]]:
    """(length-controlled rates, every two arms paired) of the arms that one judge compared with the baseline."""
    by_judge: dict[str, dict[str, Verdicts]] = {}
    for name, fight in fought.items():
        judge = fight.result.critic
        by_judge.setdefault(judge, {})[name] = Verdicts.of(fight.pairs, judge)
    lengths = {name: of for fights in by_judge.values() for name, of in together(fights).items()}
    return lengths, tuple(pair for fights in by_judge.values() for pair in Pairing(fights).all())


def paint(arms: Sequence[Arm], baseline: str) -> dict[str, int]:
    """A colour number for each arm: 0 (grey) for the baseline, 1 to 7 in order for the others."""
    others = [arm.name for arm in arms if arm.name != baseline]
    return {baseline: 0} | {name: 1 + i % 7 for i, name in enumerate(others)}


def _row(
    arm: Arm, colour: int, groups: Sequence[Group], by: str, gap: Interval | None, fought: Fought | None
) -> ArmResult:
    kl = None
    if arm.logps is not None and arm.reference_logps is not None:
        kl = results.kl_per_answer(lineage.logprobs(arm.logps), lineage.logprobs(arm.reference_logps))
    return ArmResult(
        name=arm.name,
        colour=colour,
        samples=arm.samples.name,
        fingerprint=arm.samples.fingerprint,
        answers=results.describe(groups, by),
        cost=lineage.cost(arm.policy),
        policy=arm.policy.name if arm.policy else "",
        gap=gap,
        win=fought.result.raw if fought else None,
        win_by=fought.result.critic if fought else "",
        duel=fought.artifact.name if fought else "",
        kl=kl,
        pairs=accuracy.read(arm.pairs) if arm.pairs else None,
    )


def _material(
    result: Result,
    arms: Sequence[Arm],
    groups: Mapping[str, Sequence[Group]],
    marks: Mapping[str, Mapping[str, float | None]],
    fought: Mapping[str, Fought],
    show: int,
) -> Material:
    """What the page shows beside the numbers."""
    from trueline.evaluate.page import Material, Trained
    from trueline.evaluate.samples import Side, side_by_side

    sides = [
        Side(
            arm.name,
            result.arm(arm.name).colour,
            {group.prompt.id: group for group in groups[arm.name]},
            {g.prompt.id: g for g in reversed(fought[arm.name].pairs)} if arm.name in fought else {},
        )
        for arm in arms
    ]
    best = winner(result)
    of = best.name if best is not None and best.name in fought else next(iter(fought), "")
    policies = [a for a in upstream(*(arm.policy for arm in arms if arm.policy)) if isinstance(a, Policy)]
    colour_of = {arm.policy: result.arm(arm.name).colour for arm in reversed(arms)}
    trained = [Trained(p.short, p.label, colour_of.get(p, 0), lineage.metrics(p)) for p in policies]
    return Material(
        scores={name: [x for x in values.values() if x is not None] for name, values in marks.items()},
        lengths={name: [float(len(c.text)) for g in of for c in g.completions] for name, of in groups.items()},
        samples=side_by_side(sides, result.baseline, result.score_by, show),
        prompts=len(groups[result.baseline]),
        length_of=of,
        by_length=by_length(fought[of]) if of else (),
        trained=[t for t in trained if t.curves],
    )


def by_length(fought: Fought) -> list[tuple[str, Interval]]:
    """Win rate where the arm's answer was shorter, of about the same length, and longer."""
    bins: dict[str, list[tuple[str, float | None]]] = {"shorter": [], "alike": [], "longer": []}
    for group in fought.pairs:
        mine, other = (len(completion.text) for completion in group.completions)
        near = abs(mine - other) <= ALIKE * max(mine, other)
        name = "alike" if near else "shorter" if mine < other else "longer"
        bins[name].append((group.prompt.id, _wins(group.preferences[-1])))
    out = []
    for name, pairs in bins.items():
        rate = mean_interval(list(per_prompt([p for _, p in pairs], [id for id, _ in pairs]).values()))
        out.append((f"{name}, {rate.n}", rate))
    return out


def _wins(preference: Preference) -> float | None:
    """Probability that the first completion wins."""
    return preference.p if preference.p is None or preference.left == 0 else 1 - preference.p
