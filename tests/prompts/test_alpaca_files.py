"""AlpacaEval's files, there and back: judged pairs to count, outputs to duel against, a duel as annotations."""

from __future__ import annotations

import json

import pytest

from tests.evaluate.study import Reader, pretend, questions, written
from tests.prompts.written import answers, lines, made, record
from trueline.errors import UserError
from trueline.evaluate.duel import PAIRS, duel
from trueline.feedback.compare import Compare
from trueline.pipeline import make
from trueline.prompts.alpaca_eval import annotated, annotation, exported, model_output, model_outputs
from trueline.records import Completion, Group, Message, Preference, Prompt, read_jsonl
from trueline.store import File, using

ROW = {"instruction": "Who?", "output_1": "Ada.", "output_2": "Ben.", "generator_1": "a", "generator_2": "b"}


def test_everything_counts_that_is_judged(tmp_path):
    """Ties, nulls, values that are no preference, equal and empty answers: all kept, and what abstains is counted."""
    given = [1, 1.25, 1.5, 0, 2, None, -1, 0.7, 3]
    rows = [ROW | {"instruction": f"{i}?", "preference": p} for i, p in enumerate(given)]
    rows += [ROW | {"output_1": "", "preference": 2}, ROW | {"output_2": "Ada.", "preference": 1}]
    handle = annotated(lines(tmp_path, *rows))
    p = [group.preferences[0].p for group in made(tmp_path, handle)]
    assert p == [1.0, 0.75, 0.5, 0.5, 0.0, None, None, None, None, 0.0, 1.0]
    assert record(tmp_path, handle)["counts"] == {"groups": 11, "ties": 2, "abstained": 4, "outside": 2}


def test_who_wrote_and_who_judged(tmp_path):
    row = {
        "instruction": "Who?",
        "output_2": "Ben.",
        "generator_2": "b",
        "preference": 2,
        "annotator": "gpt",
        "dataset": "x",
    }
    reference = lines(tmp_path, {"instruction": "Who?", "output": "Ada.", "generator": "ref"}, name="ref.jsonl")
    (group,) = made(tmp_path, annotated(lines(tmp_path, row), reference))
    assert answers(group) == ("Ada.", "Ben.")
    assert [c.author for c in group.completions] == ["ref", "b"]
    assert (group.preferences[0].by, group.prompt.meta) == ("gpt", {"dataset": "x"})


@pytest.mark.parametrize("preference", ["1", True, {}, [1]])
def test_what_is_no_number_is_refused(tmp_path, preference):
    with pytest.raises(UserError, match=r'field "preference" is .*a number from 1 to 2, or null'):
        made(tmp_path, annotated(lines(tmp_path, ROW | {"preference": preference})))


def test_outputs_become_groups(tmp_path):
    """One answer each, the same prompt id as whoever asks the same question; a repeated row counts once."""
    rows = [
        {"instruction": "Who?", "output": "Ada.", "generator": "gpt", "dataset": "koala"},
        {"instruction": "Why?", "output": ""},
    ]
    groups = made(tmp_path, model_outputs(lines(tmp_path, *rows, rows[0]), generator="mine"))
    assert [answers(group) for group in groups] == [("Ada.",), ("",)]
    assert [group.completions[0].author for group in groups] == ["gpt", "mine"]
    assert groups[0].prompt.id == Prompt.of("Who?").id and groups[0].prompt.meta == {"dataset": "koala"}


def test_a_duel_as_files_and_back(tmp_path):
    """Each verdict comes back; output_1 is the right side, preference 1 + p that the left one wins, to the last bit."""
    asked, policy = questions(12), pretend()
    left, right = written(policy, asked, 0.6, label="mine"), written(policy, asked, 0.5, label="base")
    fight = duel(left, right, Compare(Reader(position=0.3)))
    files = exported(fight)
    make(files, store=tmp_path)
    with using(tmp_path):
        rows = json.loads((files.path / "annotations.json").read_bytes())
        pairs = list(read_jsonl(fight.path / PAIRS, Group))
        assert list(rows[0]) == [
            "instruction", "output_1", "generator_1", "output_2", "generator_2", "annotator", "preference",
            "raw_completion",
        ]  # fmt: skip
        assert {row["generator_1"] for row in rows} == {right.name}
        for row, pair in zip(rows, pairs, strict=True):
            assert (row["output_2"], row["output_1"]) == (pair.completions[0].text, pair.completions[1].text)
            assert row["preference"] == 1 + pair.preferences[0].p
        mine = json.loads((files.path / "model_outputs.json").read_bytes())
        assert mine[0] == {"instruction": pairs[0].prompt.text, "output": rows[0]["output_2"], "generator": left.name}
        again = annotated(File(files.path / "annotations.json"))
        make(again)
        for group, pair in zip(again.read(), pairs, strict=True):
            assert 1 - group.preferences[0].p == pytest.approx(pair.preferences[0].p, abs=1e-15)
            assert group.preferences[0].by == "compare:reader"


def test_ties_nulls_and_turned_preferences_as_rows():
    """0.25 for the right side is 0.75 for the left: preference 1.75."""
    pair = Group(Prompt.of("Who?", meta={"dataset": "koala"}), (Completion("Ada."), Completion("Ben.")))

    def row(**said) -> dict:
        return annotation(pair.with_preferences([Preference(by="c", **said)]), "mine", "base")

    assert row(left=0, right=1, p=0.75)["preference"] == row(left=1, right=0, p=0.25)["preference"] == 1.75
    assert row(left=0, right=1, p=0.5)["preference"] == 1.5
    assert row(left=0, right=1)["preference"] is None
    assert row(left=0, right=1)["dataset"] == "koala"
    assert "raw_completion" not in row(left=0, right=1)
    assert row(left=0, right=1, p=1.0, raw=("A", "B"))["raw_completion"] == ["A", "B"]


def test_a_conversation_is_no_instruction():
    talk = Prompt((Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Who?")))
    with pytest.raises(UserError, match="it has 3 messages; one: an AlpacaEval instruction is one text"):
        model_output(Group(talk, (Completion("Ada."),)), 0, "mine")
