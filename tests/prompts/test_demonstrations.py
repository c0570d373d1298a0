"""Answers to imitate and questions to ask, from the formats in use."""

from __future__ import annotations

import pytest

from tests.prompts.written import answers, dropped, lines, made, record, said
from trueline.errors import UserError
from trueline.prompts.demonstrations import demonstrations, prompts_file
from trueline.store import File

USER, ASSISTANT = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Who?", "completion": "Ada."},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"messages": [USER, ASSISTANT]},
        {"instruction": "Who?", "input": "", "output": "Ada."},
    ],
)
def test_one_demonstration_in_every_format(tmp_path, row):
    handle = demonstrations(lines(tmp_path, row, row))
    groups = made(tmp_path, handle)
    assert said(groups[1].prompt) == [("user", "Who?")] and answers(groups[1]) == ("Ada.",)
    assert groups[0].completions[0].author == "file:prefs.jsonl"
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 2} == handle.count


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Who?"}, 'the fields prompt; an answer in "completion"'),
        ({"completion": "Ada."}, 'the fields completion; a row with "prompt"'),
        ({"messages": [USER]}, 'the last of "messages" is the user\'s'),
        ({"prompt": [USER], "completion": [ASSISTANT, USER]}, '"completion" has the roles assistant, user'),
        ({"prompt": "Who?", "completion": " "}, "the answer is empty.*--empty drop"),
        ({"prompt": " ", "completion": "Ada."}, "the prompt is empty"),
        ({"messages": [ASSISTANT]}, "there is no message before the answers"),
    ],
)
def test_what_is_no_demonstration_is_refused(tmp_path, row, expected):
    with pytest.raises(UserError, match=expected):
        made(tmp_path, demonstrations(lines(tmp_path, row)))


def test_empty_answers_may_be_dropped(tmp_path):
    good = {"prompt": "Who?", "completion": "Ada."}
    handle = demonstrations(lines(tmp_path, good, good | {"completion": ""}), empty="drop", max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 1
    assert dropped(tmp_path, handle)[0]["reason"] == "the answer is empty"
    with pytest.raises(UserError, match="no row of it can be used"):
        made(tmp_path, demonstrations(lines(tmp_path, good | {"completion": ""}), empty="drop", max_dropped=1.0))


def test_prompts_in_every_format(tmp_path):
    rows = [
        {"prompt": "Who?"},
        {"prompt": [USER]},
        {"messages": [USER]},
        {"messages": [USER, ASSISTANT]},
        {"instruction": "Who?", "output": "Ada.", "id": 3},
    ]
    handle = prompts_file(lines(tmp_path, *rows))
    prompts = made(tmp_path, handle)
    assert all(said(prompt) == [("user", "Who?")] for prompt in prompts)
    assert [prompt.reference for prompt in prompts] == [None, None, None, "Ada.", "Ada."]
    assert prompts[4].id == "3"
    assert record(tmp_path, handle)["counts"] == {"prompts": 5} == handle.count
    with_input = {"instruction": "Sort.", "input": "b a"}
    (prompt,) = made(tmp_path, prompts_file(lines(tmp_path, with_input)))
    assert prompt.text == "Sort.\n\nb a"


def test_prompts_from_lines_of_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("[1] Who bakes?\n\nWhere?\n")
    assert [p.text for p in made(tmp_path, prompts_file(File(path)))] == ["[1] Who bakes?", "Where?"]
    assert [p.text for p in made(tmp_path, prompts_file(File(path), first=1))] == ["[1] Who bakes?"]


def test_real_instruction_files(tmp_path, shared_data):
    """Alpaca rows as demonstrations and as prompts, and RealToxicityPrompts' and Vicuna's questions where they fit."""
    file = File(shared_data / "alpaca" / "alpaca_3k.jsonl")
    groups = made(tmp_path, demonstrations(file, empty="drop"))
    prompts = made(tmp_path, prompts_file(file))
    assert len(groups) > 2900 and len(prompts) == 3000
    assert groups[0].prompt.messages == prompts[0].messages
