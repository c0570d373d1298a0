"""Golden plans: what every recipe would make, and under which identity, never changes by accident.

A changed line means that everybody's artefacts of that step are made again. If that is meant, write the plans anew with
TRUELINE_GOLDEN=write and say in the commit why.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trueline.pipeline import upstream
from trueline.recipes.align import align
from trueline.recipes.almost import almost
from trueline.recipes.alt import alt
from trueline.recipes.bandit import bandit
from trueline.recipes.dph import dph
from trueline.recipes.leaderboard import leaderboard
from trueline.recipes.pretrain import pretrain
from trueline.recipes.quark import quark
from trueline.recipes.rank import rank
from trueline.recipes.rlaif import rlaif
from trueline.recipes.tour import tour
from trueline.store import Store, using
from trueline.world import MODELS

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ROW = '{"prompt": "Who bakes?", "chosen": "Ada.", "rejected": "Go away."}\n'
ANNOTATION = (
    '{"instruction": "Who bakes?", "output_1": "Ada.", "output_2": "Ben.", "generator_1": "a", "generator_2": "b", '
    '"preference": 1}\n'
)


def plan_of(root) -> str:
    """One line per artefact, parents first: name, stage, parents."""
    lines = [f"{a.name}  {a.stage}  <- {' '.join(p.name for p in a.parents) or '-'}" for a in upstream(root)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "recipe", ["tour", "pretrain", "align", "rank", "dph", "quark", "alt", "bandit", "leaderboard", "rlaif", "almost"]
)
def test_a_recipe_plans_what_it_planned(recipe, tmp_path):
    prefs = tmp_path / "prefs.jsonl"
    prefs.write_text(ROW)
    annotations = tmp_path / "annotations.json"
    annotations.write_text(ANNOTATION)
    recipes = {
        "tour": tour,
        "dph": dph,
        "quark": quark,
        "alt": alt,
        "almost": almost,
        "bandit": bandit,
        "rlaif": rlaif,
        "pretrain": pretrain,
        "align": lambda: align(base=str(MODELS / "tiny"), prefs=prefs, eval_prefs=prefs),
        "leaderboard": lambda: leaderboard(annotations=(annotations,), slope=1.6),
        "rank": lambda: rank(policy=str(MODELS / "tiny"), prompts=prefs, by="logprob"),
    }
    with using(Store(tmp_path / "store")):
        made = recipes[recipe]()
        planned = plan_of(made[-1] if isinstance(made, tuple) else made)
    golden = GOLDEN / f"plan-{recipe}.txt"
    if os.environ.get("TRUELINE_GOLDEN") == "write":
        golden.write_text(planned)
    assert planned == golden.read_text()


def test_every_recipe_has_a_golden_plan():
    recipes = {p.stem for p in (Path(__file__).resolve().parents[2] / "trueline" / "recipes").glob("[a-z]*.py")}
    assert recipes == {p.stem.removeprefix("plan-") for p in GOLDEN.glob("plan-*.txt")}
