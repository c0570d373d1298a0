"""Tokens drawn from logits: the distributions are exact, the random numbers belong to their answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.sample.choose import (
    SLICE,
    Chooser,
    invert,
    invert_blocks,
    likeliest,
    nucleus,
    stream,
    uniforms,
    wide_nucleus,
)  # fmt: skip
from trueline.sample.protocol import Sampling


def draws(logits_V, count=20_000, **sampling):
    """Relative frequencies of `count` draws from one row of logits."""
    keys = np.array([stream(0, "p", i) for i in range(count)], dtype=np.uint64)
    choose = Chooser(Sampling(**sampling), ())
    tokens, _ = choose(torch.tensor(logits_V).expand(count, -1), keys, np.zeros(count, np.int64))
    return torch.bincount(tokens, minlength=len(logits_V)) / count


def test_frequencies_follow_the_distribution():
    """Logits ln 1, ln 2, ln 5: shares 1/8, 2/8, 5/8.

    At temperature 1/2 the weights are squared: 1, 4, 25 of 30. top_k=2 drops the first: 2/7, 5/7. top_p=0.6 is reached
    by the last token alone (0.625), top_p=0.7 by the last two.
    """
    logits = [float(np.log(x)) for x in (1.0, 2.0, 5.0)]
    for sampling, shares in (
        ({}, [1 / 8, 2 / 8, 5 / 8]),
        ({"temperature": 0.5}, [1 / 30, 4 / 30, 25 / 30]),
        ({"top_k": 2}, [0, 2 / 7, 5 / 7]),
        ({"top_p": 0.6}, [0, 0, 1]),
        ({"top_p": 0.7}, [0, 2 / 7, 5 / 7]),
        ({"top_k": 2, "top_p": 0.7}, [0, 0, 1]),
        ({"temperature": 0}, [0, 0, 1]),
    ):
        assert torch.allclose(draws(logits, **sampling), torch.tensor(shares, dtype=torch.float32), atol=0.015), (
            sampling
        )


def test_log_probs_are_of_the_model_at_temperature_1():
    """Whatever distribution was drawn from: ln 5/8 for the likeliest token above."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    for sampling in (Sampling(temperature=0), Sampling(temperature=0.1, top_k=1), Sampling(top_p=0.1)):
        token, logp = Chooser(sampling, ())(logits, np.zeros(1, np.uint64), np.zeros(1, np.int64))
        assert token.item() == 2
        assert logp.item() == pytest.approx(np.log(5 / 8))


def test_an_answer_does_not_end_before_min_tokens():
    logits = torch.tensor([[0.0, 9.0, 1.0], [0.0, 9.0, 1.0]])
    choose = Chooser(Sampling(temperature=0, min_tokens=2), (1,))
    tokens, logps = choose(logits, np.zeros(2, np.uint64), np.array([1, 2]))
    assert tokens.tolist() == [2, 1]
    assert logps[0].item() == pytest.approx(torch.log_softmax(logits[0], -1)[2].item())


