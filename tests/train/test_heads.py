"""Heads in training: on whole, adapted and frozen models, of every kind, and on answers that were cut."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import folders
from tests.train import tiny
from tests.train.town import town
from trueline import heads, models, trie
from trueline.errors import UserError
from trueline.heads import AttentionPooler, Head, Last, Layer, ModelShape, WeightedSum
from trueline.heads.readout import Heads
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.records import Message
from trueline.train.fit import fit
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.objectives.sum import Sum
from trueline.train.rows import Encoder, encode
from trueline.train.settings import Settings
from trueline.train.stage import train
from trueline.train.views import Answer, Demonstrations, Example, Pairs
from trueline.trie import Sequence

FAST = {"lr": 3e-3, "epochs": 6, "batch_size": 4, "warmup": 0.0}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return models.pretrained(folders.folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUELINE_STORE", str(tmp_path / "store"))


def rated(policy, *texts):
    """What the policy's first head says of answers to one question."""
    loaded = models.load(policy)
    prompt = loaded.renderer.prompt_ids((Message("user", "Who bakes bread number 3?"),))
    return heads.rewards(loaded, [Sequence.of(prompt, loaded.renderer.answer_ids(t)) for t in texts])[:, 0]


def test_a_frozen_model_gets_a_head_and_stays_what_it_was(start, store):
    view = Pairs(town(8))
    policy = make(train(start, view, DPH(), head=Head(("good",), "swiglu_bert"), freeze=True, **FAST))
    before = AutoModelForCausalLM.from_pretrained(start.folder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(policy.folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    good, bad = rated(policy, "Dora bakes it, and gladly.", "Go away.")
    assert good > bad
    assert models.load(policy).heads.spec == Head(("good",), "swiglu_bert")


def test_adapters_and_heads_train_side_by_side_and_are_saved_merged(start, store):
    view = Pairs(town(8))
    policy = make(train(start, view, Sum(DPH(), DPO()), lora=models.LoRA(r=4), head=Head(pooler="bert"), **FAST))
    before = AutoModelForCausalLM.from_pretrained(start.folder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(policy.folder).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    good, bad = rated(policy, "Dora bakes it, and gladly.", "Go away.")
    assert good > bad


def test_a_starts_own_heads_are_trained_on_and_others_refused(start, store):
    """Leaving head out keeps what the start has; an objective that reads none leaves them out and says so."""
    view = Pairs(town(4))
    spec = Head(("good",), aggregate=WeightedSum((1, -1)))
    one = train(start, view, DPH(), head=spec, batch_size=4)
    more = make(train(one, view, DPH(), batch_size=4, lr=1e-9))
    assert models.load(more).heads.spec == spec
    kept, trained = models.load(one).heads, models.load(more).heads
    torch.testing.assert_close(kept.out.weight, trained.out.weight, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"the heads that the start has.*without heads"):
        make(train(one, view, DPH(), head=Head(("bad",)), batch_size=4))
    sft = make(train(one, Demonstrations(town(4)), SFT(), batch_size=4))
    assert models.load(sft).heads is None and "left out" in sft.record["notes"]["heads"]


def test_refuses_heads_and_frozen_models_that_mean_nothing(start, store):
    view = Pairs(town(4))
    with pytest.raises(UserError, match="DPO has no use for it"):
        train(start, view, DPO(), head=Head())
    with pytest.raises(UserError, match="SFT trains none"):
        train(start, Demonstrations(town(4)), SFT(), freeze=True)
    with pytest.raises(UserError, match="adapters or a frozen model"):
        train(start, view, DPH(), freeze=True, lora=models.LoRA())


def test_no_backward_pass_goes_through_a_frozen_model():
    """What autograd keeps for backward is the head's: nothing larger than its input."""
    model, data = tiny.model().requires_grad_(False), tiny.rows(6, 2)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        fit(model, data, DPH(), Settings(batch_size=6), heads=Head(pooler="bert").build(model))
    assert kept and max(kept) <= max(12 * 32, 32 * 32)


AGGREGATES = [Last(), Layer(1), WeightedSum((0, 1, 2)), AttentionPooler(WeightedSum((1, 2), norm=True), norm=True)]


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda x: type(x).__name__)
def test_every_kind_learns_and_micro_batches_change_nothing(aggregate):
    """In float64 to 1e-8: one micro-batch, or one per pair. The gradient reaches the model through every kind."""
    found = []
    for micro_tokens in (100_000, 1):
        model, data = tiny.model(dtype=torch.float64), tiny.rows(4, 2)
        torch.manual_seed(1)
        made = Heads(Head(pooler="bert", aggregate=aggregate), ModelShape(32, 64, 4, 3, (5, tiny.END))).double()
        history = fit(
            model, data, DPH(), Settings(lr=3e-3, epochs=3, batch_size=4, warmup=0.0), heads=made,
            machine=Machine(micro_tokens=micro_tokens),
        )  # fmt: skip
        assert history[-1]["loss"] < history[0]["loss"]
        found.append(tiny.weights(model) | tiny.weights(made))
    fresh = tiny.weights(tiny.model(dtype=torch.float64))
    assert not torch.equal(found[0]["model.layers.0.mlp.up_proj.weight"], fresh["model.layers.0.mlp.up_proj.weight"])
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-6, atol=1e-8, msg=name)


def test_the_head_alone_leaves_the_output_head_alone():
    """DPH without DPO gives the vocabulary's projection no gradient; DPH at weight 0 gives the head none."""
    model, data = tiny.model(), tiny.rows(6, 2)
    before = tiny.weights(model)
    made = Head(pooler="bert").build(model)
    fit(model, data, DPH(), Settings(lr=1e-2, batch_size=6, warmup=0.0), heads=made)
    after = tiny.weights(model)
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert not torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    head = tiny.weights(made)
    objective = Sum((DPO(), 1.0), (DPH(), 0.0))
    fit(model, data, objective, Settings(lr=1e-2, batch_size=6), reference=tiny.reference(model, data), heads=made)
    assert all(torch.equal(tensor, head[name]) for name, tensor in tiny.weights(made).items())


def test_a_joint_objective_reads_a_cut_answer_where_it_trains_no_end(tmp_path):
    """The same DPO loss as without heads, and a reward at an end-of-turn that nothing makes likely."""
    loaded = models.load(folders.folder(tmp_path), train=True)
    question = (Message("user", "Who bakes the bread?"),)
    pair = Example(question, (Answer("Ada bakes the", ended=False), Answer("Go away.")))
    closed = encode([pair], Encoder(loaded.renderer, closed=True))
    plain = encode([pair], Encoder(loaded.renderer))
    assert closed[0].sequences[0].ids[-1] == loaded.renderer.end_id != plain[0].sequences[0].ids[-1]
    reference = {row.key: (-3.0, -4.0) for row in plain}
    settings = Settings(lr=1e-9, batch_size=1, warmup=0.0)
    made = Head().build(loaded.model)
    (joint,) = fit(loaded.model, closed, Sum(DPH(), DPO()), settings, reference=reference, heads=made)
    (alone,) = fit(loaded.model, plain, DPO(), settings, reference=reference)
    assert joint["dpo/loss/pair"] == pytest.approx(alone["loss/pair"], rel=1e-5)
    want = trie.LOGPS | made.want
    outputs = trie.forward(loaded.model, trie.build(closed[0].sequences), want)
    scored = closed[0].sequences[0].ids[closed[0].sequences[0].scored]
    assert outputs.counts_N.tolist() == [len(scored), plain[0].sequences[1].scored.sum()]
    assert loaded.renderer.end_id not in scored


def test_the_head_costs_a_step_next_to_nothing():
    """Counted, not timed: beside DPO the head asks for no further token and no logit, only one product per answer."""
    rows = tiny.rows(8, 2)
    made = trie.build([s for row in rows for s in row.sequences])
    read = {want: made.layout(frozenset(want)).read.size for want in (("logps",), ("logps", "last_hidden"))}
    assert read["logps", "last_hidden"] - read[("logps",)] <= 16
    assert sum(p.numel() for p in Head().build(tiny.model()).parameters()) == 32
