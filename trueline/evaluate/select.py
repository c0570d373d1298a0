"""`select`: the best of several checkpoints, by answers to prompts that nothing is reported on.

    select((one, two, three), (graded_1, graded_2, graded_3))        answers to a split of their own, scored

The report's prompts must not have a part in the choice: the best of k noisy estimates is too good by construction.
"""

from __future__ import annotations

import shutil

import msgspec

from trueline.errors import UserError
from trueline.evaluate.arms import common_prompts, only, scorers
from trueline.evaluate.results import scores
from trueline.evaluate.statistics import mean_interval
from trueline.pipeline import Work, stage
from trueline.records import encode
from trueline.store import Groups, Policy


@stage(Policy, rev=1, label="selected", estimate=lambda candidates, **_: {"policies": len(candidates)})
def select(work: Work, candidates: tuple[Policy, ...], graded: tuple[Groups, ...], by: str = "") -> None:
    """The candidate whose answers have the highest mean score; of equal ones the first.

    graded: each candidate's answers to the same prompts, judged, in the candidates' order. by: the critic whose scores
    decide (default: the last that scored all of them). Files: the chosen policy's, and `selection.json`.
    """
    if not candidates or len(candidates) != len(graded):
        got = f"{len(candidates)} candidates and {len(graded)} sets of answers"
        raise UserError("select(candidates, graded)", got, "one set of answers per candidate")
    every = {
        f"{i + 1} ({x.name})": list(answers.read())
        for i, (x, answers) in enumerate(zip(candidates, graded, strict=True))
    }
    prompts, _ = common_prompts(every, "select(graded)", 0.0)
    groups = {name: only(of, prompts) for name, of in every.items()}
    critics = scorers(groups, by, "select(by=...)")
    means = [mean_interval(list(scores(of, critics[name]).values())).mean or 0.0 for name, of in groups.items()]
    best = max(range(len(means)), key=lambda i: means[i])
    for path in sorted(candidates[best].path.iterdir()):
        if path.name == "record.json":
            continue
        if path.is_dir():
            shutil.copytree(path, work.dir / path.name)
        else:
            shutil.copy2(path, work.dir / path.name)
    table = dict(zip(every, means, strict=True))
    (work.dir / "selection.json").write_bytes(
        msgspec.json.format(encode({"chosen": candidates[best].name, "means": table}), indent=1)
    )
    work.count("policies", len(candidates))
    work.note("chosen", candidates[best].name)
