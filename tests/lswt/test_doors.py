"""LSWT goes through the project's doors like any other model: tries, heads, adapters, folders, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests import folders
from tests.lswt.small import KINDS, S, ids, model, same
from tests.tries import assert_equal_to_padded, sequences
from trueline import heads, models, trie
from trueline.lswt import LSWTForCausalLM
from trueline.pipeline import make
from trueline.records import Prompt
from trueline.sample import decode
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.trie import attention, vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a ChatML tokenizer."""
    path = tmp_path_factory.mktemp("lswt")
    tokenizer = folders.tokenizer()
    model(torch.float32, vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["plain", "qk-norm", "ungated", "scaled"])
def test_it_runs_over_tries_proved(kind):
    found = attention.path(model(torch.float32, **KINDS[kind]))
    assert (found.kernel, found.head, found.reason) == ("flash", True, "")
    assert found.last is not None


def test_rows_meet_the_narrow_table_in_chunks_as_a_linear_head_does():
    """Log-probs and gradients of a few rows at a time, the projection's among them; no other head is computed so."""
    made, x = model(), ids(S)
    hidden = made.model(x).last_hidden_state[0].detach().requires_grad_()
    rows = torch.arange(S)
    chunked = vocabulary.logps(hidden, made.lm_head, vocabulary.After(), rows, x[1], chunk=3)
    plain = made.lm_head(hidden).log_softmax(-1)[rows, x[1]]
    same(chunked, plain)
    wanted = torch.autograd.grad(plain.square().sum(), [hidden, made.lm_head.proj.weight, made.lm_head.weight])
    got = torch.autograd.grad(chunked.square().sum(), [hidden, made.lm_head.proj.weight, made.lm_head.weight])
    for a, b in zip(got, wanted, strict=True):
        same(a, b)
    assert "LinearLogps" in type(chunked.grad_fn).__name__


EXACT = model().train()


@given(sequences())
@settings(max_examples=25)
def test_a_trie_is_exact_in_log_probs_states_and_every_gradient(given):
    assert_equal_to_padded(EXACT, given, 1e-9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"registers": 2}, "its attention is not of a sequence to itself"),
        ({"rope_dynamic": True, "rope_positions": 64}, "its rotation depends on the length of the whole text"),
    ],
)
def test_what_no_trie_can_say_runs_padded_with_one_line(changes, reason, caplog):
    """Registers add keys that are no tokens; with dynamic scaling a token's angle depends on the length of its text."""
    made = attention.enable(attention.enable(model(torch.float32, **changes)))
    said = [record.getMessage() for record in caplog.records if record.name == "trueline"]
    assert len(said) == 1
    assert said[0].startswith(f"LSWTForCausalLM runs padded, not over tries: {reason}")
    listed = [trie.Sequence.of(range(20), range(tail, tail + 5)) for tail in (20, 30, 40)]
    assert_equal_to_padded(made, listed, 1e-5)


def test_a_saved_folder_opens_here_with_chat_and_heads(folder):
    loaded = models.load(folder)
    assert isinstance(loaded.model, LSWTForCausalLM)
    made = heads.Head(pooler="bert").build(loaded.model)
    assert made.out.in_features == 32
    prompt = loaded.renderer.prompt_ids(Prompt.of("Who bakes?").messages)
    answers = [loaded.renderer.answer_ids(text, True) for text in ("Ada.", "Bert does.", "Clara, gladly.")]
    loaded.heads = made.eval()
    batch = [trie.Sequence.of(prompt, answer) for answer in answers]
    together = heads.rewards(loaded, batch)
    assert together.shape == (3, 1)
    states = [loaded.model.model(torch.tensor([prompt + answer])).last_hidden_state[0, -1] for answer in answers]
    with torch.no_grad():
        alone = made.pool(torch.stack(states))
    np.testing.assert_allclose(together, alone.numpy(), rtol=1e-4, atol=1e-6)


def test_the_states_of_all_layers_come_out_of_a_trie():
    """Four of two blocks: the normed input, both blocks' outputs as they are, and the last one normed."""
    made = attention.enable(model())
    sequence = trie.Sequence.of(range(1, 20), range(20, 30))
    outputs = trie.forward(made, trie.build([sequence]), frozenset({"last_states"}))
    wanted = made(torch.from_numpy(sequence.ids)[None], output_hidden_states=True).hidden_states
    assert len(outputs.last_states) == len(wanted) == 4
    for got, layer in zip(outputs.last_states, wanted, strict=True):
        same(got[0], layer[0, -1])


def test_a_reward_leaves_what_only_the_language_model_reads_alone():
    """Gradients of a head go through the last norm into the blocks and not into the projection before the table."""
    made = attention.enable(model(torch.float32).train())
    head = heads.Head().build(made)
    batch = trie.build([trie.Sequence.of(range(1, 20), range(tail, tail + 5)) for tail in (20, 30)])
    head(trie.forward(made, batch, head.want), batch).sum().backward()
    assert made.lm_head.proj.weight.grad is None or not made.lm_head.proj.weight.grad.any()
    assert made.model.output_norm.weight.grad.any()
    assert made.model.layers[0].self_attn.q_proj.weight.grad.any()


def test_adapters_train_beside_it_and_merge():
    made = attention.enable(model(torch.float32).train())
    wrapped = models.LoRA(r=2).wrap(made)
    batch = trie.build([trie.Sequence.of(range(1, 20), range(20, 30))])
    trie.forward(wrapped, batch).logps_N.sum().backward()
    trained = {name for name, p in wrapped.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    before = trie.forward(wrapped, batch).logps_N
    torch.testing.assert_close(trie.forward(wrapped.merge_and_unload(), batch).logps_N, before)


def test_sampling_writes_what_its_own_passes_say(folder, tmp_path):
    """Greedy, through our own decode loop, both prompts at once."""
    prompts = [Prompt.of("Who bakes the bread?"), Prompt.of("Where does the miller live, and who keeps the keys?")]
    with using(tmp_path):
        policy = models.pretrained(folder)
        make(policy)
        with HF(policy) as engine:
            loaded = engine.writer.loaded
            assert decode.proved(loaded.model).holds
            written = engine.generate(prompts, Sampling(n=1, temperature=0, max_tokens=6))
            for prompt, (answer,) in zip(prompts, written, strict=True):
                text = list(loaded.renderer.prompt_ids(prompt.messages))
                for token, logp in zip(answer.tokens, answer.logprobs, strict=True):
                    logps = loaded.model(torch.tensor([text])).logits[0, -1].log_softmax(-1)
                    assert int(logps.argmax()) == token
                    assert float(logps[token]) == pytest.approx(logp, abs=1e-4)
                    text.append(token)


def test_sampling_with_registers_goes_through_transformers():
    made = model(torch.float32, registers=2)
    assert not decode.proved(made).holds
