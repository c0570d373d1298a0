"""Heads: their sizes, what they read, how they are kept, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import silu
from transformers import AutoModelForCausalLM, LlamaConfig

from tests import folders
from trueline import heads, models, trie
from trueline.errors import UserError
from trueline.heads import AttentionPooler, Head, Last, Layer, ModelShape, WeightedSum
from trueline.heads.readout import Heads
from trueline.machine import Machine
from trueline.records import Message
from trueline.trie import Sequence, attention, build

PAPER = ModelShape(width=1536, ffn=4096, attention_heads=24, states=25, turn=(3, 4))
START, END = 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(folder)


def count(spec, shape=PAPER):
    with torch.device("meta"):
        return sum(p.numel() for p in Heads(spec, shape).parameters())


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_head_of_the_paper():
    """d = 1536, d_ffn = 4096: 1,536; + d^2 + d = 2,362,368; and + 2 d f + 2 f + d f + d = 18,885,632."""
    assert count(Head()) == 1_536
    assert count(Head(pooler="bert")) == count(Head(pooler="t5")) == 2_362_368
    assert count(Head(pooler="swiglu_bert")) == count(Head(pooler="swiglu_t5")) == 18_885_632
    assert count(Head(("quality", "tone"), bias=True)) == 2 * 1_537


@pytest.mark.parametrize(
    ("fields", "millions"),
    [
        ({"lora_r": 8}, 38.5),
        ({"lora_r": 64}, 43.1),
        ({"lora_r": 256}, 59.1),
        ({"self_type": "pool", "lora_r": 64}, 40.4),
        ({"repeats": 4, "lora_r": 64}, 48.5),
    ],
)
def test_the_attention_poolers_published_sizes(fields, millions):
    """16 layers summed, a norm after the sum and after the pooler, a biased head."""
    pooler = AttentionPooler(WeightedSum(tuple(range(9, 25)), 0.1, norm=True), norm=True, **fields)
    assert round(count(Head(aggregate=pooler, dropout=0.1, bias=True)) / 1e6, 1) == millions


def test_norms_after_layers_and_after_the_pooler_are_two_choices():
    """A LayerNorm of 1536 has 3072 numbers; a sum of two layers two weights."""
    bare = count(Head(aggregate=AttentionPooler()))
    assert count(Head(aggregate=AttentionPooler(norm=True))) == bare + 3072
    assert count(Head(aggregate=AttentionPooler(Layer(-1, norm=True)))) == bare + 3072
    assert count(Head(aggregate=WeightedSum((3, 7), norm=True))) == 1536 + 2 + 3072


# --- what they compute -----------------------------------------------------------------------------------------------


def test_poolers_by_hand(loaded):
    """swiglu: tanh(W2 (x * silu(g))) with x the first half of W1 h; t5 puts the dropout first, bert last."""
    model = loaded.model
    made = Head(pooler="swiglu_bert", bias=True).build(model, seed=1)
    state = torch.randn(5, 32)
    first, second = made.pooler[0], made.pooler[2]
    value, gate = first(state)[:, :64], first(state)[:, 64:]
    wanted = torch.tanh(second(value * silu(gate))) @ made.out.weight.T + made.out.bias
    torch.testing.assert_close(made.pool(state), wanted)
    kinds = {name: [type(x).__name__ for x in Head(pooler=name).build(model).pooler] for name in ("bert", "t5")}
    assert kinds == {"bert": ["Linear", "Tanh", "Dropout"], "t5": ["Dropout", "Linear", "Tanh"]}
    identity = Head().build(model)
    torch.testing.assert_close(identity.pool(state), state @ identity.out.weight.T)


def test_fresh_weights_come_from_the_seed():
    """Every linear weight from N(0, 0.02), every bias 0; the caller's random numbers are left alone."""
    model = folders.model(64, hidden_size=128, intermediate_size=256)
    torch.manual_seed(5)
    before = torch.rand(2)
    torch.manual_seed(5)
    made = Head(pooler="swiglu_bert").build(model, seed=7)
    assert torch.equal(torch.rand(2), before)
    assert torch.equal(made.out.weight, Head(pooler="swiglu_bert").build(model, seed=7).out.weight)
    assert not torch.equal(made.out.weight, Head(pooler="swiglu_bert").build(model, seed=8).out.weight)
    for name, p in made.named_parameters():
        assert (p.std().item() == pytest.approx(0.02, rel=0.2)) if p.ndim > 1 else not p.any(), name


