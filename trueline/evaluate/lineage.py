"""Where an arm comes from and what it took: read from the records that stand beside every artefact.

A record is the only witness: nothing is estimated here, and a number that no record holds is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        counts=dict(record.get("counts", {})),
        record={name: value for name, value in record.items() if name not in ("counts", "seconds")},
    )


def cost(policy: Policy | None) -> Cost:
    """What the records of a policy's whole lineage add up to; nothing for a teacher that was not trained here."""
    if policy is None:
        return Cost()
    steps = [step(artifact) for artifact in upstream(policy)]
    return Cost(
        feedback=sum(s.counts.get("critic_calls", 0) for s in steps),
        cached=sum(s.counts.get("cached", 0) for s in steps),
        samples=sum(s.counts.get("samples", 0) for s in steps),
        train_tokens=sum(s.counts.get("train_tokens", 0) for s in steps),
        seconds=sum(s.seconds or 0.0 for s in steps),
        steps=len(steps),
    )


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
