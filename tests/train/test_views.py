"""Views: which examples groups become."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trueline.errors import UserError
from trueline.records import Completion, Feedback, Group, Message, Preference, Prompt
from trueline.train.views import All, Answer, Best, Demonstrations, Documents, Example, First, Pairs


@dataclass(frozen=True)
class Held:
    """Records held in memory, read as an artefact's are."""

    records: tuple

    def read(self):
        return iter(self.records)


def group(*texts, scores=None, preferences=(), cut=()):
    completions = tuple(Completion(t, stopped="length" if i in cut else "stop") for i, t in enumerate(texts))
    made = Group(Prompt.of("Who bakes?"), completions, preferences=tuple(preferences))
    return made if scores is None else made.with_feedback(Feedback("gold", score) for score in scores)


def texts(view):
    return [[answer.text for answer in example.answers] for example in view.examples()]


def test_demonstrations_of_the_best_answer():
    """Scores (0, 2, 2, none): the first of the two best, never the one on which the critic abstained."""
    groups = Held((group("a", "b", "c", "d", scores=(0.0, 2.0, 2.0, None)),))
    assert texts(Demonstrations(groups)) == [["b"]]
    assert texts(Demonstrations(groups, Best(9))) == [["b"], ["c"], ["a"]]
    assert texts(Demonstrations(groups, All())) == [["a"], ["b"], ["c"], ["d"]]
    assert texts(Demonstrations(groups, First())) == [["a"]]


def test_without_scores_the_best_is_the_preferred():
    """b beats a with 0.9 and loses to c with 0.4: means a 0.1, b (0.9 + 0.4)/2 = 0.65, c 0.6."""
    said = (Preference(1, 0, 0.9), Preference(1, 2, 0.4), Preference(0, 2, None))
    assert texts(Demonstrations(Held((group("a", "b", "c", preferences=said),)), Best(3))) == [["b"], ["c"], ["a"]]


def test_an_only_answer_is_the_best_and_a_choice_without_grounds_is_reported():
    lone, open_ = list(Demonstrations(Held((group("a"), group("a", "b")))).examples())
    assert [a.text for a in lone.answers] == ["a"]
    assert open_.answers == () and open_.skip == "no score or preference to choose by"


def test_pairs_are_the_preferences():
    """Hard, soft, tied and abstained: p travels as it is; an abstention is named, not dropped."""
    said = (Preference(0, 1, 1.0, "x"), Preference(1, 2, 0.3, "x"), Preference(0, 2, 0.5, "y"), Preference(2, 1, None))
    groups = Held((group("a", "b", "c", preferences=said, cut={2}),))
    found = list(Pairs(groups).examples())
    assert [(e.answers[0].text, e.answers[1].text, e.p) for e in found[:3]] == [
        ("a", "b", 1.0),
        ("b", "c", 0.3),
        ("a", "c", 0.5),
    ]
    assert found[1].answers[1] == Answer("c", ended=False)
    assert [e.skip for e in found] == ["", "", "", "the critic abstained"]
    assert [e.left_out for e in Pairs(groups, ties="drop").examples()] == ["", "", "tie", ""]
    margin = "decided by less than min_margin"
    assert [e.left_out for e in Pairs(groups, min_margin=0.5).examples()] == ["", margin, margin, ""]
    assert texts(Pairs(groups, by="y")) == [["a", "c"]]


def test_pairs_from_scores_are_best_against_worst():
    first, tie, poor = Pairs(
        Held((group("a", "b", "c", scores=(1.0, 3.0, 0.0)), group("a", "b", scores=(1.0, 1.0)), group("a")))
    ).examples()
    assert [a.text for a in first.answers] == ["b", "c"] and first.p == 1.0
    assert tie.p == 0.5
    assert poor.skip == "no preference and no two scores"


def test_documents_are_whole_conversations_or_plain_text():
    prompt = Prompt((Message("user", "Who bakes?"), Message("assistant", "Ada.")))
    (chat,) = Documents(Held((prompt,))).examples()
    assert chat.whole and chat.messages == prompt.messages and chat.answers == ()
    (text,) = Documents(Held((prompt,)), form="text").examples()
    assert text.whole and text.messages == () and text.answers == (Answer("Who bakes?\n\nAda."),)


def test_the_key_is_of_messages_and_answers_alone():
    """Equal rows share their reference log-probs whatever their label; another answer, or a cut one, does not."""
    messages = (Message("user", "Who bakes?"),)
    base = Example(messages, (Answer("a"), Answer("b")), p=1.0)
    assert base.key == Example(messages, (Answer("a"), Answer("b")), p=0.5).key
    others = [
        Example(messages, (Answer("b"), Answer("a"))),
        Example(messages, (Answer("a"), Answer("b", ended=False))),
        Example((Message("system", "Who bakes?"),), (Answer("a"), Answer("b"))),
    ]
    assert len({base.key, *(e.key for e in others)}) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Best(0),
        lambda: Demonstrations(Held(()), turns="every"),
        lambda: Pairs(Held(()), ties="keep"),
        lambda: Pairs(Held(()), min_margin=-1),
        lambda: Documents(Held(()), form="x"),
    ],
)
def test_refusals(wrong):
    with pytest.raises(UserError):
        wrong()
