"""The decode loop against transformers' generate and against plain passes, for every family."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch

from tests import tries as families
from trueline.sample import decode, plainly
from trueline.sample.choose import Chooser, stream
from trueline.sample.decode import Decoder, Task
from trueline.sample.protocol import Sampling
from trueline.trie import attention

RNG = np.random.default_rng(0)
SHARED = RNG.integers(0, families.VOCABULARY, 30)
# Lengths of every kind, two prompts that share a long beginning, one that is a beginning itself.
PROMPTS = [
    *(RNG.integers(0, families.VOCABULARY, n) for n in (1, 5, 40, 17)),
    np.concatenate([SHARED, RNG.integers(0, families.VOCABULARY, 3)]),
    np.concatenate([SHARED, RNG.integers(0, families.VOCABULARY, 20)]),
    SHARED,
]


def model(family):
    """A random model whose next token depends on what it read."""
    made = families.tiny(family).eval().requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.mul_(3)
    return attention.enable(made)


def written(made, sampling, ends=(), rows=64, prompts=PROMPTS, ahead=8192):
    tasks = [Task(p, stream(sampling.seed, str(p), i)) for p in range(len(prompts)) for i in range(sampling.n)]
    return Decoder(made, prompts, tasks, Chooser(sampling, ends), sampling.max_tokens, rows=rows, ahead=ahead).run()


def plain_logps(made, prompt, answer):
    """Log-probs of an answer's tokens by one pass over prompt and answer, with transformers' own attention."""
    made.set_attn_implementation("eager")
    ids = torch.from_numpy(np.concatenate([prompt, answer]))[None]
    logits = made(input_ids=ids, use_cache=False).logits[0]
    made.set_attn_implementation(attention.NAME)
    return torch.log_softmax(logits[len(prompt) - 1 : -1], -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("family", {**families.FAMILIES, **families.OTHERS})
def test_greedy_is_what_generate_says_token_for_token(family):
    """Over fewer slots than prompts, so that they are refilled; an end token ends some of the answers early."""
    made = model(family)
    assert decode.proved(made).holds
    free = written(made, Sampling(temperature=0, max_tokens=24), rows=3)
    end = free[1].tokens[5]
    ours = written(made, Sampling(temperature=0, max_tokens=24), ends=(end,), rows=3)
    made.set_attn_implementation("eager")
    for prompt, answer in zip(PROMPTS, ours, strict=True):
        ids = torch.from_numpy(prompt)[None]
        theirs = made.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=end,
            pad_token_id=0, use_cache=True,
        )  # fmt: skip
        assert answer.tokens == theirs[0, len(prompt) :].tolist()
        assert answer.stopped == ("stop" if answer.tokens[-1] == end else "length")
    made.set_attn_implementation(attention.NAME)
    assert len({len(answer.tokens) for answer in ours}) > 1


@pytest.mark.parametrize("family", families.FAMILIES)
def test_samples_that_share_their_prompt_have_the_log_probs_of_plain_passes(family):
    """Twelve answers each: prompts are held once where no window forbids it, and the numbers are the plain ones."""
    made = model(family)
    sampling = Sampling(n=12, max_tokens=20, seed=3)
    answers = written(made, sampling, ends=(7,), rows=20)
    for at in range(0, len(answers), 5):
        expected = plain_logps(made, PROMPTS[at // 12], answers[at].tokens)
        assert torch.allclose(torch.tensor(answers[at].logps), expected, atol=1e-4), at


def test_what_is_written_does_not_depend_on_the_batch():
    """Three slots or all, blocks of prompts read one by one or together: the same answers."""
    made = model("llama")
    sampling = Sampling(n=10, max_tokens=12, seed=1)
    wide = [a.tokens for a in written(made, sampling, ends=(7, 8))]
    for rows, ahead in ((3, 8192), (64, 40), (11, 100)):
        assert [a.tokens for a in written(made, sampling, ends=(7, 8), rows=rows, ahead=ahead)] == wide
    assert len({len(tokens) for tokens in wide}) > 5


def test_a_long_answer_outgrows_its_columns():
    """Slots begin with as many columns as the prompts need; 100 more tokens enlarge them."""
    made = model("llama")
    (answer,) = written(made, Sampling(temperature=0, max_tokens=85), prompts=[PROMPTS[2]])
    expected = plain_logps(made, PROMPTS[2], answer.tokens)
    assert torch.allclose(torch.tensor(answer.logps), expected, atol=1e-4)


def test_prompts_with_many_answers_are_read_once_and_held_once(monkeypatch):
    """32 answers to a prompt of 40 tokens: one pass over 40 tokens, and slots that hold nothing but the answers."""
    made = model("llama")
    read = []
    inner = decode.prefill

    def counting(model, cache, batch, step):
        read.append(len(batch))
        out = inner(model, cache, batch)
        caches.append(cache)
        return out

    caches = []
    monkeypatch.setattr(decode, "prefill", counting)
    written(made, Sampling(n=32, max_tokens=6), prompts=[PROMPTS[2]])
    assert read == [40]
    assert caches[0].layers[0][0].shape[2] < 80  # one step's worth of columns, not prompt and answer
    assert caches[0].columns == 64


def test_both_ways_of_writing_ban_the_same_tokens():
    """Our loop and transformers' generate: the same answers without the banned tokens, which they hold otherwise."""
    made = model("llama")
    sampling = Sampling(n=2, max_tokens=12, seed=4)
    tasks = [Task(p, stream(4, str(p), i)) for p in range(len(PROMPTS)) for i in range(2)]
    counts = Counter(token for answer in written(made, sampling) for token in answer.tokens)
    banned = tuple(token for token, _ in counts.most_common(5))
    choose = Chooser(sampling, (), banned)
    ours = Decoder(made, PROMPTS, tasks, choose, 12).run()
    made.set_attn_implementation("eager")
    theirs = plainly.write(made, PROMPTS, tasks, choose, 12, None, 8)
    assert [a.tokens for a in ours] == [a.tokens for a in theirs]
    assert not {token for answer in ours for token in answer.tokens} & set(banned)


def test_a_model_that_cannot_be_proved_is_left_to_generate(caplog):
    """A Mamba has no attention to speak of; one log line says why."""
    from transformers import MambaConfig, MambaForCausalLM

    made = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=1)).eval()
    with caplog.at_level(logging.WARNING, "trueline"):
        assert not decode.proved(made).holds
        assert not decode.proved(made).holds
    lines = [r.message for r in caplog.records if "transformers' generate" in r.message]
    assert len(lines) == 1 and "MambaForCausalLM" in lines[0]


def test_the_proof_finds_a_model_that_looks_at_positions_otherwise(caplog):
    """A model that ignores position ids reads every new token at position 0: the proof sees it."""
    made = model("llama")
    inner = made.model.forward

    def forward(*args, position_ids=None, **kwargs):
        one = position_ids is not None and position_ids.shape[1] == 1
        return inner(*args, position_ids=torch.zeros_like(position_ids) if one else position_ids, **kwargs)

    made.model.forward = forward
    with caplog.at_level(logging.WARNING, "trueline"):
        assert not decode.proved(made).holds
    assert "log-probs differ" in caplog.text
