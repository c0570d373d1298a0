"""`rlaif`: small from end to end."""

from __future__ import annotations

import msgspec

from trueline.evaluate.results import Result
from trueline.pipeline import make, upstream
from trueline.recipes.rlaif import rlaif
from trueline.store import Store, using


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
