"""AlpacaEval's draws, against the values that its published annotations were made with."""

from __future__ import annotations

import json

import pytest

from trueline.errors import UserError
from trueline.feedback.switching import AlpacaEvalOrder, chosen_annotator, flipped_label, switched

PUBLISHED = {
    "2+2": False,
    "1+1": False,
    "2+3": True,
    "What is the capital of France?": False,
    "Write a haiku about the sea.": False,
    "How did US states get their names?": True,
}


@pytest.mark.parametrize(("instruction", "wanted"), PUBLISHED.items())
def test_the_published_order(instruction, wanted):
    assert switched(instruction) is wanted
    assert AlpacaEvalOrder().left_first(instruction) is not wanted
    assert AlpacaEvalOrder(output_1="right").left_first(instruction) is wanted


def test_406_of_the_805_instructions_are_switched(shared_data):
    rows = (shared_data / "alpaca_eval" / "reference_gpt4_1106_preview.jsonl").read_text().splitlines()
    instructions = [json.loads(row)["instruction"] for row in rows]
    assert len(instructions) == 805
    assert sum(map(switched, instructions)) == 406
    assert sum(switched(text, seed=1) for text in instructions) != 406


def test_noise_keeps_half_and_gives_a_quarter_to_each_side():
    """p = 0.25 over 4,000 instructions: 2,000 kept, 1,000 each, give or take four standard deviations (4 * 27)."""
    labels = [flipped_label(f"question {i}", 0.25) for i in range(4000)]
    assert abs(labels.count(None) - 2000) < 130
    assert abs(labels.count(1) - 1000) < 110 and abs(labels.count(2) - 1000) < 110
    assert flipped_label("2+2", 0.0) is None and flipped_label("2+2", 0.5) in (1, 2)


def test_noise_is_a_label_whatever_was_said():
    """Output 1 is the left one, or the right one; an abstention that noise hits becomes a label too."""
    for text in (f"question {i}" for i in range(20)):
        label = flipped_label(text, 0.25)
        wanted = 0.7 if label is None else float(label == 1)
        assert AlpacaEvalOrder(flip=0.25).noisy(text, 0.7) == wanted
        turned = 0.7 if label is None else float(label == 2)
        assert AlpacaEvalOrder(flip=0.25, output_1="right").noisy(text, 0.7) == turned
    assert AlpacaEvalOrder().noisy("2+2", None) is None


def test_a_pool_is_drawn_from_by_instruction():
    names = ("a", "b", "c")
    found = [chosen_annotator(f"question {i}", names) for i in range(300)]
    assert found == [chosen_annotator(f"question {i}", names) for i in range(300)]
    assert all(60 < found.count(name) < 140 for name in names)


@pytest.mark.parametrize(("options", "message"), [({"output_1": "first"}, "left"), ({"flip": 0.6}, "0 to 1/2")])
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        AlpacaEvalOrder(**options)
