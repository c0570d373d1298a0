"""Reviews: a duel judged by scores, counted per review and per question; failures apart from ties."""

from __future__ import annotations

import json

import pytest

from trueline.errors import UserError
from trueline.evaluate.duel import duel
from trueline.evaluate.reviews import Count, counted, read_reviews, reviews, table
from trueline.feedback.scores import TwoScores, vicuna
from trueline.pipeline import make
from trueline.prompts.asked import asked
from trueline.records import Completion, Group, Preference, Prompt
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import File, using


def pair(id, orders, raw, p, category="generic"):
    said = Preference(0, 1, p, "judge", orders, raw)
    return Group(Prompt.of(id, id=id, meta={"category": category}), (Completion("l"), Completion("r")), (), (said,))


PAIRS = [
    pair("a", (1.0, 0.5), ("9 8", "7 7"), 0.75),
    pair("b", (1.0, 0.0), ("9 8", "9 8"), 0.5),  # whoever stands first
    pair("c", (None, 0.0), ("well", "8 4"), None, "math"),
    pair("d", (), (), 0.5),  # equal answers: nobody was asked
]


def test_wins_ties_losses_and_failures():
    """a: 9 to 8, then 7 to 7 with the right one first; b: 9 to 8 for either; c: one unread, then 8 for the right."""
    found = counted("all", PAIRS, TwoScores())
    assert found.reviews == Count(wins=2, ties=1, losses=2, failed=1)
    assert found.questions == Count(wins=1, ties=2, losses=0, failed=1)
    assert (found.left, found.right, found.scored) == (9 + 7 + 9 + 8 + 4, 8 + 7 + 8 + 9 + 8, 5)


def test_failures_as_ties_are_the_released_way_of_counting():
    """The unread reply is a tie and takes a point from each; so c's question is no longer undecided but lost."""
    found = counted("all", PAIRS, TwoScores(), "tie")
    assert found.reviews == Count(wins=2, ties=2, losses=2) and found.questions == Count(wins=1, ties=2, losses=1)
    assert (found.left, found.right, found.scored) == (37 - 1, 40 - 1, 6)


def test_one_order_is_no_review():
    with pytest.raises(UserError, match="e was judged in one order; both"):
        counted("all", [pair("e", (), ("8 4",), 1.0)], TwoScores())


def judged(prompt, index):
    """Likes "Ada" more than "Go", whatever the order; says nothing about honey."""
    said = prompt.text
    if "honey" in said:
        return "No comment."
    return "8 3" if said.index("Ada") < said.index("Go away") else "Assistant 1: 3/10\nAssistant 2: 8/10"


def test_a_duel_becomes_a_table(tmp_path):
    rows = [
        {"prompt": "Who bakes?", "meta": {"category": "generic"}},
        {"prompt": "Who eats honey?", "meta": {"category": "math"}},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = asked(File(tmp_path / "asked.jsonl"))
    with using(tmp_path / "store"):
        left, right = (
            draw(Scripted((text,)), prompts, Sampling(), label=text[:2]) for text in ("Ada does.", "Go away.")
        )
        made = make(reviews(duel(left, right, vicuna(Scripted(judged), tries=1)), TwoScores()))
        found = read_reviews(made)
        assert [row.category for row in found.counts] == ["all", "generic", "math"]
        assert found.counts[0].reviews == Count(wins=2, failed=2) and found.counts[2].questions == Count(failed=1)
        assert (found.counts[1].left, found.counts[1].right) == (16, 6)
        text = (made.path / "table.txt").read_text()
        assert "2 0 0 2" in text and "8.00" in text and "Failed: replies without readable scores." in text
        assert text == table(found) and made.record["counts"] == {"wins": 2, "ties": 0, "losses": 0, "failed": 2}


def test_what_cannot_be_counted_is_refused(tmp_path):
    prompts = asked(File(written(tmp_path)))
    with using(tmp_path / "store"):
        left, right = (draw(Scripted((text,)), prompts, Sampling(), label=text) for text in ("a", "b"))
        fought = duel(left, right, vicuna(Scripted(("8 3",))))
        with pytest.raises(UserError, match="a parser of scores"):
            make(reviews(fought, "TwoScores"))
        with pytest.raises(UserError, match="apart or tie"):
            make(reviews(fought, TwoScores(), failures="loss"))


def written(folder):
    path = folder / "asked.jsonl"
    path.write_text('{"prompt": "Who bakes?"}\n')
    return path
