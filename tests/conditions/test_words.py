"""Conditions in a critic's own words: labels, attributes, critiques, and the critiques that ask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conditions.said import Held, criticised, labelled, ranks, scored
from trueline.conditions.attributes import Attributes
from trueline.conditions.critiques import Critiques, Exemplars
from trueline.conditions.labels import Labels
from trueline.conditions.protocol import NO_CLASS, Condition, Described, asking, conditioned
from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.records import Feedback, Message, Prompt

TALK = "Human: Tell me a joke.\n\nAssistant:"


def asked(condition, prompt="Who?"):
    return condition.ask(Prompt.of(prompt))


def test_labels_are_written_as_the_categories_are():
    """Case and surrounding space do not matter; anything else is no category, and its critic abstained."""
    labels = Labels.hh()
    (said,) = labels.describe([labelled("Who?", "Harmful", " harmless AND helpful\n", "Harmful.", "Meh", None)])
    assert said == [Described("Harmful", 3), Described("Harmless and helpful", 1), None, None, None]
    assert labels.render(said[0]) == "Harmful.\n\n"
    assert asked(labels) == "Harmless and very helpful.\n\n"
    assert asked(asking(labels, 3)) == "Harmful.\n\n"


def test_the_last_label_counts_whatever_was_scored_after_it():
    group = labelled("Who?", "Harmful").with_feedback([Feedback("x", label="Harmless and helpful")])
    group = group.with_feedback([Feedback("rule", score=1.0)])
    assert ranks(Labels().describe([group])) == [[1]]
    assert ranks(Labels(by="grade").describe([group])) == [[3]]
    assert ranks(Labels(by="other").describe([group])) == [[None]]


def test_a_prompt_that_holds_the_separator_keeps_all_of_it():
    """Nothing is stripped, so nothing is lost: keeping what follows the last separator would leave "Assistant:"."""
    for condition, prompt in (
        (Labels.hh(), TALK),
        (Labels.hh(), "Harmful.\n\nHarmless and helpful.\n\n" + TALK),
        (Critiques(exemplars=Exemplars(texts=("Right.",))), "feedback: Wrong. input: the input: of a feedback: loop"),
    ):
        messages = (Message("user", prompt),)
        (shown,) = conditioned(messages, condition.ask(Prompt(messages)))
        assert shown.content == condition.ask(Prompt(messages)) + prompt
    assert conditioned((Message("user", TALK),), Labels().ask(Prompt.of(TALK)))[0].content == (
        "Harmless and very helpful.\n\nHuman: Tell me a joke.\n\nAssistant:"
    )


def test_attributes_of_a_category():
    steer = Attributes.hh()
    (said,) = steer.describe([labelled("Who?", "harmful", "Harmless and very helpful", "?")])
    assert said == [Described("harmful:1,helpful:0", 3), Described("harmful:0,helpful:2", 0), None]
    assert [asked(asking(steer, k)) for k in range(4)] == [
        "harmful:0,helpful:2.\n\n", "harmful:0,helpful:1.\n\n", "harmful:0,helpful:0.\n\n", "harmful:1,helpful:0.\n\n",
    ]  # fmt: skip


def test_attributes_of_scores():
    """Rounded, halves up: (2.5, 0.2) is 3 and 0, at distance 1 from (4, 0) and from (2, 0): the better one.

    (0, 9) is 5 from (0, 4). Without one of the two scores nothing is known.
    """
    steer = Attributes(("quality", "toxicity"), ((4, 0), (2, 0), (0, 4)), separator=" input: ")
    group = scored("Who?", 2.5, 0.0, 1.0, by="quality")
    group = group.with_feedback(Feedback("toxicity", score=s) for s in (0.2, 9.0, None))
    assert steer.describe([group]) == [
        [Described("quality:3,toxicity:0", 0), Described("quality:0,toxicity:9", 2), None]
    ]
    assert asked(steer) == "quality:4,toxicity:0 input: "


def test_critiques_are_the_words_and_scores_the_classes():
    """Scores 0..3: 3 is the best; 2.5 counts as 2; 4, -1 and none are in no class; empty words are an abstention."""
    said = [(" Short. ", 3.0), ("Fine", 2.5), ("Bad", 0.4), ("?", 4.0), ("-", -0.5), ("!", None), (" ", 3.0)]
    group = criticised("Who?", *said, (None, 3.0))
    (found,) = Critiques().describe([group])
    assert [one.text for one in found[:6]] == ["Short.", "Fine", "Bad", "?", "-", "!"]
    assert [one.rank for one in found[:6]] == [0, 1, 3, NO_CLASS, NO_CLASS, NO_CLASS]
    assert found[6:] == [None, None]
    assert Critiques().render(found[0]) == "feedback: Short. input: "


def test_exemplars_are_said_of_most_prompts_then_the_shortest():
    """ "Right and short" stands at two prompts (three times at the first, once in capitals), "Good" at one; of the
    others the shortest first. The second choice is "Good", 4 letters, before "Accurate."; class 0 only."""
    groups = [
        criticised("Who?", *[("Right and short", 3.0)] * 2, ("RIGHT and  short", 3.0), ("Accurate.", 3.0)),
        criticised("Why?", ("right and short", 3.0), ("Good", 3.1), ("Ok", 2.9), ("No", 9.0)),
    ]
    assert Critiques(exemplars=Exemplars(n=2)).chosen(groups) == ("Right and short", "Good")
    assert Critiques(exemplars=Exemplars(n=9)).chosen(groups) == ("Right and short", "Good", "Accurate.")
    assert Critiques(exemplars=Exemplars(n=9)).chosen(groups[::-1]) == ("Right and short", "Good", "Accurate.")
    assert Critiques(target=1).chosen(groups) == ("Ok",)
    assert Critiques(target=3).chosen(groups) == ("Ok",)  # nobody said the worst: class 1 is the nearest


def test_exemplars_of_the_first_round_or_of_the_last():
    first, last = Held((criticised("Who?", ("Old", 3.0)),)), Held((criticised("Who?", ("New", 3.0)),))
    base = Critiques(by="critique")
    assert asked(base.after((first, last))) == "feedback: New input: "
    assert asked(Critiques(exemplars=Exemplars(renew=False)).after((first, last))) == "feedback: Old input: "
    assert base.after((first, last)) == base.after((last,))


def test_several_exemplars_are_spread_over_prompts():
    """Each prompt always gets the same one; over 60 prompts all of them occur; another seed spreads otherwise."""

    def spread(seed):
        condition = Critiques(exemplars=Exemplars(n=3, seed=seed, texts=("a", "b", "c")))
        return [asked(condition, str(i)) for i in range(60)]

    assert spread(0) == spread(0) != spread(1)
    assert {text.split()[1] for text in spread(0)} == {"a", "b", "c"}


def test_without_exemplars_there_is_nothing_to_ask_with():
    with pytest.raises(UserError, match="no critiques to ask with"):
        asked(Critiques())
    with pytest.raises(UserError, match="no critiques to ask with"):
        asked(asking(Critiques(exemplars=Exemplars(texts=("Right.",))), 3))
    with pytest.raises(UserError, match="none of 1 groups has a critique"):
        asked(Critiques().after((Held((criticised("Who?", (None, None)),)),)))


@given(st.lists(st.tuples(st.none() | st.sampled_from("abc"), st.none() | st.floats(-9, 9)), max_size=20))
def test_every_critique_is_in_one_class_or_in_none(said):
    (found,) = Critiques().describe([criticised("Who?", *said)])
    for (text, score), one in zip(said, found, strict=True):
        assert (one is None) == (text is None)
        if one is not None:
            inside = score is not None and 0 <= score < 4
            assert (one.rank == 3 - int(score)) if inside else one.rank == NO_CLASS


def test_they_are_conditions_with_an_identity():
    every = [Labels(), Labels.tldr(), Attributes(), Attributes.hh(), Critiques(), asking(Critiques(), 1)]
    assert all(isinstance(condition, Condition) for condition in every)
    assert all(condition.tokens == condition.banned == () for condition in every)
    assert len({fingerprint(condition) for condition in every}) == len(every)
    before = Critiques(exemplars=Exemplars(texts=("Right.",)))
    named = fingerprint(before)
    before.ask(Prompt.of("Who?"))
    assert fingerprint(before) == named


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Labels(()),
        lambda: Labels(("Good", " good")),
        lambda: Labels(target=4),
        lambda: Attributes(("a",), ((1, 2),)),
        lambda: Attributes(("a",), ()),
        lambda: Attributes(("a",), ((1,), (1,))),
        lambda: Attributes(categories=("Good",)),
        lambda: Attributes(target=4),
        lambda: Critiques(0),
        lambda: Critiques(target=4),
        lambda: Critiques().after(()),
        lambda: Exemplars(n=0),
        lambda: Exemplars(texts=("", "x")),
    ],
)
def test_refusals(wrong):
    with pytest.raises(UserError):
        wrong()
