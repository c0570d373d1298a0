"""Examples cut into micro-batches by what they add to a trie, or to several at once."""

from __future__ import annotations

from trueline.trie import Sequence, pack, size
from trueline.trie.packing import pack_beside


def test_pack_cuts_by_trie_tokens():
    """Costs 3, 4, 5, 10, 1 under a budget of 8: [3, 4], [5], [10 alone], [1]."""
    assert pack([3, 4, 5, 10, 1], 8) == [[0, 1], [2], [3], [4]]
    assert pack([], 8) == []


def test_pack_pays_for_a_shared_prefix_once_per_batch():
    """Items of 100 shared and 10 own tokens: 110 for the first of a batch and 10 for each further one."""
    items = [[Sequence.of(range(100), [number] * 10)] for number in range(200, 206)]
    assert pack(items, 130) == [[0, 1, 2], [3, 4, 5]]
    assert pack([size(item) for item in items], 130) == [[0], [1], [2], [3], [4], [5]]


def test_two_tries_share_a_budget():
    """Answers of 10 under their own condition of 50, and after the bare prompt of 40: the first of a batch costs 60 +
    50, every other one under the same condition 10 + 10, the next condition's first one 60 + 10."""
    prompt = list(range(40))
    items = [
        [[Sequence.of([*range(100 * c, 100 * c + 10), *prompt], tail)], [Sequence.of(prompt, tail)]]
        for c, k in ((5, 0), (5, 1), (6, 2), (6, 3))
        for tail in [range(1000 + 10 * k, 1010 + 10 * k)]
    ]
    assert pack_beside(items, 220) == [[0, 1, 2, 3]]
    assert pack_beside(items, 219) == [[0, 1, 2], [3]]
    assert pack_beside([[10, 5], [4], [7, 8]], 15) == [[0], [1], [2]]
