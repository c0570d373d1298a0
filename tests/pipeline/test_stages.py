"""Recipes as graphs: what a user writes, what gets made, what is refused, and that nothing is ever lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.toys import Backwards, answer, ask, learn
from trueline import machine as machines
from trueline.errors import UserError
from trueline.fingerprint import File, added
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage, upstream
from trueline.pipeline.runs import Run
from trueline.records import Prompt, write_jsonl
from trueline.store import Groups, Policy, Prompts, using

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    with using(tmp_path / "store") as chosen:
        yield chosen


def test_a_recipe_of_two_stages(store):
    """Written down, nothing happens; made, both artefacts lie where people look; made again, nothing is remade."""
    questions = ask(3)
    answers = answer(questions, Backwards(times=2), label="backwards")
    assert not store.root.exists()

    assert make(answers) is answers
    assert answers.path == store.root / "groups" / f"backwards-{answers.fingerprint[:8]}"
    assert [c.text for c in next(answers.read()).completions] == ["0 0 noitseuq"] * 2
    assert answers.count == {"prompts": 3, "samples": 6}
    record = json.loads((answers.path / "record.json").read_text())
    assert record["inputs"]["how"] == {"~": "toys.Backwards", "times": 2, "refuse": 0}
    assert record["parents"] == {questions.fingerprint: questions.name}
    assert record["environment"]["versions"]["trueline"]
    assert sorted(path.name for path in answers.path.iterdir()) == ["groups.jsonl", "record.json"]

    before = (answers.path / "record.json").stat().st_mtime_ns
    make(answer(ask(3), Backwards(times=2)))  # another label is no other artefact
    assert (answers.path / "record.json").stat().st_mtime_ns == before
    assert [path.name for path in (store.root / "groups").iterdir()] == [answers.name]


def test_identity_is_the_inputs_and_nothing_else():
    same = answer(ask(3))
    assert same == answer(ask(3, seed=0), Backwards(), 0.0, label="other", machine=Machine(threads=2))
    assert same == answer(ask(3), Backwards(shout=False))
    others = [
        answer(ask(4)),
        answer(ask(3), Backwards(times=2)),
        answer(ask(3), slow=1),
        answer(ask(3), Backwards(shout=True)),
    ]
    assert len({same, *others}) == 5


def test_a_raised_revision_is_another_artefact():
    def body(work: Work, n: int = 1) -> None: ...

    one, two = (stage(Prompts, rev=rev)(body)() for rev in (1, 2))
    assert one.stage == two.stage == "test_stages.test_a_raised_revision_is_another_artefact.body"
    assert one.fingerprint != two.fingerprint


def test_an_argument_added_later_does_not_fork_the_past():
    def before(work: Work, n: int) -> None: ...

    def after(work: Work, n: int, clip: float = added(1.0)) -> None: ...

    old, new = stage(Prompts, name="grown")(before), stage(Prompts, name="grown")(after)
    assert old(3) == new(3) == new(3, clip=1)
    assert old(3) != new(3, clip=2.0)
    assert new(3).inputs == {"n": 3, "clip": 1.0}


def test_parents_are_found_wherever_they_hide(store):
    @stage(Groups)
    def merge(work: Work, parts: dict[str, tuple[Prompts, ...]]) -> None:
        texts = [prompt for part in parts["all"] for prompt in part.read()]
        write_jsonl(work.dir / "groups.jsonl", texts)

    merged = merge({"all": (ask(1), ask(2))})
    assert [parent.name for parent in merged.parents] == [ask(1).name, ask(2).name]
    assert upstream(merged) == [ask(1), ask(2), merged]
    make(merged)
    assert len((merged.path / "groups.jsonl").read_text().splitlines()) == 3


def test_only_what_is_missing_is_made(store):
    answers = answer(ask(3))
    make(answers)
    (answers.path / "groups.jsonl").rename(store.root / "kept")
    for parent in ask(3).path.iterdir():
        parent.unlink()
    make(answers)  # it is there, so its parents are not looked for
    assert not ask(3).made
    make(answers, ask(3))
    assert ask(3).made


def test_the_machine_reaches_the_body_and_not_the_identity(store):
    seen = []

    @stage(Prompts)
    def look(work: Work, n: int) -> None:
        seen.append((work.machine.shard, machines.current().shard))

    make(look(1), machine=Machine(shard=5))
    make(look(2, machine=Machine(shard=7)), machine=Machine(shard=5))
    assert seen == [(5, 5), (7, 7)]
    assert look(1).record["machine"]["shard"] == 5


def test_rounds_in_a_loop_may_be_many(store):
    """Three hundred rounds deep: no recursion limit, and counting stays quick."""

    @stage(Groups, estimate=lambda before, **_: {"samples": (before.count["samples"] if before else 0) + 1})
    def again(work: Work, before: Groups | None, prompts: Prompts) -> None: ...

    groups = None
    for _ in range(300):
        groups = again(groups, ask(1))
    assert groups is not None
    assert len(upstream(groups)) == 301
    assert not groups.made


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_wrong_call_names_the_line_and_the_nearest_argument():
    def refused(*args: Any, **kwargs: Any) -> str:
        with pytest.raises(UserError) as caught:
            answer(*args, **kwargs)
        assert re.fullmatch(r"tests.pipeline.test_stages\.py:\d+", caught.value.where.replace(str(ROOT) + os.sep, ""))
        return str(caught.value).partition(": ")[2]

    assert refused(promts=ask(1)) == "toys.answer() has no argument 'promts'. Did you mean \"prompts\"?"
    assert refused().startswith("toys.answer(): missing a required argument: 'prompts'. Its arguments: prompts, how")
    wrong = answer(ask(1))
    assert refused(wrong) == f"argument prompts of toys.answer() is Groups({wrong.name}); it takes Prompts."
    assert refused(ask(1), lambda: 0).startswith("argument how of toys.answer() is a lambda")
    with pytest.raises(UserError, match="the label 'a/b'"):
        ask(1, label="a/b")


def test_a_default_that_can_change_is_refused_where_the_stage_is_defined():
    with pytest.raises(
        UserError, match=r"test_stages\.py:\d+: argument rows of .*body\(\) has a default that can change"
    ):

        @stage(Prompts)
        def body(work: Work, rows: list[int] = []) -> None: ...  # noqa: B006


def test_what_is_not_made_has_no_record(store):
    with pytest.raises(UserError, match=rf"{ask(1).name}: it is not made yet\. Run `trueline make` first\."):
        _ = ask(1).record


def test_a_file_that_changes_after_the_recipe_was_read_is_refused(store, tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("one\n")

    @stage(Prompts)
    def read(work: Work, rows: File) -> None:
        write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(rows.path.read_text())])

    handle = read(File(path))
    path.write_text("two\n")
    with pytest.raises(UserError, match=r"test_stages\.py:\d+: argument rows of .*read\(\) changed after"):
        make(handle)
    make(read(File(path)))
    assert list(read(File(path)).record["files"]) == [str(path)]


# --- nothing is lost -------------------------------------------------------------------------------------------------


def failing(error: BaseException):
    @stage(Policy, name="failing")
    def fail(work: Work, big: bool = False) -> None:
        (work.dir / "model.bin").write_bytes(b"x" * 2000)
        if not big:
            raise error

    return fail


def test_a_full_disk_is_told_with_figures(store):
    make(failing(OSError())(big=True))
    handle = failing(OSError(errno.ENOSPC, "No space left on device"))()
    with pytest.raises(UserError) as caught:
        make(handle)
    assert "no space is left on the disk that holds" in str(caught.value)
    assert (
        "2.1" in caught.value.wanted
        and "kB are written so far, more is needed; another failing took" in caught.value.wanted
    )
    assert caught.value.cure == "Nothing finished is lost: free some space and run the same command again."
    with pytest.raises(UserError, match="no space is left"):  # as safetensors says it
        make(failing(RuntimeError("I/O error: Os { code: 28, kind: StorageFull }"))())


def test_a_full_device_is_told_with_the_knobs(store):
    with pytest.raises(UserError, match=r"out of memory\. Lower --machine\.micro-tokens \(now 8192\)"):
        make(failing(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))())


def test_other_failures_stay_what_they_are(store):
    with pytest.raises(ZeroDivisionError):
        make(failing(ZeroDivisionError())())


def test_after_ctrl_c_the_same_call_goes_on(store):
    stop = [True]

    @stage(Groups)
    def interrupted(work: Work, prompts: Prompts) -> None:
        from trueline.pipeline import shards

        def process(batch):
            seen.extend(batch)
            if len(seen) == 3 and stop:
                raise KeyboardInterrupt
            return batch

        shards(work, list(prompts.read()), process, size=1)

    seen: list[Prompt] = []
    with pytest.raises(KeyboardInterrupt):
        make(interrupted(ask(5)))
    stop.clear()
    make(interrupted(ask(5)))
    assert [prompt.text[-1] for prompt in seen] == ["0", "1", "2", "2", "3", "4"]
    assert (interrupted(ask(5)).record["runs"], ask(5).record["runs"]) == (2, 1)


def run_toys(store: Path, slow: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.toys", store, str(slow)], cwd=ROOT, stderr=subprocess.PIPE)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the finished artefacts, but the records (they tell times)."""
    found = [path for path in store.glob("*/*/*") if path.is_file() and path.name != "record.json"]
    return {str(path.relative_to(store)): path.read_bytes() for path in found}


