"""The human's next message: what is kept of it, worked."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.prompts.follow_up import NextTurn
from trueline.prompts.invent import Novelty
from trueline.records import Completion

BEFORE = ("Who bakes the bread in town?",)


@pytest.mark.parametrize(
    ("text", "stopped", "kind"),
    [
        (" ", "stop", "empty"),
        ("a" * 251, "stop", "long"),
        ("And where is the", "length", "unfinished"),
        ("Who bakes the bread?", "stop", "near"),
        ("And where is the mill?", "stop", None),
        ("a" * 250, "stop", None),
    ],
)
def test_a_message_is_kept_or_says_why_not(text, stopped, kind):
    """ "Who bakes the bread?" shares four of 4 and 6 words with the first question: F1 = 8 / 10."""
    refusal = NextTurn().refuse(Completion(text, stopped=stopped), BEFORE)
    assert (refusal and refusal.kind) == kind
    if kind == "near":
        assert refusal.reason == "ROUGE-L F1 0.800 to 'Who bakes the bread in town?', not below 0.5"


def test_what_is_kept_is_a_choice():
    near, cut = Completion("Who bakes the bread?"), Completion("And where", stopped="length")
    assert NextTurn(novelty=Novelty(0.9)).refuse(near, BEFORE) is None
    assert NextTurn(cut=True).refuse(cut, BEFORE) is None
    with pytest.raises(UserError, match="longest"):
        NextTurn(longest=0)
