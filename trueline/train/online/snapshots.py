"""`snapshot`: the policy as it was after an iteration of a run, to choose from.

    run = online(sft, prompts, Reward(rater), PPO(), iterations=100, snapshots=(25, 50, 75))
    candidates = (snapshot(run, 25), snapshot(run, 50), snapshot(run, 75), run)
    select(candidates, tuple(judge(draw(c, apart, ...), Reward(rater)) for c in candidates))

A run of so many iterations would have ended with the same weights, if its learning rate did not change. Runs that go on
from each other are no substitute: each begins with a new optimiser, a new value head and the first divergence weight.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from trueline.errors import UserError
from trueline.fingerprint import call_site
from trueline.pipeline import Work, stage
from trueline.store import Policy


def place(folder: Path, iteration: int) -> Path:
    """Where a run keeps what it was after an iteration."""
    return folder / "snapshots" / str(iteration)


def check_snapshots(snapshots: Sequence[int], iterations: int) -> None:
    """Refuse iterations that the run does not pass, and the last, which is the policy itself."""
    if any(not isinstance(n, int) or not 0 < n < iterations for n in snapshots):
        wanted = f"numbers of iterations from 1 to {iterations - 1}"
        cure = f"The policy after all {iterations} is what online(...) gives."
        raise UserError(call_site(), f"online(snapshots={tuple(snapshots)}, iterations={iterations})", wanted, cure)


def snapshot(policy: Policy, iteration: int) -> Policy:
    """The policy that the run `policy` was after `iteration`, one of its `snapshots`."""
    kept = policy.inputs.get("snapshots", ()) if policy.stage == "online" else ()
    if iteration not in kept:
        got = f"{policy.name} keeps {', '.join(map(str, kept)) or 'none'}, not {iteration}"
        raise UserError(call_site(), got, "an iteration of its snapshots", "Name it: online(..., snapshots=(...)).")
    return taken(policy, iteration, label=f"{policy.label}-{iteration}")


@stage(Policy, rev=1, name="snapshot")
def taken(work: Work, policy: Policy, iteration: int) -> None:
    """Copy the folder out of the run's."""
    shutil.copytree(place(policy.path, iteration), work.dir, dirs_exist_ok=True)
    work.note("iteration", iteration)
