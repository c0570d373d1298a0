"""The self-check: who may run over tries, who may not and why; and that an enabled model is otherwise as it was."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.tries import FAMILIES, OTHERS, VOCABULARY, WIDTHS, assert_equal_to_padded, tiny
from trueline import trie
from trueline.trie import Sequence, attention, build

LISTED = [Sequence.of(range(20), range(tail, tail + 5)) for tail in (20, 30, 40)]


def model_of(name: str, **fields: object) -> torch.nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(**fields)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_families_that_run_over_tries(family):
    found = attention.path(tiny(family))
    assert (found.kernel, found.head, found.reason) == ("flash", True, "")
    assert found.last is not None, "the last layer is found and proved"


REFUSED = {
    "soft-capped scores": ("Gemma2", {**WIDTHS, "head_dim": 8}, 'its attention takes "softcap"'),
    "sinks": (
        "GptOss",
        {**WIDTHS, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        'its attention takes "s_aux"',
    ),
    "chunked attention": (
        "Llama4Text",
        {**WIDTHS, "head_dim": 8, "attention_chunk_size": 8, "num_local_experts": 2},
        "its masks have windows {8, None}, its attention {None}",
    ),
    "position biases": (
        "Bloom",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "it does not attend through transformers' attention interface",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_models_that_run_padded(what, caplog):
    """The reason is said in one log line, the attention they came with is put back, and the numbers are right."""
    name, fields, reason = REFUSED[what]
    model = model_of(name, **fields)
    before = model.config._attn_implementation
    with caplog.at_level(logging.INFO, logger="trueline"):
        attention.enable(attention.enable(model))
    said = [record.getMessage() for record in caplog.records if record.name == "trueline"]
    assert said == [f"{type(model).__name__} runs padded, not over tries: {reason}"]
    assert attention.path(model).kernel == ""
    assert model.config._attn_implementation == before
    assert_equal_to_padded(model, LISTED, 1e-5)


def test_a_head_that_does_more_than_we_know_is_left_to_the_model():
    """Logits shifted after the head: no rows are read from it, the plain twin answers."""
    model = tiny("llama")
    plain = model.forward

    def forward(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = out.logits - out.logits.detach().abs()
        return out

    model.forward = forward
    found = attention.path(model)
    assert (found.kernel, found.head, found.reason) == ("", False, "its logits are not those of its output head")
    assert_equal_to_padded(model, LISTED, 1e-5)


def test_attention_that_sees_siblings_fails_the_check(monkeypatch):
    """Were a kernel to let every token see all before it, the numbers would give it away."""

    def sees_all(q, k, v, plan, kernel, scale):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)

    monkeypatch.setattr(attention.nodewise, "attend", sees_all)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = attention.path(tiny("llama", dtype))
        assert (found.kernel, found.reason) == ("", "its numbers over a trie differ from the padded ones")


def test_without_a_trie_an_enabled_model_is_as_before():
    """Plain passes, padded passes with a mask, and generation give what transformers' own attention gives."""
    ids = torch.arange(24).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    for family in ("llama", "mistral, window 7", "gpt2"):
        before, after = tiny(family).eval(), attention.enable(tiny(family).eval())
        assert after.config._attn_implementation == attention.NAME
        for given in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
            got, wanted = after(**given).logits, before(**given).logits
            torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=0)
            torch.testing.assert_close(got[1, :8], wanted[1, :8], rtol=0, atol=0)
        greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(after.generate(ids, **greedy), before.generate(ids, **greedy))


def test_the_check_leaves_no_trace():
    """Train mode, gradients and the random state are as they were; the mark is not saved."""
    model = tiny("llama")
    model.model.layers[0].eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    attention.enable(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.model.layers[0].training
    assert all(p.grad is None for p in model.parameters())
    assert "attn" not in model.config.to_json_string()


def test_attention_dropout_is_not_applied_and_said(caplog):
    model = tiny("llama")
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.25
    attention._say_dropout.cache_clear()
    with caplog.at_level(logging.INFO, logger="trueline"):
        trie.forward(model, build(LISTED))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["LlamaAttention: the attention dropout of 0.25 is not applied over tries"]


def test_wrapped_models_share_the_mark():
    """A model proved once keeps its path inside PEFT and data-parallel wrappers."""
    from peft import LoraConfig, get_peft_model

    model = tiny("llama")
    found = attention.path(model)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    assert attention.core(wrapped) is model
    assert attention.path(wrapped) is found


def sharded(model: torch.nn.Module) -> torch.nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)


@pytest.mark.filterwarnings("error::UserWarning:torch.distributed.fsdp")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, sharded], ids=["replicated", "sharded"])
def test_through_data_parallel_wrappers(wrap, tmp_path):
    """One process of gloo: the same gradients through DDP, and through FSDP2 with weights given up after forward."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ring", rank=0, world_size=1)
    try:
        alone, model = tiny("llama"), attention.enable(tiny("llama"))
        wrapped = wrap(model)
        for one in (alone, wrapped):
            trie.forward(one, build(LISTED)).logps_N.sum().backward()
        for (name, a), (_, b) in zip(alone.named_parameters(), model.named_parameters(), strict=True):
            assert torch.equal(a.grad, getattr(b.grad, "_local_tensor", b.grad)), name
    finally:
        torch.distributed.destroy_process_group()


def test_the_last_layer_computes_only_what_is_read():
    """Three answers of 5 scored tokens to a prompt of 20: of 35 trie tokens the last feed-forward block sees 13.

    The prompt's last token predicts all three first tokens; each answer's own first four predict the rest.
    """
    model = tiny("llama")
    attention.enable(model)
    rows: list[int] = []
    for layer in model.model.layers:
        layer.mlp.gate_proj.register_forward_hook(lambda _, args, out: rows.append(out.shape[1]))
    outputs = trie.forward(model, build(LISTED))
    assert rows == [35, 13]
    torch.testing.assert_close(outputs.logps_E, trie.padded_forward(model, LISTED).logps_E, rtol=1e-5, atol=1e-5)
    rows.clear()
    model.gradient_checkpointing_enable()
    trie.forward(model, build(LISTED)).logps_N.sum().backward()
    assert rows == [35] * 4, "a layer that backward computes again stays whole"