def talk(loaded, *turns):
    """A conversation's ids, closed after its last answer."""
    told = tuple(Message(role, text) for role, text in zip(("user", "assistant") * 9, turns, strict=False))
    return loaded.renderer.closed(loaded.renderer.conversation(told).ids)


@pytest.mark.parametrize(
    "aggregate",
    [
        Last(),
        Layer(1),
        Layer(-1, norm=True),
        WeightedSum((0, 1, -1), 0.3, norm=True),
        AttentionPooler(),
        AttentionPooler(WeightedSum((0, 2), 0.5, norm=True), "pool", 3, norm=True, lora_dropout=0.2),
    ],
    ids=lambda x: type(x).__name__,
)
def test_batched_equals_single_and_text_after_it_changes_nothing(loaded, aggregate):
    """The rule: the state of the end-of-turn that closes the answer, whatever shares its trie or follows."""
    made = Head(("reward", "tone"), aggregate=aggregate, dropout=0.5).build(loaded.model, 0, loaded.renderer)
    with_heads = models.Loaded(loaded.model, loaded.tokenizer, loaded.renderer, loaded.folder, made.eval())
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    pad = [loaded.tokenizer.pad_token_id] * 5
    ids = [
        talk(loaded, "Who bakes the bread in the old town?", answer)
        for answer in ("Ada bakes it.", "Ada bakes the bread, and gladly.", "Go away.")
    ] + [talk(loaded, "Who bakes the bread in the old town?", "Ada.", "Where does the miller live?", "Here.")]
    given = [Sequence.of(i[:1], i[1:]) for i in ids]
    together = heads.rewards(with_heads, given)
    assert together.shape == (4, 2) and together.dtype == np.float32
    assert len({round(float(x), 4) for x in together[:, 0]}) == 4
    alone = np.concatenate([heads.rewards(with_heads, [s], Machine(micro_tokens=1)) for s in given])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    after = loaded.renderer.closed([*ids[0], *pad, *loaded.renderer.text_of(ids[0]).encode()[:3]])
    padded = [Sequence.of(i[:1], i[1:]) for i in (after, loaded.renderer.closed([*ids[1], *pad]))]
    np.testing.assert_allclose(heads.rewards(with_heads, padded), together[:2], rtol=1e-4, atol=1e-5)


def test_any_backbone_carries_a_head():
    """Ours works on any causal language model of transformers; here one with other names for everything."""
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    assert heads.shape_of(gpt2) == ModelShape(32, 128, 4)
    narrow = OPTConfig(
        vocab_size=61, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48,
        max_position_embeddings=64, do_layer_norm_before=False, pad_token_id=1,
    )  # fmt: skip
    opt = OPTForCausalLM(narrow)
    assert heads.shape_of(opt) == ModelShape(16, 48, 4)
    assert heads.shape_of(opt, Layer(1)).width == 32
    with pytest.raises(UserError, match="16, 32"):
        heads.shape_of(opt, WeightedSum((1, -1)))


def test_the_architecture_heads_were_published_on():
    """Two blocks report four states, the last one after the output norm; the head reads those 32 numbers, before the
    projection to the table's 16."""
    from trueline.lswt.configuration import LSWTConfig
    from trueline.lswt.modeling import LSWTForCausalLM

    sizes = {"d_model": 32, "d_ffn": 48, "n_heads": 4, "n_layers": 2, "d_vocab": 16, "vocab_size": 61}
    torch.manual_seed(0)
    model = LSWTForCausalLM(LSWTConfig(**sizes)).eval()
    assert heads.shape_of(model) == ModelShape(32, 48, 4)
    assert heads.shape_of(model, Layer(-2)) == ModelShape(32, 48, 4, 4)
    sequences = [Sequence.of(range(5, 25), [tail]) for tail in (7, 8)]
    raw, normed = (Head(aggregate=Layer(index)).build(model).eval() for index in (-2, -1))
    batch, outputs = pass_of(model, sequences, "last_states")
    ids = torch.from_numpy(sequences[1].ids)[None]
    states = [h[0, -1] for h in model(ids, output_hidden_states=True).hidden_states]
    torch.testing.assert_close(model.model.output_norm(states[-2]), states[-1])
    for made, state in ((raw, states[-2]), (normed, states[-1])):
        torch.testing.assert_close(made(outputs, batch)[1], made.read(state[None])[0], rtol=1e-4, atol=1e-5)


