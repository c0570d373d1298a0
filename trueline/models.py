"""Opening, saving and naming models: Hugging Face folders, weights in safetensors, nothing unpickled, no foreign code
run.

A `Policy` is a folder that plain `AutoModelForCausalLM.from_pretrained` opens; a scalar head, where one was trained,
lies beside the weights as `head.safetensors`. LoRA is trained as an adapter and saved merged, for the same reason.

Which tokens a conversation becomes is `chat`'s business, how a batch runs is `trie`'s.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trueline.errors import UserError

if TYPE_CHECKING:
    import torch

    from trueline.chat import Renderer
    from trueline.machine import Machine

HEAD = "head.safetensors"


@dataclass
class Loaded:
    """An opened model: ready for `trie.forward`, on its device, dropout off.

    head: the scalar head saved beside the weights (a `torch.nn.Linear` of one output), or None.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    folder: Path
    head: torch.nn.Linear | None = None


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021): W x + (alpha / r) B A x, with A [r, in] random and B [out, r] zero.

    target_modules: names of the adapted linear layers, or "all-linear" (every one but the output embedding).
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UserError("LoRA(r=...)", f"got {self.r}", "a rank of at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError("LoRA(dropout=...)", f"got {self.dropout}", "a share from 0 to below 1")

    def wrap(self, model: Any) -> Any:
        """`model` with adapters; only they train."""
        from peft import LoraConfig, get_peft_model

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        config = LoraConfig(
            r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets, task_type="CAUSAL_LM"
        )  # fmt: skip
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            known = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if is_linear(m)})
            raise UserError("LoRA(target_modules=...)", str(error), f"names among {', '.join(known)}") from None


def is_linear(module: Any) -> bool:
    """Whether adapters can stand beside `module`."""
    return type(module).__name__ in ("Linear", "Conv1D")


def load(
    policy: Any,
    *,
    machine: Machine | None = None,
    chat: str = "auto",
    train: bool = False,
) -> Loaded:
    """Open a policy (a `Policy`, or a folder) for training or, frozen and in eval mode, for reading and sampling.

    A tokenizer without a chat template and without ChatML tokens gets them, and the embeddings new rows (the mean of
    the old ones). Weights are float32 for training and on a CPU, bfloat16 for reading where the device multiplies in
    it.

    Raises `UserError` for a folder that is none, lacks a tokenizer or weights, or whose tokenizer knows no end.
    """
    import torch

    from trueline import attention
    from trueline import machine as machines
    from trueline.chat import Renderer

    folder = folder_of(policy)
    tokenizer = open_tokenizer(folder)
    added = prepare(tokenizer, chat)
    low = not train and machines.device(machine).startswith("cuda") and autocast_dtype(machine) is not None
    model = open_weights(folder, torch.bfloat16 if low else torch.float32)
    if added or len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        grow(model, len(tokenizer))
    renderer = Renderer(tokenizer, style=chat)
    without_dropout(model)
    model.config.use_cache = False
    model.to(machines.device(machine))
    model.train(train).requires_grad_(train)
    head = open_head(folder, model)
    return Loaded(attention.enable(model) or model, tokenizer, renderer, folder, head)


def prepare(tokenizer: Any, chat: str) -> int:
    """Give the tokenizer what `chat` needs; how many tokens that added."""
    from trueline import chat as chats

    return 0 if chat == "plain" else chats.prepare(tokenizer)


def folder_of(policy: Any) -> Path:
    """The model folder behind a `Policy` or a path."""
    folder = Path(policy) if isinstance(policy, str | os.PathLike) else Path(policy.folder)
    if not folder.is_dir():
        cure = "Check the path, or name a hub model through `models.pretrained`."
        raise UserError(f'model "{folder}"', "there is no such folder", "a Hugging Face model folder", cure)
    if not (folder / "config.json").is_file():
        raise UserError(f'model "{folder}"', "it holds no config.json", "a Hugging Face model folder")
    return folder


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises `UserError` where it is missing, broken, or knows no end."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        cure = "Save the tokenizer into the folder: tokenizer.save_pretrained(folder)."
        raise UserError(f'model "{folder}"', "it holds no tokenizer", "tokenizer.json beside config.json", cure)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f'tokenizer of "{folder}"', first_line(error), "a tokenizer that transformers opens") from error
    # A rule about lengths from the tokenizer's own settings would truncate silently; lengths are the encoder's
    # business.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def open_weights(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, from safetensors."""
    from transformers import AutoModelForCausalLM

    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weights at all"
        cure = "Open it once with transformers and save_pretrained(folder): that writes safetensors."
        raise UserError(f'model "{folder}"', f"found {found}", "weights in safetensors (nothing is unpickled)", cure)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f'model "{folder}"', first_line(error), "a causal language model") from error


def first_line(error: Exception) -> str:
    """What another library said, without its page of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def grow(model: Any, size: int) -> None:
    """Make room for `size` tokens; new rows are the mean of the old ones, so that no new token starts out likely."""
    import torch

    before = model.get_input_embeddings().weight.shape[0]
    if size <= before:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]
    with torch.no_grad():
        for table in tables:
            table.weight[before:] = table.weight[:before].mean(dim=0)
            if getattr(table, "bias", None) is not None:
                table.bias[before:] = table.bias[:before].mean()


def without_dropout(model: Any) -> None:
    """Switch dropout off everywhere, in training too: log-ratios against a reference are otherwise noise."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def autocast_dtype(machine: Machine | None = None) -> torch.dtype | None:
    """bfloat16 where the machine computes in it, None for float32.

    "auto" is bfloat16 on CUDA devices that multiply in it and float32 elsewhere: CPUs emulate it, slower than float32.
    """
    import torch

    from trueline import machine as machines

    wanted = (machine or machines.current()).precision
    if wanted not in ("auto", "fp32", "bf16"):
        raise UserError("machine precision", f'got "{wanted}"', '"auto", "fp32" or "bf16"')
    if wanted == "auto":
        wanted = "bf16" if machines.device(machine).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def new_head(model: Any, seed: int) -> torch.nn.Linear:
    """A scalar head over the model's hidden states, small random weights from `seed`, no bias."""
    import torch

    width = model.get_output_embeddings().weight.shape[1]
    head = torch.nn.Linear(width, 1, bias=False, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # The standard deviation that keeps the initial reward near 0 whatever the width (Stiennon et al. 2020).
        head.weight.normal_(0.0, 1 / (width + 1) ** 0.5, generator=generator)
    return head.to(next(model.parameters()).device)


def open_head(folder: Path, model: Any) -> torch.nn.Linear | None:
    """The scalar head saved in a model folder, if any."""
    from safetensors.torch import load_file

    if not (folder / HEAD).is_file():
        return None
    head = new_head(model, 0)
    head.load_state_dict(load_file(folder / HEAD))
    return head.requires_grad_(False)


def save(model: Any, tokenizer: Any, folder: str | os.PathLike[str], head: torch.nn.Linear | None = None) -> None:
    """Write a folder that plain transformers opens; adapters are merged into the weights first.

    Merging changes `model`: train on from the saved folder, not from the object.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = True
    model.save_pretrained(folder, safe_serialization=True)
    model.config.use_cache = False
    tokenizer.save_pretrained(folder)
    if head is not None:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        save_file(weights, folder / HEAD, metadata={"format": "pt"})
