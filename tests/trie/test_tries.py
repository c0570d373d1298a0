"""The trie: what it holds, how it is cut, and that a pass over it equals the padded pass, gradients included."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tries import BOTH, FAMILIES, OTHERS, VOCABULARY, assert_equal_to_padded, exact_norms, sequences, tiny
from trueline import trie
from trueline.trie import Sequence, attention, build, size

FEW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@functools.cache
def known(family: str, dtype: torch.dtype, lora: bool = False, checkpointing: bool = False) -> Any:
    """One model per combination for all examples that hypothesis tries."""
    model = tiny(family, dtype)
    if dtype == torch.float64:
        model = exact_norms(model)
    if lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).to(dtype)
    if checkpointing:
        attention.core(model).gradient_checkpointing_enable()
        attention.core(model).enable_input_require_grads()
    return model


def test_two_answers_to_one_prompt():
    """A prompt of 20 tokens, answers [50, 51, 52] and [50, 53, 54]: 25 trie tokens instead of 46.

    The token 50 begins both answers, so it stands in the shared node and its prediction (row 0) counts twice.
    """
    made = build([Sequence.of(range(20), [50, 51, 52]), Sequence.of(range(20), [50, 53, 54])])
    assert made.tokens_T.tolist() == [*range(20), 50, 51, 52, 53, 54]
    assert made.positions_T.tolist() == [*range(21), 21, 22, 21, 22]
    assert made.nodes.tolist() == [[0, 21, 25, -1], [21, 23, 23, 0], [23, 25, 25, 0]]
    assert made.row_R.tolist() == [19, 20, 20, 21, 23]
    assert made.target_R.tolist() == [50, 51, 53, 52, 54]
    assert made.entry_row_E.tolist() == [0, 1, 3, 0, 2, 4]
    assert made.entry_seq_E.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.last_N.tolist() == [22, 24]
    assert len(made) == 25
    assert made.n == 2


def test_a_step_of_training_over_a_trie():
    """Outputs per sequence: summed log-probs with their counts, equal to the model's own log-softmax."""
    model = tiny("llama")
    chosen, rejected = Sequence.of(range(20), [5, 6, 7]), Sequence.of(range(20), [8])
    outputs = trie.forward(model, build([chosen, rejected]))
    assert outputs.counts_N.tolist() == [3, 1]
    for sequence, logp in zip((chosen, rejected), outputs.logps_N, strict=True):
        logits = model(torch.from_numpy(sequence.ids)[None]).logits[0].log_softmax(-1)
        wanted = sum(logits[at - 1, sequence.ids[at]] for at in range(20, len(sequence)))
        torch.testing.assert_close(logp, wanted, check_dtype=False)
    (outputs.logps_N[0] - outputs.logps_N[1]).backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


@MANY
@given(sequences(vocabulary=3), st.sampled_from([1, 4, 16]))
def test_a_trie_holds_every_sequence(listed, min_shared):
    """Walking from a last token to the root gives back the sequence; every scored token is an entry of its own."""
    made = build(listed, min_shared)
    nodes = made.nodes.tolist()
    assert [start for start, *_ in nodes] == [0, *(end for _, end, _, _ in nodes[:-1])], "preorder, without gaps"
    entry = 0
    for number, sequence in enumerate(listed):
        last = int(made.last_N[number])
        index = next(i for i, (start, end, _, _) in enumerate(nodes) if start <= last < end)
        path = list(range(nodes[index][0], last + 1))
        while (index := nodes[index][3]) >= 0:
            assert nodes[index][0] < path[0] <= path[-1] < nodes[index][2], "a subtree is contiguous"
            path = [*range(nodes[index][0], nodes[index][1]), *path]
        assert made.tokens_T[path].tolist() == sequence.ids.tolist()
        assert made.positions_T[path].tolist() == list(range(len(sequence)))
        for at in np.flatnonzero(sequence.scored):
            row = int(made.entry_row_E[entry])
            assert int(made.row_R[row]) == path[at - 1]
            assert int(made.target_R[row]) == sequence.ids[at]
            assert int(made.entry_seq_E[entry]) == number
            entry += 1
    assert entry == made.entry_row_E.numel()


