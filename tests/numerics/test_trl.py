"""One optimiser step of ours equals one of TRL's: same model, same rows, fp32, the whole set as one batch.

The peer renders, batches and pads by itself; only the texts are shared. A word-level tokenizer makes prompt + answer
tokenise alike together (as TRL does) and apart (as we do).
"""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trueline import trie
from trueline.chat import Renderer
from trueline.heads import Head
from trueline.machine import Machine
from trueline.records import Message
from trueline.train.fit import fit
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.rows import Encoder, encode
from trueline.train.settings import Settings
from trueline.train.views import Answer, Example
from trueline.trie import attention

trl = pytest.importorskip("trl", reason="the peer library trl is not installed (extra `bench`)")
datasets = pytest.importorskip("datasets", reason="the library datasets is not installed (extra `bench`)")
pytestmark = pytest.mark.peer

TEXT = "the a old new baker miller bread flour river town gladly no yes go away please sells makes knows"
WORDS = TEXT.split()
RATE = 1e-4


def tokenizer():
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", "<pad>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=3 + len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def sentence(generator, low, high):
    n = int(torch.randint(low, high, (), generator=generator))
    return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (n,), generator=generator).tolist())


def texts(n=8):
    """(prompt, chosen, rejected) of different lengths; prompts long enough to be shared in a trie."""
    generator = torch.Generator().manual_seed(1)
    return [[sentence(generator, *size) for size in ((18, 30), (3, 12), (2, 9))] for _ in range(n)]


def arguments(kind, folder, **changes):
    """TRL's defaults but for what makes a step comparable: fp32, no warm-up, the whole set as one batch."""
    return kind(
        output_dir=str(folder), per_device_train_batch_size=8, max_steps=1, learning_rate=RATE,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to="none", logging_steps=1, save_strategy="no",
        disable_tqdm=True, **changes,
    )  # fmt: skip


def step_of_trl(trainer):
    """Loss and weights after one step of a TRL trainer."""
    trainer.train()
    return trainer.state.log_history[0]["loss"], {n: p.detach() for n, p in trainer.model.named_parameters()}


def step_of_ours(start, objective, examples, reference=None, heads=None, **machine):
    """Loss and weights after one step of ours."""
    rows = encode(examples, Encoder(Renderer(tokenizer(), "plain"), closed="reward" in objective.needs))
    start = attention.enable(start.train()) or start
    scored = None
    if reference is not None:
        with torch.no_grad():
            scored = {row.key: trie.forward(reference, trie.build(row.sequences)).logps_N.tolist() for row in rows}
    settings = Settings(lr=RATE, batch_size=8, warmup=0.0, schedule="constant", max_grad_norm=1.0)
    (row,) = fit(start, rows, objective, settings, reference=scored, heads=heads, machine=Machine(**machine))
    return row, {name: p.detach() for name, p in start.named_parameters()}


def assert_same_weights(ours_, theirs, before):
    """Weights to 1e-5 relative; and the step itself, the difference to what was before, to 1e-3 of its size.

    Adam's first step is about the sign of the gradient, so elements without gradient to speak of may move either way.
    """
    assert ours_.keys() == theirs.keys()
    for name in theirs:
        distance = (ours_[name] - theirs[name]).norm()
        assert distance <= 1e-5 * theirs[name].norm(), name
        assert distance <= 1e-3 * (theirs[name] - before[name]).norm(), name


def pairs():
    return [Example((Message("user", p),), (Answer(" " + c), Answer(" " + r))) for p, c, r in texts()]


def preference_rows():
    return datasets.Dataset.from_list([{"prompt": p, "chosen": " " + c, "rejected": " " + r} for p, c, r in texts()])


@pytest.mark.parametrize("micro_tokens", [10_000, 50])
def test_dpo_step(tmp_path, micro_tokens):
    """Policy and reference differ, so that the first loss is not ln 2; ours in one micro-batch and in many."""
    trainer = trl.DPOTrainer(
        model=model(0), ref_model=model(1), args=arguments(trl.DPOConfig, tmp_path, beta=0.1),
        train_dataset=preference_rows(), processing_class=tokenizer(),
    )  # fmt: skip
    loss, theirs = step_of_trl(trainer)
    row, found = step_of_ours(model(0), DPO(beta=0.1), pairs(), reference=model(1), micro_tokens=micro_tokens)
    assert abs(loss - 0.693147) > 1e-3
    assert row["loss"] == pytest.approx(loss, abs=1e-5)
    logged = trainer.state.log_history[0]
    assert row["rewards/margin"] == pytest.approx(logged["rewards/margins"], abs=1e-5)
    assert row["rewards/accuracy"] == pytest.approx(logged["rewards/accuracies"])
    assert row["grad_norm"] == pytest.approx(logged["grad_norm"], rel=1e-4)
    assert_same_weights(found, theirs, dict(model(0).named_parameters()))


def test_sft_step(tmp_path):
    """TRL's default loss on prompt-completion rows is ours: the mean over all completion tokens of the batch."""
    rows = datasets.Dataset.from_list([{"prompt": p, "completion": " " + c} for p, c, _ in texts()])
    trainer = trl.SFTTrainer(
        model=model(0), args=arguments(trl.SFTConfig, tmp_path), train_dataset=rows, processing_class=tokenizer()
    )
    loss, theirs = step_of_trl(trainer)
    examples = [Example((Message("user", p),), (Answer(" " + c),)) for p, c, _ in texts()]
    row, found = step_of_ours(model(0), SFT(), examples)
    assert row["loss"] == pytest.approx(loss, abs=1e-5)
    assert_same_weights(found, theirs, dict(model(0).named_parameters()))


def test_reward_model_step(tmp_path):
    """The same scalar head on the same backbone, read at the end-of-sequence token."""
    from transformers import LlamaForSequenceClassification

    base = model(0)
    theirs_model = LlamaForSequenceClassification(base.config.__class__(**{**base.config.to_dict(), "num_labels": 1}))
    theirs_model.model.load_state_dict(base.model.state_dict())
    heads = Head().build(base, seed=0)
    theirs_model.score.weight.data.copy_(heads.out.weight)
    rows = datasets.Dataset.from_list([{"chosen": f"{p} {c}", "rejected": f"{p} {r}"} for p, c, r in texts()])
    trainer = trl.RewardTrainer(
        model=theirs_model, args=arguments(trl.RewardConfig, tmp_path), train_dataset=rows, processing_class=tokenizer()
    )
    loss, theirs = step_of_trl(trainer)
    row, found = step_of_ours(base, BradleyTerry(), pairs(), heads=heads)
    assert row["loss"] == pytest.approx(loss, abs=1e-5)
    before = {**dict(model(0).named_parameters()), "score.weight": Head().build(base, seed=0).out.weight}
    found = {name: p for name, p in found.items() if name != "lm_head.weight"}
    found["score.weight"] = heads.out.weight.detach()
    assert_same_weights(found, theirs, before)
