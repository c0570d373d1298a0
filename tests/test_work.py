"""What a stage's body is handed: counting, dropping, logging and shards, resumable by construction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toys import ask
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.records import Prompt
from trueline.work import Work, shards


def work_in(folder: Path, **options: object) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(folder, Machine(**options), ask(1))  # type: ignore[arg-type]


def test_shards_process_everything_once_and_in_order(tmp_path):
    """Ten items in shards of four: three calls, one file; a second call finds all three done and only joins them."""
    calls = []

    def process(batch):
        calls.append(list(batch))
        work.count("seen", len(batch))
        if 5 in batch:
            work.drop("odd", {"n": 5}, where="line 6")
        return [Prompt.of(str(n)) for n in batch if n != 5]

    work = work_in(tmp_path, shard=4)
    assert shards(work, range(10), process) == 9
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert dict(work.counts) == {"seen": 10, "dropped": 1}
    assert json.loads((tmp_path / "dropped.jsonl").read_text()) == {"reason": "odd", "where": "line 6", "row": {"n": 5}}
    before = (tmp_path / "groups.jsonl").read_bytes()

    work = work_in(tmp_path, shard=3)  # a machine of another size goes on with the size that was begun
    assert shards(work, range(10), process) == 9
    assert len(calls) == 3
    assert dict(work.counts) == {"seen": 10, "dropped": 1}
    assert (tmp_path / "groups.jsonl").read_bytes() == before


@settings(max_examples=25, deadline=None)
@given(total=st.integers(0, 12), size=st.integers(1, 5), fails=st.lists(st.integers(0, 11), max_size=4))
def test_shards_end_the_same_wherever_they_were_stopped(tmp_path_factory, total, size, fails):
    """Stopped before each item of `fails` in turn, against the run that went through."""
    folder = tmp_path_factory.mktemp("shards")
    stops = list(fails)

    def process(batch):
        for n in batch:
            if stops and n == stops[0]:
                stops.pop(0)
                raise InterruptedError
            work.count("seen")
            if n % 3 == 0:
                work.drop("third", n)
        return [{"n": n} for n in batch]

    for _ in range(len(fails) + 1):
        work = work_in(folder)
        try:
            assert shards(work, range(total), process, out="rows.jsonl", size=size) == total
            break
        except InterruptedError:
            continue
    assert [json.loads(line)["n"] for line in (folder / "rows.jsonl").read_text().splitlines()] == list(range(total))
    thirds = [n for n in range(total) if n % 3 == 0]
    assert dict(work.counts) == ({"seen": total} if total else {}) | ({"dropped": len(thirds)} if thirds else {})
    dropped = folder / "dropped.jsonl"
    assert (
        [json.loads(x)["row"] for x in dropped.read_text().splitlines()] == thirds if thirds else not dropped.exists()
    )


def test_a_checkpoint_takes_back_what_was_said_after_it(tmp_path):
    work = work_in(tmp_path)
    work.log({"step": 1})
    work.count("train_tokens", 10)
    work.drop("long", 1)
    state = json.loads(json.dumps(work.state()))
    work.log({"step": 2})
    work.drop("long", 2)

    work = work_in(tmp_path)  # killed, and begun again
    work.restore(state)
    work.log({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step":1}\n{"step":2}\n'
    assert (tmp_path / "dropped.jsonl").read_text() == '{"reason":"long","row":1}\n'
    assert dict(work.counts) == {"train_tokens": 10, "dropped": 1}


def test_restoring_cuts_off_rows_even_if_nothing_is_said_again(tmp_path):
    work = work_in(tmp_path)
    state = work.state()
    work.drop("long", 1)
    work = work_in(tmp_path)
    work.restore(state)
    assert not (tmp_path / "dropped.jsonl").exists()


def test_a_fresh_start_takes_back_everything(tmp_path):
    work_in(tmp_path).log({"step": 1})
    work_in(tmp_path).log({"step": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step":1}\n'


def test_a_share_above_what_is_allowed_stops_the_run(tmp_path):
    work = work_in(tmp_path)
    work.limit("too long", 1, 10, allowed=0.1)
    work.limit("too long", 0, 0, allowed=0.0)
    with pytest.raises(
        UserError, match=r"2 of 10 rows \(20\.0%\) are too long; at most 10\.0% is allowed\. .*dropped\.jsonl"
    ):
        work.limit("too long", 2, 10, allowed=0.1)


def test_only_the_first_of_a_process_group_counts(tmp_path):
    work = Work(tmp_path, Machine(), ask(1), main=False)
    work.count("seen")
    work.log({"step": 1})
    work.note("a", 1)
    work.drop("long", 1)
    with work.progress(3, "steps") as meter:
        meter.advance()
    assert not work.counts and not work.notes and not list(tmp_path.iterdir())
