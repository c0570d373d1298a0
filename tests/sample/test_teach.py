"""A teacher's answers: what is asked, what is taught, what is set aside and why, and what is trained of it."""

from __future__ import annotations

import dataclasses

import pytest

from tests import chats
from tests.sample.served.loopback import Loopback
from trueline.chat import Renderer, prepare
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.pipeline import Work, make, plan, stage
from trueline.records import Prompt, read_jsonl, write_jsonl
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.served import Connection, OpenAI
from trueline.sample.teach import Filters, teach
from trueline.store import Prompts, using
from trueline.train.rows import Encoder, encode
from trueline.train.views import All, Demonstrations


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@stage(Prompts, name="told", estimate=lambda texts, **_: {"prompts": len(texts)})
def told(work: Work, texts: tuple[str, ...]) -> None:
    """A prompt per text."""
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(text) for text in texts]))


HEARD: list[str] = []
FUSE: list[str] = []  # what is asked of a connection that breaks, once


def heard(prompt, index):
    """Says what it is told to after "say", and remembers that it was asked."""
    if prompt.text in FUSE:
        FUSE.remove(prompt.text)
        raise ConnectionError
    HEARD.append(prompt.text)
    return prompt.text.removeprefix("say ")


def dropped(taught):
    return [(row["reason"], row["row"]) for row in read_jsonl(taught.path / "dropped.jsonl", dict)]


def test_answers_that_would_teach_something_wrong_are_set_aside(store):
    """Of five answers one is cut after 3 words, one empty, one holds a special token's text: two are taught, without
    the white space around them. What stood before is asked once."""
    asked = told(("say  Ada bakes. ", "say one two three four", "say  ", "say a </s> b", "say Eve", "say Eve"))
    taught = teach(Scripted(heard), asked, Sampling(max_tokens=3), Filters(without=("</s>",)), max_dropped=0.6)
    groups = list(make(taught).read())
    assert [c.text for group in groups for c in group.completions] == ["Ada bakes.", "Eve"]
    assert [(reason, row["completion"]["text"]) for reason, row in dropped(taught)] == [
        ("the answer was cut off before its end", "one two three"),
        ("the answer is empty: refused, filtered, or nothing was said", " "),
        ('the answer holds "</s>"', "a </s> b"),
    ]
    assert taught.record["counts"] == {
        "prompts": 5, "groups": 2, "samples": 2, "teacher_calls": 5, "repeated": 1, "dropped": 3, "cut": 1, "empty": 1,
        "barred": 1,
    }  # fmt: skip


def test_a_cut_answer_that_is_kept_trains_no_end_of_turn(store):
    """The ended answer trains exactly one end-of-turn token, the cut one none."""
    asked = told(("say Ada", "say one two three four"))
    taught = make(teach(Scripted(heard), asked, Sampling(max_tokens=3), Filters(cut="keep")))
    assert [c.stopped for group in taught.read() for c in group.completions] == ["stop", "length"]
    tokenizer = chats.byte_level()
    prepare(tokenizer)
    encoder = Encoder(Renderer(tokenizer))
    rows = encode(Demonstrations(taught).examples(), encoder)
    end = encoder.renderer.end_id
    assert [int((r.sequences[0].ids[r.sequences[0].scored] == end).sum()) for r in rows] == [1, 0]


def test_long_prompts_are_not_asked(store):
    """1,999 words are asked and 2,000 are not; nor are 8,000 characters. Nothing is paid for them."""
    HEARD.clear()
    texts = ("a " * 1999, "a " * 2000, "b" * 7999, "b" * 8000)
    taught = make(teach(Scripted(heard), told(texts), max_dropped=0.5))
    asked = [texts[0], texts[2]]
    assert asked == HEARD
    assert [reason for reason, _ in dropped(taught)] == [
        "the prompt has 2000 words, 2000 or more", "the prompt has 8000 characters, 8000 or more",
    ]  # fmt: skip
    counts = taught.record["counts"]
    assert (counts["long"], counts["dropped"], counts["teacher_calls"]) == (2, 2, 2)
    assert make(teach(Scripted(heard), told(texts), keep=Filters(0, 0))).record["counts"]["groups"] == 4


