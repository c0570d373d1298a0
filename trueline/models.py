"""Opening, saving and naming models: Hugging Face folders, weights in safetensors, nothing unpickled, no foreign code
run.

A `Policy` is a folder that plain `AutoModelForCausalLM.from_pretrained` opens; heads, where some were trained, lie
beside the weights (`heads`). LoRA is trained as an adapter and saved merged, for the same reason.

Which tokens a conversation becomes is `chat`'s business, how a batch runs is `trie`'s.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trueline import heads as heading
from trueline.errors import UserError
from trueline.fingerprint import call_site
from trueline.pipeline import stage
from trueline.store import File, Policy
from trueline.work import write_atomic

if TYPE_CHECKING:
    import torch

    from trueline.chat import Renderer
    from trueline.heads.readout import Heads
    from trueline.machine import Machine
    from trueline.work import Work

ONE_THREAD = 4_000_000  # parameters below which one CPU thread is at least as fast as several
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PARTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "vocab*",
         "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.*", "*.model",
         heading.SPEC)  # fmt: skip
"""The files that make a model what it is; a readme beside them is not part of its identity."""


@dataclass
class Loaded:
    """An opened model: ready for `trie.forward`, on its device, dropout off.

    heads: the heads saved beside the weights, or None.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    folder: Path
    heads: Heads | None = None


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
    full: bool = False,
) -> Loaded:
    """Open a policy (a `Policy`, or a folder) for training or, frozen and in eval mode, for reading and sampling.

    A tokenizer without a chat template and without ChatML tokens gets them, and the embeddings new rows (the mean of
    the old ones). Weights are float32 for training and on a CPU, bfloat16 for reading where the device multiplies in
    it.

    Raises `UserError` for a folder that is none, lacks a tokenizer or weights, or whose tokenizer knows no end.
    """
    import torch

    from trueline import machine as machines
    from trueline.chat import Renderer
    from trueline.trie import attention

    folder = folder_of(policy)
    tokenizer = open_tokenizer(folder)
    added = prepare(tokenizer, chat)
    low = not (train or full) and machines.device(machine).startswith("cuda") and autocast_dtype(machine) is not None
    model = open_weights(folder, torch.bfloat16 if low else torch.float32)
    if added or len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        grow(model, len(tokenizer))
    renderer = Renderer(tokenizer, style=chat)
    # A base model's own generation config ends at EOS; saved as it is, plain transformers would write past the turn.
    model.generation_config.eos_token_id = sorted(set(renderer.stop_ids))
    without_dropout(model)
    model.config.use_cache = False
    model.to(machines.device(machine))
    choose_threads(model, machine or machines.current())
    model.train(train).requires_grad_(train)
    heads = heading.open(folder, model) if heading.found_in(folder) else None
    return Loaded(attention.enable(model) or model, tokenizer, renderer, folder, heads)


@functools.cache
def default_threads() -> int:
    """CPU threads that torch began with."""
    import torch

    return torch.get_num_threads()


def choose_threads(model: Any, machine: Machine) -> None:
    """One CPU thread for a model of few parameters, torch's own number for others, unless the machine says how many.

    The products of such a model take microseconds: threads spend longer waiting for each other than multiplying, and
    on a busy machine, where one of them is always put off, many times longer.
    """
    import torch

    default = default_threads()
    if next(model.parameters()).device.type == "cpu" and not machine.threads:
        torch.set_num_threads(1 if model.num_parameters() < ONE_THREAD else default)


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
    check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be a model: no config, no tokenizer, no safetensors."""
    where = f'model "{folder}"'
    if not (folder / "config.json").is_file():
        raise UserError(where, "it holds no config.json", "a Hugging Face model folder", "Check the path.")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        cure = "Save the tokenizer into the folder: tokenizer.save_pretrained(folder)."
        raise UserError(where, "it holds no tokenizer", "tokenizer.json beside config.json", cure)
    if not any(path.name != heading.WEIGHTS for path in folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weights at all"
        cure = "Open it once with transformers and save_pretrained(folder): that writes safetensors."
        raise UserError(where, f"found {found}", "weights in safetensors (nothing is unpickled)", cure)


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises `UserError` where it is missing, broken, or knows no end."""
    from transformers import AutoTokenizer

    register(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f'tokenizer of "{folder}"', first_line(error), "a tokenizer that transformers opens") from error
    # A rule about lengths from the tokenizer's own settings would truncate silently; lengths are the encoder's
    # business.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def open_weights(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, from safetensors. Raises `UserError` where some weights are not there."""
    from transformers import AutoModelForCausalLM

    register(folder)
    where = f'model "{folder}"'
    try:
        with quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
    except (ValueError, OSError, KeyError) as error:
        raise UserError(where, first_line(error), "a causal language model") from error
    if missing := sorted(found["missing_keys"]):
        got = f"the weights of {', '.join(missing[:3])} are not there, and would be random"
        cure = "A reward model of transformers is read by Classifier(folder); from_classifier makes a policy of it."
        raise UserError(where, got, "a causal language model", cure)
    return model


