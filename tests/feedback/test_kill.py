"""A real process that judges is killed: the next run ends with the same artefact and asks little twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.feedback.killable import PROMPTS, SHARD, judged
from trueline.store import using

ROOT = Path(__file__).resolve().parents[2]


def start(store: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.feedback.killable", str(store)],
        cwd=ROOT,
        env={**os.environ, "QUESTIONS": str(log)},
        stderr=subprocess.DEVNULL,
    )


def test_a_killed_judging_goes_on_where_it_was(tmp_path):
    """Killed twice, the second time after some more shards: the same bytes and counts as an uninterrupted run.

    A kill can lose the answers to the questions of the shard in hand (at most 2 * SHARD), never those before.
    """
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "questions"
    assert start(whole, tmp_path / "other").wait(60) == 0
    kills = 0
    for wanted in (2, 9):
        process = start(broken, log)
        done = 0
        while done < wanted and process.poll() is None:
            time.sleep(0.005)
            done = len(list(broken.glob("groups/judge-*.part/shards/groups/*.jsonl")))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills == 2, "the runs were too quick to be killed"
    assert start(broken, log).wait(60) == 0
    records = []
    for store in (whole, broken):
        with using(store):
            artifact = judged()
            records.append(((artifact.path / "groups.jsonl").read_bytes(), artifact.record["counts"]))
            assert sorted(p.name for p in artifact.path.iterdir()) == ["groups.jsonl", "record.json"]
    assert records[0][0] == records[1][0]
    assert {**records[0][1], "cached": 0} == {**records[1][1], "cached": 0}
    asked = Counter(log.read_text().splitlines())
    again = sum(n - 1 for n in asked.values())
    assert again <= kills * 2 * SHARD
    assert len(asked) == (tmp_path / "other").read_text().count("\n") <= 2 * PROMPTS
