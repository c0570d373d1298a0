"""Conversations, completion files and tasks: which turn is asked, which answer imitated, and what is no exchange."""

from __future__ import annotations

import json

import pytest

from tests.prompts.written import answers, dropped, lines, made, record, said
from trueline.errors import UserError
from trueline.prompts.demonstrations import demonstrations, prompts_file
from trueline.prompts.preferences import preferences
from trueline.store import File


def talk(*turns, names=("human", "gpt"), **fields):
    """A ShareGPT conversation whose turns alternate."""
    said = [{"from": names[i % 2], "value": turn} for i, turn in enumerate(turns)]
    return {"id": "c1", "conversations": said} | fields


def refused(tmp_path, *rows, read=demonstrations, **options):
    with pytest.raises(UserError) as error:
        made(tmp_path, read(lines(tmp_path, *rows), **options))
    return str(error.value).removeprefix(f"{tmp_path}/")


# --- ShareGPT --------------------------------------------------------------------------------------------------------

LONG = talk("Hi", "Hello.", "Who bakes?", "Ada.", "Thanks")


def test_the_exchanges_of_a_conversation(tmp_path):
    """Last: the answer Ada. after three turns; first: Hello. after one; each: both. What follows the last is left."""
    (last,) = made(tmp_path, demonstrations(lines(tmp_path, LONG)))
    assert said(last.prompt) == [("user", "Hi"), ("assistant", "Hello."), ("user", "Who bakes?")]
    assert answers(last) == ("Ada.",) and last.prompt.id == "c1"
    (first,) = made(tmp_path, demonstrations(lines(tmp_path, LONG), turns="first"))
    assert said(first.prompt) == [("user", "Hi")] and answers(first) == ("Hello.",)
    handle = demonstrations(lines(tmp_path, LONG), turns="each")
    each = made(tmp_path, handle)
    assert [answers(group)[0] for group in each] == ["Hello.", "Ada."]
    assert len({group.prompt.id for group in each}) == 2
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 2}


def test_conversations_as_prompts(tmp_path):
    """The paper's pool: the first question of each, the user's own answer as the reference."""
    (prompt,) = made(tmp_path, prompts_file(lines(tmp_path, LONG), turns="first"))
    assert said(prompt) == [("user", "Hi")] and prompt.reference == "Hello."


def test_messages_rows_know_the_same_turns(tmp_path):
    """UltraChat's rows carry their first question as "prompt" too: what is asked stands in the messages."""
    turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, "abcd", strict=True)]
    row = {"prompt": "a", "prompt_id": "u1", "messages": turns}
    (last,) = made(tmp_path, demonstrations(lines(tmp_path, row)))
    assert [content for _, content in said(last.prompt)] == ["a", "b", "c"] and answers(last) == ("d",)
    (first,) = made(tmp_path, demonstrations(lines(tmp_path, row), turns="first"))
    assert [content for _, content in said(first.prompt)] == ["a"] and answers(first) == ("b",)


def test_roles_as_they_are_written(tmp_path):
    """A system's turn is one; two turns of one role become one; other names of the two roles are known."""
    row = {"conversations": [
        {"from": "system", "value": "Be brief."}, {"from": "user", "value": "One"}, {"from": "human", "value": "Two"},
        {"from": "chatgpt", "value": " Ada "}, {"from": "gpt", "value": "Eve"},
    ]}  # fmt: skip
    (group,) = made(tmp_path, demonstrations(lines(tmp_path, row)))
    assert said(group.prompt) == [("system", "Be brief."), ("user", "One\n\nTwo")]
    assert answers(group) == ("Ada\n\nEve",)


def test_conversations_without_an_exchange_are_set_aside(tmp_path):
    other = talk("Hi", "Hello.", names=("human", "bing"))
    rows = [LONG, talk("Hello.", "Hi", names=("gpt", "human")), talk("Hi"), {"conversations": []}, other]
    handle = demonstrations(lines(tmp_path, *rows), max_dropped=0.9)
    assert len(made(tmp_path, handle)) == 1
    assert [row["reason"] for row in dropped(tmp_path, handle)] == [
        "the conversation begins with the assistant's turn",
        "the conversation has no answer",
        "the conversation has no answer",
        "a turn is from 'bing'",
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"conversations": "Hi"}, 'line 2: field "conversations" is text; a list of {"from", "value"}'),
        ({"conversations": [{"from": "human"}]}, '"conversations[0]" is an object without from and value'),
        ({"conversations": [{"from": "human", "value": None}]}, 'the value of "conversations[0]" is null'),
        (talk(" ", "Ada."), "the prompt is empty; a question. Drop the row or pass --empty drop"),
        (talk("Who?", " "), "the answer is empty"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path, row, expected):
    assert expected in refused(tmp_path, LONG, row)


def test_special_token_texts_in_any_turn_bar_a_conversation(tmp_path):
    """As the original does: the turn that holds it need not be the one that is used."""
    file = lines(tmp_path, LONG, talk("Hi", "Hello.", "Ok", "a <s>b</s>"))
    handle = demonstrations(file, turns="first", without=("<s>", "</s>"), max_dropped=0.5, repeated="last")
    assert len(made(tmp_path, handle)) == 1
    assert dropped(tmp_path, handle)[0]["reason"] == 'it holds "<s>"'
    assert len(made(tmp_path, demonstrations(file, turns="first"))) == 2


def test_of_two_targets_of_a_prompt_the_last_may_win(tmp_path):
    """The original: the last target wins, at the place of the first."""
    file = lines(tmp_path, talk("Who?", "Ada."), talk("Where?", "Here."), talk("Who?", "Eve."))
    handle = demonstrations(file, repeated="last")
    assert [answers(group)[0] for group in made(tmp_path, handle)] == ["Eve.", "Here."]
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 2, "repeated": 1}


