"""Quark and ALT, small from end to end; and at their own size what they claim (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest

from trueline.errors import UserError
from trueline.evaluate.control import read_control
from trueline.evaluate.results import Result
from trueline.evaluate.rounds import read_rounds
from trueline.pipeline import make, missing, upstream
from trueline.recipes.alt import alt
from trueline.recipes.quark import quark
from trueline.store import Store, using

SMALL = {"held_out": 8, "rounds": 2, "per_round": 8, "samples": 4}


def result_of(report) -> Result:
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=Result)


def parts(report) -> dict:
    return {x.stage: x for x in upstream(report) if x.stage in ("rounds", "control", "qualities")}


def test_a_small_quark_asks_for_the_best_from_the_second_round_on(tmp_path):
    with using(Store(tmp_path)):
        report = quark(**SMALL)
        make(report)
        found, below = result_of(report), parts(report)
        drawn = [x for x in upstream(report) if x.stage == "draw" and x.label == "drawn"]
        asks = [{c.ask for group in x.read() for c in group.completions} for x in drawn]
        page = (report.path / "report.html").read_text()
        assert [arm.name for arm in found.arms] == ["start", "Quark"]
        assert asks == [{None}, {"_QUANTILE_TOKEN_0_"}]
        (course,) = read_rounds(below["rounds"]).methods
        assert [one.round for one in course.rounds] == [0, 1, 2]
        (obeyed,) = read_control(below["control"]).methods
        assert [one.name for one in obeyed.classes] == [f"quantile {k}" for k in range(1, 6)]
        assert "By round" in page or "rounds" in page


def test_more_rounds_continue_where_fewer_ended(tmp_path):
    with using(Store(tmp_path)):
        make(quark(**SMALL))
        again = missing(quark(**(SMALL | {"rounds": 3})))
        trained = [x.label for x in again if x.stage == "train"]
        assert trained == ["quark-3"]
        assert [x.label for x in again if x.label == "drawn"] == ["drawn"]


@pytest.mark.parametrize("method", ["rm", "lmc", "lmu"])
def test_a_small_alt_describes_in_words(method, tmp_path):
    with using(Store(tmp_path)):
        report = alt(method=method, **SMALL)
        make(report)
        (last,) = [x for x in upstream(report) if x.stage == "draw" and x.label == f"answers-ALT-{method.upper()}-2"]
        asked = {c.ask for group in last.read() for c in group.completions}
        found = result_of(report)
    wanted = {"rm": {"Excellent. input: "}, "lmc": {"Very good. "}}
    assert asked == wanted[method] if method in wanted else all(x.startswith("feedback: ") for x in asked)
    assert [arm.name for arm in found.arms] == ["start", f"ALT-{method.upper()}"]
    assert found.arm(f"ALT-{method.upper()}").kl.mean is not None


def test_a_model_and_prompts_of_ones_own(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What does Bebin drink on day {i}?"}) + "\n" for i in range(24)))
    from trueline.world import MODELS

    with using(Store(tmp_path / "store")):
        report = quark(task="file", base=str(MODELS / "tiny"), prompts=prompts, critic="sentiment", **SMALL)
        make(report)
        held_out, asked = (
            {p.id for x in upstream(report) if x.label == label for p in x.read()}
            for label in ("held-out", "remaining")
        )
    assert len(held_out) == 8 and len(asked) == 16 and not held_out & asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "file"}, r"--task file: there are no prompts"),
        ({"critic": "sentiment"}, r"--critic: the town has its own"),
        ({"base": "large"}, r"--base large: the town has no such model; tiny or small"),
        ({"preset": "paper"}, r"--preset paper: the papers have no task 'town'; toxicity, tldr or hh"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said, tmp_path):
    with using(Store(tmp_path)), pytest.raises(UserError, match=said):
        quark(**options)


def test_a_method_that_asks_an_engine_wants_one(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Who bakes?"}\n')
    with (
        using(Store(tmp_path / "store")),
        pytest.raises(UserError, match="--critic: got 'profanity'; an engine to ask"),
    ):
        alt(method="lmu", task="file", prompts=prompts, critic="profanity")


PRESETS = [
    (quark, {"task": "tldr", "critic": "scorer"}, 10, 96, 16),
    (alt, {"task": "tldr", "method": "lmu", "critic": "openai:gpt-5-mini", "gold": "profanity"}, 6, 20, 16),
    (alt, {"task": "hh", "method": "lmc", "critic": "http://localhost:8000/v1#judge"}, 20, 20, 64),
    (alt, {"task": "toxicity", "critic": "profanity"}, 16, 1, 32),
    (quark, {"task": "toxicity", "critic": "sentiment"}, 16, 1, 128),
]


@pytest.mark.parametrize(("recipe", "options", "rounds", "samples", "batch"), PRESETS)
def test_the_papers_settings_are_planned_for_every_task(recipe, options, rounds, samples, batch, tmp_path):
    """Rounds, answers per prompt and batch size as the authors ran them; nothing is made."""
    from trueline.world import MODELS

    rows = {
        "tldr": {"prompt": "SUBREDDIT: r/x\nTITLE: t\nPOST: p\nTL;DR:", "label": "s"},
        "hh": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        "toxicity": {"prompt": {"text": "He said", "toxicity": 0.1}, "continuation": {"text": " so", "toxicity": 0.1}},
    }
    prompts, base = tmp_path / "prompts.jsonl", str(MODELS / "tiny")
    prompts.write_text(json.dumps(rows[options["task"]]) + "\n")
    if options["critic"] == "scorer":
        options = options | {"critic": base}
    with using(Store(tmp_path / "store")):
        report = recipe(preset="paper", base=base, prompts=prompts, eval_prompts=prompts, held_out=1, **options)
        steps = list(upstream(report))
    trained = [x for x in steps if x.stage == "train"]
    drawn = [x.inputs["sampling"].n for x in steps if x.label == "drawn"]
    assert len(trained) == rounds and drawn == [samples] * rounds
    assert {x.inputs["settings"].batch_size for x in trained} == {batch}


def run(store, until: str = "") -> str:
    """`trueline make quark`, small, in a process of its own; killed with -9 when it begins to make `until`."""
    words = [sys.executable, "-m", "trueline.cli", "make", "quark", "--held-out", "8", "--rounds", "2",
             "--per-round", "8", "--samples", "4"]  # fmt: skip
    environment = {**os.environ, "TRUELINE_STORE": str(store), "OMP_NUM_THREADS": "1"}
    said = []
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, cwd=store.parent) as process:
        for line in process.stderr:
            said.append(line)
            if until and line.startswith(f"make  {until}"):
                process.kill()
    return "".join(said)


@pytest.mark.slow
def test_rounds_that_were_killed_end_as_if_they_had_not_been(tmp_path):
    """Killed while it samples, judges and trains the second round, and run again: the same answers and weights."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for store in (whole, broken):
        store.mkdir()
    run(whole)
    for until in ("quark-1", "judged", "quark-2"):
        run(broken, until)
    run(broken)
    for pattern in ("policy/quark-2-*/model.safetensors", "groups/judged-*/groups.jsonl", "report/rounds-*/table.txt"):
        files = [{p.parent.name: p.read_bytes() for p in store.glob(pattern)} for store in (whole, broken)]
        assert files[0] and files[0] == files[1], pattern


def test_quantiles_are_called_what_the_user_says(tmp_path):
    with using(Store(tmp_path)):
        report = alt(phrases=("Yes.", "Maybe.", "No."), **SMALL)
        (last,) = [x for x in upstream(report) if x.label == "answers-ALT-RM-2" and x.stage == "draw"]
        assert last.inputs["condition"].phrases == ("Yes.", "Maybe.", "No.")
    with using(Store(tmp_path)), pytest.raises(UserError, match="--phrases with --method lmc: the critic's own words"):
        alt(method="lmc", phrases=("Yes.", "No."))
