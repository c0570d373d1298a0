"""Recurrent training: what a stream is, that its memory is the text before, and that its order cannot be lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests import folders
from tests.toys import ask
from tests.train import tiny
from tests.train.town import texts
from trueline import lswt, models, trie
from trueline.errors import UserError
from trueline.lswt import LSWTConfig, LSWTForCausalLM
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.store import using
from trueline.train import batches, streams
from trueline.train.fit import fit
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.rows import Row
from trueline.train.settings import Recurrence, Settings
from trueline.train.stage import freeze_parts, train
from trueline.train.views import Documents
from trueline.trie import attention
from trueline.work import Work

CPU = Machine(device="cpu", threads=1)


def model(dtype=torch.float32, **changes):
    """A random LSWT in training mode, ready for tries."""
    sizes = {"vocab_size": 64, "d_vocab": 16, "d_model": 32, "d_ffn": 48, "n_heads": 4, "n_layers": 2, "init_std": 0.2}
    torch.manual_seed(0)
    made = LSWTForCausalLM(LSWTConfig(**(sizes | changes))).to(dtype).train()
    return attention.enable(made) or made


def documents(n=9, seed=0):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 64, rng.integers(4, 15)) for _ in range(n)]
    return [Row((trie.Sequence.of(x[:1], x[1:]),), (False,), f"d{i}", whole=True) for i, x in enumerate(ids)]


def settings(**changes):
    plain = {"lr": 0.0, "batch_size": 3, "schedule": "constant", "warmup": 0, "max_grad_norm": 0}
    return Settings(**(plain | {"recurrence": Recurrence(5, 1000)} | changes))


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_tape_of_11_tokens_in_2_streams_by_2():
    """Ten predictions, five a stream: segments of 2, 2 and 1; all first segments, then all second ones. The first token
    of a document is not scored, as in any other training, nor a stream's; the last token is left out of no stream.
    """
    rows = [Row((trie.Sequence.of([x], range(x + 1, x + n)),), (False,), str(x)) for x, n in ((0, 4), (10, 7))]
    packed = streams.pack(rows, 2, 2, seed=0)
    tape = [10, 11, 12, 13, 14, 15, 16, 0, 1, 2, 3]
    if packed[0].sequences[0].ids[0] == 0:
        tape = [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16]
    cuts = [(0, 3), (5, 8), (2, 5), (7, 10), (4, 6), (9, 11)]
    assert [row.sequences[0].ids.tolist() for row in packed] == [tape[a:b] for a, b in cuts]
    for row in packed:
        (s,) = row.sequences
        assert s.scored.tolist() == [False, *(x not in (0, 10) for x in s.ids[1:])]
    assert [streams.place_of(row.key) for row in packed] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_an_epoch_reads_every_token_but_a_few():
    rows = documents()
    total = sum(row.tokens for row in rows)
    for width in (1, 2, 3):
        packed = streams.pack(rows, width, 5, seed=1)
        assert total - width <= sum(len(row.sequences[0]) - 1 for row in packed) < total
        assert len(packed) % width == 0
    with pytest.raises(UserError, match=f"{total} tokens for 500 streams"):
        streams.pack(rows, 500, 5, seed=0)


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"recompute_kv": True}])
@pytest.mark.parametrize("micro_tokens", [8192, 7])
def test_with_enough_memory_segments_are_one_text(changes, micro_tokens):
    """With weights that stand still, the losses of all steps are those of each whole stream read at once."""
    made, given = model(torch.float64, **changes), settings()
    packed = streams.pack(documents(), given.batch_size, 5, seed=0)
    machine = dataclasses.replace(CPU, micro_tokens=micro_tokens)
    history = fit(made, packed, SFT(), given, machine=machine)
    steps = len(packed) // 3
    assert [row["step"] for row in history] == list(range(1, steps + 1))
    for step in range(steps):
        nll, count = 0.0, 0
        for stream in range(3):
            parts = [packed[t * 3 + stream].sequences[0] for t in range(step + 1)]
            ids = np.concatenate([parts[0].ids[:1], *(s.ids[1:] for s in parts)])
            flags = np.concatenate([np.zeros(ids.size - len(parts[-1]) + 1, bool), parts[-1].scored[1:]])
            with torch.no_grad():
                logps = made(torch.from_numpy(ids)[None], use_cache=False).logits[0].log_softmax(-1)
            nll -= float(logps[:-1].gather(1, torch.from_numpy(ids)[1:, None])[:, 0][flags[1:]].sum())
            count += int(flags.sum())
        assert history[step]["loss"] == pytest.approx(nll / count, rel=1e-6)


def test_memory_is_cut_to_its_length():
    made, given = model(), settings(recurrence=Recurrence(5, 3))
    memory = streams.Memory(given.recurrence)
    packed = streams.pack(documents(), 3, 5, seed=0)
    for t in range(3):
        memory.forward(made, batches.collate(packed[3 * t : 3 * t + 3]))
    assert {x.shape[-2] for layers in memory.rows.values() for tensors in layers for x in tensors} == {3}


def test_shuffled_rows_break_the_recurrence():
    """A segment after any other than the one before it is refused; and were it not, its numbers would be others."""
    made, packed = model(), streams.pack(documents(), 2, 5, seed=0)
    memory = streams.Memory(Recurrence(5, 100))
    memory.forward(made, batches.collate(packed[:2]))
    with pytest.raises(ValueError, match="segment 2 of stream 0 cannot follow 0"):
        memory.forward(made, batches.collate(packed[4:6]))
    kept = memory.rows.copy()
    wanted = memory.forward(made, batches.collate(packed[2:4])).logps_N
    memory.rows, memory.last = {0: kept[1], 1: kept[0]}, {0: 0, 1: 0}
    swapped = memory.forward(made, batches.collate(packed[2:4])).logps_N
    assert bool(((swapped - wanted).abs() > 1e-2).all())
    memory.rows, memory.last = kept, {0: 0, 1: 0}
    again = memory.forward(made, batches.collate([packed[3], packed[2]])).logps_N
    torch.testing.assert_close(again[[1, 0]], wanted)


def test_an_epoch_begins_without_memory():
    history = fit(model(), streams.pack(documents(), 3, 5, seed=0), SFT(), settings(epochs=2), machine=CPU)
    half = len(history) // 2
    assert [row["loss"] for row in history[:half]] == [row["loss"] for row in history[half:]]


def test_recurrence_learns_what_lies_beyond_a_segment():
    """0 0 1 1 0 0 1 1 ... read one token at a time: what follows is told by the token before. The same rows without
    memory know the current token alone, and stay at ln 2 = 0.693. Keys and values are made anew from what is
    remembered, or segments of one token would never train their projections.
    """
    tape = np.tile([0, 0, 1, 1], 24)
    rows = [Row((trie.Sequence.of(tape[:1], tape[1:]),), (False,), "tape", whole=True)]
    packed = streams.pack(rows, 4, 1, seed=0)
    losses = {}
    for recurrence in (None, Recurrence(1, 3)):
        given = settings(lr=1e-2, epochs=3, recurrence=recurrence, batch_size=4)
        history = fit(model(n_layers=1, recompute_kv=True), packed, SFT(), given, machine=CPU)
        losses[recurrence] = np.mean([row["loss"] for row in history[-10:]])
    assert losses[Recurrence(1, 3)] < 0.1
    assert losses[None] > 0.55


def test_a_training_that_goes_on_remembers(tmp_path):
    """A checkpoint every other step; run again, it goes on from the last one to the same weights."""
    packed = streams.pack(documents(), 3, 5, seed=0)
    work = Work(tmp_path, dataclasses.replace(CPU, checkpoint_steps=2), ask(1))
    given, whole, resumed = settings(lr=1e-2), model(), model()
    first = fit(whole, packed, SFT(), given, machine=work.machine, work=work)
    rest = fit(resumed, packed, SFT(), given, machine=work.machine, work=work)
    assert 0 < len(rest) <= 2 < len(first)
    assert [row["loss"] for row in rest] == [row["loss"] for row in first[-len(rest) :]]
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_what_cannot_be_trained_over_streams():
    packed = streams.pack(documents(), 3, 5, seed=0)
    with pytest.raises(UserError, match="LlamaForCausalLM has no memory to carry on"):
        fit(tiny.model(), packed, SFT(), settings(), machine=CPU)
    with pytest.raises(UserError, match="2 processes"):
        streams.check(model(), 2)
    with pytest.raises(UserError, match=r"Recurrence\(memory=\.\.\.\): got 0"):
        Recurrence(memory=0)


# --- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lswt")
    tokenizer = folders.tokenizer()
    torch.manual_seed(0)
    sizes = {"d_vocab": 16, "d_model": 32, "d_ffn": 48, "n_heads": 4, "n_layers": 2}
    LSWTForCausalLM(LSWTConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_train_over_streams_and_over_rows(folder, tmp_path):
    with using(tmp_path):
        start = models.pretrained(folder)
        view = Documents(texts(40))
        plain = train(start, view, SFT(), lr=1e-2, batch_size=4)
        over = train(start, view, SFT(), lr=1e-2, batch_size=4, recurrence=Recurrence(16, 16))
        for policy in (plain, over):
            make(policy, machine=CPU)
            assert type(models.load(policy).model) is lswt.LSWTForCausalLM
        tokens = plain.record["counts"]["train_tokens"]
        assert plain.record["counts"]["steps"] == 10
        assert over.record["counts"]["steps"] == -(-((tokens - 1) // 4) // 16)
        with pytest.raises(UserError, match=r"DPO needs more than the log-probs"):
            train(start, view, DPO(), recurrence=Recurrence())


def test_the_vocab_stage_trains_what_stands_outside_of_the_blocks(folder, tmp_path):
    """Table, projections and norms move, the blocks do not; of the published medium size that is 40,974,336 numbers."""
    with torch.device("meta"):
        medium = LSWTForCausalLM(LSWTConfig.of("medium"))
    assert freeze_parts(medium, ("blocks",)) == 40_974_336
    with using(tmp_path):
        start = models.pretrained(folder)
        vocab = train(start, Documents(texts(8)), SFT(), lr=1e-2, batch_size=4, freeze=("blocks",))
        make(vocab, machine=CPU)
        before = dict(models.load(start).model.named_parameters())
        after = dict(models.load(vocab).model.named_parameters())
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        assert moved == {name for name in after if "layers." not in name}
        assert vocab.record["counts"]["parameters_trained"] == sum(after[name].numel() for name in moved)


def test_names_that_freeze_nothing_or_everything():
    with pytest.raises(UserError, match=r'no parameter\'s name holds "blocks."'):
        freeze_parts(model(), ("layers.", "blocks."))
    with pytest.raises(UserError, match="nothing is left to train"):
        freeze_parts(model(), ("model.", "lm_head."))
