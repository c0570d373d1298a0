"""Reading many sequences: where tries are cut, and what comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tries import sequences, tiny
from trueline import trie
from trueline.machine import Machine
from trueline.trie import Sequence, passes


def test_greedy_means_every_token():
    """The model's own continuation is greedy; with one token of it changed, it is not."""
    model, ids = tiny("llama").eval(), [3, 1, 4, 1, 5]
    for _ in range(4):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    changed = [*ids[:6], (ids[6] + 1) % 61, *ids[7:]]
    listed = [Sequence.of(ids[:5], ids[5:]), Sequence.of(ids[:5], changed[5:]), Sequence.of(ids[:5], ids[5:6])]
    assert passes.logps(model, listed, greedy=True).greedy_N.tolist() == [True, False, True]
    assert passes.logps(model, listed).greedy_N.tolist() == [False, False, False]


def test_a_model_that_runs_padded_is_cut_by_what_it_really_computes():
    """Mamba shares nothing: of four options of 31 to 34 tokens, two fit into a budget of 70, whatever they share."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    listed = [Sequence.of(range(30), range(40, 41 + n)) for n in range(4)]
    few = Machine(device="cpu", micro_tokens=70)
    assert [part for part, *_ in passes.passes(model, listed, trie.LOGPS, few)] == [[0, 1], [2, 3]]
    for number, s in enumerate(listed):
        with torch.no_grad():
            logps = model(torch.from_numpy(s.ids)[None]).logits[0].log_softmax(-1)
        wanted = sum(float(logps[at - 1, s.ids[at]]) for at in range(30, len(s)))
        assert passes.logps(model, listed, few).logps_N[number] == pytest.approx(wanted, rel=1e-5)


def test_a_cut_is_made_where_it_costs_least():
    """The worked example of `packs`: pairs that share 150 tokens, all of which share 100."""
    pairs = [[200 + pair] * 50 for pair in range(3)]
    listed = [Sequence.of([*range(100), *pair], [300 + side] * 10) for pair in pairs for side in (0, 1)]
    assert passes.packs(listed, 1000, aim=230) == [[0, 1, 2, 3, 4, 5]]
    assert passes.packs(listed, 230, aim=230) == [[0, 1], [2, 3], [4, 5]]
    unrelated = [Sequence.of([number] * 40, [number] * 10) for number in range(6)]
    assert passes.packs(unrelated, 1000, aim=100) == [[0, 1], [2, 3], [4, 5]]
    assert passes.packs(unrelated, 20) == [[number] for number in range(6)], "too long for any trie: alone"
    assert passes.packs([], 100) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequences(most=12, vocabulary=3), st.integers(1, 40), st.integers(0, 40), st.booleans())
def test_packs_hold_every_sequence_once_within_the_budget(listed, most, aim, ends):
    cut = passes.packs(listed, most, aim, ends)
    assert sorted(i for part in cut for i in part) == list(range(len(listed)))
    for part in cut:
        tokens = len(trie.build([listed[i] for i in part], min_shared=1, ends=ends))
        assert tokens <= most or len(part) == 1
