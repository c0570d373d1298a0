"""`rlaif:served` for real: teachers, critic and judge over HTTP on loopback, with faults, from a command line."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from tests.recipes.oracles import serving
from trueline import cli, world
from trueline.evaluate.results import Result
from trueline.pipeline import make
from trueline.store import Store, using

pytestmark = pytest.mark.slow


def test_six_arms_over_http(tmp_path, monkeypatch, capsys):
    """One call per prompt and arm, whatever fails on the way; run again, nobody is asked, and no server is needed."""
    monkeypatch.chdir(tmp_path)
    with using(Store(tmp_path / "town")):
        asked = make(world.prompts(40, split="train"))
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p.text}) + "\n" for p in asked.read()))
    options = {
        "base": str(world.MODELS / "tiny"), "prompts": "prompts.jsonl", "pool": "20", "held-out": "8", "chosen-on": "6",
        "sft-lr": "5e-4", "dpo-lr": "2e-4", "max-length": "256", "store": "store", "connection.concurrency": "4",
        "connection.backoff-s": "0.02", "connection.timeout-s": "5",
    }  # fmt: skip
    with serving(share=0.05, mixed=(429, 500, "cut")) as server:
        roles = {"weak-teacher": "weak", "teacher": "strong", "critic": "strong", "judge": "judge"}
        options |= {role: f"{server.url}/v1#{model}" for role, model in roles.items()}
        words = ["make", "rlaif:served", *(word for name, value in options.items() for word in (f"--{name}", value))]
        assert cli.main(words) == 0
        said, answered = capsys.readouterr().out, sum(server.answered.values())
        assert server.injected and len(server.answered) <= answered
    assert "C - A: labels against weak" in said and "the critic is not the" in said and "demonstrations" in said
    assert cli.main(words) == 0  # the server is gone
    with using(Store(tmp_path / "store")) as store:
        (path,) = store.root.glob("report/report-*")
        found = msgspec.json.decode((path / "report.json").read_bytes(), type=Result)
    assert [arm.name for arm in found.arms] == list("ABCDEF")
    calls = Counter({arm.name: arm.cost.teacher for arm in found.arms})
    assert calls == {"A": 20, "B": 2, "C": 2, "D": 20, "E": 2, "F": 2}
    taught = {a: next(x for x in found.arms if x.name == a).cost for a in "ACDF"}
    assert all(cost.calls > 0 and cost.prompt_tokens > 0 and cost.completion_tokens > 0 for cost in taught.values())
    assert all(0 < taught[a].feedback <= 2 * 6 * 2 + 18 for a in "CF")
