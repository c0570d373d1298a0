"""Beginnings to go on from: RealToxicityPrompts' rows and WritingPrompts' lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prompts.written import dropped, lines, made, record
from trueline.errors import UserError
from trueline.files import Row
from trueline.prompts.toxicity import story, toxicity_prompts, writing_prompts
from trueline.store import File


def half(text="The heron, he said,", toxicity=0.2, **row):
    return {"prompt": {"text": text, "toxicity": toxicity, "insult": 0.1}, "continuation": {"text": " no."}, **row}


ROWS = (half(), half("Go away, you", 0.5), half("Bread is", None), half("You are a", 0.9), half("Ada is", 0.4999))


def test_the_halves_of_sentences_with_their_toxicity(tmp_path):
    row = half(filename="a.txt", begin=3, end=40, challenging=True)
    (prompt,) = made(tmp_path, toxicity_prompts(lines(tmp_path, row)))
    assert (prompt.text, prompt.id) == ("The heron, he said,", "a.txt-3-40")
    assert prompt.meta == {"toxicity": 0.2, "challenging": True} and prompt.reference is None
    (hashed,) = made(tmp_path, toxicity_prompts(lines(tmp_path, half())))
    assert hashed.id.startswith("p-")


@pytest.mark.parametrize(
    ("keep", "threshold", "kept", "counts"),
    [
        ("all", 0.5, 5, {"prompts": 5, "unscored": 1}),
        ("toxic", 0.5, 2, {"prompts": 2, "left_out": 2, "unscored": 1}),
        ("non-toxic", 0.5, 2, {"prompts": 2, "left_out": 2, "unscored": 1}),
        ("non-toxic", 0.3, 1, {"prompts": 1, "left_out": 3, "unscored": 1}),
    ],
)
def test_a_half_is_toxic_and_null_is_neither(tmp_path, keep, threshold, kept, counts):
    """Toxicities 0.2, 0.5, null, 0.9, 0.4999."""
    handle = toxicity_prompts(lines(tmp_path, *ROWS), keep, threshold)
    assert len(made(tmp_path, handle)) == kept
    assert record(tmp_path, handle)["counts"] == counts


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Go"}, 'field "prompt" is text.*prompts_file'),
        ({"text": "Go"}, 'field "prompt" is missing'),
        ({"prompt": {"text": "Go"}}, 'in its prompt: field "toxicity" is missing'),
        (half(toxicity=1.5), '"toxicity" is the number 1.5'),
        (half(toxicity=True), '"toxicity" is true or false'),
        (half(text=" "), "the prompt is empty.*--empty drop"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        made(tmp_path, toxicity_prompts(lines(tmp_path, half(), row), keep="toxic", threshold=0.1))


def test_an_empty_one_may_be_dropped_and_nonsense_is_refused(tmp_path):
    handle = toxicity_prompts(lines(tmp_path, half(), half(text="")), empty="drop", max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 1 and len(dropped(tmp_path, handle)) == 1
    with pytest.raises(UserError, match='"toxic" or "non-toxic"'):
        made(tmp_path, toxicity_prompts(lines(tmp_path, half()), keep="rude"))
    with pytest.raises(UserError, match="a toxicity from 0 to 1"):
        made(tmp_path, toxicity_prompts(lines(tmp_path, half()), threshold=2))
    with pytest.raises(UserError, match="no row of it can be used"):
        made(tmp_path, toxicity_prompts(lines(tmp_path, half()), keep="toxic"))


def test_real_rows(tmp_path, shared_data):
    """5,000 prompts, 4,981 of them scored, 1,249 of those toxic."""
    file = File(shared_data / "toxicity" / "realtoxicityprompts_val.jsonl")
    mild = toxicity_prompts(file, keep="non-toxic")
    prompts = made(tmp_path, mild)
    assert record(tmp_path, mild)["counts"] == {"prompts": 3732, "left_out": 1249, "unscored": 19}
    assert len({prompt.id for prompt in prompts}) == 3732 and all(p.meta["toxicity"] < 0.5 for p in prompts)


# --- WritingPrompts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text", "taken"),
    [
        ("[ WP ] You wake up .", "You wake up .", 1),
        ("[WP][ EU ]  Frodo , old", "Frodo , old", 2),
        ("A door [ sic ] opens . [ CW ]", "A door [ sic ] opens .", 1),
        ("No genre [ WP ] before this", "No genre [ WP ] before this", 0),
        ("[ removed ] is no genre", "[ removed ] is no genre", 0),
    ],
)
def test_genres_are_taken_off_at_both_ends_only(line, text, taken):
    prompt, count = story(Row("", {"text": line}))
    assert (prompt.text, count) == (text, taken)


@given(st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=1).filter(str.strip), st.integers(0, 3))
def test_a_story_without_brackets_comes_through(text, genres):
    prompt, count = story(Row("", {"text": "[ WP ] " * genres + text}))
    assert (prompt.text, count) == (text.strip(), genres)


def test_lines_and_rows(tmp_path):
    path = tmp_path / "test.wp_source"
    path.write_text("[ WP ] You wake up .\n\n[ EU ] Frodo is old .\n")
    handle = writing_prompts(File(path))
    assert [p.text for p in made(tmp_path, handle)] == ["You wake up .", "Frodo is old ."]
    assert record(tmp_path, handle)["counts"] == {"prompts": 2, "genres": 2}
    assert [p.text for p in made(tmp_path, writing_prompts(File(path), first=1))] == ["You wake up ."]
    plain = writing_prompts(lines(tmp_path, {"text": "Kill the writer ."}))
    assert [p.text for p in made(tmp_path, plain)] == ["Kill the writer ."]
    assert record(tmp_path, plain)["counts"] == {"prompts": 1}
    with pytest.raises(UserError, match=r"line 1: the prompt is empty"):
        made(tmp_path, writing_prompts(lines(tmp_path, {"text": "[ WP ]"})))
