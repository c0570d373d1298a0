"""What is kept: by content, on the disk when it is said to be, and through a kill."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.sample.served.killable import CONCURRENCY, PROMPTS, drawn
from tests.sample.served.loopback import Loopback
from tests.sample.served.test_engines import ASKED, ask, fast
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.machine import using as on
from trueline.pipeline import make
from trueline.records import Prompt
from trueline.sample.served import OpenAI
from trueline.sample.served.replies import Replies, Reply, Spent, opened
from trueline.store import using

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def test_another_question_is_asked_anew():
    with Loopback() as server:
        engine = OpenAI("m", fast(server))
        base = {"max_tokens": 4, "temperature": 0.5}
        asked = [ask(engine, **base), ask(dataclasses.replace(engine, system="s"), **base)]
        asked += [ask(engine, **(base | more)) for more in ({"max_tokens": 5}, {"temperature": 0.6}, {"seed": 1})]
        asked.append(ask(engine, Prompt.of("Why?"), **base))
        assert len(server.asked) == len(asked) == 6
        ask(dataclasses.replace(engine, connection=fast(server, concurrency=1)), **base)
        assert len(server.asked) == 6


def test_a_question_that_stands_twice_is_asked_once():
    with Loopback() as server:
        answers, metered = ask(OpenAI("m", fast(server)), ASKED, ASKED, max_tokens=4)
        assert answers[0] == answers[1] and metered["calls"] == len(server.asked) == 1


def test_prompts_of_one_text_are_answered_apart_while_answers_are_drawn():
    """Two posts of a corpus may read the same: their samples are independent; the likeliest answer is one."""
    twins = [Prompt.of("Who?", id="post-1"), Prompt.of("Who?", id="post-2")]
    with Loopback() as server:
        answers, _ = ask(OpenAI("m", fast(server)), *twins, max_tokens=20)
        assert answers[0] != answers[1] and len(server.asked) == 2
        answers, _ = ask(OpenAI("m", fast(server)), *twins, max_tokens=20, temperature=0.0)
        assert answers[0] == answers[1] and len(server.asked) == 3


def test_a_file_that_is_no_table(store):
    store.create()
    (store.root / "replies.sqlite").write_bytes(b"no table, but long enough to be looked at" * 50)
    with pytest.raises(
        UserError, match=r"replies.sqlite: the kept replies cannot be used .*Delete it: no result is lost"
    ):
        ask(OpenAI("m"))


def test_threads_write_together(tmp_path):
    """Forty threads keep three replies each: all are there, and what they cost is the sum."""
    with opened(tmp_path / "r.sqlite") as table:

        def keep(i):
            table.keep("e", "x", [(f"{i} {j}", Reply("t", prompt_tokens=2, calls=int(j == 0))) for j in range(3)], 1.5)

        threads = [threading.Thread(target=keep, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(table.look_up([f"{i} {j}" for i in range(40) for j in range(3)])) == 120
        assert table.spent("e") == Spent(40, 60.0) and table.spent("other") == Spent()
    rows = sqlite3.connect(tmp_path / "r.sqlite").execute("SELECT * FROM spent").fetchall()
    assert rows == [("e", "x", 40, 240, 0, 60.0)]


def test_a_write_that_fails_is_tried_again_by_the_next(tmp_path):
    class Ill(Replies):
        ill = True

        def _write(self, batch):
            if self.ill:
                self.ill = False
                raise sqlite3.OperationalError("database is locked")
            super()._write(batch)

    table = Ill(tmp_path / "r.sqlite")
    with pytest.raises(sqlite3.OperationalError):
        table.keep("e", "x", [("a", Reply("1"))], 1.0)
    table.keep("e", "x", [("b", Reply("2"))], 1.0)
    assert set(table.look_up(["a", "b"])) == {"a", "b"} and table.spent("e") == Spent(2, 2.0)
    table.close()


def start(store, server):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sample.served.killable", str(store), server.url]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def kept(store):
    path = store / "replies.sqlite"
    return sqlite3.connect(path).execute("SELECT count(*) FROM replies").fetchone()[0] if path.exists() else 0


def test_a_killed_run_asks_for_nothing_twice_but_what_was_in_flight(tmp_path):
    """kill -9 in the middle, a rerun, and a run that was never stopped: the same groups; what was kept at the kill was
    sent once. Only a request on its way at that moment (at most `concurrency`) is sent again."""
    with Loopback(delay=0.02) as server:
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        process = start(broken, server)
        while sum(server.answered.values()) < 110:
            assert process.poll() is None, "the run was too quick to be killed"
            time.sleep(0.002)
        process.kill()
        process.wait()
        time.sleep(0.1)
        before, survived = Counter(server.answered), kept(broken)
        assert 2 * PROMPTS > survived >= 110 - CONCURRENCY
        assert start(broken, server).wait(120) == 0
        assert len(server.answered) == kept(broken) == 2 * PROMPTS
        twice = sum(server.answered.values()) - 2 * PROMPTS
        assert twice == sum(before.values()) - survived <= CONCURRENCY
        with using(whole), on(Machine(shard=40)):
            reference = make(drawn(server.url))
            groups, wanted = (reference.path / "groups.jsonl").read_bytes(), reference.record["counts"]
        with using(broken):
            resumed = drawn(server.url)
            assert (resumed.path / "groups.jsonl").read_bytes() == groups
            counts = resumed.record["counts"]
        assert counts.pop("cached_calls") >= survived - 80  # what was kept of the unfinished shard
        assert counts == wanted
