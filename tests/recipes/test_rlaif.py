"""`rlaif`: small from end to end."""

from __future__ import annotations

import msgspec

from trueline.evaluate.results import Result
from trueline.pipeline import make, upstream
from trueline.recipes.rlaif import rlaif, served
from trueline.store import Store, using
from trueline.world import MODELS


def test_six_arms_ask_an_oracle_once_per_prompt(tmp_path):
    with using(Store(tmp_path)):
        report = rlaif(pool=20, held_out=8, chosen_on=6)
        make(report)
        found = msgspec.json.decode((report.path / "report.json").read_bytes(), type=Result)
        table = (report.path / "table.txt").read_text()
        taught = {x.label: x.count["samples"] for x in upstream(report) if x.label.startswith("taught-")}
        asked = {x.label: x.count.get("critic_calls", 0) for x in upstream(report) if x.label.startswith("labelled-")}
    assert [arm.name for arm in found.arms] == ["A", "B", "C", "D", "E", "F"]
    assert taught == {"taught-A": 20, "taught-B": 2, "taught-D": 20, "taught-E": 2}
    assert set(asked) == {"labelled-C", "labelled-F"} and all(n <= 18 for n in asked.values())
    assert "stronger" in table  # the cell is wrapped


def test_a_model_and_oracles_of_ones_own_are_planned_and_unfair_comparisons_named(tmp_path):
    """The critic is the strong teacher and not the weak one; the judge is neither. Nobody is asked by a plan."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Question {i}?\n" for i in range(40)))
    with using(Store(tmp_path / "store")):
        report = served(
            base=str(MODELS / "tiny"), prompts=prompts, weak_teacher="openai:gpt-4.1-nano", teacher="openai:gpt-5-mini",
            critic="openai:gpt-5-mini", judge="anthropic:claude-haiku-4-5", pool=20, held_out=8, chosen_on=6,
        )  # fmt: skip
        (told,) = [x for x in upstream(report) if x.stage == "contrasts"]
        unfair = {one.name[:5]: one.unfair for one in told.inputs["wanted"]}
        made = {x.label for x in upstream(report)}
    assert unfair["C - A"] == "the critic is not the teacher"
    assert unfair["D - C"] == "" and unfair["F - D"] == ""
    assert {"taught-A", "taught-B", "taught-D", "taught-E", "labelled-C", "labelled-F"} <= made
