"""Novelty: the published values of both measures, and an index that answers as comparing with every text would."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.fingerprint import File
from trueline.prompts.novelty import SLACK, Known, Measure, Near, RougeL, RougeSets, subsequence

MEASURES = [RougeL(), RougeSets()]
TEXTS = st.lists(st.text("aaabbc de.", max_size=14) | st.lists(st.sampled_from(list("abcd.?"))).map(" ".join))


@pytest.mark.parametrize(
    ("candidate", "reference", "sets", "ordinary"),
    [
        ("how do i bake bread ?", "how do i bake bread ?", 0.999999995, 1),
        ("how do i bake bread ?", "how do i bake a cake ?", 0.769231, 8 / 11),
        (
            "what is the best way to learn french ?",
            "what is the best way to learn to play the guitar ?",
            0.842105,
            14 / 19,
        ),
        ("can you tell me how to plant tomatoes ?", "what are the steps for making a margarita ?", 0.111111, 0),
        ("the cat and the dog and the bird", "the dog and the cat and the bird", 0.6, 12 / 16),
        ("tell me a joke . then explain it .", "tell me a joke then explain it", 1.0, 1),
        ("a b c d", "d c b a", 0.25, 0.25),
        ("?", "how do i bake bread ?", 0.285714, 0),
        (".", "anything", 0.0, 0),
    ],
)
def test_the_values_of_both_measures(candidate, reference, sets, ordinary):
    """Sets as in rouge 1.0.1 (the lone full stop, an error there, is near nothing); ordinary: 2 LCS / (m + n)."""
    assert RougeSets().score(candidate, reference) == pytest.approx(sets, abs=1e-6)
    assert RougeL().score(candidate, reference) == pytest.approx(ordinary)


def test_words_are_letters_and_digits_of_any_script():
    """rouge-score's own tokeniser knows a to z only: two Chinese sentences would have nothing in common, or Greek."""
    assert RougeL().words("How’s IT, at 5:30?") == ("how", "s", "it", "at", "5", "30")
    assert RougeL().words("Πώς ψήνω;") == ("πώσ", "ψήνω"), "case folding knows one sigma"
    assert RougeL().words("ｆｕｌｌ 天気は?") == ("full", "天", "気", "は")
    assert RougeL().score("今日の天気", "明日の天気") == pytest.approx(0.8)
    assert RougeL().words("?!") == () and RougeL().score("?!", "?!") == 0


def test_sentences_end_at_every_full_stop_and_words_are_a_set():
    assert RougeSets().sentences("a b. a e.g. c") == [("a", "b"), ("a", "e"), ("g",), ("c",)]
    assert RougeSets().words("a b. a b") == ("a", "b")
    assert subsequence("abcbdab", "bdcaba") == list("bdab")


def test_wordpieces_of_a_vocabulary(tmp_path):
    """ "baking" is bak ##ing: a text of other words shares a piece."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "like", "bak", "##ing", "sing", "?"]))
    measure = RougeSets(File(path))
    assert measure.words("I like BAKING?") == ("i", "like", "bak", "##ing", "?")
    assert measure.score("i like baking ?", "i like bak") == pytest.approx(2 * (3 / 5) / (1 + 3 / 5), abs=1e-6)
    with pytest.raises(UserError, match="no WordPiece vocabulary"):
        RougeSets(File(tmp_path)).words("a")


def plain(measure: Measure, texts: list[str], text: str, threshold: float) -> Near | None:
    """The nearest text by comparing with each."""
    scores = [measure.score(text, other) for other in texts]
    best = max(scores, default=0.0)
    return Near(scores.index(best), best) if scores and best >= threshold - SLACK else None


@given(TEXTS, st.sampled_from(MEASURES), st.sampled_from([0.2, 1 / 3, 0.5, 0.7, 1.0]))
def test_the_index_answers_as_a_plain_scan(texts, measure, threshold):
    known = Known(measure, threshold)
    for at, text in enumerate(texts):
        assert known.nearest(text) == plain(measure, texts[:at], text, threshold)
        known.add(text)
    assert len(known) == len(texts)


@given(st.text("ab .", max_size=12), st.text("ab .", max_size=12), st.sampled_from(MEASURES))
def test_a_score_never_exceeds_the_bound_of_common_words(one, other, measure):
    mine, theirs = measure.words(one), measure.words(other)
    common = sum(min(mine.count(word), theirs.count(word)) for word in set(mine))
    assert measure.score(one, other) * (len(mine) + len(theirs)) <= 2 * common + 1e-9


def test_few_pairs_are_compared():
    """Sentences over a vocabulary of 500: of 300 x 299 / 2 pairs fewer than one in 50 is looked at."""
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(500)]
    weights = [1 / (1 + i) for i in range(500)]
    known = Known(RougeL(), 0.5)
    for _ in range(300):
        text = " ".join(rng.choices(vocabulary, weights, k=rng.randint(5, 14)))
        known.nearest(text)
        known.add(text)
    assert 0 < known.compared < 300 * 299 / 2 / 50