def counts(store: Path) -> dict[str, dict[str, int]]:
    return {path.parent.name: json.loads(path.read_text())["counts"] for path in store.glob("*/*/record.json")}


def at_work(pid: int, store: Path) -> bool:
    """Whether that process has begun an artefact."""
    for path in store.glob("*/*.part/begun.json"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_bytes())["pid"] == pid:
                return True
    return False


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 is how POSIX systems say it")
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(tmp_path):
    """A real process, killed by SIGKILL again and again in all three stages, against one that ran through: every byte
    of every output is equal, dropped rows and metrics included, and so are the counts."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_toys(whole, 0.01).wait() == 0

    random.seed(7)
    kills = 0
    for _ in range(60):
        process = run_toys(killed, 0.01)
        deadline = time.monotonic() + 30
        while process.poll() is None and not at_work(process.pid, killed) and time.monotonic() < deadline:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=random.uniform(0.0, 0.6))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 3
    assert contents(killed) == contents(whole)
    assert counts(killed) == counts(whole)
    assert not list(killed.glob("*/*.part"))


def test_two_makers_of_one_artefact_make_it_once(store):
    made: list[str] = []

    @stage(Prompts)
    def slowly(work: Work, n: int) -> None:
        made.append(threading.current_thread().name)
        time.sleep(0.5)
        write_jsonl(work.dir / "prompts.jsonl", [Prompt.of("x")])

    handle = slowly(1)
    threads = [threading.Thread(target=make, args=(handle,), kwargs={"store": store}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(list(handle.read())) == 1


def test_two_processes_making_one_recipe_share_the_work(tmp_path):
    both = [run_toys(tmp_path / "store", 0.002) for _ in range(2)]
    said = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    records = list((tmp_path / "store").glob("*/*/record.json"))
    assert len(records) == 3
    assert "waits for process" in "".join(said)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_plan_and_links(store):
    run = Run("study", {"--n": "3"})
    handle = answer(ask(3))
    make(handle, run=run)
    assert run.folder is not None and run.folder.parent == store.root.parent / "runs" / "study"
    plan = json.loads((run.folder / "plan.json").read_text())
    assert [row["status"] for row in plan["artifacts"]] == ["make", "make"]
    assert (plan["options"], plan["to_come"]) == ({"--n": "3"}, {"prompts": 3, "samples": 3})
    assert sorted(path.name for path in run.folder.iterdir()) == sorted([ask(3).name, handle.name, "plan.json"])
    assert (run.folder / handle.name / "groups.jsonl").read_text() == (handle.path / "groups.jsonl").read_text()
    assert not os.path.isabs(os.readlink(run.folder / handle.name))

    again = Run("study", {"--n": "3"})
    make(handle, run=again)  # nothing to make, nothing new to tell
    assert again.folder == run.folder
    assert len(list(run.folder.parent.iterdir())) == 1


def test_learning_is_the_same_in_one_go_or_resumed(store):
    """The toy training, used by the kill test: sixty steps, one dropped row in seven, one count per step."""
    handle = learn(answer(ask(4)), 60)
    make(handle)
    assert handle.count == {"train_tokens": 60, "dropped": 8}
    lines = (handle.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))
