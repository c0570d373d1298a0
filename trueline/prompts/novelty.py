"""Is a text new? ROUGE-L against all that are there, and an index that looks at few of them.

    known = Known(RougeL(), 0.5)
    known.add("How do I bake bread?")
    known.nearest("How do I bake a cake?")          Near(at=0, score=0.727...): 8 / 11, the words "how do i bake"

A measure turns a text into words and compares two texts. Its score never exceeds 2 |common words| / (|words| +
|words|), since a subsequence that both texts have is made of words that both have. `Known` counts common words in an
inverted index and compares only where that bound reaches the threshold, so the answer is exactly that of comparing with
every text (a test holds the two together).
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from trueline.errors import UserError
from trueline.fingerprint import File

# Letters of scripts that put no spaces between words (kana, Han, Thai, Lao, Khmer, Burmese) are words one by one.
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\W_]+")
SLACK = 1e-9
"""What rounding may take from a score: one that is a threshold on paper reaches it here."""


@runtime_checkable
class Measure(Protocol):
    """How near two texts are, from 0 to 1, at most 2 |common words| / (|words| + |words|).

    `words` are the text's, a repeated one as often as it may count.
    """

    @property
    def name(self) -> str: ...

    def words(self, text: str) -> tuple[str, ...]: ...

    def score(self, text: str, other: str) -> float: ...


@dataclass(frozen=True)
class RougeL:
    """ROUGE-L F1, 2 LCS / (m + n), by the library `rouge-score`; repeated words count as often as they stand.

    Words are runs of letters and digits without case (NFKC), punctuation is none. A text without words is near nothing.

    >>> RougeL().words("Don't PANIC: 2 × 2!"), round(RougeL().score("a b c d", "d c b a"), 6)
    (('don', 't', 'panic', '2', '2'), 0.25)
    """

    @property
    def name(self) -> str:
        return "ROUGE-L F1"

    def words(self, text: str) -> tuple[str, ...]:
        """The words that are compared."""
        return words(text)

    def score(self, text: str, other: str) -> float:
        """F1 of the longest common subsequence."""
        return float(_scorer().score(other, text)["rougeL"].fmeasure)


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
    """See `RougeL`."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        def tokenize(self, text: str) -> tuple[str, ...]:
            return words(text)

    return RougeScorer(["rougeL"], tokenizer=Words())


@dataclass(frozen=True)
class RougeSets:
    """ROUGE-L as the package `rouge` 1.0.1 computes it: sentences end at every ".", words are a set, and what is common
    is the set of words on one longest common subsequence per pair of sentences; F = 2PR / (P + R + 1e-8).

    vocab: a vocab.txt of WordPiece, for what ALMoST's released code compared (bert-base-uncased's, pieces joined by
    spaces); None splits at spaces. A text of full stops alone, which is an error there, is near nothing here.

    >>> round(RougeSets().score("the cat and the dog and the bird", "the dog and the cat and the bird"), 6)
    0.6
    """

    vocab: File | None = None

    @property
    def name(self) -> str:
        return "ROUGE-L of the package rouge 1.0.1"

    def sentences(self, text: str) -> list[tuple[str, ...]]:
        """The words of each sentence."""
        if self.vocab is not None:
            text = " ".join(_pieces(str(self.vocab.path), self.vocab.sha256, text))
        return [tuple(" ".join(part.split()).split(" ")) for part in text.split(".") if part]

    def words(self, text: str) -> tuple[str, ...]:
        """The set of words, in order."""
        return tuple(dict.fromkeys(word for sentence in self.sentences(text) for word in sentence))

    def score(self, text: str, other: str) -> float:
        """F of the union of common subsequences."""
        mine, theirs = self.sentences(text), self.sentences(other)
        if not mine or not theirs:
            return 0.0
        common = {word for reference in theirs for sentence in mine for word in subsequence(reference, sentence)}
        recall, precision = len(common) / len(self.words(other)), len(common) / len(self.words(text))
        return 2 * precision * recall / (precision + recall + 1e-8)


def subsequence(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """A longest common subsequence; of several the one that drops words at the end of `other` first."""
    rows, columns = len(one), len(other)
    table = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows):
        for j in range(columns):
            table[i + 1][j + 1] = table[i][j] + 1 if one[i] == other[j] else max(table[i][j + 1], table[i + 1][j])
    found, i, j = [], rows, columns
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


