"""vLLM as an engine, beyond the contract: heads read exactly, adapters, and what is refused before vLLM is opened."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from tests.sample import given
from trueline import heads
from trueline.errors import UserError
from trueline.feedback.reward import Reward
from trueline.fingerprint import File, fingerprint
from trueline.heads import Head
from trueline.models import LoRA, load, pretrained
from trueline.pipeline import make
from trueline.records import Group
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.named import engine
from trueline.sample.protocol import Sampling
from trueline.sample.vllm import VLLM, Hold
from trueline.store import using
from trueline.world import MODELS

HOLD = Hold(cache=1 << 27, rows=16)
here = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; docs/scale.md says how this runs with it"
)


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store"):
        yield


@here
@pytest.mark.slow
def test_candidates_are_read_by_the_policy_s_own_head(tmp_path):
    """What `groups` says of vLLM's candidates is what the critic `Reward` says of them, and what `HF` reads."""
    folder = shutil.copytree(MODELS / "tiny", tmp_path / "headed")
    loaded = load(folder)
    made = Head(("reward",)).build(loaded.model, seed=1, renderer=loaded.renderer)
    for parameter in made.parameters():
        parameter.data.mul_(20)
    heads.save(made, folder)
    policy = make(pretrained(folder))
    with VLLM(policy, heads=True, hold=HOLD) as opened:
        groups = opened.groups(given.PROMPTS, Sampling(n=4, max_tokens=24))
    said = [[f.score for of in group.feedback for f in of] for group in groups]
    bare = [Group(group.prompt, group.completions) for group in groups]
    with Reward(policy) as critic:
        read = [[f.score for of in group.feedback for f in of] for group in critic(bare)]
    assert said == [pytest.approx(scores, abs=1e-5) for scores in read]
    assert len({round(score, 3) for scores in said for score in scores}) > 5
    assert {f.by for f in groups[0].feedback[0]} == {f"{policy.name}/reward"}


@here
@pytest.mark.slow
def test_an_adapter_counts_in_what_is_written(tmp_path):
    """Log-probs under an adapter in vLLM are those of the model with the adapter merged, in transformers."""
    import torch

    loaded = load(MODELS / "small", train=True)
    model = LoRA(r=4, target_modules=("q_proj", "v_proj")).wrap(loaded.model)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded.tokenizer.save_pretrained(tmp_path / "merged")
    base = make(pretrained(MODELS / "small"))
    with VLLM(base, adapter=File(tmp_path / "adapter"), hold=HOLD) as opened:
        answers = opened.generate(given.PROMPTS, Sampling(n=2, max_tokens=8))
        with pytest.raises(UserError, match="under an adapter"):
            opened.logprobs(given.PROMPTS, answers)
    with HF(make(pretrained(tmp_path / "merged"))) as merged, HF(base) as plain:
        wanted, without = (one.logprobs(given.PROMPTS, answers) for one in (merged, plain))
    right, other = ([x for g in said for a in g for x in a] for said in (wanted, without))
    assert [x for g in answers for c in g for x in c.logprobs] == pytest.approx(right, abs=2e-3)
    assert max(abs(a - b) for a, b in zip(right, other, strict=True)) > 0.1


def test_how_vllm_runs_is_no_part_of_what_is_drawn(tmp_path):
    policy, prompts = pretrained(MODELS / "tiny"), given.questions()
    one, other = (draw(VLLM(policy, hold=hold), prompts) for hold in (Hold(), Hold(share=0.5, rows=8)))
    assert one.fingerprint == other.fingerprint != draw(HF(policy), prompts).fingerprint
    assert fingerprint(VLLM(policy, heads=True)) != fingerprint(VLLM(policy))
    assert one.parents[0].fingerprint == policy.fingerprint
    assert engine(f"vllm:{MODELS / 'tiny'}") == VLLM(policy)


def test_what_vllm_cannot_do_is_refused(tmp_path):
    policy = make(pretrained(MODELS / "tiny"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with (
        pytest.raises(UserError, match="as it was trained, not under an adapter"),
        VLLM(policy, heads=True, adapter=File(tmp_path)),
    ):
        pass
    with pytest.raises(UserError, match="holds no LoRA adapter"), VLLM(policy, adapter=File(tmp_path)):
        pass
    with pytest.raises(UserError, match="at most 1"):
        Hold(share=1.5)
    folder = shutil.copytree(MODELS / "tiny", tmp_path / "short")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(UserError, match="Train it first"), VLLM(make(pretrained(folder))):
        pass


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_cure_is_named():
    with pytest.raises(UserError, match="vLLM is not installed"), VLLM(make(pretrained(MODELS / "tiny"))):
        pass
