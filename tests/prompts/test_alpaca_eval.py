"""AlpacaEval annotations: soft labels, ties and abstentions are values; outputs are joined where they lie apart."""

from __future__ import annotations

import pytest

from tests.prompts.written import answers, lines, made, record
from trueline.errors import UserError
from trueline.prompts.preferences import preferences
from trueline.store import File

ROW = {"instruction": "Who?", "output_1": "Ada.", "output_2": "Ben.", "generator_1": "a", "generator_2": "b"}


def test_a_preference_is_the_probability_of_output_1(tmp_path):
    """1 -> 1, 1.25 -> 0.75, 1.5 and the old 0 -> a tie, 2 -> 0, null and the cache's -1 -> an abstention."""
    given = [1, 1.25, 1.5, 0, 2.0, None, -1, 1.0000001827]
    handle = preferences(lines(tmp_path, *(ROW | {"preference": p} for p in given)), undecided="keep")
    groups = made(tmp_path, handle)
    p = [group.preferences[0].p for group in groups]
    assert p[:7] == [1.0, 0.75, 0.5, 0.5, 0.0, None, None]
    assert p[7] == pytest.approx(1 - 1.827e-7, abs=1e-12)
    assert record(tmp_path, handle)["counts"] == {"groups": 8, "samples": 16, "ties": 2, "abstained": 2}
    assert [c.author for c in groups[0].completions] == ["a", "b"]


def test_names_and_annotators(tmp_path):
    """Old files collapse equal names into "generator"; the annotator is who the preference is by."""
    row = {k: v for k, v in ROW.items() if not k.startswith("gen")} | {"preference": 1, "generator": "same"}
    (group,) = made(tmp_path, preferences(lines(tmp_path, row | {"annotator": "gpt"})))
    assert [c.author for c in group.completions] == ["same", "same"]
    assert group.preferences[0].by == "gpt"


def test_equal_outputs_are_a_tie_and_not_an_error(tmp_path):
    """Two systems that say the same are a tie by definition; that one of them is better would be an error."""
    same = ROW | {"output_2": "Ada."}
    (group,) = made(tmp_path, preferences(lines(tmp_path, same | {"preference": 1.5}), undecided="keep"))
    assert group.preferences[0].p == 0.5
    with pytest.raises(UserError, match='"output_1" and "output_2" hold the same answer'):
        made(tmp_path, preferences(lines(tmp_path, same | {"preference": 1})))


def test_output_1_is_joined_from_the_reference_file(tmp_path):
    row = {"instruction": "Who?", "output_2": "Ben.", "generator_2": "b", "preference": 2}
    reference = lines(tmp_path, {"instruction": "Who?", "output": "Ada.", "generator": "ref"}, name="ref.jsonl")
    (group,) = made(tmp_path, preferences(lines(tmp_path, row), reference=reference))
    assert answers(group) == ("Ada.", "Ben.")
    assert [c.author for c in group.completions] == ["ref", "b"]
    with pytest.raises(UserError, match=r'field "output_1" is missing.*--reference FILE'):
        made(tmp_path, preferences(lines(tmp_path, row)))
    with pytest.raises(UserError, match='line 2: field "output_1" is missing, and no reference has "Why'):
        made(tmp_path, preferences(lines(tmp_path, row, row | {"instruction": "Why?"}), reference=reference))
    two = [{"instruction": "Who?", "output": "Ada."}, {"instruction": "Who?", "output": "Ben."}]
    with pytest.raises(UserError, match='a second output for "Who'):
        made(tmp_path, preferences(lines(tmp_path, row), reference=lines(tmp_path, *two, name="two.jsonl")))


@pytest.mark.parametrize("preference", ["1", True, 3, 0.5, -2, "null"])
def test_what_is_no_preference_is_refused(tmp_path, preference):
    with pytest.raises(UserError, match=r'field "preference" is .*a number from 1 to 2, or null'):
        made(tmp_path, preferences(lines(tmp_path, ROW | {"preference": preference})))


def test_the_published_annotations(tmp_path, shared_data):
    """Six systems against GPT-4-turbo: every row is kept, and each system's mean p is its published win rate."""
    import json

    folder = shared_data / "alpaca_eval"
    handle = preferences(
        File(folder / "gpt4turbo_weighted_prefs_6_systems.jsonl"),
        reference=File(folder / "reference_gpt4_1106_preview.jsonl"),
        undecided="keep",
    )
    groups = made(tmp_path, handle)
    assert len(groups) == 4826 and "dropped" not in record(tmp_path, handle)["counts"]
    board = map(json.loads, (folder / "leaderboard_v2_6_systems.jsonl").read_text().splitlines())
    published = {row[""]: float(row["win_rate"]) for row in board}
    systems = {group.completions[1].author for group in groups}
    assert systems == set(published)
    for system in systems:
        wins = [1 - g.preferences[0].p for g in groups if g.completions[1].author == system]
        assert 100 * sum(wins) / len(wins) == pytest.approx(published[system], abs=1e-4)
