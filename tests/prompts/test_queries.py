"""What a model is shown, what of its reply is a query, and which queries are kept: the published tables, and ours."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prompts.written import lines
from trueline.errors import UserError
from trueline.fingerprint import File
from trueline.prompts.asked import asked
from trueline.prompts.novelty import Known, RougeL
from trueline.prompts.queries import SEEDS, QueryFilter, few_shot, read, sown
from trueline.store import using

OURS = sown(File(SEEDS))


def test_our_seeds_have_the_stated_profile():
    """100 different ones of 30 to 126 characters, about 61 on average; 98 questions and two requests."""
    lengths = [len(text) for text in OURS.texts]
    assert len(OURS.texts) == 100 and min(lengths) >= 30 and max(lengths) <= 126
    assert sum(lengths) / 100 == pytest.approx(60.9, abs=1)
    assert [sum(text.endswith(mark) for text in OURS.texts) for mark in "?."] == [98, 2]
    assert OURS.instruction.startswith("### Instruction: ")


def test_our_seeds_are_new_to_each_other():
    known = Known(RougeL(), 0.5)
    for text in OURS.texts:
        assert known.nearest(text) is None
        known.add(text)


def test_our_seeds_are_nobody_elses(shared_data):
    """None is near to a question that they may be used beside."""
    others = Known(RougeL(), 0.5)
    for name, field in (
        ("self_instruct/seed_tasks", "instruction"),
        ("mt_bench_vicuna/vicuna_bench_question", "turns"),
    ):
        rows = map(json.loads, (shared_data / f"{name}.jsonl").read_text().splitlines())
        for row in rows:
            others.add(row[field] if isinstance(row[field], str) else row[field][0])
    assert len(others) == 175 + 80 and not any(others.nearest(text) for text in OURS.texts)


def test_the_few_shot_text_ends_in_a_marker_without_a_space():
    assert few_shot("Do.", ["Why?", "Who?"]) == "Do.\n\nQuery: Why?\nQuery: Who?\nQuery:"
    assert few_shot("Do.", []) == "Do.\n\nQuery:"


@pytest.mark.parametrize(
    ("reply", "direct", "second"),
    [
        (" Why?\nQuery: Who?\nQuery: When?", "Why?", "Who?"),
        (" Why?", "Why?", ""),
        ("\nWhy?\n", "Why?", ""),
        ("Query: Why?", "Why?", "Why?"),
        (" Why? Query: Who?\n  Query: Query: A query: b", "Why?", "A"),
        (" Why? QUERY : Who?", "Why?", ""),
        (
            " a\nquery: b\nQuery:\nQuery: c",
            "a",
            "",
        ),  # the marker is case-sensitive, and the first one counts, blank or not
        ("", "", ""),
        (" Tell me\u2028more", "Tell me\u2028more", ""),  # no line break but \n
    ],
)
def test_the_query_of_a_reply(reply, direct, second):
    assert (read(reply), read(reply, "second")) == (direct, second)


@given(st.text("Query: \n?ab"), st.sampled_from(["direct", "second"]))
def test_a_query_is_one_line_without_a_marker(reply, reading):
    query = read(reply, reading)
    assert "\n" not in query and "query:" not in query.casefold() and query == query.strip("\n ")


@pytest.mark.parametrize(
    ("text", "published", "ours"),
    [
        ("Hi?", True, True),
        ("Hi there", False, False),
        ("a" * 29, False, False),
        ("a" * 28 + "?", True, True),
        ("a" * 30, True, True),
        ("a" * 250, True, True),
        ("a" * 249 + "?", True, True),
        ("a" * 250 + "?", False, False),
        ("a" * 251, True, False),  # cut off, and kept all the same there
        (".", True, False),
        ("¿" * 40 + "?", True, False),
        ("今日の天気は？", False, True),  # a mark of another script
        ("", False, False),
        ("   ", False, False),
    ],
)
def test_the_quality_filter(text, published, ours):
    """`published`: the table of the released code's rule; `ours`: whatever is longer than 250 characters is dropped."""
    assert (QueryFilter(compatible=True).refuse(text) is None) is published
    assert (QueryFilter().refuse(text) is None) is ours


def test_a_refusal_says_why_and_what_it_is_counted_as():
    assert QueryFilter().refuse("Hi there") == ("short", "8 characters without a mark at the end, fewer than 30")
    assert QueryFilter().refuse("a" * 251) == ("long", "251 characters, more than 250")
    assert QueryFilter().refuse("How do I bake") is not None
    assert QueryFilter().refuse("How do I bake a cake without any", cut=True) == (
        "cut",
        "it was cut off before its end",
    )
    assert QueryFilter(compatible=True).refuse("How do I bake a cake without any", cut=True) is None
    with pytest.raises(UserError, match="numbers of characters, in this order"):
        QueryFilter(shortest=9, longest=8)


def test_seeds_of_a_file_are_its_lines_below_the_instruction(tmp_path):
    """Lines end at line feeds alone; blank ones and repeated ones do not count."""
    path = tmp_path / "seeds.txt"
    path.write_text("\n ### INSTRUCTION: Ask.\n\nWhy?\r\nWho\u2028is it?\n \nWhy?\n", newline="")
    assert sown(File(path)) == ("### INSTRUCTION: Ask.", ("Why?", "Who\u2028is it?"))
    assert sown(File(path), "Beg.").instruction == "Beg."


def test_a_file_without_an_instruction_is_refused_and_loses_no_seed(tmp_path):
    path = tmp_path / "seeds.txt"
    path.write_text("Why?\nWho?\n")
    with pytest.raises(
        UserError, match=r"seeds.txt line 1: the first line is 'Why\?'; an instruction, .* Put one there"
    ):
        sown(File(path))
    assert sown(File(path), "Ask.") == ("Ask.", ("Why?", "Who?"))
    path.write_text("### Instruction: Ask.\n")
    with pytest.raises(UserError, match="there is no seed"):
        sown(File(path))


def test_prompts_are_seeds_too(tmp_path):
    given = asked(lines(tmp_path, {"prompt": "Why\nme?"}, {"prompt": "Who?"}))
    several = asked(
        lines(
            tmp_path, {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, name="b.jsonl"
        )
    )
    from trueline.pipeline import make

    with using(tmp_path / "store"):
        make(given, several)
        assert sown(given) == (OURS.instruction, ("Why me?", "Who?"))
        with pytest.raises(UserError, match="has 2 messages; first messages of a conversation"):
            sown(several)
