"""Node-wise attention, its plans and FlexAttention's block mask against one dense masked softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tries import sequences
from trueline.trie import Sequence, build, flex, layout, nodewise
from trueline.trie.layout import Layout, Leaves

MANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
WINDOWS = st.sampled_from([None, 1, 3, 8, 40])


def planned(listed: list[Sequence], read: np.ndarray | None = None) -> Layout:
    """The layout of a trie; all states are read unless given."""
    made = build(listed, min_shared=1)
    everything = np.arange(len(made)) if read is None else read
    return Layout(made.nodes, made.positions_T.numpy(), everything, torch.device("cpu"))


def seen(trie: Layout, window: int | None) -> torch.Tensor:
    """Who sees whom, by following parents [T, T]: the definition, without preorder's short cuts."""
    node = np.zeros(trie.tokens, int)
    for index, (start, end, _, _) in enumerate(trie.nodes.tolist()):
        node[start:end] = index
    sees = torch.zeros(trie.tokens, trie.tokens, dtype=torch.bool)
    for query in range(trie.tokens):
        path, at = [], int(node[query])
        while at >= 0:
            path.append(at)
            at = int(trie.nodes[at, 3])
        for key in range(query + 1):
            near = window is None or trie.positions[query] - trie.positions[key] < window
            sees[query, key] = int(node[key]) in path and bool(near)
    return sees


def random_heads(trie: Layout, heads: int, key_heads: int, dtype: torch.dtype, width: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(heads, width), (key_heads, width), (key_heads, width)]
    return [torch.randn(1, trie.tokens, h, d, dtype=dtype).transpose(1, 2).requires_grad_() for h, d in shapes]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees: torch.Tensor, scale: float) -> torch.Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~sees, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


def assert_dense(trie: Layout, kernel: str, window: int | None, heads: tuple[int, int], **kwargs: Any) -> None:
    q, k, v = random_heads(trie, *heads, torch.float64)
    plan = trie.plan(window, **kwargs)
    ours = nodewise.attend(q, k, v, plan, nodewise.KERNELS[kernel], 0.3)
    wanted = dense(q, k, v, seen(trie, window), 0.3)
    # What nobody reads is noise by contract: no gradient comes from there.
    rows = torch.from_numpy(trie.read) if kwargs else torch.arange(trie.tokens)
    torch.testing.assert_close(ours[:, rows], wanted[:, rows], rtol=1e-12, atol=1e-12)
    above = torch.zeros_like(wanted)
    above[:, rows] = torch.randn_like(wanted[:, rows])
    for got, want in zip(
        torch.autograd.grad(ours, (q, k, v), above), torch.autograd.grad(wanted, (q, k, v), above), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", nodewise.KERNELS)
@MANY
@given(sequences(), WINDOWS, st.sampled_from([(4, 4), (4, 2), (3, 1)]))
def test_equals_a_dense_masked_softmax(kernel, listed, window, heads):
    """Output and gradients of queries, keys and values, with grouped heads and windows, to 1e-12."""
    assert_dense(planned(listed), kernel, window, heads)


@pytest.mark.parametrize("kernel", nodewise.KERNELS)
@MANY
@given(sequences(), WINDOWS, st.data())
def test_the_last_layer_leaves_out_what_nobody_reads(kernel, listed, window, data):
    everything = planned(listed)
    rows = data.draw(st.sets(st.integers(0, everything.tokens - 1), min_size=1))
    assert_dense(planned(listed, np.array(sorted(rows))), kernel, window, (2, 2), last=True)


@MANY
@given(sequences(), st.sampled_from([2, 5]))
def test_long_windowed_nodes_are_cut(listed, window):
    """With blocks of 4 keys every node of more than that is cut, and the numbers stay."""
    before, layout.BLOCK = layout.BLOCK, 4
    try:
        assert_dense(planned(listed), "flash", window, (2, 2))
    finally:
        layout.BLOCK = before


def test_calls_of_a_preference_pair():
    """Prompt of 20, answers of 4 and 3: one call for the prompt, one padded batch of 2 x 4 cells for the answers.

    Where only the answers' predictions are read (states 19 to 22 and 24 to 25), the last layer asks of the prompt's
    keys on behalf of tokens 19 to 26 alone.
    """
    pair = [Sequence.of(range(20), [30, 31, 32, 33]), Sequence.of(range(20), [40, 41, 42])]
    trie = planned(pair, np.array([19, 20, 21, 22, 24, 25]))
    prompt, answers = trie.plan(None).levels
    assert [call.queries for call in prompt.calls] == [slice(0, 27)]
    assert prompt.rows is None
    (batch,) = answers.calls
    assert isinstance(batch, Leaves)
    assert batch.gather.tolist() == [20, 21, 22, 23, 24, 25, 26, 24]
    assert batch.tokens.tolist() == list(range(20, 27))
    assert answers.rows == slice(20, 27)
    prompt, _ = trie.plan(None, last=True).levels
    assert [(call.queries, call.keys, call.causal) for call in prompt.calls] == [(slice(19, 27), slice(0, 20), False)]


def test_a_window_over_the_whole_trie_plans_like_none():
    trie = planned([Sequence.of(range(20), [1, 2])])
    assert trie.plan(22) is trie.plan(None)
    assert trie.plan(21) is not trie.plan(None)


@MANY
@given(sequences(most=8, longest=20), WINDOWS)
def test_block_mask_of_flex_attention(listed, window):
    """Every pair that is seen lies in a listed tile, every pair of a whole tile is seen; tiles of 8 tokens."""
    trie, before = planned(listed), flex.TILE
    flex.TILE = 8
    try:
        partly, whole = (torch.from_numpy(x) for x in flex.tiles(trie, window))
        at = torch.arange(trie.tokens)
        rule = flex.mask_mod(trie, trie.effective(window))(at, at, at[:, None], at[None, :])
    finally:
        flex.TILE = before
    wanted = seen(trie, window)
    assert torch.equal(rule, wanted)
    assert not (partly & whole).any()
    for query in range(trie.tokens):
        for key in range(trie.tokens):
            if wanted[query, key]:
                assert partly[query // 8, key // 8] or whole[query // 8, key // 8]
            else:
                assert not whole[query // 8, key // 8]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_forward(monkeypatch):
    """The block mask means to FlexAttention what the dense mask means (uncompiled, forward: all that a CPU offers)."""
    from torch.nn.attention.flex_attention import flex_attention

    prompt = np.random.default_rng(0).integers(0, 50, 300)
    listed = [Sequence.of(prompt, np.full(n, n)) for n in (40, 150, 7)]
    listed += [Sequence.of(prompt[:200], [3] * 90), Sequence.of([1, 2], [3])]
    trie = planned(listed)
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
    for window in (None, 37):
        q, k, v = (x.detach() for x in random_heads(trie, 4, 2, torch.float32, 16))
        ours = flex.attend(q, k, v, trie, 0.25, window)
        torch.testing.assert_close(ours, dense(q, k, v, seen(trie, window), 0.25), rtol=1e-4, atol=1e-5)
