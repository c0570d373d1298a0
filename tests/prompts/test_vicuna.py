"""The Vicuna questions: what is read of a row, and the 80 real ones."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.prompts.written import lines, made
from trueline.errors import UserError
from trueline.prompts.vicuna import vicuna
from trueline.store import File

ROW = {"question_id": 71, "category": "writing", "turns": ["Write a poem.", "Now a shorter one."]}


def test_a_question_has_its_category_and_later_turns(tmp_path):
    first, second = made(
        tmp_path, vicuna(lines(tmp_path, ROW, {"question_id": 72, "category": "math", "text": "What is 2 + 2?"}))
    )
    assert (first.id, first.text) == ("question-71", "Write a poem.")
    assert first.meta == {"category": "writing", "later_turns": ["Now a shorter one."]}
    assert (second.text, second.meta) == ("What is 2 + 2?", {"category": "math"})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ROW, "turns": []}, "it has no question"),
        ({**ROW, "turns": [""]}, "it has no question"),
        ({"question_id": 1, "category": "math"}, "it has no question"),
        ({"category": "math", "turns": ["Why?"]}, 'field "question_id"'),
        ({"question_id": 1, "turns": ["Why?"]}, 'field "category"'),
        (ROW, "question-71 came before"),
    ],
)
def test_another_layout_is_refused_with_its_line(tmp_path, row, said):
    with pytest.raises(UserError, match=f"prefs.jsonl line 2: .*{said}"):
        made(tmp_path, vicuna(lines(tmp_path, ROW, row)))


def test_one_category(tmp_path):
    file = lines(tmp_path, ROW, {"question_id": 72, "category": "math", "text": "What is 2 + 2?"})
    assert [p.id for p in made(tmp_path, vicuna(file, category="math"))] == ["question-72"]
    with pytest.raises(UserError, match='got "maths"; one of math, writing'):
        made(tmp_path, vicuna(file, category="maths"))


def test_the_eighty_questions(tmp_path, shared_data):
    prompts = made(tmp_path, vicuna(File(shared_data / "mt_bench_vicuna" / "vicuna_bench_question.jsonl")))
    tens = ("generic", "knowledge", "roleplay", "common-sense", "fermi", "counterfactual", "writing")
    assert Counter(p.meta["category"] for p in prompts) == dict.fromkeys(tens, 10) | {"coding": 7, "math": 3}
    assert len({p.text for p in prompts}) == 80 and prompts[0].id == "question-1"
