"""Micro-batches: what goes together, what it costs, and what an objective finds in it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.train import tiny
from trueline import trie
from trueline.errors import UserError
from trueline.train.batches import beginning_alike, check_stripped, collate, micro_batches
from trueline.train.rows import Row

PROMPT, CONDITION, ANSWER = 40, 20, 10


def samples(prompts=1, conditions=5, each=4, stripped=True, seed=0):
    """Answers of 10 tokens to prompts of 40, under conditions of 20, shuffled; no two begin alike by chance."""
    rng = np.random.default_rng(seed)
    said = [[rank + 3, *rng.integers(3, 64, CONDITION - 1)] for rank in range(conditions)]
    out = []
    for number in range(prompts):
        prompt = [number + 3, *rng.integers(3, 64, PROMPT - 1)]
        for rank, condition in enumerate(said):
            for k in range(each):
                answer = [3 + each * rank + k, *rng.integers(3, 64, ANSWER - 2), tiny.END]
                ours = (trie.Sequence.of([*condition, *prompt], answer),)
                bare = (trie.Sequence.of(prompt, answer),) if stripped else ()
                cost = trie.size(ours) + (trie.size(bare) if bare else 0)
                out.append(Row(ours, (True,), f"{number}/{rank}/{k}", cost=cost, rank=rank, reference=bare))
    rng.shuffle(out)
    return out


def test_answers_to_one_prompt_pay_for_it_once_per_condition():
    """20 answers under five conditions: 5 * 60 + 20 * 10 tokens for the policy, 40 + 20 * 10 for the reference."""
    rows = samples()
    (batch,) = micro_batches(rows, range(20), 10_000, None)
    assert len(batch.trie) == 5 * (CONDITION + PROMPT) + 20 * ANSWER
    assert len(batch.reference_trie) == PROMPT + 20 * ANSWER
    assert batch.n == 20 and sorted(batch.ranks) == sorted([0, 1, 2, 3, 4] * 4)
    assert [rows.index(row) for row in rows if row.key in batch.keys] == list(range(20))


@pytest.mark.parametrize("budget", [740, 739, 300, 120, 1])
def test_both_tries_share_a_budget(budget):
    """No batch is above it unless a row alone is; every row is in one batch; scored tokens stay aligned."""
    rows = samples()
    batches = micro_batches(rows, range(20), budget, None)
    assert (len(batches) == 1) == (budget >= 740)
    assert sorted(key for batch in batches for key in batch.keys) == sorted(row.key for row in rows)
    for batch in batches:
        assert len(batch.trie) + len(batch.reference_trie) <= budget or batch.n == 1
        assert batch.trie.entry_seq_E.tolist() == batch.reference_trie.entry_seq_E.tolist()
        ours, theirs = (t.target_R[t.entry_row_E].tolist() for t in (batch.trie, batch.reference_trie))
        assert ours == theirs


def test_what_is_cut_is_cut_between_prompts_then_between_conditions():
    """Two prompts under two conditions in batches of one prompt: each batch pays its prompt once on either side."""
    rows = samples(prompts=2, conditions=2, each=2)
    room = 2 * (CONDITION + PROMPT) + 4 * ANSWER + PROMPT + 4 * ANSWER
    batches = micro_batches(rows, range(8), room, None)
    assert [len({key[0] for key in batch.keys}) for batch in batches] == [1, 1]
    assert all(len(batch.trie) + len(batch.reference_trie) == room for batch in batches)


def test_rows_that_share_nothing_stay_in_the_order_they_were_dealt():
    rows = tiny.rows(6)
    assert beginning_alike(rows) is None and beginning_alike(rows[:1]) is None
    (batch,) = micro_batches(rows, [4, 0, 2], 10_000, None)
    assert batch.keys == ["row-4", "row-0", "row-2"] and batch.reference_trie is None
    assert beginning_alike(samples(stripped=False)) is not None


def test_rows_without_bare_prompts_are_refused_where_the_reference_reads_those():
    check_stripped(samples(), frozenset({"stripped"}))
    check_stripped(tiny.rows(2), frozenset({"logps"}))
    with pytest.raises(UserError, match="no bare prompts"):
        check_stripped(tiny.rows(2), frozenset({"stripped"}))


def test_a_batch_moves_as_a_whole():
    from trueline.train.batches import to

    batch = to(collate(samples(each=1)), "meta")
    assert batch.trie.tokens_T.device.type == batch.reference_trie.tokens_T.device.type == "meta"
