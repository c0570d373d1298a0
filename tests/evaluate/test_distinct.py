"""Distinct-n: both denominators, both ways of cutting words, per prompt and over all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.graded import groups
from trueline.evaluate.distinct import distinct, ratios, words

WORDS = st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=4)


def of(*texts):
    return groups([(None,) * len(row) for row in texts], texts)


def test_worked():
    """q0: "a b a", "a c": 5 words, {a b, b a, a c}: 3/5 and 3/3. q1: "b b b b": {b}, {b b}, {b b b}: 1/4; 1/4, 1/2.

    Over all: 9 words; {a, b, c}; {a b, b a, a c, b b} of 6; {a b a, b b b} of 3.
    """
    one, two, three = distinct(of(("a b a", "a c"), ("b b b b",)))
    assert one.words.mean == one.ngrams.mean == pytest.approx((3 / 5 + 1 / 4) / 2)
    assert two.words.mean == pytest.approx((3 / 5 + 1 / 4) / 2) and two.ngrams.mean == pytest.approx((1 + 1 / 3) / 2)
    assert three.words.mean == pytest.approx((1 / 5 + 1 / 4) / 2) and three.ngrams.mean == pytest.approx(
        (1 + 1 / 2) / 2
    )
    assert [(d.corpus_words, d.corpus_ngrams) for d in (one, two, three)] == [
        pytest.approx(x) for x in ((3 / 9, 3 / 9), (4 / 9, 4 / 6), (2 / 9, 2 / 3))
    ]


def test_the_originals_count_the_space_at_the_beginning_as_a_word():
    """ " a b" and " a c" are 6 words to them, {"", a, b, c}, {" a", "a b", "a c"}."""
    texts = of((" a b", " a c"))
    one, two, _ = distinct(texts, "space")
    assert one.words.mean == pytest.approx(4 / 6) and two.words.mean == pytest.approx(3 / 6)
    one, two, _ = distinct(texts)
    assert one.words.mean == pytest.approx(3 / 4) and two.words.mean == pytest.approx(2 / 4)
    assert words("a\tb\n", "space") == ["a\tb\n"] and words("a\tb\n") == ["a", "b"]


def test_words_are_not_run_together():
    """ "x_y z" and "x y_z" would be one bigram if words were joined by an underscore."""
    assert ratios([["x_y", "z"], ["x", "y_z"]], 2) == (0.5, 1.0)


def test_nothing_to_divide_by_is_in_no_mean():
    one, two, three = distinct(of(("", ""), ("a b",)))
    assert (one.words.n, two.ngrams.n, three.words.n, three.ngrams.n) == (1, 1, 1, 0)
    assert three.words.mean == 0 and three.ngrams.mean is None and three.corpus_ngrams is None
    assert distinct(of(("",)))[0].corpus_words is None


@given(WORDS, st.integers(1, 3))
def test_shares_are_shares_and_repeats_only_lower_them(answers, n):
    by_words, by_ngrams = ratios(answers, n)
    for value in (by_words, by_ngrams):
        assert value is None or 0 <= value <= 1
    if by_words is not None and by_ngrams is not None:
        assert by_words <= by_ngrams or n == 1
    again = ratios(answers * 2, n)
    assert again == tuple(None if x is None else pytest.approx(x / 2) for x in (by_words, by_ngrams))
