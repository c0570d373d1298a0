"""Entropy and divergence of whole distributions: both directions, vocabularies that differ, kept or computed again."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.trie import distributions, vocabulary
from trueline.trie.distributions import Reference, of_logps, read
from trueline.trie.vocabulary import After

STATES = torch.tensor([0, 0, 1, 3, 3, 3, 4])
TARGETS = torch.tensor([2, 9, 0, 1, 1, 8, 10])
HEADS = {
    "linear": lambda n=11: torch.nn.Linear(6, n, bias=False),
    "with a bias": lambda n=11: torch.nn.Linear(6, n),
    "of two layers": lambda n=11: torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, n)),
}
# Theirs have as many tokens, fewer, or more; some tokens never count.
VOCABULARIES = {"the same": (11, ()), "added tokens": (9, (9, 10)), "in the padding": (11, (9,)), "both": (12, (2, 7))}


def states(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(5, 6, dtype=torch.float64).to(dtype).requires_grad_()


def reference_of(head, size=11, excluded=(), reverse=False, dtype=torch.float64):
    torch.manual_seed(2)
    made = HEADS[head](size).to(dtype)
    return Reference(torch.randn(5, 6, dtype=torch.float64).to(dtype), made, After(0.5), reverse, excluded)


def plainly(hidden, head, after, reference):
    """Log-probs, divergence and entropy by their definitions, over all logits at once."""
    ours = after(head(hidden))
    theirs = reference.after(reference.head(reference.hidden_SD)).detach()
    both = [t for t in range(min(ours.shape[-1], theirs.shape[-1])) if t not in reference.excluded]
    p, q = ours[:, both].log_softmax(-1), theirs[:, both].log_softmax(-1)
    kl = (p.exp() * (p - q) if reference.reverse else q.exp() * (q - p)).sum(-1)
    logps = ours.log_softmax(-1)
    return logps[STATES, TARGETS], kl, -(logps.exp() * logps).sum(-1)


def with_gradients(values, hidden, head):
    torch.manual_seed(4)
    above = [torch.randn(x.shape, dtype=torch.float64).to(x) for x in values]
    return *values, *torch.autograd.grad(values, [hidden, *head.parameters()], above)


@pytest.mark.parametrize("keep", [0, 500, 1 << 20], ids=["recomputed", "half kept", "kept"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("tokens", VOCABULARIES)
@pytest.mark.parametrize(
    ("heads", "after"),
    [
        (("linear", "linear"), After()),
        (("with a bias", "linear"), After(0.25)),
        (("of two layers", "with a bias"), After()),
        (("linear", "of two layers"), After(2.0, 3.0)),
    ],
    ids=["linear", "scaled, a bias", "two layers", "capped"],
)
def test_equals_the_definitions(heads, after, tokens, reverse, keep, monkeypatch):
    """Values and the gradients of states and head, in chunks of 2 states, to 1e-10 in float64."""
    monkeypatch.setattr(vocabulary, "KEEP", keep)
    torch.manual_seed(1)
    head, hidden = HEADS[heads[0]]().double(), states()
    reference = reference_of(heads[1], *VOCABULARIES[tokens], reverse)
    got = with_gradients(read(hidden, head, after, STATES, TARGETS, reference, True, 2), hidden, head)
    for mine, wanted in zip(got, with_gradients(plainly(hidden, head, after, reference), hidden, head), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    assert not any(p.grad is not None for p in reference.head.parameters())


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("tokens", VOCABULARIES)
def test_equals_the_definitions_in_float32(tokens, reverse):
    torch.manual_seed(1)
    head, hidden = HEADS["linear"](), states(torch.float32)
    reference = reference_of("linear", *VOCABULARIES[tokens], reverse, torch.float32)
    got = with_gradients(read(hidden, head, After(), STATES, TARGETS, reference, True, 2), hidden, head)
    for mine, wanted in zip(got, with_gradients(plainly(hidden, head, After(), reference), hidden, head), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", ["kl", "entropy"])
def test_gives_what_is_asked_for(wanted):
    """Each alone is what it is beside the other, with its gradient; the rest is not computed."""
    torch.manual_seed(1)
    head, hidden, reference = HEADS["linear"]().double(), states(), reference_of("linear")
    both = read(hidden, head, After(), STATES, TARGETS, reference, True)
    kl = wanted == "kl"
    alone = read(hidden, head, After(), STATES, TARGETS, reference if kl else None, not kl)
    assert (alone.kl_S is None, alone.entropy_S is None) == (not kl, kl)
    at = 1 if kl else 2
    for one, other in zip(
        *(torch.autograd.grad(x[at].sum(), [hidden, head.weight]) for x in (alone, both)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone[at], both[at])


def of(p, q, reverse=False, excluded=()):
    """The divergence of two written-out distributions, by the chunked way and by the definition."""
    none = torch.zeros(0, dtype=torch.int64)
    heads = [torch.nn.Linear(len(x), len(x), bias=False).double() for x in (p, q)]
    for head in heads:
        head.weight.data = torch.eye(head.in_features, dtype=torch.float64)
    ours, theirs = (torch.tensor([x], dtype=torch.float64).log() for x in (p, q))
    reference = Reference(theirs, heads[1], After(), reverse, excluded)
    kl = read(ours, heads[0], After(), none, none, reference).kl_S.item()
    assert of_logps(ours.log_softmax(-1), reference, False)[0].item() == pytest.approx(kl, abs=1e-12)
    return kl


def test_directions_of_a_worked_distribution():
    """p = (.4, .4, .2), q = (.5, .3, .2): forward .5 ln 1.25 + .3 ln .75 = 0.025267, reverse .4 ln .8 + .4 ln 4/3 =
    0.025815; both are 0 for equal ones and for no others. A token that only the policy has, of probability 1/2, changes
    neither."""
    p, q = (0.4, 0.4, 0.2), (0.5, 0.3, 0.2)
    assert of(p, q) == pytest.approx(0.025267, abs=1e-6)
    assert of(p, q, reverse=True) == pytest.approx(0.025815, abs=1e-6)
    assert of(q, q) == pytest.approx(0, abs=1e-12) and of(q, q, reverse=True) == pytest.approx(0, abs=1e-12)
    wider = (*(x / 2 for x in p), 0.5)
    for reverse in (False, True):
        assert of(wider, q, reverse) == pytest.approx(of(p, q, reverse), abs=1e-12)
        padded = (*(x / 2 for x in q), 0.5)
        assert of(wider, padded, reverse, excluded=(3,)) == pytest.approx(of(p, q, reverse), abs=1e-12)


def test_entropy_of_a_worked_distribution():
    """Of (1/2, 1/4, 1/4): 1.5 ln 2; of four equal ones: ln 4; of a certain one: 0, though the others are impossible."""
    for p, wanted in (((0.5, 0.25, 0.25), 1.5 * math.log(2)), ((0.25,) * 4, math.log(4)), ((1.0, 0.0), 0.0)):
        logps = torch.tensor([p], dtype=torch.float64).log()
        assert of_logps(logps, None, True)[1].item() == pytest.approx(wanted)


def test_a_token_that_nobody_says_costs_nothing():
    """By a bias of minus infinity: q = (1, 0) and p = (1/2, 1/2) make ln 2; impossible on both sides, 0, and no NaN."""
    head, other = HEADS["with a bias"](3).double(), HEADS["with a bias"](3).double()
    for made, bias in ((head, [0.0, 0.0, -torch.inf]), (other, [0.0, -torch.inf, -torch.inf])):
        made.weight.data.zero_()
        made.bias.data = torch.tensor(bias, dtype=torch.float64)
    hidden = states()
    reference = Reference(torch.zeros(5, 6, dtype=torch.float64), other, After())
    found = read(hidden, head, After(), STATES, torch.zeros_like(TARGETS), reference, True)
    assert found.kl_S.tolist() == pytest.approx([math.log(2)] * 5) == found.entropy_S.tolist()
    grads = torch.autograd.grad(sum(x.sum() for x in found), [head.weight, head.bias])
    assert all(x.isfinite().all() for x in grads)
    assert read(hidden, other, After(), STATES, torch.zeros_like(TARGETS), reference).kl_S.abs().max() == 0


def test_low_precision_is_near_and_accumulates_in_float32():
    """Under autocast to bfloat16: values and gradients within what one product in bfloat16 may be off."""
    torch.manual_seed(1)
    head = HEADS["linear"](61)
    reference = reference_of("linear", 61, (60,), False, torch.float32)
    found = []
    for low in (False, True):
        hidden = states(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            values = read(hidden, head, After(), STATES, TARGETS, reference, True, 2)
        assert all(x.dtype == torch.float32 for x in values)
        found.append(with_gradients(values, hidden, head))
    for exact, rough in zip(*found, strict=True):
        assert (exact - rough).norm() < 0.02 * exact.norm()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.sets(st.integers(0, 8), max_size=3),
    st.booleans(),
    st.floats(0.1, 30.0),
    st.integers(0, 1000),
)
def test_any_vocabularies_and_sharpness(ours, theirs, excluded, reverse, scale, seed):
    """Divergences are those of the definition and not negative, entropies from 0 to ln V, for flat and for near-certain
    distributions."""
    if len(set(range(min(ours, theirs))) - excluded) < 1:
        return
    torch.manual_seed(seed)
    heads = [torch.nn.Linear(4, n, bias=False).double() for n in (ours, theirs)]
    hidden, other = (torch.randn(3, 4, dtype=torch.float64) * scale for _ in range(2))
    none = torch.zeros(0, dtype=torch.int64)
    reference = Reference(other, heads[1], After(), reverse, tuple(excluded))
    found = read(hidden, heads[0], After(), none, none, reference, True, 2)
    kl, entropy = of_logps(heads[0](hidden).log_softmax(-1), reference, True)
    torch.testing.assert_close(found.kl_S, kl, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.entropy_S, entropy, rtol=1e-9, atol=1e-10)
    assert kl.min() > -1e-9 and entropy.min() > -1e-9 and entropy.max() < math.log(ours) + 1e-9


def test_frozen_parts_get_no_gradient():
    head, hidden = HEADS["with a bias"]().double().requires_grad_(False), states()
    found = distributions.read(hidden, head, After(), STATES, TARGETS, reference_of("linear"), True)
    sum(x.sum() for x in found).backward()
    assert head.weight.grad is None and head.bias.grad is None and hidden.grad is not None