@functools.lru_cache(maxsize=1 << 16)
def _pieces(path: str, sha256: str, text: str) -> tuple[str, ...]:
    return tuple(_wordpiece(path, sha256).encode(text, add_special_tokens=False).tokens)


@functools.lru_cache(maxsize=4)
def _wordpiece(path: str, sha256: str) -> Any:
    from tokenizers import BertWordPieceTokenizer

    try:
        return BertWordPieceTokenizer(path, lowercase=True)
    except Exception as error:  # the library raises what its core raises
        raise UserError(path, f"it is no WordPiece vocabulary ({error})", "a vocab.txt, a piece per line") from None


class Near(NamedTuple):
    """The text that one is nearest to: its number in the order of adding, and the score."""

    at: int
    score: float


class Known:
    """Texts in the order of adding, and which of them a new one is too near to.

    threshold: texts that score so much or more are near, above 0 and at most 1. compared: how many pairs the measure
    was asked about, of those that a plain scan would ask about.
    """

    def __init__(self, measure: Measure, threshold: float) -> None:
        self.measure, self.threshold = measure, threshold
        self.texts: list[str] = []
        self.compared = 0
        self._bags: list[frozenset[tuple[str, int]]] = []
        self._sizes = array("q")
        self._postings: dict[tuple[str, int], array[int]] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str) -> None:
        """One more."""
        bag = self._bag(text)
        for word in bag:
            self._postings.setdefault(word, array("q")).append(len(self.texts))
        self.texts.append(text)
        self._bags.append(bag)
        self._sizes.append(len(bag))

    def nearest(self, text: str) -> Near | None:
        """The nearest text, the earliest of several; None where none is near."""
        bag = self._bag(text)
        bounds = sorted((-self._bound(bag, at), at) for at in self._candidates(bag))
        best: Near | None = None
        for bound, at in bounds:
            if -bound < max(self.threshold, best.score if best else 0.0) - SLACK:
                break
            self.compared += 1
            score = self.measure.score(text, self.texts[at])
            if score < self.threshold - SLACK:
                continue
            if best is None or score > best.score or (score == best.score and at < best.at):
                best = Near(at, score)
        return best

    def _bag(self, text: str) -> frozenset[tuple[str, int]]:
        """The words, the second "the" told from the first, so that common words are those of two sets."""
        counted: Counter[str] = Counter()
        bag = []
        for word in self.measure.words(text):
            bag.append((word, counted[word]))
            counted[word] += 1
        return frozenset(bag)

    def _bound(self, bag: frozenset[tuple[str, int]], at: int) -> float:
        return 2 * len(bag & self._bags[at]) / (len(bag) + self._sizes[at])

    def _candidates(self, bag: frozenset[tuple[str, int]]) -> list[int]:
        """All texts whose bound reaches the threshold, and some more.

        A text of n words must have `need` = threshold (m + n) / 2 of the m words in common. The shortest text that can
        needs the fewest, `fewest`, so the fewest - 1 commonest words are not looked up: any such text has at least
        need - (fewest - 1) of the others, one or more.
        """
        import numpy as np

        m = len(bag)
        # The shortest text that may be near has n words, all of them common: n = threshold (m + n) / 2.
        shortest = math.ceil(self.threshold * m / (2 - self.threshold) - SLACK)
        fewest = max(math.ceil(self.threshold * (m + shortest) / 2 - SLACK), 1)
        held = sorted((self._postings[word] for word in bag if word in self._postings), key=len)
        skipped = min(fewest - 1, len(held))
        looked_up = [np.frombuffer(posting, dtype=np.int64) for posting in held[: len(held) - skipped]]
        if not looked_up:
            return []
        counts_N = np.bincount(np.concatenate(looked_up))
        at_C = np.flatnonzero(counts_N)
        sizes_C = np.frombuffer(self._sizes, dtype=np.int64)[at_C]
        need_C = np.ceil(self.threshold * (m + sizes_C) / 2 - SLACK)
        return at_C[counts_N[at_C] + skipped >= need_C].tolist()
