"""`rlaif`: small from end to end."""

from __future__ import annotations

import json
from collections import Counter

import msgspec

from trueline.evaluate.matrix import read_matrix
from trueline.evaluate.results import Result
from trueline.evaluate.reward_accuracy import read as read_accuracy
from trueline.pipeline import make, upstream
from trueline.recipes.rlaif import matrix, reward_model, rlaif, scaling, served
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
    """The critic is the strong teacher, not the weak one; the judge is neither, then both. A plan asks nobody."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Question {i}?\n" for i in range(40)))
    unfair, made = {}, set()
    for judge in ("anthropic:claude-haiku-4-5", "openai:gpt-5-mini"):
        with using(Store(tmp_path / "store")):
            report = served(
                base=str(MODELS / "tiny"), prompts=prompts, weak_teacher="openai:gpt-4.1-nano",
                teacher="openai:gpt-5-mini", critic="openai:gpt-5-mini", judge=judge, pool=20, held_out=8, chosen_on=6,
            )  # fmt: skip
            (told,) = [x for x in upstream(report) if x.stage == "contrasts"]
            unfair[judge] = {one.name.partition(":")[0]: one.unfair for one in told.inputs["wanted"]}
            made |= {x.label for x in upstream(report)}
    apart, party = unfair.values()
    assert apart.pop("C - A") == "the critic is not the teacher" and not any(apart.values())
    assert party.pop("C - A").startswith("the critic is not the teacher; openai:gpt-5-mini judges what")
    assert set(party.values()) == {"openai:gpt-5-mini judges what it taught or labelled"} and len(party) == 5
    assert {"taught-A", "taught-B", "taught-D", "taught-E", "labelled-C", "labelled-F"} <= made


def test_the_matrix_shares_what_its_cells_have_in_common(tmp_path):
    """Three teachers and three critics: three starts, three draws of pairs, nine labellings, four judges each."""
    with using(Store(tmp_path)):
        report = matrix(pool=60)
        stages = Counter(a.stage for a in upstream(report))
        drawn = [a for a in upstream(report) if a.label.startswith("drawn-")]
        cells = {(c.teacher, c.critic): c.unfair for c in report.inputs["labelled"]}
    assert len(drawn) == 3 and stages["teach"] == 6 and stages["duel"] == 36 and len(cells) == 9
    assert {name for name, why in cells.items() if not why} == {("0.5", "0.5"), ("0.75", "0.75"), ("1", "1")}
    assert cells["0.5", "1"] == "the critic is stronger than the teacher" and "weaker" in cells["1", "0.5"]


def test_a_matrix_of_one_oracle_from_end_to_end(tmp_path):
    with using(Store(tmp_path)):
        report = matrix(pool=20, oracles=(1.0,), held_out=8, chosen_on=6)
        make(report)
        found = read_matrix(report)
    (cell,) = found.cells
    assert found.prompts == 8 and cell.unfair == "" and [seen.judge for seen in cell.seen] == [
        "fair judge", "position 0.8", "length 0.5", "noise 0.5"
    ]  # fmt: skip


def test_sizes_are_planned_with_six_arms_each_on_the_same_questions(tmp_path):
    """Pools of 40 and 80: a tenth is taught, the rest labelled; the smaller pool is the first part of the larger."""
    with using(Store(tmp_path)):
        report = scaling(pools=(80, 40))
        sizes = report.inputs["sizes"]
        pools = {a.count["prompts"]: a for a in upstream(report) if a.label == "pool"}
        make(*pools.values())
        small, large = ([p.id for p in pools[n].read()] for n in (40, 80))
        asked = {g.inputs["groups"].inputs["prompts"].name for one in sizes for _, g in one.arms}
    assert [one.size for one in sizes] == [40, 80] and [[name for name, _ in one.arms] for one in sizes] == [
        list("ABCDEF")
    ] * 2
    assert len(asked) == 1 and large[:40] == small


def test_a_reward_model_is_read_and_written_for_others(tmp_path):
    with using(Store(tmp_path)):
        report, classifier = reward_model(pool=40, held_out=12, samples=2, epochs=1)
        make(report, classifier)
        found = read_accuracy(report)
        config = json.loads((classifier.folder / "config.json").read_text())
    assert found.pairs > 0 and found.calibration is not None and set(found.by_group) <= {
        "fact", "pair", "portrait", "check", "secret", "insult"
    }  # fmt: skip
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["id2label"] == {"0": "reward"}
