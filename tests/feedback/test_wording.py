"""Wordings: sections, slots filled in one pass, and what a file of the user's gets wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.feedback import wording
from trueline.feedback.critique import Critique
from trueline.feedback.grade import HH, Grade
from trueline.fingerprint import File
from trueline.sample.scripted import Scripted

REPLY = "Analysis: a. Feedback: f. Score: 1"


def mine(tmp_path, text):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    return File(path)


def test_a_file_of_sections(tmp_path):
    text = "For people.\n=== user\nQ: {asked}\n\nA: {answer}\n\n=== shot\nx\n=== answer\ny\n=== reply\nHarmful\n"
    found = wording.opened(mine(tmp_path, text + "=== again \nOnce more.\n"))
    assert (found.system, found.user, found.again) == ("", "Q: {asked}\n\nA: {answer}", "Once more.")
    assert found.shots == (wording.Shot("x", "y", "Harmful"),)


@given(st.text(), st.text())
def test_what_is_filled_in_is_never_looked_at_again(asked, answer):
    """Even where it looks like a slot, a heading or an escape."""
    filled = wording.fill("<{asked}|{answer}|{asked}>", {"asked": asked, "answer": answer})
    assert filled == f"<{asked}|{answer}|{asked}>"


def test_every_shipped_wording_serves_its_critic():
    every = sorted(path.stem for path in wording.FOLDER.glob("*.txt"))
    names = [name for name in every if "pair" not in name]  # those of pairs: test_annotator, test_scores
    assert names == ["category", "dialogue", "hh", "tldr", "town-critique", "town-grade"]
    for name in names:
        critic = Critique if name in ("dialogue", "tldr", "town-critique") else Grade
        made = critic(Scripted((REPLY if critic is Critique else "Harmful",)), wording=name)
        assert "__" not in made.wording.path.read_text()
        assert made.words().where.endswith(f"{name}.txt")


def test_categories_of_ones_own(tmp_path):
    """By the slot, or by name; one that nobody names is refused."""
    engine = Scripted(("Good",))
    Grade(engine, ("Good", "Bad"), wording="category")
    named = mine(tmp_path, "=== user\n{asked} {answer}: Good or Bad?\n")
    Grade(engine, ("Good", "Bad"), wording=named)
    with pytest.raises(UserError, match='it does not name the category "Fair"'):
        Grade(engine, ("Good", "Fair", "Bad"), wording=named)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no section at all", "it has no section user"),
        ("=== usr\nx", r'a section "usr".*Did you mean "user"'),
        ("=== user\n{asked} {answer}\n=== user\nx", "two sections user"),
        ("=== user\n{asked} {answr}", r"the slot \{answr\}.*Did you mean \"answer\""),
        ("=== user\n{asked}", r"its section user has no slot \{answer\}"),
        ("=== user\n{asked} {answer}\n=== shot\nx\n=== reply\nHarmful", "a section reply after 0 whole shots"),
        ("=== user\n{asked} {answer}\n=== shot\nx\n=== answer\ny", "the last shot is not whole"),
    ],
)
def test_what_a_file_gets_wrong_is_said_with_its_name(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        Grade(Scripted(("Harmful",)), HH, wording=mine(tmp_path, text))
    assert "mine.txt" in caught.value.where


def test_a_file_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "bin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no UTF-8 text"):
        Grade(Scripted(("Harmful",)), wording=File(tmp_path / "bin.txt"))
    with pytest.raises(UserError, match="there is no file"):
        Grade(Scripted(("Harmful",)), wording=tmp_path / "gone.txt")