def test_banned_tokens_are_never_drawn_and_the_others_keep_their_proportions():
    """Weights 1, 2, 5 without the 2: shares 1/6 and 5/6, by every path; the log-prob stays the model's, ln 5/8."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    keys = np.array([stream(0, "p", i) for i in range(20_000)], dtype=np.uint64)
    for sampling, shares in (
        ({}, [1 / 6, 0, 5 / 6]),
        ({"temperature": 0.5}, [1 / 26, 0, 25 / 26]),
        ({"top_p": 0.9}, [1 / 6, 0, 5 / 6]),
        ({"top_k": 2}, [1 / 6, 0, 5 / 6]),
        ({"temperature": 0}, [0, 0, 1]),
    ):
        choose = Chooser(Sampling(**sampling), (), banned=(1,))
        tokens, logps = choose(logits.expand(len(keys), -1), keys, np.zeros(len(keys), np.int64))
        found = torch.bincount(tokens, minlength=3) / len(keys)
        assert torch.allclose(found, torch.tensor(shares, dtype=torch.float32), atol=0.015) and found[1] == 0, sampling
        assert logps[tokens == 2].tolist() == pytest.approx([np.log(5 / 8)] * int((tokens == 2).sum()))
    both = Chooser(Sampling(temperature=0, min_tokens=2), (2,), banned=(1,))
    assert both(logits, np.zeros(1, np.uint64), np.ones(1, np.int64))[0].tolist() == [0]


def test_random_numbers_are_of_the_answer_and_the_position():
    """Any number is had without those before it; streams do not repeat each other; the numbers are evenly spread."""
    keys = np.array(
        [stream(seed, prompt, i) for seed in (0, 1) for prompt in "ab" for i in range(250)], dtype=np.uint64
    )
    table = np.stack([uniforms(keys, np.full(keys.size, t)) for t in range(100)])
    assert table.min() > 0 and table.max() < 1
    assert np.unique(table).size == table.size
    assert uniforms(keys[7:8], np.array([42]))[0] == table[42, 7]
    assert abs(table.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.02


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="not finite"):
        Chooser(Sampling(), ())(torch.tensor([[0.0, float("nan")]]), np.zeros(1, np.uint64), np.zeros(1, np.int64))


@st.composite
def distributions(draw):
    size = draw(st.integers(2, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, draw(st.sampled_from([0.0, 0.1, 1.0, 5.0])), (3, size))
    if draw(st.booleans()):
        logits = logits.round()  # ties
    return torch.softmax(torch.tensor(logits, dtype=torch.float32), -1)


@settings(max_examples=60, deadline=None)
@given(distributions(), st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_the_nucleus_without_sorting_is_that_with_sorting(p_NV, top_p):
    """The smallest set that reaches top_p: of tied tokens, as many, and the same probability in all."""
    sorted_NV, order_NV = p_NV.sort(dim=-1, descending=True, stable=True)
    wanted = torch.zeros_like(p_NV).scatter(1, order_NV, nucleus(sorted_NV, top_p))
    got = wide_nucleus(p_NV, top_p)
    # Where sums pass top_p within rounding, one token more or less is as right.
    edge = (sorted_NV.cumsum(-1) - top_p).abs().amin(-1) < 1e-5
    assert torch.equal(got[~edge], wanted[~edge])
    assert ((got > 0).sum(-1) - (wanted > 0).sum(-1)).abs().amax() <= 1


@settings(max_examples=60, deadline=None)
@given(distributions(), st.floats(1e-9, 1 - 1e-9))
def test_a_number_finds_its_token(p_NV, u):
    """The token at which the cumulative sum passes u, by blocks as at once; one of probability 0 never."""
    p_NV = p_NV * (p_NV > p_NV.mean(-1, keepdim=True) / 2)
    u_N = torch.full((3,), u, dtype=torch.float32)
    at, blocked = invert(p_NV, u_N), invert_blocks(p_NV, u_N)
    share = p_NV.cumsum(-1) / p_NV.sum(-1, keepdim=True)
    for row in range(3):
        for token in (at[row], blocked[row]):
            assert p_NV[row, token] > 0
            assert share[row, token] >= u - 1e-5
            assert share[row, token] - p_NV[row, token] / p_NV[row].sum() <= u + 1e-5


@settings(max_examples=40, deadline=None)
@given(distributions())
def test_the_likeliest_token_is_the_first_of_equals(p_NV):
    """In a vocabulary of any size, whole blocks or not, and with logits of minus infinity before it."""
    logits_NV = torch.where(p_NV > p_NV.mean(-1, keepdim=True), p_NV.log(), float("-inf"))
    assert torch.equal(likeliest(logits_NV), torch.from_numpy(logits_NV.numpy().argmax(-1)))


def test_a_wide_distribution_is_drawn_beyond_the_slice():
    """1000 equal tokens and top_p=0.5: 500 of them are drawn, more than the slice that is looked at first."""
    shares = draws([0.0] * 1000, count=5000, top_p=0.5)
    assert SLICE < 500
    assert 480 < (shares > 0).sum() <= 501
