"""TRL's trainers as contestants: the real `train()` on the tokens that ours sees, timed per optimiser step.

What counts is what `transformers.Trainer` does between `on_step_begin` and `on_step_end`: forward, backward, clipping,
optimiser. Loading and collating the batch happens outside and does not count against the peer; ours is charged for it.
Texts are words that a word-level tokenizer maps back to the same ids, so that TRL's own preparation runs as it is.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import harness

if TYPE_CHECKING:
    from benchmarks.train import Pair, Plan

END, PAD = 0, 1
"""Ids of the end-of-sequence and the padding token."""


@dataclass(frozen=True)
class Setting:
    """One way to run a trainer: examples per micro-batch, attention kernel, options of the trainer's config."""

    name: str
    rows: int
    attention: str = "sdpa"
    options: Mapping[str, Any] = field(default_factory=dict)


def tokenizer(vocabulary: int) -> Any:
    """One word per id; ids 0 and 1 are end of sequence and padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"</s>": END, "<pad>": PAD} | {f"w{i}": i for i in range(2, vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")


def words(ids: Sequence[int]) -> str:
    """The text of ids, the end-of-sequence token left to the trainer to add."""
    return "".join(f"w{i} " for i in ids if i != END)


def dataset(objective: str, pairs: Sequence[Pair]) -> Any:
    """Pairs as TRL reads them: prompt, chosen, rejected; for SFT prompt and completion."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    if objective == "SFT":
        rows = [{"prompt": words(p.prompt), "completion": words(p.chosen)} for p in pairs]
    else:
        rows = [{"prompt": words(p.prompt), "chosen": words(p.chosen), "rejected": words(p.rejected)} for p in pairs]
    return Dataset.from_list(rows)


class StepSeconds:
    """Adds up the seconds of optimiser steps and keeps the loss of each; a trainer's callback and its recorder."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.losses: list[float] = []

    def callback(self) -> Any:
        """A callback that measures each step and opens its loss."""
        from transformers import TrainerCallback

        told = self

        class Watch(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                told.losses.append(0.0)
                told.began = harness.now()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                told.seconds += harness.now() - told.began

        return Watch()


class Peer:
    """A trainer under one setting, ready to run the plan's steps again and again from the same weights."""

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self.setting = setting
        self.watch = StepSeconds()
        self.steps = plan.steps
        self.trainer = self.build(plan, setting)
        self.start = copy.deepcopy(self.trainer.model.state_dict())
        inner = self.trainer.training_step

        def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = inner(*args, **kwargs)
            self.watch.losses[-1] += float(loss)
            return loss

        self.trainer.training_step = recorded

    def build(self, plan: Plan, setting: Setting) -> Any:
        """The trainer of the plan's objective."""
        import trl

        quiet()
        options = {
            "output_dir": tempfile.mkdtemp(),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": setting.rows,
            "gradient_accumulation_steps": plan.batch // setting.rows,
            "train_sampling_strategy": "sequential",
            "num_train_epochs": 1,
            "learning_rate": plan.lr,
            "lr_scheduler_type": "constant",
            "max_grad_norm": plan.max_grad_norm,
            "max_length": 1024,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
        } | dict(setting.options)
        common = {"train_dataset": dataset(plan.objective, plan.pairs), "processing_class": tokenizer(plan.vocabulary)}
        if plan.objective == "DPO":
            config = trl.DPOConfig(beta=plan.beta, **options)
            models = {"model": plan.model(setting.attention), "ref_model": plan.reference_model(setting.attention)}
            trainer = trl.DPOTrainer(**models, args=config, **common)
        elif plan.objective == "SFT":
            trainer = trl.SFTTrainer(plan.model(setting.attention), args=trl.SFTConfig(**options), **common)
        else:
            trainer = trl.RewardTrainer(plan.classifier(setting.attention), args=trl.RewardConfig(**options), **common)
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self.watch.callback())
        return trainer

    def __call__(self) -> float:
        """Seconds of the plan's optimiser steps, from the starting weights."""
        self.trainer.model.load_state_dict(self.start)
        self.trainer.optimizer = self.trainer.lr_scheduler = None
        self.watch.seconds, self.watch.losses = 0.0, []
        self.trainer.train()
        assert len(self.watch.losses) == self.steps, f"{len(self.watch.losses)} steps, not {self.steps}"
        return self.watch.seconds

    @property
    def losses(self) -> list[float]:
        """Loss of each step of the last call."""
        return self.watch.losses


def quiet() -> None:
    """TRL warns at length about choices that are deliberate here."""
    warnings.filterwarnings("ignore")
    for name in ("transformers", "trl", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
