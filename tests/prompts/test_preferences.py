"""Preference files of every layout become the same groups; rows that cannot teach are refused, or set aside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prompts.written import answers, dropped, lines, made, record, said
from trueline.errors import UserError
from trueline.prompts import trl
from trueline.prompts.preferences import LayoutName, preferences, reader
from trueline.records import Preference


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# One pair in every layout: "Who bakes?", chosen "Ada.", rejected "Go away.".
SAME_PAIR = {
    "TRL preferences, plain, explicit prompt": {"prompt": "Who bakes?", "chosen": "Ada.", "rejected": "Go away."},
    "TRL preferences, plain, implicit prompt": {"chosen": "Who bakes?Ada.", "rejected": "Who bakes?Go away."},
    "TRL preferences, conversational, explicit prompt": {
        "prompt": [user("Who bakes?")],
        "chosen": [assistant("Ada.")],
        "rejected": [assistant("Go away.")],
    },
    "TRL preferences, conversational, implicit prompt": {
        "chosen": [user("Who bakes?"), assistant("Ada.")],
        "rejected": [user("Who bakes?"), assistant("Go away.")],
    },
    "HH-RLHF transcripts": {
        "chosen": "\n\nHuman: Who bakes?\n\nAssistant: Ada.",
        "rejected": "\n\nHuman: Who bakes?\n\nAssistant: Go away.",
    },
    "AlpacaEval annotations": {
        "instruction": "Who bakes?",
        "output_1": "Ada.",
        "output_2": "Go away.",
        "generator_1": "a",
        "generator_2": "b",
        "preference": 1.0,
    },
}


@pytest.mark.parametrize("layout", SAME_PAIR)
@pytest.mark.parametrize("array", [False, True])
def test_every_layout_gives_the_same_group(tmp_path, layout, array):
    """Chosen is completion 0, rejected completion 1, and the left one wins; the record says which layout it was."""
    row = SAME_PAIR[layout]
    file = lines(tmp_path, [row, row], name="prefs.json") if array else lines(tmp_path, row, "", row)
    handle = preferences(file)
    groups = made(tmp_path, handle)
    assert len(groups) == 2
    assert said(groups[0].prompt) == [("user", "Who bakes?")]
    assert answers(groups[0]) == ("Ada.", "Go away.")
    name = file.path.name
    assert groups[0].preferences == (Preference(0, 1, 1.0, f"file:{name}"),)
    assert record(tmp_path, handle)["notes"]["layout"] == layout
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 4}
    assert handle.count == {"groups": 2, "samples": 4}


def test_the_rows_in_the_documentation_are_read_as_it_says(tmp_path):
    """Each example of docs/data.md stands under the name of its layout and gives the pair it shows."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    examples = re.findall(r"### (\S+)\n(?:(?!###).)*?```json\n(.*?)\n```", page, re.S)
    assert {name for name, _ in examples} == set(get_args(LayoutName)) - {"auto"}
    for name, row in examples:
        file = lines(tmp_path, row, name=f"{name}.jsonl")
        assert reader(file).layout.name == name
        (group,) = made(tmp_path, preferences(file))
        assert "Who bakes the bread?" in group.prompt.text
        assert [text.strip() for text in answers(group)] == ["Ada does.", "Go away."]


def test_identity_is_the_content_of_the_file(tmp_path):
    first = preferences(lines(tmp_path, SAME_PAIR["HH-RLHF transcripts"], name="a.jsonl"))
    same = preferences(lines(tmp_path, SAME_PAIR["HH-RLHF transcripts"], name="b.jsonl"))
    other = preferences(lines(tmp_path, SAME_PAIR["TRL preferences, plain, explicit prompt"], name="c.jsonl"))
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert preferences(same.inputs["file"], empty="drop").fingerprint != same.fingerprint


def test_rows_of_a_plan_are_counted_before_they_are_read(tmp_path):
    row = SAME_PAIR["HH-RLHF transcripts"]
    assert preferences(lines(tmp_path, row, "", row, row)).count == {"groups": 3, "samples": 6}
    assert preferences(lines(tmp_path, row, row, row), first=2).count == {"groups": 2, "samples": 4}
    assert len(made(tmp_path, preferences(lines(tmp_path, row, row, row), first=2))) == 2