# --- layers and turns against plain arithmetic -----------------------------------------------------------------------


def pass_of(model, sequences, want):
    made = build(sequences, min_shared=1)
    return made, trie.forward(attention.enable(model), made, frozenset({want}))


def test_a_weighted_sum_is_a_softmax_over_the_layers_chosen():
    """Weights 1, 1 + ln 3 are shares of 1/4 and 3/4."""
    model = folders.model(61).eval()
    made = Head(aggregate=WeightedSum((-2, 0))).build(model).eval()
    batch, outputs = pass_of(model, [Sequence.of([5, 6], [7]), Sequence.of([5, 6], [8])], "last_states")
    with torch.no_grad():
        made.aggregate.layers.layer_weights[1] += np.log(3)
    wanted = (0.25 * outputs.last_states[1] + 0.75 * outputs.last_states[0]) @ made.out.weight.T
    torch.testing.assert_close(made(outputs, batch), wanted)


def test_layer_dropout_is_drawn_for_each_layer_and_sequence():
    """Inverted: with two layers and p = 0.5 a sequence's share is 0 or doubled; its mean is what it is without."""
    model = folders.model(61).eval()
    made = Head(aggregate=WeightedSum((1, 2), dropout=0.5)).build(model)
    batch, outputs = pass_of(model, [Sequence.of([5, 6], [7]), Sequence.of([5, 6], [8])], "last_states")
    torch.manual_seed(0)
    seen = torch.stack([made.aggregate(outputs, batch, torch.float32) for _ in range(1000)])
    one, two = outputs.last_states[1], outputs.last_states[2]
    kinds = torch.stack([torch.zeros_like(one), one, two, one + two])
    nearest = (seen[:, None] - kinds[None]).abs().amax(-1)
    assert nearest.amin(1).max() < 1e-6
    shares = torch.nn.functional.one_hot(nearest.argmin(1), 4).float().mean(0)
    torch.testing.assert_close(shares, torch.full((2, 4), 0.25), atol=0.06, rtol=0)


def plain_pooler(pooler, x_LD, ids, spec):
    """The attention pooler as its definition reads: dense L x L masks over one sequence, one head after the other."""
    seg = torch.cumsum(ids == START, 0)
    at = torch.arange(len(ids))
    causal = at[None, :] <= at[:, None]
    same = torch.eye(len(ids), dtype=torch.bool)
    masks = {
        "self": (causal & (seg[None, :] == seg[:, None]), at[None, :] - at[:, None]),
        "cross": (causal & ((ids == END)[None, :] | same), seg[None, :] - seg[:, None]),
    }

    def linear(layer, x, i):
        out = x @ layer.linear.weight.T + layer.linear.bias + layer.own_bias[i]
        return out + spec.lora_alpha / spec.lora_r * (x @ layer.lora_a[i].T @ layer.lora_b[i].T)

    def attend(module, x, i, kind):
        sees, distance = masks[kind]
        k, v = linear(module.key, x, i), linear(module.value, x, i)
        if module.query is None:
            q = (module.register + module.own_register[i]).flatten().expand_as(k)
        else:
            q = linear(module.query, x, i)
        out, width = [], module.width
        for h in range(module.heads):
            part = slice(h * width, (h + 1) * width)
            score = q[:, part] @ k[:, part].T / width**0.5
            score = score + 2.0 ** (-(h + 1) * spec.alibi_slope / module.heads) * distance
            out.append(torch.softmax(score.masked_fill(~sees, -torch.inf), -1) @ v[:, part])
        return linear(module.output, torch.cat(out, -1), i)

    x = x_LD
    for i, norms in enumerate(pooler.norms):
        x = x + attend(pooler.self_attention, norms[0](x), i, "self")
        x = x + attend(pooler.cross_attention, norms[1](x), i, "cross")
        y = norms[2](x)
        x = x + linear(pooler.down, linear(pooler.up, y, i) * silu(linear(pooler.gate, y, i)), i)
    return pooler.norm(x[-1])


