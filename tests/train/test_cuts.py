"""The cuts and the order of DPO's reference implementation, by its published lengths and permutations; and ours."""

from __future__ import annotations

import numpy as np
import pytest

from tests import folders
from trueline.chat import Renderer
from trueline.errors import UserError
from trueline.records import Message
from trueline.train.cuts import CutBoth
from trueline.train.rows import Encoder, composed, encode, plan, steps_per_epoch
from trueline.train.settings import Recurrence, Settings
from trueline.train.views import Answer, Example


@pytest.fixture(scope="module")
def renderer():
    return Renderer(folders.tokenizer())


TABLE = [
    (300, 300, 100, 256, (512, False), (357, True)),
    (200, 400, 50, 200, (456, False), (251, True)),
    (480, 20, 20, 480, (501, True), (501, True)),
    (600, 10, 10, 256, (267, True), (267, True)),
    (100, 411, 100, 100, (512, True), (201, True)),
    (100, 412, 100, 100, (356, False), (201, True)),
]


@pytest.mark.parametrize(("prompt", "chosen", "rejected", "kept", "left", "right"), TABLE)
def test_the_lengths_that_are_published(prompt, chosen, rejected, kept, left, right):
    """Tokens without the end-of-turn in, tokens with it (if it is still there) out; at most 512, prompts 256."""
    ids, room = CutBoth(256)(range(prompt), (chosen + 1, rejected + 1), 512)
    assert len(ids) == kept and ids[-1] == prompt - 1
    assert [(kept + min(n + 1, room), n + 1 <= room) for n in (chosen, rejected)] == [left, right]
    assert CutBoth(256, keep="start")(range(prompt), (chosen + 1, rejected + 1), 512)[0][0] == 0


def rows(renderer, words, answers, long, **options):
    """The row of a prompt and answers of so many times the word "bread", at most 80 tokens."""
    asked = (Message("user", "bread " * words),)
    example = Example(asked, tuple(Answer(("bread " * n).strip()) for n in answers))
    encoder = Encoder(renderer, 80, long, **options)
    (row,) = encode([example], encoder)
    return row, encoder, encoder.renderer.prompt_ids(asked)


def test_rows_are_cut_as_the_rule_says(renderer):
    """The end of the prompt is kept, an answer that is cut trains no end-of-turn, and what was cut is counted."""
    row, encoder, prompt = rows(renderer, 200, (2, 1), CutBoth(16))
    assert len(prompt) > 200 and encoder.cut_prompts == 1 and encoder.cut == 0 and row.ended == (True, True)
    assert row.sequences[0].ids[:16].tolist() == prompt[-16:]
    row, encoder, prompt = rows(renderer, 2, (200, 1), CutBoth(24))
    assert row.ended == (False, True) and encoder.cut == 1
    assert int(row.sequences[0].scored.sum()) == 80 - 24
    end = renderer.end_id
    assert [int((s.ids[s.scored] == end).sum()) for s in row.sequences] == [0, 1]
    read, *_ = rows(renderer, 2, (200, 1), CutBoth(24), closed=True)
    assert renderer.closes_answer(read.sequences[0].ids.tolist()) and read.ended == (False, True)


def test_cuts_that_cannot_be_are_refused(renderer):
    with pytest.raises(UserError, match=r"CutBoth\(79\)\): max_length is 80; room for an answer"):
        Encoder(renderer, 80, CutBoth(79))
    with pytest.raises(UserError, match="a reference reads the answers after the bare prompt"):
        Encoder(renderer, 80, CutBoth(16), stripped=True)
    with pytest.raises(UserError, match='"end" or "start"'):
        CutBoth(16, keep="middle")
    with pytest.raises(UserError, match="at least 1 token"):
        CutBoth(0)


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_orders_that_are_published():
    """Seed 0, ten rows: each epoch shuffles the last one's order."""
    assert [order.tolist() for order in composed(10, 0, 3)] == [
        [8, 7, 2, 4, 1, 5, 3, 9, 0, 6], [1, 2, 8, 3, 9, 5, 6, 4, 0, 7], [0, 2, 7, 4, 6, 1, 5, 9, 3, 8],
    ]  # fmt: skip


