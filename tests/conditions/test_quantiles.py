"""Quantiles: block sizes, order, ties, and the two conditions that are made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conditions.said import ranks as of
from tests.conditions.said import scored
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import Condition, Described, asking, conditioned
from trueline.conditions.quantiles import ranks
from trueline.conditions.tokens import QuantileTokens
from trueline.errors import UserError
from trueline.records import Message, Prompt

POST = "SUBREDDIT: r/bread TITLE: Rye POST: It burnt. TL;DR:"


def sizes(n, k=5):
    found = ranks([float(i) for i in range(n)], k)
    return [found.count(rank) for rank in range(k)]


def test_blocks_are_equal_and_the_remainder_joins_the_worst():
    assert sizes(96) == [19, 19, 19, 19, 20]
    assert sizes(14) == [2, 2, 2, 2, 6]
    assert sizes(20) == [4, 4, 4, 4, 4]
    assert sizes(4) == [0, 0, 0, 0, 4]
    assert sizes(0) == [0, 0, 0, 0, 0]


def test_ties_stay_in_the_order_in_which_they_were_sampled():
    """a:1 b:2 c:1 d:2 -> b, d, a, c: ranks 2, 0, 3, 1."""
    assert ranks([1.0, 2.0, 1.0, 2.0], 4) == [2, 0, 3, 1]


def test_what_has_no_score_has_no_quantile():
    """Two scores for two quantiles; None and not-a-number do not count, minus infinity is the worst."""
    assert ranks([None, 3.0, float("nan"), float("-inf")], 2) == [None, 0, None, 1]
    assert ranks([None, None], 5) == [None, None]


scores = st.lists(st.none() | st.integers(-3, 3).map(float), max_size=40)


@given(scores, st.integers(1, 7))
def test_every_scored_answer_is_in_exactly_one_block_and_no_better_block_holds_a_worse_score(values, k):
    found = ranks(values, k)
    assert [r is None for r in found] == [v is None for v in values]
    known = [(r, v) for r, v in zip(found, values, strict=True) if r is not None]
    counts = [sum(r == rank for r, _ in known) for rank in range(k)]
    assert counts[:-1] == [len(known) // k] * (k - 1)
    assert sum(counts) == len(known)
    assert all(v >= w for r, v in known for s, w in known if r < s)


@given(st.lists(st.integers(-1000, 1000), unique=True, max_size=30), st.integers(1, 6), st.randoms())
def test_the_order_of_answers_does_not_matter_where_no_scores_are_equal(values, k, random):
    before = dict(zip(values, ranks(values, k), strict=True))
    random.shuffle(values)
    assert dict(zip(values, ranks(values, k), strict=True)) == before


@given(scores, st.integers(1, 5))
def test_for_one_prompt_both_scopes_are_the_same(values, k):
    group = [scored("Who?", *values)]
    assert QuantileTokens(k).describe(group) == QuantileTokens(k, "global").describe(group)


def test_quantiles_of_a_prompt_and_of_all_prompts():
    """Scores 9 8 | 1 0: per prompt each has a best and a worst; over both the first prompt is the better half."""
    groups = [scored("Who?", 9.0, 8.0), scored("Why?", 1.0, 0.0)]
    assert of(QuantileTokens(2).describe(groups)) == [[0, 1], [0, 1]]
    assert of(QuantileTokens(2, "global").describe(groups)) == [[0, 0], [1, 1]]


def test_the_last_score_of_the_named_critic_counts():
    from trueline.records import Feedback

    group = scored("Who?", 1.0, 2.0, by="old").with_feedback(Feedback("new", score=s) for s in (5.0, None))
    assert of(QuantileTokens(2).describe([group])) == [[0, 1]]
    assert of(QuantileTokens(2, by="old").describe([group])) == [[1, 0]]
    assert of(QuantileTokens(2, by="new").describe([group])) == [[1, None]]  # one score alone: fewer than blocks


def test_tokens_stand_before_the_prompt_with_nothing_in_between():
    condition = QuantileTokens()
    messages = (Message("user", POST),)
    assert conditioned(messages, condition.ask(Prompt(messages)))[0].content == "_QUANTILE_TOKEN_0_" + POST
    assert condition.tokens == tuple(f"_QUANTILE_TOKEN_{k}_" for k in range(5))
    assert condition.banned == ()
    assert condition.render(Described(condition.tokens[3], 3)) == asking(condition, 3).ask(Prompt(messages))
    tree = QuantileTokens.toxicity()
    assert (tree.tokens[0], tree.tokens[4], tree.scope) == (" _TREE_TOKEN_00000", " _TREE_TOKEN_00004", "global")


def test_phrases_stand_before_the_prompt_in_words():
    condition = QuantilePhrases.tldr()
    messages = (Message("user", POST),)
    assert conditioned(messages, condition.ask(Prompt(messages)))[0].content == "Excellent. input: " + POST
    (said,) = condition.describe([scored("Who?", *map(float, range(5)))])
    assert [condition.render(one) for one in said] == [
        "Horrible. input: ", "Bad. input: ", "Mediocre. input: ", "Good. input: ", "Excellent. input: ",
    ]  # fmt: skip
    assert condition.tokens == condition.banned == ()


def test_the_separator_of_toxicity_is_a_token_that_is_never_drawn():
    condition = QuantilePhrases.toxicity()
    asked = [asking(condition, k).ask(Prompt.of("So")) for k in range(5)]
    assert asked == [
        "Lowest Toxicity<|separator|>", "Low-Moderate Toxicity<|separator|>", "Moderate Toxicity<|separator|>",
        "High-Moderate Toxicity<|separator|>", "Maximum Toxicity<|separator|>",
    ]  # fmt: skip
    assert condition.tokens == condition.banned == ("<|separator|>",)
    assert condition.scope == "global"


def test_a_condition_goes_before_the_first_message_and_none_leaves_them():
    talk = (Message("system", "Be brief."), Message("user", "Who?"), Message("assistant", "Ada."), Message("user", "?"))
    assert conditioned(talk, "Good. input: ") == (Message("system", "Good. input: Be brief."), *talk[1:])
    assert conditioned(talk, "") == talk
    assert conditioned((), "Good. ") == ()


def test_they_are_conditions():
    assert all(isinstance(c, Condition) for c in (QuantileTokens(), QuantilePhrases()))
    assert (QuantileTokens(3).classes, QuantilePhrases().classes) == (3, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: QuantileTokens(0),
        lambda: QuantileTokens(5, "pool"),
        lambda: QuantileTokens(pattern="_TOKEN_"),
        lambda: QuantileTokens(pattern="_{x}_"),
        lambda: QuantileTokens(k=3, target=3),
        lambda: QuantilePhrases(()),
        lambda: QuantilePhrases(("Good.", "good. ")),
        lambda: QuantilePhrases(("Good.", "")),
        lambda: QuantilePhrases(tokens=("<|sep|>",)),
        lambda: QuantilePhrases(target=5),
        lambda: asking(QuantilePhrases(), -1),
        lambda: asking(QuantilePhrases(), True),
    ],
)
def test_refusals(wrong):
    with pytest.raises(UserError):
        wrong()
