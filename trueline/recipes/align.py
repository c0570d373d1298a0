"""Align any model with pairs you have: SFT on the chosen answers, DPO on the pairs, a report on held-out pairs.

No critic, no network, no code: a model and two files. What is held out is read three ways (see `evaluate/accuracy.py`)
and answered by every policy, so that the page shows what changed in words too.

With `--head` a preference head is trained beside DPO on the same pass (Direct Preference Heads), and held-out pairs are
read by it as well; the policy it lies in ranks candidates with `trueline rank`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from trueline.errors import UserError
from trueline.evaluate.accuracy import accuracy
from trueline.evaluate.report import Arm, report
from trueline.feedback.judge import judge
from trueline.feedback.reward import Reward
from trueline.heads import Head
from trueline.models import LoRA, pretrained
from trueline.prompts.preferences import LayoutName, Undecided, preferences
from trueline.prompts.take import take
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.store import File, Policy, Prompts, Report
from trueline.train.objectives.dph import DPH
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.objectives.sum import Sum
from trueline.train.score import score
from trueline.train.stage import train
from trueline.train.views import Demonstrations, Pairs

Reads = Literal["none", "identity", "bert", "t5", "swiglu_bert", "swiglu_t5"]


def align(
    *,
    base: str,
    prefs: Path,
    eval_prefs: Path,
    layout: LayoutName = "auto",
    reference: Path | None = None,
    undecided: Undecided = "drop",
    loss: Literal["sigmoid", "ipo", "robust"] = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    head: Reads = "none",
    head_loss: Literal["separable", "contrastive"] = "separable",
    vocab_epochs: int = 0,
    sft_epochs: int = 1,
    dpo_epochs: int = 1,
    sft_lr: float = 2e-5,
    dpo_lr: float = 1e-6,
    batch_size: int = 32,
    max_length: int = 1024,
    max_tokens: int = 128,
    long: Literal["drop", "cut", "error"] = "drop",
    max_dropped: float = 0.1,
    empty: Literal["error", "drop"] = "error",
    same: Literal["error", "drop"] = "error",
    chat: Literal["auto", "chatml", "plain"] = "auto",
    lora_r: int = 0,
    show: int = 200,
    seed: int = 0,
) -> Report:
    """Align a model with preference pairs and report what that bought on held-out pairs.

    Args:
        base: a Hugging Face model folder, or a hub id.
        prefs: training pairs, in any layout that `trueline check` knows (docs/data.md).
        eval_prefs: held-out pairs in any of these layouts.
        layout: the rows' format; auto recognises it by the first row.
        reference: the reference system's outputs, for AlpacaEval rows without output_1.
        undecided: ties and abstentions: written aside, kept as values, or read as the second answer's (docs/data.md).
        loss: DPO's loss on a pair.
        beta: DPO's inverse temperature: larger keeps the policy nearer to SFT.
        label_smoothing: share of the pairs' labels taken to be wrong, from 0 to 0.5.
        head: what a preference head reads through; none trains no head.
        head_loss: the head's loss: each answer good or bad by itself, or only the pair's margin.
        vocab_epochs: passes before SFT that train only what is outside the blocks, for a base new to its chat tokens.
        sft_epochs: passes over the chosen answers; 0 leaves SFT out.
        dpo_epochs: passes over the pairs.
        sft_lr: peak learning rate of SFT.
        dpo_lr: peak learning rate of DPO.
        batch_size: answers (SFT) or pairs (DPO) per optimiser step.
        max_length: tokens of prompt and answer together.
        max_tokens: tokens that a sampled answer may have in the report.
        long: what becomes of a longer row: dropped and counted, its answer cut, or an error.
        max_dropped: share of rows, from 0 to 1, that may be dropped before a training stops.
        empty: what becomes of a row with an empty answer.
        same: what becomes of a row whose two answers are equal.
        chat: how a conversation becomes tokens: the tokenizer's template (ChatML without one), ChatML, or plain text.
        lora_r: rank of low-rank adapters; 0 trains all weights.
        show: held-out prompts that every policy answers in the report.
        seed: of training and sampling.
    """
    if head == "none" and head_loss != "separable":
        raise UserError(f"align(head_loss={head_loss!r})", "there is no head to train", "", "Choose one with --head.")
    start = pretrained(base)
    rules: dict[str, Any] = {"layout": layout, "empty": empty, "same": same, "undecided": undecided}
    read = partial(preferences, reference=File(reference) if reference else None, **rules)
    pairs, held_out = read(File(prefs), label="train-pairs"), Pairs(read(File(eval_prefs), label="held-out-pairs"))
    rows: dict[str, Any] = {"max_length": max_length, "long": long, "chat": chat}
    lora = LoRA(r=lora_r, alpha=2.0 * lora_r) if lora_r else None
    fit = partial(train, batch_size=batch_size, max_dropped=max_dropped, lora=lora, seed=seed, **rows)

    sft = taught(start, Demonstrations(pairs), partial(fit, lr=sft_lr), vocab_epochs, sft_epochs)
    dpo = DPO(beta=beta, loss=loss, label_smoothing=label_smoothing)
    last = preferred(partial(fit, sft, Pairs(pairs), lr=dpo_lr, epochs=dpo_epochs), dpo, head, head_loss)
    asked = take(held_out.groups, show, label="held-out-prompts")
    arm = partial(answered, held_out, asked, Sampling(max_tokens=max_tokens, seed=seed), max_dropped, rows)
    middle = (arm("SFT", sft, start),) if sft is not start else ()
    final = arm("DPO", last, sft) if head == "none" else arm("DPO+DPH", last, sft, heads=True)
    arms = (arm("base", start, start), *middle, final)
    return report(f"What the pairs bought {Path(base).name}", arms, baseline="base")


def taught(start: Policy, chosen: Demonstrations, fit: partial[Policy], vocab_epochs: int, sft_epochs: int) -> Policy:
    """`start` after the vocab stage and SFT, each where it has epochs."""
    if vocab_epochs:
        start = fit(start, chosen, SFT(), epochs=vocab_epochs, freeze=("blocks",), lora=None, label="vocab")
    return fit(start, chosen, SFT(), epochs=sft_epochs, label="sft") if sft_epochs else start


def preferred(
    fit: partial[Policy], objective: DPO, head: Reads, head_loss: Literal["separable", "contrastive"]
) -> Policy:
    """The policy that DPO makes, alone or beside a preference head on the same pass."""
    if head == "none":
        return fit(objective, label="dpo")
    return fit(Sum(objective, DPH(loss=head_loss)), head=Head(pooler=head), label="dpo-dph")


def answered(
    held_out: Pairs,
    asked: Prompts,
    sampling: Sampling,
    max_dropped: float,
    rows: dict[str, Any],
    name: str,
    policy: Policy,
    trained_from: Policy,
    heads: bool = False,
) -> Arm:
    """An arm of the report: answers to held-out prompts, and held-out pairs as the policy (and its head) reads them."""
    chat = rows["chat"]
    answers = draw(HF(policy, chat), asked, sampling, long="drop", max_dropped=max_dropped, label=f"answers-{name}")
    logps, reference = (score(x, held_out, **rows) for x in (policy, trained_from))
    rewards = judge(held_out.groups, Reward(policy, chat=chat), label="rewards") if heads else None
    return Arm(name, answers, policy, pairs=accuracy(held_out, logps, reference, rewards, label=f"accuracy-{name}"))
