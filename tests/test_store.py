"""The store: where artefacts lie, how they are found, and what it refuses."""

from __future__ import annotations

import json
import threading
import time

import msgspec
import pytest

from tests.toys import Backwards, answer, ask
from trueline.errors import UserError
from trueline.pipeline import Work, make, stage
from trueline.records import Prompt, write_jsonl
from trueline.store import Policy, Store, current, using
from trueline.work import write_atomic


@pytest.fixture
def store(tmp_path):
    with using(tmp_path / "store") as chosen:
        yield chosen


def test_an_artefact_is_found_by_its_fingerprint_whatever_it_is_called(store):
    made = make(ask(2, label="questions"))
    assert made.path == store.root / "prompts" / f"questions-{made.short}"
    assert ask(2).path == made.path
    assert [prompt.text for prompt in ask(2).read()] == ["question 0 0", "question 0 1"]
    assert ask(3).path == store.root / "prompts" / ask(3).name
    assert not ask(3).made


def test_two_artefacts_with_the_same_eight_digits_live_side_by_side(store):
    """One in four thousand million; so the other is made by hand here."""
    handle = ask(2)
    squatter = store.root / "prompts" / handle.name
    squatter.mkdir(parents=True)
    write_atomic(
        squatter / "record.json", msgspec.json.encode({"fingerprint": handle.short + "0" * 56, "stage": "other"})
    )
    make(handle)
    assert handle.path == store.root / "prompts" / f"asked-{handle.fingerprint[:16]}"
    assert len(list(ask(2).read())) == 2


def test_the_store_in_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUELINE_STORE", raising=False)
    assert current().root == tmp_path / "store"
    monkeypatch.setenv("TRUELINE_STORE", str(tmp_path / "other"))
    assert current().root == tmp_path / "other"
    with using(tmp_path / "mine") as mine:
        assert current() is mine
        make(ask(1), store=tmp_path / "third")
        assert not ask(1).made
    with using(tmp_path / "third"):
        assert ask(1).made


def test_a_store_written_by_a_newer_trueline_is_refused_and_left_alone(tmp_path):
    (tmp_path / "store.json").write_text('{"format": 2, "new": true}')
    with pytest.raises(
        UserError, match=r"this store has format 2, written by a newer trueline; this one reads format 1"
    ):
        make(ask(1), store=tmp_path)
    with using(tmp_path), pytest.raises(UserError, match="Upgrade trueline, or name another store"):
        _ = ask(1).made
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(UserError, match="does not say which format the store has"):
        make(ask(1), store=Store(tmp_path))


def test_a_store_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"no store can be made here .*Name another with --store"):
        make(ask(1), store=tmp_path / "file")


def test_a_damaged_record_is_named(store):
    make(ask(1))
    (ask(1).path / "record.json").write_text('{"fing')
    with pytest.raises(UserError, match=r"record\.json: the record is no JSON\. Remove its folder"):
        make(ask(1))


def test_a_policy_may_point_to_a_folder_of_the_users(store, tmp_path):
    @stage(Policy)
    def point(work: Work, at: str) -> None:
        (work.dir / "pointer.json").write_text(json.dumps({"path": at}))

    folder = tmp_path / "model"
    folder.mkdir()
    handle = make(point(str(folder)))
    assert handle.folder == folder
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"the model folder .*model is gone"):
        _ = handle.folder


def test_counts_are_estimates_until_made_and_what_is_held_is_passed_on(store):
    """Two answers to each of five questions: ten samples expected; every third question refused: six samples made."""
    handle = answer(ask(5), Backwards(times=2, refuse=3))
    assert handle.count == {"prompts": 5, "samples": 10}
    make(handle)
    assert handle.count == {"prompts": 5, "samples": 6, "dropped": 2}


def test_the_lock_keeps_a_second_maker_waiting_and_says_for_whom(store):
    store.create()
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with store.lock(ask(1), waiting=said.append):
            order.append("second")

    with store.lock(ask(1)):
        store.begin(ask(1))
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said[0].startswith("process ")


def test_a_part_is_found_again_under_another_label(store):
    store.create()
    part = store.begin(ask(1, label="early"))
    assert store.part(ask(1, label="late")) == part
    assert store.find(ask(1)) is None
    (part / "half.jsonl").write_text("")
    write_atomic(part / "record.json", msgspec.json.encode({"fingerprint": ask(1).fingerprint, "counts": {}}))
    (part / "shards").mkdir()
    store.finish(ask(1), part)
    assert sorted(path.name for path in ask(1).path.iterdir()) == ["half.jsonl", "record.json"]


def test_a_run_killed_between_record_and_rename_is_only_renamed(store):
    """The body must not run again: its record stands."""
    ran = []

    @stage(Policy)
    def once(work: Work, n: int) -> None:
        ran.append(n)
        write_jsonl(work.dir / "rows.jsonl", [Prompt.of("x")])

    handle = once(1)
    made = make(handle).path
    made.rename(made.with_name(made.name + ".part"))
    assert not handle.made
    make(handle)
    assert handle.made and ran == [1]
