"""`Critique`: sentence and score, strictly read; and the vectors of the released ALT for the compatible reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feedback.test_grade import Logged, groups
from trueline.errors import UserError
from trueline.feedback.critique import Critique, as_released, strictly
from trueline.fingerprint import fingerprint
from trueline.records import Message, Prompt
from trueline.sample.scripted import Scripted

# (reply, strictly of 3, as the released ALT reads it)
REPLIES = [
    ("Analysis: ok. Feedback: short. Score: 3/3", ("ok.", "short.", 3.0), ("ok.", "short.", 3.0)),
    ("Analysis: ok. Feedback: short. Score: <3>", None, None),
    ("Analysis: ok. Score: 3 Feedback: short.", None, None),
    ("Score: 3 Analysis: ok. Feedback: short.", None, None),
    ("Analysis: ok. Feedback: short. Score: 2.", ("ok.", "short.", 2.0), ("ok.", "short.", 2.0)),
    ("Analysis: ok. Feedback: short. Score: ...", None, None),
    ("Analysis: ok. Feedback: short. Score: 2.5", ("ok.", "short.", 2.5), ("ok.", "short.", 2.5)),
    ("Analysis: a\nb\n\nFeedback: short.\nScore: 0 / 3\n", ("a\nb", "short.", 0.0), ("a\nb", "short.", 0.0)),
    ("Analysis: ok. Feedback: short. Score: 4", ("ok.", "short.", 4.0), ("ok.", "short.", 4.0)),
    ("Analysis: ok. Feedback: short. Score: 3/5", None, ("ok.", "short.", 3.0)),
    ("Analysis: ok. Feedback: short. Score: 3, well done", None, ("ok.", "short.", 3.0)),
    ("Analysis: ok. Feedback: short. Score:3", ("ok.", "short.", 3.0), None),
    ("Analysis: ok. Feedback: short. Score: -1", None, None),
    ("Analysis: ok. Feedback: Score: 1", None, ("ok.", "", 1.0)),
    ("Analysis: The Score is fair. Feedback: ok. Score: 2", ("The Score is fair.", "ok.", 2.0), ("The", "ok.", 2.0)),
    ("Analysis: ok. Feedback: A Score of two. Score: 2", ("ok.", "A Score of two.", 2.0), ("ok.", "A", 2.0)),
    ("Analysis: ok. Feedback: b. Score: 1 Score: 2", None, ("ok.", "b.", 1.0)),
    ("**Analysis:** ok.\n**Feedback**: b.\n\n### Score: 1", ("ok.", "b.", 1.0), None),
    ("I will rate it. Analysis: ok. Feedback: b. Score: 1", None, ("ok.", "b.", 1.0)),
    ("analysis: ok. feedback: b. score: 1", None, None),
    ("", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "strict", "released"), REPLIES)
def test_replies(reply, strict, released):
    assert strictly(reply, 3) == strict
    assert as_released(reply) == released


@given(st.text(), st.integers(0, 3))
def test_no_reply_breaks_the_parsers(text, score):
    for reply in (text, f"Analysis: {text} Feedback: {text} Score: {score}"):
        for found in (strictly(reply, 3), as_released(reply)):
            assert found is None or (found[2] >= 0 and isinstance(found[1], str))


def test_sentence_score_and_the_whole_reply_are_kept():
    """b is unread, c out of range (trap 37): both are asked again and then abstain, each in its place."""
    said = {"a": "Analysis: x. Feedback: Short and right. Score: 2/3", "b": "Lovely!",
            "c": "Analysis: x. Feedback: y. Score: 4"}  # fmt: skip
    engine = Logged({answer: (reply,) for answer, reply in said.items()})
    (group,) = Critique(engine, tries=2)(groups("a", "b", "c"))
    first, second, third = (feedback[0] for feedback in group.feedback)
    assert (first.text, first.score, first.label, first.raw) == ("Short and right.", 2.0, None, said["a"])
    assert second.abstained and third.abstained and (second.raw, third.raw) == (said["b"], said["c"])
    assert [len(entry[0]) for entry in engine.log if isinstance(entry, tuple)] == [3, 2]
    kept = Critique(engine, outside="keep")(groups("c"))[0].feedback[0][0]
    assert (kept.score, kept.text) == (4.0, "y.")
    released = Critique(Logged({"a": ("Analysis: x. Feedback: A Score. Score: 2/9",)}), reading="compatible")
    assert released(groups("a"))[0].feedback[0][0].text == "A"


def test_a_post_is_shown_as_it_was_written_without_the_cue_at_its_end():
    """Underscores and line breaks stay (trap 38), a TL;DR: within the post too; the last one is the prompt's."""
    post = "SUBREDDIT: r/a\nPOST: __init__ is\n\nmy TL;DR: of it {answer}\nTL;DR:"
    critic = Critique(Scripted(("",)))
    asked = critic.question(Prompt.of(post), "He __likes__ Analysis: it")
    (system, user) = asked.messages
    assert system.role == "system"
    assert (
        "POST\nSUBREDDIT: r/a\nPOST: __init__ is\n\nmy TL;DR: of it {answer}\n\nSUMMARY\nHe __likes__ Analysis: it\n"
        in user.content
    )
    assert "from 0 to 3" in user.content
    assert asked.meta == {"asked": post, "answer": "He __likes__ Analysis: it", "kind": "critique", "try": 1, "most": 3}
    chat = Prompt((Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Go on.\nTL;DR: ")))
    assert critic.shown(chat, "TL;DR:") == "Human: Hi\n\nAssistant: Yes?\n\nHuman: Go on."


def test_identity_and_refusals():
    engine = Scripted(("",))
    critics = [Critique(engine), Critique(engine, most=5), Critique(engine, reading="compatible"),
               Critique(engine, outside="keep"), Critique(engine, wording="dialogue")]  # fmt: skip
    assert len({fingerprint(critic) for critic in critics}) == 5
    assert critics[0].name == "critique:scripted"
    for options in ({"most": 0}, {"reading": "loose"}, {"outside": "clip"}):
        with pytest.raises(UserError, match=rf"Critique\({next(iter(options))}=...\)"):
            Critique(engine, **options)