def test_ways_to_read_that_are_none(tmp_path):
    assert 'demonstrations(turns=...): got "all"; "last", "first", "each"' in refused(tmp_path, LONG, turns="all")
    assert "prompts_file(without=...)" in refused(tmp_path, LONG, read=prompts_file, without=("",))


# --- completion files ------------------------------------------------------------------------------------------------


def written(tmp_path, text):
    path = tmp_path / "sharegpt1turn_df1.0_ff0_gpt4_completions.json"
    path.write_text(text)
    return File(path)


@pytest.mark.parametrize("indent", [2, None])
def test_one_object_of_instructions_and_completions(tmp_path, indent):
    """A teacher's file, spread over lines as the original writes it, or not."""
    file = written(tmp_path, json.dumps({"Who bakes?": ["Ada."], "Human rights?": ["Yes."]}, indent=indent))
    handle = demonstrations(file)
    assert handle.count == {"groups": 2, "samples": 2}
    groups = made(tmp_path, handle)
    assert [(group.prompt.text, answers(group)) for group in groups] == [
        ("Who bakes?", ("Ada.",)), ("Human rights?", ("Yes.",)),
    ]  # fmt: skip
    assert len(made(tmp_path, demonstrations(file, first=1))) == 1
    assert [prompt.reference for prompt in made(tmp_path, prompts_file(file))] == ["Ada.", "Yes."]
    with pytest.raises(UserError, match=r"it is one object: instructions and completions; .*demonstrations\(file\)"):
        preferences(file).function and made(tmp_path, preferences(file))


def test_a_students_samples_stand_behind_their_prompt(tmp_path):
    """The wrapping is taken off, of several turns too; all samples of a prompt are its group."""
    two = "Human: Hi\n\nAssistant: Hello.\n\nHuman: Who bakes?\n\nAssistant: "
    samples = {"Human: Who bakes?\n\nAssistant: ": ["Ada.", "Eve."], two: ["Ada."]}
    groups = made(tmp_path, demonstrations(written(tmp_path, json.dumps(samples, indent=2))))
    assert said(groups[0].prompt) == [("user", "Who bakes?")] and answers(groups[0]) == ("Ada.", "Eve.")
    assert [content for _, content in said(groups[1].prompt)] == ["Hi", "Hello.", "Who bakes?"]


def test_what_is_no_completion_file_is_refused(tmp_path):
    """An entry that is no list; a key that stands twice is two rows, not the last one silently."""
    with pytest.raises(UserError, match='entry 2: "Where\\?" has text; a list of texts, at least one'):
        made(tmp_path, demonstrations(written(tmp_path, '{\n"Who?": ["Ada."],\n"Where?": "Here."\n}')))
    with pytest.raises(UserError, match="line 2 column 10: malformed JSON"):
        made(tmp_path, demonstrations(written(tmp_path, '{\n"Who?": [Ada]\n}')))
    with pytest.raises(UserError, match="it has no entries"):
        made(tmp_path, demonstrations(written(tmp_path, "{\n}")))
    twice = written(tmp_path, '{\n"Who?": ["Ada."],\n"Who?": ["Eve."]\n}')
    assert len(made(tmp_path, demonstrations(twice))) == 2
    assert answers(made(tmp_path, demonstrations(twice, repeated="first"))[0]) == ("Ada.",)


# --- tasks and questions ---------------------------------------------------------------------------------------------


def test_tasks_with_several_instances(tmp_path):
    row = {
        "id": "t",
        "instruction": "Sort.",
        "instances": [{"input": "b a", "output": "a b"}, {"input": "", "output": ""}],
    }
    got = refused(tmp_path, row)
    assert "the answer is empty" in got
    row["instances"][1] = {"input": "", "output": "Give me words."}
    groups = made(tmp_path, demonstrations(lines(tmp_path, row)))
    assert [(group.prompt.text, answers(group)[0]) for group in groups] == [
        ("Sort.\n\nb a", "a b"), ("Sort.", "Give me words."),
    ]  # fmt: skip
    assert 'field "instances" is a list' in refused(tmp_path, row | {"instances": ["x"]})


def test_questions_in_turns(tmp_path):
    """The first turn is asked; the second needs its answer, and is kept beside."""
    row = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}
    (prompt,) = made(tmp_path, prompts_file(lines(tmp_path, row)))
    assert said(prompt) == [("user", "Write.")] and prompt.meta == {"later_turns": ["Again."]}
    assert 'field "turns" is a list; a list of texts' in refused(tmp_path, row | {"turns": []}, read=prompts_file)


def test_real_files_of_tasks_and_questions(tmp_path, shared_data):
    """The 80 Vicuna questions, and Self-Instruct's 175 seed tasks with every instance of each."""
    questions = made(tmp_path, prompts_file(File(shared_data / "mt_bench_vicuna" / "vicuna_bench_question.jsonl")))
    assert len(questions) == 80 and not any(prompt.meta for prompt in questions)
    file = File(shared_data / "self_instruct" / "seed_tasks.jsonl")
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    handle = demonstrations(file, empty="drop", max_dropped=0.2)
    groups = made(tmp_path, handle)
    aside = (
        {row["where"] for row in dropped(tmp_path, handle)}
        if "dropped" in record(tmp_path, handle)["counts"]
        else set()
    )
    assert len(groups) == sum(
        len(row["instances"]) for i, row in enumerate(rows, 1) if f"{file.path} line {i}" not in aside
    )
    assert len(rows) == 175 and len(aside) < 10
