"""Heads read answers while they are written: the numbers of a pass over the rendered conversation, without the pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.sample import given
from trueline import heads, trie
from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.heads import Head, WeightedSum
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.records import Message
from trueline.sample import decode, lean
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.store import using


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with using(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def policy(store, tmp_path_factory):
    return make(given.with_heads(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def engine(policy):
    with HF(policy, heads=True) as opened:
        yield opened


def read(groups):
    """Scores [answers, heads] as they stand in the groups."""
    return np.array([[f.score for f in of] for group in groups for of in group.feedback])


def by_a_pass(engine, groups):
    """Scores by `trie.forward` over prompt and answer as they were sampled, closed by one end-of-turn."""
    loaded = engine.writer.loaded
    sequences = []
    for group in groups:
        prompt = loaded.renderer.prompt_ids(group.prompt.messages)
        for said in group.completions:
            ids = [t for t in said.tokens if t not in loaded.renderer.stop_ids]
            sequences.append(trie.Sequence.of(prompt, [*ids, loaded.renderer.end_id]))
    return heads.rewards(loaded, sequences)


def counting(monkeypatch):
    """Every step's rows and every prefill's tokens, as they happen."""
    seen = {"steps": [], "prefill": []}
    step, prefill = lean.Lean.__call__, decode.prefill

    def counted(self, ids_N, positions_N, cache):
        seen["steps"].append(ids_N.numel())
        return step(self, ids_N, positions_N, cache)

    def read(model, cache, batch, step):
        seen["prefill"].append(len(batch))
        return prefill(model, cache, batch, step)

    monkeypatch.setattr(lean.Lean, "__call__", counted)
    monkeypatch.setattr(decode, "prefill", read)
    return seen


def test_scores_are_those_of_a_pass_over_the_conversation(engine, policy):
    """Two heads, 12 answers each, over more answers than slots: those that ended and those that were cut."""
    groups = engine.groups(given.PROMPTS, Sampling(n=12, max_tokens=24, seed=2))
    stopped = [c.stopped for group in groups for c in group.completions]
    assert {"stop", "length"} == set(stopped)
    scores = read(groups)
    assert scores.shape == (60, 2) and scores.std(0).min() > 0.05
    np.testing.assert_allclose(scores, by_a_pass(engine, groups), atol=2e-5)
    assert [f.by for f in groups[0].feedback[0]] == [f"{policy.name}/reward", f"{policy.name}/tone"]


def test_they_are_those_of_the_text_where_the_tokens_are_the_texts_own(engine):
    """A short answer of one token, rendered from its text, scores the same."""
    loaded = engine.writer.loaded
    groups = engine.groups(given.PROMPTS[:1], Sampling(n=32, max_tokens=3, seed=1))
    pairs = list(zip(groups[0].completions, read(groups), strict=True))
    own = [(c, row) for c, row in pairs if tuple(loaded.renderer.answer_ids(c.text, ended=False)) == c.tokens[:3]]
    assert own
    for completion, row in own:
        messages = (*groups[0].prompt.messages, Message("assistant", completion.text))
        ids = loaded.renderer.closed(loaded.renderer.conversation(messages).ids)
        wanted = heads.rewards(loaded, [trie.Sequence(np.array(ids), np.zeros(len(ids), bool))])
        np.testing.assert_allclose(row, wanted[0], atol=2e-5)


def test_answers_and_their_log_probs_are_those_without_heads(engine, policy):
    sampling = Sampling(n=9, max_tokens=16, seed=3)
    with HF(policy) as plain:
        wanted = plain.generate(given.PROMPTS, sampling)
        assert [list(group.completions) for group in plain.groups(given.PROMPTS, sampling)] == wanted
    got = [list(group.completions) for group in engine.groups(given.PROMPTS, sampling)]
    assert [[c.tokens for c in said] for said in got] == [[c.tokens for c in said] for said in wanted]
    assert [[c.text for c in said] for said in got] == [[c.text for c in said] for said in wanted]


def test_reading_costs_one_step_per_answer_and_two_for_a_cut_one(engine, monkeypatch):
    """16 answers of 10 tokens, none of which ends: 9 steps write them (the prompt's pass gives the first token); the
    10th feeds the last token and the 11th the end-of-turn. The prompt is read once."""
    seen = counting(monkeypatch)
    engine.groups(given.PROMPTS[:1], Sampling(n=16, max_tokens=10, min_tokens=10))
    prompt = len(engine.writer.loaded.renderer.prompt_ids(given.PROMPTS[0].messages))
    assert seen == {"steps": [16] * 11, "prefill": [prompt]}


def test_an_answer_that_ends_with_its_first_token_is_read_too(engine):
    """Its slot holds the prompt alone when the end-of-turn is fed."""
    groups = engine.groups(given.PROMPTS, Sampling(n=64, max_tokens=2, seed=5))
    empty = [(g, i) for g in groups for i, c in enumerate(g.completions) if len(c.tokens) == 1 and c.stopped == "stop"]
    assert empty
    np.testing.assert_allclose(read(groups), by_a_pass(engine, groups), atol=2e-5)


def test_a_stop_text_is_no_part_of_what_is_read(engine):
    """The answer is read as its text stands, closed: here every answer ends before its first "e"."""
    loaded = engine.writer.loaded
    groups = engine.groups(given.PROMPTS, Sampling(n=8, max_tokens=24, stop=("e", "th"), seed=4))
    wanted, got = [], []
    for group in groups:
        for said, row in zip(group.completions, read([group]), strict=True):
            if said.stopped == "stop" and said.tokens[-1] not in loaded.renderer.stop_ids:
                assert "e" not in said.text
                answer = loaded.renderer.answer_ids(said.text)
                wanted.append(trie.Sequence.of(loaded.renderer.prompt_ids(group.prompt.messages), answer))
                got.append(row)
    assert len(wanted) > 10
    np.testing.assert_allclose(got, heads.rewards(loaded, wanted), atol=2e-5)


def test_an_answer_that_ends_with_eos_is_closed_by_the_end_of_turn(engine):
    """EOS stops the model too, but what is read is always the end-of-turn."""
    writer = engine.writer
    end, eos = writer.loaded.renderer.stop_ids
    prompt = np.array(writer.prompt_ids(given.PROMPTS[0]))
    said = [50, 51]
    for ending in ([], [eos], [end]):
        assert writer.closed(prompt, said + ending, Sampling()) == [*said, end]


def test_through_the_models_own_modules_and_through_generate_too(store, tmp_path, monkeypatch):
    """A model without a lean step, and one that our loop is not proved for: the same numbers as by a pass."""
    folder = tmp_path / "mamba"
    with HF(make(given.with_heads(folder, make=given.mamba)), heads=True) as engine:
        groups = engine.groups(given.PROMPTS, Sampling(n=2, max_tokens=8))
        np.testing.assert_allclose(read(groups), by_a_pass(engine, groups), atol=2e-5)
    monkeypatch.setattr(lean, "of", lambda _: None)
    with HF(make(given.with_heads(tmp_path / "llama", hidden_act="gelu")), heads=True) as engine:
        groups = engine.groups(given.PROMPTS, Sampling(n=9, max_tokens=8))
        np.testing.assert_allclose(read(groups), by_a_pass(engine, groups), atol=2e-5)


def test_draw_stores_what_the_heads_said_and_counts_it(policy):
    """Whatever the number of slots; `draw` without heads is another artefact, and the same one as ever."""
    samples = make(draw(HF(policy, heads=True), given.questions(3), Sampling(n=4, max_tokens=8)))
    groups = list(samples.read())
    assert samples.record["counts"]["scored"] == 24
    assert np.isfinite([group.scores(f"{policy.name}/tone") for group in groups]).all()
    few = HF(policy, heads=True, machine=Machine(sample_rows=3))
    with few as engine:
        again = engine.groups([group.prompt for group in groups], Sampling(n=4, max_tokens=8))
    np.testing.assert_allclose(read(again), read(groups), atol=2e-5)
    assert fingerprint(HF(policy), "") == fingerprint(HF(policy, heads=False), "") != fingerprint(few, "")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_policy_without_heads_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="has no heads"), HF(make(given.llama(tmp_path / "bare")), heads=True):
        pass


def test_heads_that_read_other_layers_are_refused_with_the_cure(store, tmp_path):
    policy = make(given.with_heads(tmp_path / "sum", Head(aggregate=WeightedSum((0, 2)))))
    with pytest.raises(UserError, match="judge\\(groups, Reward\\(policy\\)\\)"), HF(policy, heads=True):
        pass


def test_the_end_of_turn_has_to_fit_too(engine):
    """256 positions: a prompt and max_tokens that fill them leave no room to close an answer that is cut."""
    writer = engine.writer
    length = len(writer.prompt_ids(given.PROMPTS[0]))
    full = Sampling(max_tokens=256 - length)
    with pytest.raises(UserError, match="closed for its heads, ends at 257"):
        engine.groups(given.PROMPTS[:1], full)
    assert dataclasses.replace(writer, reads=False).too_long(given.PROMPTS[0], length, full) is None


def test_heads_that_say_no_number_are_refused(store, tmp_path):
    policy = make(given.with_heads(tmp_path / "broken"))
    with HF(policy, heads=True) as engine:
        engine.writer.loaded.heads.out.bias.fill_(torch.inf)
        with pytest.raises(UserError, match="not finite"):
            engine.groups(given.PROMPTS[:1], Sampling(max_tokens=2))