@MANY
@given(sequences(vocabulary=3))
def test_each_distinct_prefix_stands_once(listed):
    """Without a threshold the trie has a token per distinct prefix; `size` counts them without building."""
    prefixes = {s.ids[: n + 1].tobytes() for s in listed for n in range(len(s))}
    assert len(build(listed, min_shared=1)) == len(prefixes) == size(listed, min_shared=1)
    assert size(listed) == len(build(listed)) <= sum(len(s) for s in listed)


def test_small_savings_are_not_worth_a_node():
    """Two sequences that share 15 tokens would save 15, three save 30; the threshold is 16."""
    ends = [Sequence.of(range(15), [tail, tail]) for tail in (40, 41, 42)]
    assert build(ends[:2]).nodes.shape[0] == 2
    assert build(ends).nodes.tolist() == [[0, 15, 21, -1], [15, 17, 17, 0], [17, 19, 19, 0], [19, 21, 21, 0]]


def test_equal_sequences_and_prefixes_keep_their_own_entries():
    """The same sequence twice and a prefix of it: entries and last tokens for each. One shared token is no node."""
    long = Sequence.of(range(20), [1, 2])
    made = build([long, Sequence.of(range(20), [1]), long])
    assert made.nodes.tolist() == [[0, 21, 23, -1], [21, 22, 22, 0], [22, 23, 23, 0]]
    assert made.last_N.tolist() == [21, 20, 22]
    outputs = trie.forward(tiny("llama"), made)
    assert outputs.counts_N.tolist() == [2, 1, 2]
    assert outputs.logps_N[0] == outputs.logps_N[2]
    torch.testing.assert_close(outputs.logps_E[0], outputs.logps_E[2])


def test_without_their_last_tokens_options_of_one_token_are_one_row_each():
    """A prompt of 20 tokens and the options [50], [51]: 20 trie tokens, two rows read off the prompt's last state."""
    options = [Sequence.of(range(20), [tail]) for tail in (50, 51)]
    made = build(options, ends=False)
    assert made.tokens_T.tolist() == list(range(20))
    assert made.nodes.tolist() == [[0, 20, 20, -1]]
    assert made.row_R.tolist() == [19, 19] and made.target_R.tolist() == [50, 51]
    model = tiny("llama")
    whole = trie.forward(model, build(options))
    torch.testing.assert_close(trie.forward(model, made).logps_E, whole.logps_E)
    with pytest.raises(ValueError, match="without the last tokens"):
        trie.forward(model, made, BOTH)


@pytest.mark.parametrize("family", ["llama", "mistral, window 7"])
@FEW
@given(sequences())
def test_log_probs_need_no_last_tokens_and_know_what_is_greedy(family, listed):
    """The same log-probs from the shorter trie, and for every scored token whether the plain argmax is that token."""
    model, want = known(family, torch.float64), frozenset({"logps", "greedy"})
    made = build(listed, min_shared=1, ends=False)
    assert len(made) <= len(build(listed, min_shared=1))
    ours, plain = trie.forward(model, made, want), trie.padded_forward(model, listed, want)
    torch.testing.assert_close(ours.logps_E, plain.logps_E, rtol=1e-10, atol=1e-10)
    assert ours.greedy_E.tolist() == plain.greedy_E.tolist()
    for number, s in enumerate(listed):
        likeliest = model(torch.from_numpy(s.ids)[None]).logits[0].argmax(-1)
        at = np.flatnonzero(s.scored)
        assert ours.greedy_E[ours.seq_E == number].tolist() == [likeliest[t - 1] == s.ids[t] for t in at]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
@FEW
@given(sequences())
def test_equal_to_padded_in_float32(family, listed):
    assert_equal_to_padded(known(family, torch.float32), listed, 1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "granite, scaled logits", "phi, bias on the head"])
@FEW
@given(sequences())
def test_equal_to_padded_in_float64(family, listed):
    """With the models' own norms in float64, nothing rounds above 1e-10 but what trie and padded do differently."""
    assert_equal_to_padded(known(family, torch.float64), listed, 1e-10)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@settings(FEW, max_examples=2)
@given(sequences())
def test_equal_with_adapters_and_checkpointing(family, lora, checkpointing, listed):
    """LoRA on every linear layer, the output head apart; activations kept or computed again in backward."""
    model = known(family, torch.float64, lora, checkpointing)
    assert_equal_to_padded(model, listed, 1e-10)
    assert attention.path(model).kernel == "flash"


