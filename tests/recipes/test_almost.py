"""ALMoST, small from end to end: what is reported, that gold teaches nothing, and what killed runs leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from trueline.errors import UserError
from trueline.evaluate.audit import read as read_audit
from trueline.evaluate.overoptimisation import read_overoptimisation
from trueline.evaluate.results import Result
from trueline.evaluate.reward_accuracy import read as read_accuracy
from trueline.fingerprint import inside
from trueline.pipeline import make, upstream
from trueline.recipes._study import in_town
from trueline.recipes.almost import almost, learn, own
from trueline.store import Store, using
from trueline.world import MODELS, Gold, Judge, Oracle, Teacher

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"prompts": 10, "fresh": 6, "apart": 6, "held_out": 8, "n": 2, "early": 1, "iterations": 2}


def result_of(report) -> Result:
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=Result)


def of_stage(root, stage: str) -> list:
    return [x for x in upstream(root) if x.stage == stage]


def test_a_small_almost_reports_every_stage(tmp_path):
    """Six arms; the order's rules, the reward model on two kinds of held-out preferences, and both parts of PPO in one
    curve of two iterations."""
    with using(Store(tmp_path)):
        report = make(almost(**SMALL))
        found = result_of(report)
        names = [arm.name for arm in found.arms]
        assert names == ["start", "best generator", "self-play", "SFT", "PPO", "PPO, further"]
        assert all(arm.win is not None for arm in found.arms if arm.name != "start")
        assert found.arm("SFT").kl.mean == 0 and found.arm("PPO").kl.mean != 0
        (rules,) = of_stage(report, "audit")
        assert {"size", "shots", "demonstrations"} <= {one.name for one in read_audit(rules).rules}
        told = {x.label: read_accuracy(x) for x in of_stage(report, "reward_accuracy")}
        assert told["against-the-order"].preferred_by == "generator"
        assert told["against-gold"].preferred_by.startswith("compare")
        (curve,) = of_stage(report, "overoptimisation")
        (run,) = read_overoptimisation(curve).runs
        assert len(run.logged) == 2 and run.watched_by == "gold"
        table = (report.path / "table.txt").read_text()
    assert "Comparisons believed by generator" in table and "The reward is" in table


def test_gold_teaches_nothing(tmp_path):
    """Of all that the last policy descends from, nothing holds an oracle, a teacher or the gold reward but what PPO was
    watched by; and no prompt that is learned on is asked in the end."""
    with using(Store(tmp_path)):
        of = in_town("tiny", 10, 6, 6, 8, 2, 0.05, 1, 2, 0)
        made = learn(of)
        for step in upstream(made.tuned[-1]):
            given = {name: value for name, value in step.inputs.items() if name != "watch"}
            assert not any(list(inside(given, kind)) for kind in (Gold, Judge, Oracle, Teacher)), step
        learned, asked = (
            {p.text for part in parts for p in make(part).read()}
            for parts in ((of.prompts, of.fresh), (of.questions, of.apart))
        )
        assert not learned & asked


def test_models_and_prompts_of_ones_own(tmp_path):
    """Two generators of one small model, prompts from a file in four parts, a word list as the judge, one turn."""
    from trueline.world import ask

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p.text}) + "\n" for p in ask(24)))
    tiny = str(MODELS / "tiny")
    parts = {"pool": 8, "fresh": 5, "apart": 4, "held_out": 5}
    with using(Store(tmp_path / "store")):
        report = own(
            base=tiny, tiers=(f"{tiny} hedging 1", f"{tiny} hedging 0"), judge="sentiment", prompts=prompts,
            preset="small", form="chat", turns=1, early=1, iterations=1, **parts,
        )  # fmt: skip
        found = result_of(make(report))
        assert [arm.name for arm in found.arms][2:] == ["self-play", "SFT", "PPO"]
        (kept,) = [x for x in of_stage(report, "played") if x.label == "played"]
        assert kept.record["counts"]["turn_1"] > 0


def test_what_cannot_be_studied_is_refused(tmp_path):
    with using(Store(tmp_path)):
        with pytest.raises(UserError, match=r"--judge: nobody is named.*Nothing is trained on it"):
            own()
        with pytest.raises(UserError, match='"MODEL STYLE SHOTS"'):
            own(judge="sentiment", tiers=(str(MODELS / "tiny"),))
        with pytest.raises(UserError, match="answering, hedging"):
            own(judge="sentiment", tiers=(f"{MODELS / 'tiny'} boasting 1",))
        with pytest.raises(UserError, match="two tiers at least"):
            make(own(judge="sentiment", tiers=(f"{MODELS / 'tiny'} answering 1",), base=str(MODELS / "tiny")))


# In the order in which they are made.
STAGES = ("candidates-1", "draw", "pooled", "compared", "rater", "rewarded-1", "winners-1", "played", "sft", "ppo",
          "ppo-1", "overoptimisation", "report")  # fmt: skip


@pytest.mark.slow
def test_killed_in_each_stage_it_ends_as_if_it_had_not_been(tmp_path):
    """One run, killed with -9 in stage after stage and gone on with: the same answers, weights and figures as of a run
    that nobody killed. A child that was quicker than the signal may have made the next small stage as well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.recipes.killing", str(tmp_path), *STAGES]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    killed = out.removeprefix("killed in ").split()
    assert {"draw", "rater", "candidates-1", "sft", "ppo"} <= set(killed) and len(killed) >= 9, killed
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for pattern in ("policy/*/model.safetensors", "groups/*/*.jsonl", "prompts/*/*.jsonl", "report/*/report.json"):
        files = [{p.relative_to(s): p.read_bytes() for p in s.glob(pattern)} for s in (whole, broken)]
        assert files[0] and files[0].keys() == files[1].keys(), pattern
        for path, content in files[0].items():
            assert timeless(content) == timeless(files[1][path]), path


def timeless(content: bytes) -> bytes | dict:
    """A report's figures without what says when its steps were made and how long they took."""
    return figures(json.loads(content)) if content.startswith(b"{\n") else content


def figures(value):
    if isinstance(value, dict):
        return {k: figures(v) for k, v in value.items() if k not in ("seconds", "steps", "headline")}
    return [figures(v) for v in value] if isinstance(value, list) else value