def register(folder: Path) -> None:
    """Let transformers know the architecture of a folder where it is one of ours."""
    import json

    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads((folder / "config.json").read_text()).get("model_type") == "lswt":
            from trueline import lswt

            lswt.register()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep another library's progress bars off the screen, where a stage's own bar stands."""
    from transformers.utils import logging

    on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if on:
            logging.enable_progress_bar()


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
    if wanted == "auto":
        wanted = "bf16" if machines.device(machine).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    """Compute in `dtype` where it is safe to; plain float32 for None."""
    import torch

    return torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext()


def save(model: Any, tokenizer: Any, folder: str | os.PathLike[str], heads: Heads | None = None) -> None:
    """Write a folder that plain transformers opens; adapters are merged into the weights first.

    Merging changes `model`: train on from the saved folder, not from the object.
    """
    folder = Path(folder)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = True
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
    model.config.use_cache = False
    tokenizer.save_pretrained(folder)
    if heads is not None:
        heading.save(heads, folder)


def fitting(model: Any, max_length: int) -> int:
    """`max_length`, or the model's own longest sequence where that is shorter."""
    own = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    return min(max_length, own) if own else max_length


# --- naming a model in a recipe --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFolder:
    """A model folder of the user's: its identity is the content of its weights, config and tokenizer."""

    path: str = field(compare=False)

    def identity(self) -> dict[str, str]:
        """SHA-256 of each file that makes the model what it is."""
        found = sorted({path for pattern in PARTS for path in Path(self.path).glob(pattern) if path.is_file()})
        return {path.name: File(path).sha256 for path in found}


@dataclass(frozen=True)
class HubModel:
    """A model of the Hugging Face hub at one commit."""

    id: str
    revision: str


def pretrained(base: str | os.PathLike[str], revision: str | None = None) -> Policy:
    """The handle on a model to start from: a local folder, or a hub id such as "Qwen/Qwen2.5-0.5B".

    A folder is known by the content of its files; a hub model by its id and commit, which `revision` (a branch, tag or
    commit; default the main branch) is resolved to when the recipe is written, so that a moved branch is another model.
    Without a network the commit in the local hub cache is taken.

    Raises `UserError` for a model that is not there, or not of a kind that can be opened.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(call_site(), f"revision={revision!r} for the folder {folder}", "a hub id", "Leave it out.")
        check_folder(folder)
        return opened(ModelFolder(str(folder.resolve())), label=label_of(folder.resolve().name))
    name = os.fspath(base)
    parts = name.split("/")
    if len(parts) > 2 or name.startswith((".", "~", "/")) or "\\" in name or not all(parts):
        cure = "Check the path; a hub id has the form owner/name."
        raise UserError(call_site(), f'there is no model folder "{name}"', "a Hugging Face model folder", cure)
    return opened(HubModel(name, resolved(name, revision)), label=label_of(parts[-1]))


def named(name: str) -> Path:
    """The folder of a model as people name it on a command line: a folder, a policy of the store in force (its name or
    its folder), or a hub id, which is fetched.

    Raises `UserError` as `pretrained` does.
    """
    import json

    from trueline import store
    from trueline.pipeline import make

    for folder in (Path(name).expanduser(), store.current().root / Policy.kind / name):
        if (folder / "pointer.json").is_file():
            return Path(json.loads((folder / "pointer.json").read_bytes())["path"])
        if folder.is_dir():
            return folder
    fetched: Policy = make(pretrained(name))
    return fetched.folder


def label_of(name: str) -> str:
    """A model's name as an artefact's label."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.+-") else "-" for c in name).strip("-._+")
    return kept.removesuffix(".part") or "model"


def resolved(name: str, revision: str | None) -> str:
    """The commit that a hub model's revision stands for: asked of the hub, else read from its local cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    where = f'model "{name}"'
    try:
        found = HfApi().model_info(name, revision=revision, timeout=10).sha
        if found:
            return str(found)
    except RevisionNotFoundError:
        raise UserError(where, f'it has no revision "{revision}"', "a branch, tag or commit") from None
    except GatedRepoError:
        raise UserError(where, "the hub lets only those in who asked", "access", "Ask for it on the hub.") from None
    except (RepositoryNotFoundError, HFValidationError):
        cure = "Check the spelling, or name a local folder."
        raise UserError(where, "unknown: no folder here, no such model on the hub", "a model", cure) from None
    except Exception as error:
        # Anything else means that the hub was not reached: offline by choice, no network, a proxy, a time-out.
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        got = f"no folder here, not in the hub cache, and the hub was not reached ({type(error).__name__})"
        raise UserError(where, got, "a model", "Name a local folder, or connect to the network.") from None
    raise UserError(where, "the hub names no commit", "a model with files")


@stage(Policy, rev=1, name="pretrained")
def opened(work: Work, source: ModelFolder | HubModel) -> None:
    """Point at a folder, fetching a hub model into the hub's own cache first."""
    import msgspec

    if isinstance(source, HubModel):
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(source.id, revision=source.revision, allow_patterns=list(PARTS))
        except Exception as error:
            cure = "Run again with a network; finished files are kept."
            raise UserError(f'model "{source.id}"', first_line(error), "its files from the hub", cure) from error
        check_folder(Path(folder))
    else:
        folder = source.path
    write_atomic(work.dir / "pointer.json", msgspec.json.encode({"path": folder}) + b"\n")