def test_longer_conversations_and_repeated_prompts(tmp_path):
    """Common messages are the prompt; a prompt that the answers repeat, as text or as messages, is not doubled."""
    turns = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello."), user("Who bakes?")]
    expected = [(turn["role"], turn["content"]) for turn in turns]
    implicit = {"chosen": [*turns, assistant("Ada.")], "rejected": [*turns, assistant("Ben.")]}
    explicit = {"prompt": turns, "chosen": [assistant("Ada.")], "rejected": [assistant("Ben.")]}
    for row in (implicit, explicit, implicit | {"prompt": turns}, implicit | {"prompt": "Hi"}):
        (group,) = made(tmp_path, preferences(lines(tmp_path, row)))
        assert said(group.prompt) == expected
        assert answers(group) == ("Ada.", "Ben.")


def test_the_corpus_own_id_is_kept(tmp_path):
    row = SAME_PAIR["TRL preferences, plain, explicit prompt"]
    groups = made(tmp_path, preferences(lines(tmp_path, row | {"id": 7}, row | {"prompt_id": "x9"}, row)))
    assert [group.prompt.id for group in groups[:2]] == ["7", "x9"]
    assert groups[2].prompt.id.startswith("p-")


# --- implicit prompts, as TRL finds them -----------------------------------------------------------------------------


def test_a_space_before_the_answers_is_left_to_them(tmp_path):
    row = {"chosen": "Q: red? yes", "rejected": "Q: red? no"}
    (group,) = made(tmp_path, preferences(lines(tmp_path, row)))
    assert said(group.prompt) == [("user", "Q: red?")]
    assert answers(group) == (" yes", " no")


@settings(deadline=None)
@given(st.text("ab ", min_size=1), st.text("ab ", min_size=1), st.text("ab ", min_size=1))
def test_implicit_prompts_are_those_of_trl(prompt, chosen, rejected):
    """The same cut as trl.data_utils.extract_prompt, wherever the texts have a beginning in common."""
    from trl.data_utils import extract_prompt

    left, right = "x" + prompt + chosen, "x" + prompt + rejected
    theirs = extract_prompt({"chosen": left, "rejected": right})
    cut = trl.common(left, right)
    assert {"prompt": left[:cut], "chosen": left[cut:], "rejected": right[cut:]} == theirs


def test_texts_that_begin_differently_have_no_prompt(tmp_path):
    good = {"chosen": "Q a", "rejected": "Q b"}
    handle = preferences(lines(tmp_path, good, {"chosen": "red ", "rejected": "blue"}), max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 1
    assert dropped(tmp_path, handle)[0]["reason"] == "chosen and rejected begin differently"


# --- what bad rows get -----------------------------------------------------------------------------------------------

GOOD = {"prompt": "Who?", "chosen": "Ada.", "rejected": "Ben."}


def refused(tmp_path, *rows, **options):
    with pytest.raises(UserError) as error:
        made(tmp_path, preferences(lines(tmp_path, *rows), **options))
    return str(error.value).removeprefix(f"{tmp_path}/")


def test_the_message_for_an_empty_answer(tmp_path):
    assert refused(tmp_path, GOOD, GOOD | {"rejected": " \n"}) == (
        'prefs.jsonl line 2: field "rejected" is empty; a pair needs two answers. '
        "Drop the row or pass --empty drop (it will be counted)."
    )


def test_the_message_for_equal_answers(tmp_path):
    assert refused(tmp_path, GOOD, GOOD | {"rejected": "Ada."}) == (
        'prefs.jsonl line 2: fields "chosen" and "rejected" hold the same answer; a pair needs two different answers. '
        "Drop the row or pass --same drop (it will be counted)."
    )


def test_the_message_for_malformed_json(tmp_path):
    """Where it was noticed; the column counts characters: 'é' is one."""
    got = refused(tmp_path, GOOD, '{"prompt": "é", chosen: 1}')
    assert got.startswith("prefs.jsonl line 2 column 17: malformed JSON (object keys must be strings)")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Who?", "chosen": "Ada."}, 'line 2: field "rejected" is missing (found: prompt, chosen)'),
        ({"chosen": "a", "rejected": "b"}, 'line 2: field "prompt" is missing'),
        (GOOD | {"chosen": None}, 'line 2: field "chosen" is null'),
        (GOOD | {"chosen": 3}, 'line 2: field "chosen" is the number 3'),
        (GOOD | {"prompt": [user("Who?")]}, 'line 2: field "prompt" is a list'),
        (GOOD | {"prompt": ""}, 'line 2: field "prompt" is empty'),
        (["Ada."], "line 2: it is a list; one JSON object per row"),
    ],
)
def test_rows_unlike_the_first_are_refused(tmp_path, row, expected):
    assert expected in refused(tmp_path, GOOD, row)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], 'field "chosen" is an empty list'),
        ("Ada.", 'field "chosen" is text'),
        ([{"role": "assistant"}], '"chosen[0]" is an object without role and content'),
        ([{"role": "tool", "content": "x"}], "the role of \"chosen[0]\" is 'tool'; one of system, user, assistant"),
        ([assistant(None)], 'the content of "chosen[0]" is null'),
        ([user("Ada.")], 'the last message of "chosen" is the user\'s'),
    ],
)
def test_conversations_that_are_none_are_refused(tmp_path, turns, expected):
    good = SAME_PAIR["TRL preferences, conversational, explicit prompt"]
    assert expected in refused(tmp_path, good, good | {"chosen": turns})