def test_of_several_answers_those_that_pass_are_kept(store):
    replies = Scripted(("Ada.", "", "Eve."))
    taught = make(teach(replies, told(("Who?",)), Sampling(n=3)))
    (group,) = taught.read()
    assert [c.text for c in group.completions] == ["Ada.", "Eve."]
    assert len(list(Demonstrations(taught, All()).examples())) == 2
    assert taught.record["counts"]["samples"] == 2 and taught.record["counts"]["teacher_calls"] == 3


def test_a_teacher_that_refuses_stops_the_run_early(store):
    """Ten prompts, at most a fifth lost: the third refusal cannot be made good, and nothing more is asked."""
    HEARD.clear()
    asked = told(tuple(f"say {'' if i in (1, 2, 4) else i}" + " " * i for i in range(10)))
    taught = teach(Scripted(heard), asked, max_dropped=0.2)
    wanted = r"3 of 10 prompts \(30\.0%\) are left without an answer \(3 empty\); .*at most 20\.0%.*max_dropped"
    with pytest.raises(UserError, match=wanted):
        make(taught, machine=Machine(shard=1))
    assert len(HEARD) == 5
    with pytest.raises(UserError, match=r"4 of 4 prompts .* too long to ask"):
        make(
            teach(
                Scripted(heard), told(("a" * 9, "b" * 9, "c" * 9, "d" * 9)), keep=Filters(characters=9), max_dropped=0.9
            )
        )


def test_a_killed_run_asks_nobody_twice_and_forgets_no_loss(store):
    """The first run ends at the fourth prompt; the second finds three shards, one of them without an answer, and asks
    two more: the share is of all prompts."""
    asked = told(tuple(f"say {text}" for text in ("a", "", "b", "stop", "c")))
    taught = teach(Scripted(heard), asked, max_dropped=0.2)
    HEARD.clear()
    FUSE.append("say stop")
    with pytest.raises(ConnectionError):
        make(taught, machine=Machine(shard=1))
    assert len(HEARD) == 3
    counts = make(taught, machine=Machine(shard=1)).record["counts"]
    assert HEARD[3:] == ["say stop", "say c"]
    assert (counts["groups"], counts["empty"], counts["dropped"], counts["teacher_calls"]) == (4, 1, 1, 5)


def test_what_a_teacher_over_http_costs_and_why_it_says_nothing(tmp_path):
    """An answer, a refusal, one broken off by a filter, one cut: the record tells them apart, with money."""
    (tmp_path / "prices.toml").write_text('[compatible]\n"m" = { input = 2, output = 10 }\n')

    def reply(finish, **message):
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        return 200, {}, body

    faults = [
        reply("stop", content=" Ada. "), reply("stop", content=None, refusal="No."),
        reply("content_filter", content="I h"), reply("length", content="It"),
    ]  # fmt: skip
    with Loopback(faults) as server:
        connection = Connection(server.url + "/v1", prices=str(tmp_path / "prices.toml"), concurrency=1)
        taught = teach(OpenAI("m", connection), told(("a", "b", "c", "d")), max_dropped=0.75)
        assert plan(taught).totals["teacher_calls"] == plan(taught).totals["calls"] == 4
        counts = make(taught).record["counts"]
    assert [c.text for group in taught.read() for c in group.completions] == ["Ada."]
    assert counts == {
        "prompts": 4, "groups": 1, "samples": 1, "teacher_calls": 4, "calls": 4, "prompt_tokens": 28,
        "completion_tokens": 8, "cost_microusd": 136, "paid_microusd": 136, "refused": 1, "filtered": 1, "empty": 1,
        "cut": 2, "dropped": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"words": -1}, r"Filters\(words=\.\.\.\): got -1"),
        ({"cut": "error"}, '"drop" or "keep"'),
        ({"without": "</s>"}, "a tuple of texts"),
    ],
)
def test_filters_that_are_none_are_refused(options, expected):
    with pytest.raises(UserError, match=expected):
        Filters(**options)


def test_a_filter_is_part_of_the_identity(store):
    first = teach(Scripted(("a",)), told(("Who?",)))
    assert first == teach(Scripted(("a",)), told(("Who?",)), keep=Filters())
    assert first != teach(Scripted(("a",)), told(("Who?",)), keep=dataclasses.replace(Filters(), cut="keep"))
    with pytest.raises(UserError, match="a share from 0 to 1"):
        make(teach(Scripted(("a",)), told(("Who?",)), max_dropped=2))
