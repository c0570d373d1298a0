"""Answers of several generators in one group: what is merged, what is dropped, and what is refused."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Preference, Prompt, read_jsonl, write_jsonl
from trueline.sample.pooled import gather, merge, pooled
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import Groups, Prompts, using


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@stage(Prompts, name="named-prompts", estimate=lambda names, **_: {"prompts": len(names)})
def named(work: Work, names: tuple[str, ...]) -> None:
    """A prompt per name."""
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"{n}?", id=n) for n in names]))


@stage(Groups, name="written-groups")
def written(work: Work, rows: tuple[Group, ...]) -> None:
    """These groups."""
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", rows))


def by(author, *texts, prompt="a", asked="a?"):
    return Group(Prompt.of(asked, id=prompt), tuple(Completion(text, author) for text in texts))


def test_one_group_per_prompt_holds_the_answers_of_all():
    both = gather((Scripted(("x", "y"), name="one"), Scripted(("z",), name="two")), named(("a", "b")), Sampling(n=2))
    groups = list(make(both).read())
    assert [g.prompt.id for g in groups] == ["a", "b"]
    assert [(c.author, c.text) for c in groups[0].completions] == [
        ("one", "x"),
        ("one", "y"),
        ("two", "z"),
        ("two", "z"),
    ]
    assert both.record["counts"] == {"prompts": 2, "groups": 2, "samples": 8}
    assert both.record["notes"]["authors"] == {"one": 4, "two": 4}


def test_a_plan_knows_how_many_there_will_be():
    both = gather((Scripted(("x",), name="one"), Scripted(("z",), name="two")), named(("a", "b")), Sampling(n=3))
    assert both.count == {"prompts": 2, "groups": 2, "samples": 12}
    assert [parent.stage for parent in both.parents] == ["draw", "draw"]


def test_what_was_said_stays_with_its_answer():
    """Preferences are numbered anew; an answer of which nothing was said has nothing said of it."""
    first = by("one", "x", "y").with_preferences([Preference(1, 0, 1.0, "c")])
    second = by("two", "z", "w").with_feedback([Feedback("g", score=1.0), Feedback("g", score=0.0)])
    merged = merge([first, second.with_preferences([Preference(0, 1, 0.5, "c")])])
    assert [c.text for c in merged.completions] == ["x", "y", "z", "w"]
    assert merged.scores("g") == [None, None, 1.0, 0.0]
    assert [(p.left, p.right) for p in merged.preferences] == [(1, 0), (2, 3)]


def test_a_prompt_that_one_left_out_is_dropped_with_the_reason_or_kept():
    full = written((by("one", "x"), by("one", "y", prompt="b", asked="b?")))
    part = written((by("two", "z"),))
    with pytest.raises(UserError, match="some generator did not answer"):
        make(pooled((full, part)))
    dropped = make(pooled((full, part), max_dropped=0.5))
    assert [g.prompt.id for g in dropped.read()] == ["a"]
    assert [row["reason"] for row in read_jsonl(dropped.path / "dropped.jsonl", dict)] == [
        f"not answered in {part.name}"
    ]
    kept = make(pooled((full, part), missing="keep"))
    assert [len(g.completions) for g in kept.read()] == [2, 1]


def test_what_cannot_be_merged_is_refused():
    one = written((by("one", "x"),))
    with pytest.raises(UserError, match="have one id"):
        make(pooled((one, written((by("two", "z", asked="something else?"),)))))
    with pytest.raises(UserError, match="prompt a stands twice"):
        make(pooled((written((by("one", "x"), by("one", "y"))),)))
    with pytest.raises(UserError, match="got no groups"):
        make(pooled(()))
    with pytest.raises(UserError, match='"drop" or "keep"'):
        make(pooled((one,), missing="lose"))
    with pytest.raises(UserError, match="two of them sign as one"):
        gather((Scripted(("x",), name="one"), Scripted(("y",), name="one")), named(("a",)))
