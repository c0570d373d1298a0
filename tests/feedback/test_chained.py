"""ALMoST's first stage in one piece: prompts, three configurations, comparisons; killed with -9 while it gathers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.feedback.chained import PROMPTS, SHARD, chain
from trueline.feedback.generator import comparison_rows
from trueline.feedback.shape import WellFormed
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.records import Completion, Message, Prompt
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.shots import Shots
from trueline.store import using

ROOT = Path(__file__).resolve().parents[2]


def start(store, slowly):
    """The chain in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ASKED": str(store / "asked.log")}
    environment |= {"SLOWLY": "1"} if slowly else {}
    command = [sys.executable, "-m", "tests.feedback.chained", str(store)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def files(store):
    """Every file with content in the store's artefacts, by name: prompts, groups, what was dropped."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in store.glob("*/*/*.jsonl")
        if not path.parent.name.endswith(".part")
    }


def test_killed_while_it_gathers_it_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """Killed in the second configuration's drawing: every file of every step as in an uninterrupted run, nothing that
    was answered is asked again but the shard under way; counts and rows are those of the release."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    monkeypatch.setenv("ASKED", str(whole / "asked.log"))
    make(chain()[1], store=whole, machine=Machine(shard=SHARD))
    process = start(broken, True)
    while not (drawn(broken) and shards(broken)):
        assert process.poll() is None, "the run was too quick to be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    answered = len((broken / "asked.log").read_text().splitlines())
    assert PROMPTS < answered < 3 * PROMPTS
    assert start(broken, False).wait(120) == 0
    assert files(whole) == files(broken) and len(files(whole)) >= 7
    asked = (broken / "asked.log").read_text().splitlines()
    assert len(set(asked)) == 3 * PROMPTS and len(asked) - len(set(asked)) <= 3
    with using(broken):
        prompts, compared = chain()
        counts, groups = compared.record["counts"], list(compared.read())
        assert len(groups) == PROMPTS == prompts.record["counts"]["prompts"]
    rows = [row for group in groups for row in comparison_rows(group, "generator:almost")]
    assert len(rows) == counts["compared"] and all(set(r) == {"prompt", "chosen", "rejected", "meta"} for r in rows)
    better = [row["meta"].split("-vs-")[0] for row in rows]
    assert {"fake-13b-Faithful-3shot", "fake-7b-Faithful-3shot"} == set(better)
    assert max(better.count(name) for name in set(better)) <= PROMPTS, "each tier is chosen at most once per prompt"
    assert not any("do not know" in row["chosen"] + row["rejected"] for row in rows)


def drawn(store):
    """The configurations that are done."""
    return [path for path in store.glob("groups/draw-*/record.json") if not path.parent.name.endswith(".part")]


def shards(store):
    """The shards of the one that is not."""
    return list(store.glob("groups/draw-*.part/shards/groups/0*.jsonl"))


ANSWER = "This is an answer of sixty-five characters or more, as you can see"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (ANSWER + ".\n\nHuman: thanks", ANSWER + "."),
        (ANSWER + ". Human: inline.", ANSWER + "."),
        (ANSWER + ". The Assistant: label appears.", None),
        (ANSWER + ".\t", None),
        (ANSWER + ".  \n", ANSWER + "."),
        (ANSWER + ".)", None),
        (ANSWER + ".”", None),
        ("x" * 49 + ".", "x" * 49 + "."),
        ("x" * 48 + ".", None),
    ],
)
def test_the_released_table_of_what_becomes_of_an_answer(raw, kept):
    """What is cut, and then kept or set aside (`BAD` there), by both steps together."""
    shown = Shots("one", ((Message("user", "q?"), Message("assistant", "a.")),))
    with Prompted(Scripted((raw,)), shown, 1, form="almost") as engine:
        ((answer,),) = engine.generate([Prompt.of("Who?")], Sampling(max_tokens=99))
    fit = WellFormed(published=True).judge(Completion(answer.text)).label == "fit"
    assert (answer.text if fit else None) == kept
