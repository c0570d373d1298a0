"""Where an arm comes from and what it took: read from the records that stand beside every artefact.

A record is the only witness: nothing is estimated here, and a number that no record holds is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trueline.evaluate.results import Cost, Step
from trueline.pipeline import upstream
from trueline.records import numbered_lines
from trueline.store import Artifact, Policy


def step(artifact: Artifact) -> Step:
    """What an artefact's record says, but for the name of the host: a page is made to be shown around."""
    record = dict(artifact.record)
    record["environment"] = {k: v for k, v in record.get("environment", {}).items() if k != "host"}
    return Step(
        name=artifact.name,
        stage=artifact.stage,
        fingerprint=artifact.fingerprint,
        kind=artifact.kind,
        parents=tuple(parent.name for parent in artifact.parents),
        seconds=record.get("seconds"),
        counts=_counts(artifact, record.get("counts", {})),
        record={name: value for name, value in record.items() if name not in ("counts", "seconds")},
    )


def _counts(artifact: Artifact, counts: Mapping[str, int]) -> dict[str, int]:
    """What was counted; what a policy of the lineage itself read (a reward model) is no question to anybody."""
    told = dict(counts)
    if isinstance(getattr(artifact.inputs.get("critic"), "policy", None), Policy) and "critic_calls" in told:
        told["readings"] = told.pop("critic_calls")
    return told


def cost(*artifacts: Artifact | None) -> Cost:
    """What the records of the whole lineages of these artefacts add up to, each step once; nothing for None (a teacher
    that was not trained here)."""
    return Cost.of([step(artifact) for artifact in upstream(*(a for a in artifacts if a is not None))])


def spent(arms: Mapping[str, Artifact | Sequence[Artifact]]) -> dict[str, Cost]:
    """What each arm took, from where its lineage begins: oracle calls, remembered ones, tokens, money, seconds.

        spent({"A": sft, "C": dpo})["C"].money

    Steps that arms share count for each of them; what all took together, each step once, is `cost(*artifacts)`. Raises
    `UserError` while something is not made.
    """
    given = {name: [made] if isinstance(made, Artifact) else list(made) for name, made in arms.items()}
    return {name: cost(*made) for name, made in given.items()}


def metrics(policy: Policy) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, value) of everything its training logged, in order; {} where it logged nothing."""
    path = policy.path / "metrics.jsonl"
    out: dict[str, list[tuple[float, float]]] = {}
    for row, (x, values) in enumerate(_rows(path) if path.exists() else ()):
        for name, value in values.items():
            out.setdefault(name, []).append((float(row if x is None else x), value))
    return out


def _rows(path: Any) -> Iterator[tuple[float | None, dict[str, float]]]:
    for _, line in numbered_lines(path):
        row = json.loads(line)
        numbers = {name: float(v) for name, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        yield numbers.pop("step", None), numbers


def logprobs(artifact: Artifact) -> dict[str, float]:
    """Summed log-prob of each example's first answer in a Logprobs artefact, by the example's key."""
    rows = (json.loads(line) for _, line in numbered_lines(artifact.path / "logprobs.jsonl"))
    return {row["key"]: float(row["logps"][0]) for row in rows}