def turn(*words):
    return [START, *words, END, 9]


TALKS = [
    [7, *turn(10, 11, 12), *turn(13, 14), *turn(15), START, 16, END],
    [7, *turn(10, 11, 12), *turn(13, 14), *turn(15), START, 16, 17, 18, END],
    [7, *turn(10, 11, 12), START, 19, END],
    [START, 20, END],
    [21, 22, END],
]


@pytest.mark.parametrize("self_type", ["self", "pool"])
def test_the_attention_pooler_equals_its_definition(self_type):
    """On tries of conversations that share turns, in float64, values and gradients; no token is seen twice."""
    model = folders.model(64).double().eval()
    spec = AttentionPooler(WeightedSum((1, 2)), self_type, repeats=2, lora_r=4, lora_alpha=8.0, norm=True)
    made = Heads(Head(aggregate=spec), ModelShape(32, 64, 4, 3, (START, END))).double().eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    sequences = [Sequence.of(ids[:1], ids[1:]) for ids in TALKS]
    batch, outputs = pass_of(model, sequences, "states")
    assert len(batch) < sum(map(len, TALKS))
    found = made(outputs, batch)
    wanted = []
    for sequence in sequences:
        ids = torch.from_numpy(sequence.ids)
        states = model(ids[None], output_hidden_states=True).hidden_states
        x_LD = made.aggregate.layers([h[0] for h in states], torch.float64)
        wanted.append(made.read(plain_pooler(made.aggregate, x_LD, ids, spec)[None])[0])
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-9, atol=1e-9)
    names = dict(made.named_parameters())
    mix = torch.randn(found.shape, dtype=torch.float64)
    one = torch.autograd.grad((found * mix).sum(), list(names.values()))
    other = torch.autograd.grad((torch.stack(wanted) * mix).sum(), list(names.values()))
    for name, a, b in zip(names, one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_dropped_layers_leave_the_other_sequences_of_a_trie_alone():
    """In training a mask is a sequence's own, at all its tokens: with p near 1 all or nothing of it is left."""
    model = folders.model(64).eval()
    spec = AttentionPooler(WeightedSum((1,), dropout=0.5), repeats=1, lora_r=0)
    made = Heads(Head(aggregate=spec), ModelShape(32, 64, 4, 3, (START, END)))
    batch, outputs = pass_of(model, [Sequence.of(ids[:1], ids[1:]) for ids in TALKS], "states")
    torch.manual_seed(0)
    seen = torch.stack([made(outputs, batch)[:, 0] for _ in range(24)])
    for n in range(len(TALKS)):
        assert len({round(x, 5) for x in seen[:, n].tolist()}) == 2
    assert len({tuple(row) for row in (seen.detach() * 1e5).round().tolist()}) > 4


def test_only_heads_on_the_final_state_read_hidden_states_that_are_at_hand(loaded):
    with pytest.raises(UserError, match="read Layer"):
        Head(aggregate=Layer(1)).build(loaded.model).pool(torch.zeros(1, 32))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", [Last(), WeightedSum((1, -1), 0.2), AttentionPooler(Layer(1), "pool")])
def test_heads_are_kept_beside_the_weights_or_alone(loaded, tmp_path, aggregate):
    spec = Head(("helpful", "tone"), "bert", aggregate, dropout=0.1, bias=True)
    made = spec.build(loaded.model, 3, loaded.renderer)
    heads.save(made, tmp_path / "alone")
    assert sorted(p.name for p in (tmp_path / "alone").iterdir()) == ["heads.json", "heads.safetensors"]
    again = heads.open(tmp_path / "alone", loaded.model)
    assert again.spec == spec and again.names == ("helpful", "tone") and again.shape == made.shape
    for name, tensor in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    opened = models.load(loaded.folder, full=True)
    models.save(opened.model, opened.tokenizer, tmp_path / "whole", again)
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert models.load(tmp_path / "whole").heads.spec == spec


def test_heads_make_another_model_of_a_folder(loaded, folder, tmp_path):
    """Their specification is part of what `pretrained` knows a folder by."""
    models.save(loaded.model, loaded.tokenizer, tmp_path, Head().build(loaded.model))
    one = models.pretrained(tmp_path).fingerprint
    text = (tmp_path / "heads.json").read_text()
    (tmp_path / "heads.json").write_text(text.replace('"reward"', '"tone"'))
    assert models.pretrained(tmp_path).fingerprint != one != models.pretrained(folder).fingerprint


def test_a_folder_of_heads_alone_is_no_model(loaded, folder, tmp_path):
    heads.save(Head().build(loaded.model), tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match="no weights at all"):
        models.load(tmp_path)


def test_refuses_heads_of_another_model_and_none(loaded, tmp_path):
    heads.save(Head().build(loaded.model), tmp_path)
    wide = AutoModelForCausalLM.from_config(LlamaConfig(**{**loaded.model.config.to_dict(), "hidden_size": 64}))
    with pytest.raises(UserError, match="width 32"):
        heads.open(tmp_path, wide)
    with pytest.raises(UserError, match=r"no heads\.json"):
        heads.open(tmp_path / "nowhere", loaded.model)
    kept = json.loads((tmp_path / "heads.json").read_text())
    kept["head"]["pooler"] = "bert"
    (tmp_path / "heads.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="does not fit"):
        heads.open(tmp_path, loaded.model)
    (tmp_path / "heads.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        heads.open(tmp_path, loaded.model)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Head(pooler="swiglu"), "Did you mean"),
        (lambda: Head(names=()), "names"),
        (lambda: Head(names=("a", "a")), "different"),
        (lambda: Head(names=("a b",)), "names"),
        (lambda: Head(dropout=1.0), "dropout"),
        (lambda: Head(aggregate="last"), "Last, Layer"),
        (lambda: WeightedSum((1, 1)), "different"),
        (lambda: WeightedSum((1,), dropout=-0.1), "dropout"),
        (lambda: AttentionPooler(Last()), "a Layer or a WeightedSum"),
        (lambda: AttentionPooler(self_type="cross"), "pool"),
        (lambda: AttentionPooler(repeats=0), "repeats"),
    ],
)
def test_refuses_a_specification_that_means_nothing(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_refuses_layers_that_are_not_there(loaded):
    """Two layers report three states: 0, 1 and the normed one; -1 and 2 are the same."""
    with pytest.raises(UserError, match="reports 3 states"):
        Head(aggregate=Layer(3)).build(loaded.model)
    with pytest.raises(UserError, match="the same"):
        Head(aggregate=WeightedSum((2, -1))).build(loaded.model)
    with pytest.raises(ValueError, match="opens and closes a turn"):
        Head(aggregate=AttentionPooler()).build(loaded.model)
    with pytest.raises(UserError, match="divisor of 32"):
        Head(aggregate=AttentionPooler(attention_heads=5)).build(loaded.model, 0, loaded.renderer)


def test_refuses_to_rate_a_turn_that_is_not_the_assistants_last(loaded):
    """Never the wrong turn in silence: not closed, cut behind the question, or closed by the user."""
    made = Head().build(loaded.model)
    with_heads = models.Loaded(loaded.model, loaded.tokenizer, loaded.renderer, loaded.folder, made)
    renderer = loaded.renderer
    ask = renderer.prompt_ids((Message("user", "Who?"),))
    good = [*ask, *renderer.answer_ids("Ada.")]
    user = good + renderer.conversation((Message("user", "Sure?"),)).ids
    asked = renderer.conversation((Message("user", "Who?"),)).ids
    cut = user[: len(user) - user[::-1].index(renderer.end_id)]
    assert cut[-1] == renderer.end_id
    for wrong in (ask, good[:-1], [*good, 9], user, cut, asked[: asked.index(renderer.end_id) + 1]):
        with pytest.raises(UserError, match="does not end with the end-of-turn"):
            heads.rewards(with_heads, [Sequence.of(wrong[:1], wrong[1:])])
    assert heads.rewards(with_heads, [Sequence.of(good[:1], good[1:])]).shape == (1, 1)
    with pytest.raises(UserError, match="no heads"):
        heads.rewards(loaded, [Sequence.of(good[:1], good[1:])])
    with pytest.raises(UserError, match='no head "tone"'):
        heads.column(made, "tone", "Reward(head=...)")
    assert heads.column(made, "", "") == heads.column(made, "reward", "") == 0
