"""Plans: have or make, why as a field diff against the nearest sibling, and what is to come."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from tests.toys import Backwards, answer, ask, learn
from trueline.fingerprint import File
from trueline.pipeline import Work, make, plan, show, stage, why
from trueline.store import Groups, Policy, Report, using


@pytest.fixture
def store(tmp_path):
    with using(tmp_path / "store") as chosen:
        yield chosen


def text(renderable: object) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_plan_says_what_and_why_before_anything_is_spent(store):
    """Five questions answered twice were made; now they are asked to be answered three times, loudly."""
    make(answer(ask(5), Backwards(times=2)))
    samples = answer(ask(5), Backwards(times=3, shout=True), label="loud")
    policy = learn(samples, 100)
    found = plan(policy)
    assert [(row.artifact, row.status, row.why, row.counts) for row in found.rows] == [
        (ask(5), "have", (), {"prompts": 5}),
        (samples, "make", ("how.times: 2 -> 3", "how.shout: absent -> true"), {"samples": 15}),
        (policy, "make", ("the first toys.learn in this store",), {"train_tokens": 100}),
    ]
    assert found.totals == {"samples": 15, "train_tokens": 100}
    assert [line.split() for line in text(found).splitlines()] == [
        ["have", ask(5).name, "prompts", "5"],
        ["make", samples.name, "how.times:", "2", "->", "3"],
        ["how.shout:", "absent", "->", "true"],
        ["samples", "15"],
        ["make", policy.name, "the", "first", "toys.learn", "in", "this", "store"],
        ["train", "tokens", "100"],
        ["To", "make:", "2", "of", "3", "artefacts:", "samples", "15,", "train", "tokens", "100."],
    ]
    assert max(map(len, text(found).splitlines())) <= 80
    assert plan(ask(5)).summary() == "Nothing to make: 1 artefact is there."


def test_the_nearest_sibling_is_the_one_with_the_fewest_differences(store):
    for times, refuse in ((1, 3), (2, 4), (5, 6)):
        make(answer(ask(3), Backwards(times, refuse)))
    (row,) = plan(answer(ask(3), Backwards(2, 6))).to_make
    assert row.why in [("how.refuse: 4 -> 6",), ("how.times: 5 -> 2",)]
    (row,) = plan(answer(ask(3), Backwards(1, 4))).to_make
    assert row.why in [("how.refuse: 3 -> 4",), ("how.times: 2 -> 1",)]
    (row,) = plan(answer(ask(3), Backwards(9, 3))).to_make
    assert row.why == ("how.times: 1 -> 9",)


def test_why_follows_a_change_down_to_where_it_began(store):
    make(learn(answer(ask(3)), 10))
    told = text(why(learn(answer(ask(4)), 10), ask(3)))
    old, new = answer(ask(3)), answer(ask(4))
    expected = f"""\
make {learn(new, 10).name}; differs from {learn(old, 10).name} in
└── groups: {old.name} -> {new.name}
    └── make {new.name}; differs from {old.name} in
        └── prompts: {ask(3).name} -> {ask(4).name}
            └── make {ask(4).name}; differs from {ask(3).name} in
                └── n: 3 -> 4
have {ask(3).name}: made 20"""
    assert told.startswith(expected)


def test_kinds_of_differences(store, tmp_path):
    @dataclass(frozen=True)
    class Loud:
        by: float = 1.0

    @stage(Report)
    def tell(
        work: Work, rows: File, how: object = None, steps: tuple[int, ...] = (1, 2), meta: object = None
    ) -> None: ...

    for name in "ab":
        (tmp_path / name).write_text(name)
    make(tell(File(tmp_path / "a"), Backwards(), meta={"k": {"deep": 1}}))
    (row,) = plan(tell(File(tmp_path / "b"), Loud(), (1, 2, 3), {"k": {"deep": float("nan")}})).to_make
    assert row.why == (
        "rows: content ca978112 -> content 3e23e816",
        "how: toys.Backwards(...) -> test_planning.test_kinds_of_differences.<locals>.Loud(...)",
        "steps: [1, 2] -> [1, 2, 3]",
        "meta.k.deep: 1 -> nan",
    )


def test_a_raised_revision_is_a_reason(store):
    def body(work: Work, n: int) -> None: ...

    make(stage(Policy, rev=1, name="grown")(body)(1))
    (row,) = plan(stage(Policy, rev=2, name="grown")(body)(1)).to_make
    assert row.why == ("rev: 1 -> 2",)


def test_a_stopped_run_is_a_reason_too_and_what_nobody_needs_is_skipped(store):
    handle = answer(ask(3))
    make(handle)
    for path in ask(3).path.iterdir():
        path.unlink()
    assert [row.status for row in plan(handle).rows] == ["skip", "have"]
    store.begin(ask(4))
    assert plan(ask(4)).rows[0].why[0] == "goes on where a stopped run left it"


def test_what_is_carried_along_is_not_counted_twice(store):
    """A critic that repeats how many samples it was handed adds calls, not samples."""

    @stage(
        Groups,
        estimate=lambda groups: {"samples": groups.count["samples"], "critic_calls": 2 * groups.count["samples"]},
    )
    def judge(work: Work, groups: Groups) -> None: ...

    found = plan(judge(judge(answer(ask(5), Backwards(times=2)))))
    assert found.totals == {"prompts": 5, "samples": 10, "critic_calls": 40}


def test_what_is_read_from_a_file_is_not_sampled(store, tmp_path):
    @stage(Groups, estimate=lambda rows: {"samples": 100, "groups": 50})
    def read(work: Work, rows: File) -> None: ...

    (tmp_path / "rows").write_text("")
    found = plan(read(File(tmp_path / "rows")), answer(ask(5)))
    assert found.rows[0].counts == {"samples": 100, "groups": 50}
    assert found.totals == {"prompts": 5, "samples": 5}


def test_show_tells_what_is_known(store):
    handle = answer(ask(3), Backwards(times=2))
    assert "status        not made yet" in text(show(handle))
    make(handle)
    told = text(show(handle))
    for said in (handle.name, handle.fingerprint, ask(3).name, "how.times     2", "samples         6", "groups.jsonl"):
        assert said in told
