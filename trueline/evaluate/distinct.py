"""Distinct-n: how many of the n-grams in answers are different ones.

After Li et al. 2016, in two denominators: all *words*, as Quark and ALT divide (so that distinct-2 and distinct-3 of
short answers stay below 1 even where nothing repeats), and all *n-grams*. Per prompt over its answers, averaged over
prompts, and over all answers at once. An n-gram never runs from one answer into the next.

    answers "a b a" and "a c": 5 words, n-grams {a b, b a, a c}, 3 in all
    distinct-1: 3 / 5; distinct-2: 3 / 5 by words, 3 / 3 by n-grams; distinct-3: 1 / 5, 1 / 1

Words are what white space parts (`str.split()`). The originals cut at single spaces: a space at the beginning, or two
in a row, then make an empty word. Their texts begin with a space, so their figures need `split="space"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from trueline.evaluate.statistics import Interval, mean_interval
from trueline.records import Group, Record

NS = (1, 2, 3)

Split = Literal["words", "space"]


class Distinct(Record, frozen=True):
    """Distinct-n of an arm: means over prompts by both denominators, and the same over the whole corpus.

    A prompt without words (or n-grams) is in no mean. The corpus figures have no interval: they fall as the corpus
    grows, so a resample, which repeats answers, is no second corpus; compare corpora of about as many words.
    """

    n: int
    words: Interval
    ngrams: Interval
    corpus_words: float | None = None
    corpus_ngrams: float | None = None


def distinct(groups: Sequence[Group], split: Split = "words", ns: Sequence[int] = NS) -> tuple[Distinct, ...]:
    """Distinct-n for each n; answers to a prompt that is asked twice count together."""
    cut: dict[str, list[list[str]]] = {}
    for group in groups:
        cut.setdefault(group.prompt.id, []).extend(words(c.text, split) for c in group.completions)
    every = [answer for of in cut.values() for answer in of]
    out = []
    for n in ns:
        shares = [ratios(of, n) for of in cut.values()]
        by_words, by_ngrams = ([share[at] for share in shares] for at in (0, 1))
        out.append(Distinct(n, mean_interval(by_words), mean_interval(by_ngrams), *ratios(every, n)))
    return tuple(out)


def words(text: str, split: Split = "words") -> list[str]:
    """The words of an answer.

    >>> words(" a  b"), words(" a  b", "space")
    (['a', 'b'], ['', 'a', '', 'b'])
    """
    return text.split(" ") if split == "space" else text.split()


def ratios(answers: Iterable[Sequence[str]], n: int) -> tuple[float | None, float | None]:
    """Different n-grams over all words and over all n-grams; None where there are none to divide by.

    >>> ratios([["a", "b", "a"], ["a", "c"]], 2)
    (0.6, 1.0)
    """
    different: set[tuple[str, ...]] = set()
    count = ngrams = 0
    for answer in answers:
        found = [tuple(answer[at : at + n]) for at in range(len(answer) - n + 1)]
        different.update(found)
        count += len(answer)
        ngrams += len(found)
    return (len(different) / count if count else None, len(different) / ngrams if ngrams else None)
