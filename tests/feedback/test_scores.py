"""Two scores as judges write them, and the annotators of the Vicuna questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.feedback.annotator import Annotator, ByCategory
from trueline.feedback.scores import TwoScores, vicuna
from trueline.feedback.verdicts import VerdictParser
from trueline.records import Completion, Group, Prompt
from trueline.sample.scripted import Scripted
from trueline.store import using

EIGHT_NINE = [
    "8 9",
    "8,9",
    "8, 9",
    "(8, 9)",
    "[8, 9]",
    "8  9.",
    "8 9\nBoth are fine; the second has more detail.",
    "\n\n8 9\n",
    "8/10 and 9/10",
    "8/10, 9/10",
    "8 / 10 9 / 10",
    "8 out of 10 and 9 out of 10",
    "8 vs. 9",
    "8; 9",
    "8 | 9",
    "8.0 9.0",
    "**8 9**",
    "`8 9`",
    "Scores: 8 9",
    "Score: 8, 9",
    "The scores are 8 and 9.",
    "Final scores: 8/10, 9/10",
    "Scores:\n8 9",
    "## Scores\n8 9\nExplanation: 8 points of 10.",
    "Assistant 1: 8, Assistant 2: 9",
    "Assistant 1: 8/10\nAssistant 2: 9/10",
    "**Assistant 1:** 8\n**Assistant 2:** 9\n\nThe first forgets the units.",
    "- Assistant 1: 8\n- Assistant 2: 9",
    "Assistant 2: 9, Assistant 1: 8",
    "Assistant 2: 9\nAssistant 1: 8",
    "Assistant A: 8; Assistant B: 9",
    "Response 1: 8 Response 2: 9",
    "Assistant 1's score: 8, Assistant 2's score: 9",
    "Answer #1 gets 8 and answer #2 gets 9",
    "The sum is 12.\nAssistant 1 slipped in step 3.\n8 9",
    "First 3 + 4 = 7.\n\nFinal scores: 8 9",
    "I solve it first.\nAssistant 1: 8/10\nAssistant 2: 9/10",
]
NOTHING = [
    "",
    "8",
    "8 9 7",
    "8-9",
    "8/9",
    "8 of 10",
    "0 9",
    "8 11",
    "-8 9",
    "80 90",
    "8/5 and 9/5",
    "8/10 and 9/100",
    "eight nine",
    "8 apples and 9 pears",
    "Both deserve 8 9",
    "Assistant 1: 8, Assistant 1: 9",
    "Assistant 1: 8, 9",
    "Assistant 3: 8, Assistant 2: 9",
    "Assistant 1: 8\nAssistant 2 was better: 9",
    "8 9\nOn reflection:\n9 8",
    "I would say\n8 9\nor so",
    "Sorry, I cannot help with that.",
    "HTTP 529: overloaded",
]


@pytest.mark.parametrize("reply", EIGHT_NINE)
def test_all_that_says_eight_and_nine(reply):
    assert TwoScores().scores(reply) == (8, 9) and TwoScores().parse(reply) == 0


@pytest.mark.parametrize("reply", NOTHING)
def test_all_that_says_nothing(reply):
    assert TwoScores().scores(reply) is None and TwoScores().parse(reply) is None


def test_the_higher_score_wins_and_equal_ones_tie():
    assert [TwoScores().parse(reply) for reply in ("9 8", "8.5 8", "7 7", "8 9", "10 1")] == [1, 1, 0.5, 0, 1]
    assert TwoScores().parse(None) is None and isinstance(TwoScores(), VerdictParser)
    assert all(
        TwoScores().parse(text) == p for text, p in zip(TwoScores().replies().values(), (1, 0, 0.5), strict=True)
    )


def test_where_they_stand_and_on_which_scale():
    last = "Step 1.\n8 9"
    assert TwoScores("first").scores(last) is None and TwoScores("last").scores(last) == (8, 9)
    assert TwoScores("first").scores("8 9\nSo.") == (8, 9) and TwoScores("last").scores("8 9\nSo.") is None
    assert TwoScores("first").scores("8 9\nNo:\n9 8") == (8, 9) and TwoScores("last").scores("8 9\nNo:\n9 8") == (9, 8)
    assert TwoScores(least=0, most=5).scores("0/5 5/5") == (0, 5) and TwoScores(least=0, most=5).scores("5 6") is None
    for wrong in ({"where": "middle"}, {"least": 5, "most": 5}):
        with pytest.raises(UserError, match=r"TwoScores\("):
            TwoScores(**wrong)


@given(st.text("12890/,. \nAssistant:()ofand", max_size=40), st.sampled_from(["first", "last", "either"]))
def test_whatever_is_read_is_on_the_scale(reply, where):
    found = TwoScores(where).scores(reply)
    assert found is None or all(1 <= score <= 10 for score in found)


@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.sampled_from(["{} {}", "{}/10 {}/10", "Assistant 1: {}\nAssistant 2: {}"]),
)
def test_exchanged_scores_are_the_other_verdict(one, other, form):
    assert TwoScores().parse(form.format(one, other)) == 1 - TwoScores().parse(form.format(other, one))


def by_kind(prompt, index):
    """Scores by which question is put: 9 to 2 for code, last for maths, words for a fermi question."""
    said = prompt.text
    if "[TASK]" in said:
        return "9 2\nIt runs."
    if "[PROBLEM]" in said:
        return "2 + 2 = 4.\nAssistant 1: 3/10\nAssistant 2: 3/10"
    return "I'd rather not." if "piano" in said else "Assistant 1: 4, Assistant 2: 8"


def test_each_category_in_its_own_words(tmp_path):
    """Both orders: whoever stands first wins the code by position (a flip), maths is a tie, an unread reply nothing."""
    asked = {"coding": "Sort.", "math": "2 + 2?", "writing": "A poem.", "fermi": "How many piano tuners?"}
    groups = [
        Group(Prompt.of(text, meta={"category": category}), (Completion("one"), Completion("two")))
        for category, text in asked.items()
    ]
    critic = vicuna(Scripted(by_kind), tries=2)
    with using(tmp_path / "store"), critic:
        said = [group.preferences[0] for group in critic(groups)]
    assert [p.p for p in said] == [0.5, 0.5, 0.5, None]
    assert [p.orders for p in said] == [(1, 0), (0.5, 0.5), (0, 1), (None, None)]
    assert [p.flipped for p in said] == [True, False, True, None]
    assert said[3].raw == ("I'd rather not.",) * 2


def test_who_is_asked_about_a_category():
    one, other = (Annotator(Scripted(("A",), name=name)) for name in ("one", "other"))
    by = ByCategory((("general", one), ("math", other)))
    assert [by.who(Prompt.of("x", meta=meta)) for meta in ({}, {"category": "math"}, {"category": "new"})] == [
        "general",
        "math",
        "general",
    ]
    assert by.name == "by-category:annotator:one"
    with pytest.raises(UserError, match="ByCategory, member math: got 3"):
        ByCategory((("general", one), ("math", 3)))
