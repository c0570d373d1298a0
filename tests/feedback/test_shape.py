"""Answers set aside by their form: the released rules to the letter, and ours where they differ."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.feedback.judge import check_appended
from trueline.feedback.protocol import metering, unfit
from trueline.feedback.shape import FIT, RULES, WellFormed
from trueline.records import Completion, Feedback, Group, Prompt

LONG = "This is an answer that is long enough to be kept by all the rules"  # 65 characters
OURS, OLD = WellFormed(), WellFormed(published=True)


def label(shape, text, stopped="stop"):
    return shape.judge(Completion(text, stopped=stopped)).label


@pytest.mark.parametrize(
    ("text", "old", "ours"),
    [
        (LONG + ".", FIT, FIT),
        (LONG + "!", FIT, FIT),
        ("x" * 49 + ".", FIT, FIT),
        ("x" * 48 + ".", "short", "short"),
        ("", "short", "short"),
        (LONG + "?", "asks", "asks"),
        (LONG + ":", "asks", "asks"),
        ("Well, " + LONG + ".", "well", "well"),
        ("Wellness matters. " + LONG + ".", "well", FIT),
        (LONG, "unfinished", FIT),
        (LONG + ".)", "unfinished", FIT),
        (LONG + ".”", "unfinished", FIT),
        (LONG + ".\t", "unfinished", FIT),
        (LONG + "。", "unfinished", FIT),
        ("```\n" + LONG + "\n```", "unfinished", FIT),
        ("I do not know. " + LONG + ".", "unsure", "unsure"),
        ("I DON'T  know. " + LONG + ".", "unsure", "unsure"),
        ("I don’t\nknow. " + LONG + ".", "unsure", "unsure"),
        ("I dont know. " + LONG + ".", FIT, "unsure"),
        ("People don't knowingly err. " + LONG + ".", "unsure", FIT),
        ("A HUMAN: said. " + LONG + ".", "turn", "turn"),
        ("A Human : said. " + LONG + ".", FIT, "turn"),
        ("An Assistant: said. " + LONG + ".", FIT, "turn"),
        ("A superhuman: said. " + LONG + ".", "turn", FIT),
        ("See <IMAGE> here. " + LONG + ".", "image", "image"),
    ],
)
def test_the_rules(text, old, ours):
    assert (label(OLD, text), label(OURS, text)) == (old, ours)


def test_the_first_broken_rule_is_said_and_a_cut_answer_is_unfinished():
    assert label(OLD, "Well?") == "short"
    assert label(OLD, "Well, " + LONG + "?") == "asks"
    assert label(OURS, LONG + ".", "length") == "unfinished"
    assert label(OLD, LONG + ".", "length") == FIT
    assert OURS.judge(Completion(LONG + "?")) == Feedback("shape", label="asks", text='it ends with "?"')
    assert OURS.judge(Completion("Hm.")).text == "it has 3 characters, fewer than 50"


def test_rules_may_be_left_out_and_the_least_length_set():
    town = WellFormed(least=1, rules=("short", "unfinished"))
    assert [label(town, text) for text in ("", "No?", "Well")] == ["short", FIT, FIT]
    with pytest.raises(UserError, match='Did you mean "asks"'):
        WellFormed(rules=("ask",))
    with pytest.raises(UserError, match="a number of characters"):
        WellFormed(least=-1)


def test_groups_keep_their_answers_and_are_counted_by_reason():
    group = Group(Prompt.of("q"), (Completion(LONG + "."), Completion("No."), Completion("Nay.")))
    with metering() as counts:
        judged = OURS([group])
    check_appended([group], judged, OURS.name)
    assert counts == {"shape_fit": 1, "shape_short": 2}
    assert [unfit(said) for said in judged[0].feedback] == [False, True, True]
    assert OURS.calls(1, 3) == 0
    assert set(RULES) == {"short", "asks", "well", "unfinished", "unsure", "turn", "image"}


def test_the_last_word_of_the_named_critic_counts():
    bad, good, other = Feedback("shape", label="asks"), Feedback("shape", label=FIT), Feedback("grade", label="Bad")
    assert unfit((good, bad, other))
    assert not unfit((bad, good, other))
    assert unfit((other,), by="grade")