def test_low_precision_follows_float32():
    """In bfloat16 the trie stays as near to the float32 log-probs as the padded pass does."""
    listed = [Sequence.of(range(20), range(tail, tail + 8)) for tail in (20, 30, 40)]
    made, exact = build(listed), trie.padded_forward(tiny("llama"), listed).logps_E
    low = tiny("llama", torch.bfloat16)
    ours, plain = trie.forward(low, made).logps_E, trie.padded_forward(low, listed).logps_E
    assert attention.path(low).kernel == "flash"
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-3


def test_autocast_computes_in_its_own_dtype():
    model = tiny("llama")
    listed = [Sequence.of(range(20), range(tail, tail + 8)) for tail in (20, 30)]
    exact = trie.forward(model, build(listed)).logps_N
    with torch.autocast("cpu", torch.bfloat16):
        mixed = trie.forward(model, build(listed)).logps_N
    mixed.sum().backward()
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, exact, rtol=2e-2, atol=2e-2)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_recurrent_model_runs_padded_and_says_so_once(caplog):
    """Mamba has no attention to put a trie into: one log line, then the padded path, with the right numbers."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config)
    listed = [Sequence.of(range(20), range(30, 30 + n)) for n in (3, 9)]
    with caplog.at_level(logging.INFO, logger="trueline"):
        first, again = (trie.forward(model, build(listed), BOTH) for _ in range(2))
    said = [record.getMessage() for record in caplog.records if record.name == "trueline"]
    assert said == ["MambaForCausalLM runs padded, not over tries: its attention does not see the trie"]
    for number, sequence in enumerate(listed):
        alone = model(torch.from_numpy(sequence.ids)[None]).logits[0].log_softmax(-1)
        wanted = sum(alone[at - 1, sequence.ids[at]] for at in range(20, len(sequence)))
        torch.testing.assert_close(first.logps_N[number], wanted, check_dtype=False)
    torch.testing.assert_close(first.last_hidden_ND, again.last_hidden_ND)
    assert_equal_to_padded(model, listed, 1e-5)


def test_only_last_hidden_states():
    """Without log-probs no logit is computed and there are no entries."""
    model, listed = tiny("llama"), [Sequence.of(range(20), [tail]) for tail in (1, 2)]
    outputs = trie.forward(model, build(listed), frozenset({"last_hidden"}))
    assert outputs.logps_E.shape == outputs.seq_E.shape == (0,)
    torch.testing.assert_close(
        outputs.last_hidden_ND, trie.padded_forward(model, listed, BOTH).last_hidden_ND, rtol=1e-5, atol=1e-5
    )


def test_nothing_scored_is_no_error():
    """A batch without a scored token gives empty sums and zero gradients: a rank may draw such a batch."""
    model = tiny("llama")
    outputs = trie.forward(model, build([Sequence.of(range(20), []), Sequence.of(range(5), [])]))
    assert outputs.logps_N.tolist() == [0.0, 0.0]
    assert outputs.counts_N.tolist() == [0, 0]
    outputs.logps_N.sum().backward()
    assert float(model.model.embed_tokens.weight.grad.abs().sum()) == 0.0


def test_refusals():
    with pytest.raises(ValueError, match="no prediction"):
        Sequence(np.array([1, 2]), np.array([True, True]))
    with pytest.raises(ValueError, match="L >= 1 ids"):
        Sequence(np.array([], dtype=int), np.array([], dtype=bool))
    with pytest.raises(ValueError, match="not negative"):
        Sequence.of([-100, 2], [3])
    with pytest.raises(ValueError, match="at least one sequence"):
        build([])
    with pytest.raises(ValueError, match="not \\['hidden'\\]"):
        trie.forward(tiny("llama"), build([Sequence.of([1], [2])]), frozenset({"hidden"}))


def test_long_answers_are_summed_to_float32_precision():
    """3000 log-probs of -9.1 are -27300; added one by one in float32 they would be -27299.24."""
    outputs = trie.Outputs(torch.full((3000,), -9.1), torch.zeros(3000, dtype=torch.int64), 1)
    assert float(outputs.logps_N[0]) == pytest.approx(-27300, abs=4e-3)