def test_batches_that_are_not_full_are_left_out_there_and_trained_here():
    """805 rows by 32 are 25 batches there and 26 here, the last of 5; 10 rows by 4, twice, 4 batches and 6."""
    assert steps_per_epoch(805, 32, "composed") == 25 == len(list(plan(805, 32, 1, 0, kind="composed")))
    ours = list(plan(805, 32, 1, 0))
    assert len(ours) == 26 == steps_per_epoch(805, 32) and len(ours[-1]) == 5
    theirs = list(plan(10, 4, 2, 0, kind="composed"))
    assert [batch.tolist() for batch in theirs] == [[8, 7, 2, 4], [1, 5, 3, 9], [1, 2, 8, 3], [9, 5, 6, 4]]
    assert len(list(plan(10, 4, 2, 0))) == 6
    assert all(
        np.array_equal(a, b) for a, b in zip(plan(10, 4, 2, 0, start=3, kind="composed"), theirs[3:], strict=True)
    )
    with pytest.raises(UserError, match="3 rows are fewer than one batch of 4"):
        list(plan(3, 4, 1, 0, kind="composed"))


def test_the_order_is_a_setting_that_does_not_fork_the_past():
    from trueline.fingerprint import fingerprint

    assert fingerprint(Settings()) == fingerprint(Settings(order="fresh")) != fingerprint(Settings(order="composed"))
    with pytest.raises(UserError, match='"fresh", "together" or "composed"'):
        Settings(order="random")
    with pytest.raises(UserError, match="streams are read in one order"):
        Settings(order="composed", recurrence=Recurrence())


# --- from the left ---------------------------------------------------------------------------------------------------


def test_from_the_left_the_end_of_every_text_stays(renderer):
    """80 tokens: the prompt loses its beginning, by as much as each answer needs, down to what opens the answer; then
    the answer does. The end-of-turn is the last token of all, and what was cut is counted."""
    row, encoder, prompt = rows(renderer, 200, (2, 1), "left")
    assert (encoder.cut_prompts, encoder.cut, row.ended) == (1, 0, (True, True))
    for sequence, answer in zip(row.sequences, (2, 1), strict=True):
        ids = renderer.answer_ids(("bread " * answer).strip(), True)
        assert len(sequence) == 80 and sequence.ids.tolist() == (prompt + ids)[-80:]
        assert sequence.ids[sequence.scored].tolist() == ids
    row, encoder, prompt = rows(renderer, 2, (200, 1), "left", closed=True)
    long, short = row.sequences
    assert (encoder.cut_prompts, encoder.cut, len(long)) == (1, 1, 80)
    ids = renderer.answer_ids("bread " * 199 + "bread", True)
    kept = int(long.scored.sum()) + 1
    assert long.ids.tolist() == prompt[kept - 80 :] + ids[-kept:] and 0 < 80 - kept < 12
    assert all(renderer.closes_answer(s.ids.tolist()) for s in row.sequences)
    assert short.ids[: len(prompt)].tolist() == prompt
    with pytest.raises(UserError, match="cutting from the left: 3 tokens"):
        renderer.last(prompt, ids, 3)


def test_from_the_left_what_fits_is_what_it_is_and_what_cannot_be_cut_is_refused(renderer):
    whole, *_ = rows(renderer, 2, (3, 1), "left")
    plain, *_ = rows(renderer, 2, (3, 1), "drop")
    assert [s.ids.tolist() for s in whole.sequences] == [s.ids.tolist() for s in plain.sequences]
    with pytest.raises(UserError, match="a reference reads the answers after the bare prompt"):
        Encoder(renderer, 80, "left", stripped=True)
    same = Example((Message("user", "Who?"),), (Answer("bread " * 200), Answer("bread " * 201)))
    with pytest.raises(UserError, match="the two answers end alike, and begin beyond max_length"):
        encode([same], Encoder(renderer, 80, "left"))
    talk = (Message("user", "Who?"), Message("assistant", "Ada. " * 90), Message("user", "Where?"))
    with pytest.raises(UserError, match="its earlier turns are trained"):
        encode([Example(talk, (Answer("Here."),), turns="all")], Encoder(renderer, 80, "left"))
