"""Labels over real HTTP with injected faults: none lost, none asked twice after kill -9, few at a time, memory flat."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.feedback.labelling import CONCURRENCY, labelled, mumbles, say
from tests.sample.served.loopback import Loopback
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.sample.served.replies import FILE
from trueline.store import using

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (429, 500, "hang", "cut", "html")


def started(store: Path, url: str, pairs: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.feedback.labelling", str(store), url, str(pairs)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def resident(process: subprocess.Popen[bytes]) -> float:
    """Megabytes of memory that a process has in use."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def kept(store: Path) -> int:
    """Replies that stand in the store."""
    with contextlib.closing(sqlite3.connect(store / FILE, timeout=60)) as table:
        return int(table.execute("SELECT count(*) FROM replies").fetchone()[0])


def label(store: Path, server: Loopback, pairs: int, kills: tuple[int, ...]) -> tuple[int, list[tuple[int, float]]]:
    """Label, killed whenever so many replies were sent; (replies lost in flight, (replies, MB) over the last run)."""
    lost, seen = 0, []
    for stop in (*kills, None):
        process, seen = started(store, server.url, pairs), []
        while process.poll() is None and (stop is None or sum(server.answered.values()) < stop):
            time.sleep(0.02)
            seen.append((sum(server.answered.values()), resident(process)))
        if stop is not None:
            assert process.poll() is None, "it was done before it could be killed"
            process.kill()
        process.wait()
        while server.in_flight:  # what the server still says to nobody
            time.sleep(0.02)
        if stop is not None:
            lost = sum(server.answered.values()) - kept(store)
            assert 0 <= lost <= len(kills) * CONCURRENCY
        else:
            assert process.returncode == 0
    return lost, seen


def check(tmp_path: Path, pairs: int, kills: tuple[int, ...], flat: float | None = None) -> None:
    with Loopback(share=0.05, mixed=FAULTS, say=say) as server, using(tmp_path / "store") as store:
        lost, seen = label(store.root, server, pairs, kills)
        artifact = labelled(server.url, pairs)
        judged = list(artifact.read())
        counts = artifact.record["counts"]
        assert set(server.injected) == {str(fault) for fault in FAULTS} and server.most_in_flight <= CONCURRENCY
        silent = {i for i in range(pairs) if mumbles(i) > 3}
        again = sum(min(mumbles(i), 2) for i in range(pairs))
        assert len(judged) == pairs and all(len(group.preferences) == 1 for group in judged)
        for i, group in enumerate(judged):
            left, right = (len(completion.text) for completion in group.completions)
            assert group.preferences[0].p == (None if i in silent else float(left > right))
        # Every question once (those about which it mumbled in other words again), but for what was in flight at a kill.
        assert len(server.answered) == pairs + again == kept(store.root) == counts["calls"]
        assert sum(server.answered.values()) == len(server.answered) + lost
        assert (counts["critic_calls"], counts["compared"], counts["abstained"]) == (pairs, pairs, len(silent))
        assert counts["asked_again"] == again and counts["longer_wins"] == pairs - len(silent)
    if flat is not None and any(megabytes for _, megabytes in seen):
        early = max(megabytes for replies, megabytes in seen if replies < pairs * 0.4)
        print(f"{early:.1f} MB at 40 %, {max(m for _, m in seen):.1f} MB at most")
        late = max(megabytes for replies, megabytes in seen)
        assert late - early < flat, f"{early:.0f} MB at first, {late:.0f} MB in the end"


def test_three_hundred_pairs_with_faults_and_a_kill(tmp_path):
    check(tmp_path, 300, kills=(150,))


@pytest.mark.slow
def test_ten_thousand_pairs_with_faults_and_two_kills(tmp_path):
    """10,000 verdicts or abstentions; memory may grow by 30 MB over the last six tenths."""
    check(tmp_path, 10_000, kills=(1_000, 2_000), flat=30)


def test_a_budget_that_runs_out_stops_the_labelling_and_a_larger_one_goes_on(tmp_path):
    """Twenty calls of sixty: the run stops and says so, verdicts are kept, and the rest is all that is asked for."""
    with Loopback(say=say) as server, using(tmp_path / "store") as store:
        for _ in range(2):  # the same budget buys nothing more
            with pytest.raises(UserError, match="the budget is used up: 20 calls were spent"):
                make(labelled(server.url, 60, max_calls=20))
            assert sum(server.answered.values()) == 20 == kept(store.root)
        counts = make(labelled(server.url, 60, max_calls=200)).record["counts"]
        assert counts["critic_calls"] == 60 and counts["cached_calls"] == 20
        assert sum(server.answered.values()) == len(server.answered) == 60 + sum(min(mumbles(i), 2) for i in range(60))


def test_a_pair_that_the_server_has_no_room_for_abstains_and_the_others_are_asked_once(tmp_path):
    """Two of forty pairs overflow the context: their verdicts are null, with what the server said; what was bought in
    the same breath is counted as bought."""
    full = {"error": {"message": "This model's maximum context length is 4096", "code": "context_length_exceeded"}}

    def fails(body: dict) -> tuple | None:
        text = body["messages"][-1]["content"]
        return (400, {}, full) if any(f"number {i}?" in text for i in (7, 23)) else None

    with Loopback(fails=fails, say=say) as server, using(tmp_path / "store") as store:
        made = make(labelled(server.url, 40))
        verdicts = [group.preferences[0] for group in made.read()]
        counts = made.record["counts"]
        silent = {7, 23} | {i for i in range(40) if mumbles(i) > 3}
        assert {i for i, verdict in enumerate(verdicts) if verdict.p is None} == silent
        assert "maximum context length is 4096" in verdicts[7].raw[0] and "room for prompt" in verdicts[23].raw[0]
        assert counts["abstained"] == len(silent) and counts["compared"] == 40
        assert counts["calls"] == kept(store.root) == sum(server.answered.values()) == len(server.answered)
        assert counts.get("cached_calls", 0) == 0
        asked = [body["messages"][-1]["content"] for _, body, _ in server.asked]
        assert all(sum(f"number {i}?" in text for text in asked) == 1 for i in (7, 23))