def test_a_prompt_that_ends_with_the_assistant_is_refused(tmp_path):
    row = SAME_PAIR["TRL preferences, conversational, explicit prompt"]
    got = refused(tmp_path, row | {"prompt": [user("a"), assistant("b")]})
    assert "the prompt ends with the assistant's message" in got
    alone = {"chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert "there is no message before the answers" in refused(tmp_path, alone)


def test_unknown_rows_are_told_what_is_accepted(tmp_path):
    got = refused(tmp_path, {"question": "Who?", "answer": "Ada."})
    assert got.startswith("prefs.jsonl line 1: it has the fields question, answer; a row with")
    assert "docs/data.md" in got


def test_rows_that_may_be_dropped_are_set_aside_with_the_reason(tmp_path):
    """Each drop is counted and written aside with its line; above the stated share the run stops."""
    bad = [GOOD | {"rejected": ""}, GOOD | {"rejected": "Ada."}]
    file = lines(tmp_path, GOOD, *bad, GOOD)
    handle = preferences(file, empty="drop", same="drop", max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 2
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 4, "dropped": 2}
    aside = dropped(tmp_path, handle)
    assert [row["reason"] for row in aside] == [
        'field "rejected" is empty',
        'fields "chosen" and "rejected" hold the same answer',
    ]
    assert aside[0]["where"].endswith("prefs.jsonl line 2") and aside[0]["row"] == bad[0]
    with pytest.raises(UserError, match=r"2 of 4 rows \(50.0%\) are dropped; at most 5.0%"):
        made(tmp_path, preferences(file, empty="drop", same="drop"))


def test_options_that_cannot_be_are_refused(tmp_path):
    assert 'preferences(empty=...): got "skip"; "error" or "drop"' in refused(tmp_path, GOOD, empty="skip")
    assert 'got "hhh". Did you mean "hh"?' in refused(tmp_path, GOOD, layout="hhh")
    assert "which needs none" in refused(tmp_path, GOOD, reference=lines(tmp_path, GOOD, name="r.jsonl"))


def test_a_layout_can_be_named(tmp_path):
    """HH rows read as texts: the common beginning is the prompt, as TRL does with them."""
    row = SAME_PAIR["HH-RLHF transcripts"]
    (group,) = made(tmp_path, preferences(lines(tmp_path, row), layout="trl-plain-implicit"))
    assert said(group.prompt) == [("user", "\n\nHuman: Who bakes?\n\nAssistant:")]
    assert answers(group) == (" Ada.", " Go away.")


@pytest.mark.parametrize(
    ("row", "stage"),
    [
        ({"prompt": {"text": "Go", "toxicity": None}}, "toxicity_prompts"),
        ({"prompt": "a", "generations": ["b"]}, "alt_records"),
        ({"prompt": "POST: a\nTL;DR:", "label": "b"}, "tldr"),
        ({"subreddit": "a", "title": "b", "post": "c"}, "tldr"),
        ({"prompt": "a", "response": "b", "helpfulness": 1}, "ratings"),
    ],
)
def test_a_file_of_another_kind_is_sent_to_who_reads_it(tmp_path, row, stage):
    with pytest.raises(UserError, match=rf"It holds no pair; prompts\.\w+\.{stage}\(file\) reads it"):
        made(tmp_path, preferences(lines(tmp_path, row)))
