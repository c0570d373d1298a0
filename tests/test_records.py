"""Records: frozen, strict, append-only; a bad row names its file, line, field, what it got and what it wanted."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.errors import UserError, closest
from trueline.records import (
    Completion,
    Feedback,
    Group,
    Message,
    Preference,
    Prompt,
    content_hash,
    encode,
    read_jsonl,
    write_jsonl,
)

GROUP = {
    "prompt": {"messages": [{"role": "user", "content": "Who bakes bread?"}], "id": "p-3f0c"},
    "completions": [
        {"text": "Ada does.", "author": "sft-8192ef8f"},
        {"text": "Go away.", "author": "sft-8192ef8f", "stopped": "length"},
    ],
    "feedback": [[{"by": "gold", "score": 1.0}], [{"by": "gold", "score": 0.0}, {"by": "judge"}]],
    "preferences": [{"left": 0, "right": 1, "p": 1.0, "by": "compare:town"}],
}


def test_a_group_goes_to_a_json_line_and_back(tmp_path):
    group = msgspec.convert(GROUP, Group)
    assert group.prompt.text == "Who bakes bread?"
    assert (group.completions[0].stopped, group.completions[1].stopped) == ("stop", "length")
    assert group.scores() == [1.0, 0.0]
    assert group.scores("judge") == [None, None]  # it abstained, which is no zero
    assert write_jsonl(tmp_path / "groups.jsonl", [group, group]) == 2
    assert list(read_jsonl(tmp_path / "groups.jsonl", Group)) == [group, group]
    assert json.loads((tmp_path / "groups.jsonl").read_text().splitlines()[0]) == GROUP
    assert [path.name for path in tmp_path.iterdir()] == ["groups.jsonl"]


def test_the_same_question_has_the_same_id_in_every_run():
    """SHA-256 of [["user","Who?"]], its first sixteen digits."""
    expected = "p-" + hashlib.sha256(b'[["user","Who?"]]').hexdigest()[:16]
    assert Prompt.of("Who?").id == Prompt.of("Who?", reference="Ada").id == expected
    assert Prompt.of("Who?", id="row-7").id == "row-7"
    assert Prompt((Message("system", "Be brief."), Message("user", "Who?"))).id != expected


def test_judging_adds_and_rewrites_nothing():
    group = Group(Prompt.of("Who?"), (Completion("Ada."), Completion("Bob.")))
    judged = group.with_feedback([Feedback("gold", 1.0), Feedback("gold", 0.0)])
    twice = judged.with_feedback([Feedback("judge", 0.5), Feedback("judge")])
    assert group.feedback == () and twice.scores("gold") == [1.0, 0.0] and twice.scores() == [0.5, 0.0]
    ranked = twice.with_preferences([Preference(0, 1, 0.5)])
    assert ranked.preferences == (Preference(0, 1, 0.5),) and ranked.feedback == twice.feedback
    with pytest.raises(ValueError, match="1 feedbacks for 2 completions"):
        group.with_feedback([Feedback("gold", 1.0)])


def test_what_contradicts_itself_cannot_be_made():
    pair = (Completion("a"), Completion("b"))
    with pytest.raises(ValueError, match=r"probability between 0 and 1, not 1\.5"):
        Preference(0, 1, 1.5)
    with pytest.raises(ValueError, match="names completions 0 and 2 of 2"):
        Group(Prompt.of("x"), pair, preferences=(Preference(0, 2, 1.0),))
    with pytest.raises(ValueError, match="feedback is given for 1 completions, the group has 2"):
        Group(Prompt.of("x"), pair, ((Feedback("gold", 1.0),),))
    with pytest.raises(ValueError, match="at least one message"):
        Prompt(())
    with pytest.raises(AttributeError):
        pair[0].text = "c"  # type: ignore[misc]


GOOD = '{"messages":[{"role":"user","content":"x"}]}'

BAD = {
    '{"messages":[{"role":"user","content":"x"}]': r"rows\.jsonl line 3 column 44: malformed JSON .*one JSON",
    '{"messages": [{"content": "ü", "role": oops}]}': r"rows\.jsonl line 3 column 40: malformed JSON",
    '{"messages":[{"role":"usr","content":"x"}]}': r"rows\.jsonl line 3 at field \"messages\[0\]\.role\": .*'usr'",
    '{"messages":[{"role":"user"}]}': r"line 3 at field \"messages\[0\]\": .*missing required field `content`",
    '{"messages":[{"role":"user","content":"x"}],"idd":"1"}': r"line 3: .*unknown field `idd`; each line is one Prompt",
    '{"messages":[]}': r"line 3: a prompt needs at least one message; each line is one Prompt",
    '{"messages":[{"role":"user","content":7}]}': r"at field \"messages\[0\]\.content\": Expected `str`, got `int`",
    "[1]": r"line 3: Expected `object`, got `array`",
}


@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_named_by_line_and_field(tmp_path, row):
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n\n{row}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(UserError, match=BAD[row]):
        list(read_jsonl(tmp_path / "rows.jsonl", Prompt))


def test_good_rows_come_before_the_bad_one_is_met(tmp_path):
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\noops\n")
    rows = read_jsonl(tmp_path / "rows.jsonl", Prompt)
    assert next(rows).text == "x"
    with pytest.raises(UserError):
        next(rows)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: there is no such file"):
        list(read_jsonl(tmp_path / "nowhere.jsonl", Prompt))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [Prompt.of("old")])

    def rows():
        yield Prompt.of("new")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    assert [prompt.text for prompt in read_jsonl(tmp_path / "rows.jsonl", Prompt)] == ["old"]


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(deadline=None)
@given(texts, st.none() | texts, st.lists(st.tuples(texts, st.none() | st.floats(-1, 1)), min_size=1, max_size=3))
def test_any_text_survives_a_json_line(question, reference, answers):
    """Line separators inside texts (U+2028, vertical tabs) do not break a line in two."""
    group = Group(
        Prompt.of(question, reference=reference),
        tuple(Completion(text) for text, _ in answers),
        tuple((Feedback("gold", score),) for _, score in answers),
    )
    line = encode(group)
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line, type=Group) == group


def test_content_hashes_do_not_depend_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": "ü"}) == content_hash({"b": "ü", "a": 1})
    assert content_hash({"a": 1}, digits=8) == hashlib.sha256(b'{"a":1}').hexdigest()[:8]


def test_the_nearest_known_word_is_the_cure():
    assert closest("betta", ["beta", "loss"]) == 'Did you mean "beta"?'
    assert closest("zzz", ["beta", "loss"]) == "Known: beta, loss."
    assert closest("zzz", []) == ""
