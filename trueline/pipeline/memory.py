"""How much memory a stage will need on each device, before anything is loaded: what `plan` prints and `make` holds
against the machine.

    memory 1.6 GB: parameters 135 MB, gradients 135 MB, optimiser 270 MB, activations 1.05 GB (2,048 trie tokens)

A model's shape is read from its config.json and the headers of its safetensors; no weight and no torch is loaded. What
a token of a training pass leaves behind was fitted to measured peaks of models with a gated MLP on a CPU in float32
(docs/scale.md); other architectures and bfloat16 are taken by the same rule. An estimate is an upper one where lengths
are not known: a pass is counted as full, every token of it as scored.

Shape of what is counted: numbers per trie token, times bytes per number; d hidden width, q and k widths of queries and
of keys, f width of the MLP.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.errors import UserError
from trueline.machine import Machine
from trueline.pipeline.failures import in_bytes
from trueline.store import Artifact, Policy

Matrices = tuple[tuple[str, int, int], ...]

WORDS = 4  # bytes of float32
KEEP = 256 << 20  # of softmax that a training pass keeps (trie.vocabulary)
BUCKET = (1 << 25) * WORDS  # gradients flattened at once for their sum over processes (train.fit)
PROMPT = 256  # tokens of a prompt that nobody has seen yet
PROCESS = 600 << 20  # a Python process with torch and transformers, before it holds a model
TRUSTED = 1.25  # how far an estimate may be off
TRAINS = ("train", "online")
READS = ("judge", "score", "measure", "fluency", "duel", "audit")
WRITES = ("draw", "teach", "invent", "candidates", "follow_up")


@dataclass(frozen=True)
class Measures:
    """A decoder's measures; `matrices` are (name, rows, columns) of its two-dimensional weights, where known."""

    parameters: int
    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    matrices: Matrices = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], matrices: Matrices = (), others: int = 0) -> Measures:
        """From a config.json and what the weights' headers say; without those, counted for a gated decoder.

        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 10}
        >>> Measures.of(sizes).parameters
        2248
        """
        config = {**config, **config.get("text_config", {})}
        hidden = _number(config, "hidden_size", "n_embd", "d_model")
        layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
        vocabulary = _number(config, "vocab_size")
        heads = _number(config, "num_attention_heads", "n_head", "num_heads")
        width = int(config.get("head_dim") or hidden // heads)
        queries, keys = heads * width, int(config.get("num_key_value_heads") or heads) * width
        inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
        if matrices:
            count = others + sum(rows * columns for _, rows, columns in matrices)
        else:
            layer = 2 * hidden * (queries + keys) + 3 * hidden * inner + 2 * hidden
            tables = 1 if config.get("tie_word_embeddings") else 2
            count = layers * layer + hidden + tables * vocabulary * hidden
        return cls(count, layers, hidden, queries, keys, inner, vocabulary, matrices)

    @property
    def held(self) -> float:
        """Numbers that a layer keeps per token for its backward pass, with its share of what that pass makes."""
        return 9 * self.hidden + 1.5 * self.queries + 5 * self.keys + 4 * self.inner

    @property
    def around(self) -> int:
        """Numbers per token that stand outside of the layers in a training pass."""
        return 12 * self.hidden

    @property
    def passing(self) -> int:
        """Numbers per token while a pass without gradients goes by."""
        return 7 * self.hidden + 3 * self.inner

    @property
    def cell(self) -> int:
        """Numbers that one token has in the cache of keys and values."""
        return 2 * self.keys * self.layers

    def adapters(self, lora: Any) -> int:
        """Numbers that train under `lora`; for all linear layers where the weights are not there to be asked."""
        names = lora.target_modules
        found = self.matrices or (("q_proj", self.queries, self.hidden),) * (4 * self.layers)
        blocks = [m for m in found if not re.search(r"embed|lm_head|wte|wpe", m[0])]
        if not isinstance(names, str):
            blocks = [m for m in blocks if any(part in m[0].split(".") for part in names)]
        return sum(lora.r * (rows + columns) for _, rows, columns in blocks)


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next(int(config[name]) for name in names if config.get(name))


def shape_at(folder: Path) -> Measures | None:
    """The shape of the model in a folder; None for one that does not say."""
    path = folder / "config.json"
    return _shape_at(str(folder), path.stat().st_mtime_ns) if path.is_file() else None


@functools.lru_cache(maxsize=256)
def _shape_at(folder: str, mtime_ns: int) -> Measures | None:
    try:
        matrices, others = [], 0
        for path in sorted(Path(folder).glob("*.safetensors")):
            if path.name.startswith("heads"):
                continue
            for name, sizes in headers(path):
                if len(sizes) == 2:
                    matrices.append((name, sizes[0], sizes[1]))
                else:
                    others += functools.reduce(int.__mul__, sizes, 1)
        return Measures.of(json.loads((Path(folder) / "config.json").read_bytes()), tuple(matrices), others)
    except (OSError, ValueError, KeyError, StopIteration, struct.error, ZeroDivisionError, AttributeError):
        return None


def headers(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor of a safetensors file; the tensors themselves are not read."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        for name, entry in json.loads(file.read(size)).items():
            if name != "__metadata__":
                yield name.removesuffix(".weight"), entry["shape"]


def shape_of(policy: Artifact) -> Measures | None:
    """The shape of a policy, made or not: that of what it starts from; None where no folder is there yet."""
    if policy.made:
        pointer = policy.path / "pointer.json"
        return shape_at(Path(json.loads(pointer.read_bytes())["path"]) if pointer.exists() else policy.path)
    source = policy.inputs.get("source")
    if path := getattr(source, "path", None):
        return shape_at(Path(path))
    if name := getattr(source, "id", None):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json", revision=getattr(source, "revision", None))
        return shape_at(Path(found).parent) if isinstance(found, str) else None
    starts = [parent for parent in policy.parents if isinstance(parent, Policy)]
    return shape_of(starts[0]) if starts else None


@dataclass(frozen=True)
class Demand:
    """Bytes on one device while a stage works, beside the process itself; tokens: trie tokens of a pass."""

    parameters: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    cache: int = 0
    tokens: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimiser + self.activations + self.cache

    def json(self) -> dict[str, int]:
        """The demand as JSON-able data."""
        names = ("parameters", "gradients", "optimiser", "activations", "cache", "total", "tokens")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        named = {
            "parameters": self.parameters, "gradients": self.gradients, "optimiser": self.optimiser,
            "activations": self.activations, "KV cache": self.cache,
        }  # fmt: skip
        parts = [f"{name} {in_bytes(n)}" for name, n in named.items() if n]
        return f"memory {in_bytes(self.total)}: {', '.join(parts)} ({self.tokens:,} trie tokens)"


def demand(artifact: Artifact, machine: Machine) -> Demand | None:
    """What the stage of `artifact` will need on each device; None for one without a model, or whose model's shape is
    not known before it is fetched.
    """
    machine = artifact.machine or machine
    if artifact.stage in TRAINS:
        return _training(artifact, machine)
    if artifact.stage not in (*READS, *WRITES):
        return None
    shapes = [shape_of(policy) for policy in artifact.parents if isinstance(policy, Policy)]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return None
    whole = artifact.stage == "score" or not on_gpu(machine)
    parameters = sum(shape.parameters for shape in known) * (WORDS if whole else 2)
    sampling = artifact.inputs.get("sampling")
    if artifact.stage in WRITES and sampling is not None:
        parts = [_writing(shape, artifact, machine, sampling) for shape in known]
        tokens, activations, cache = (max(column) for column in zip(*parts, strict=True))
        return Demand(parameters, 0, 0, activations, cache, tokens)
    tokens = machine.micro_tokens
    return Demand(parameters, 0, 0, max(reading(shape, machine, tokens) for shape in known), 0, tokens)


def _training(artifact: Artifact, machine: Machine) -> Demand | None:
    given = artifact.inputs
    shape = shape_of(given["start"])
    if shape is None:
        return None
    lora, freeze = given.get("lora"), given.get("freeze")
    trains = 0 if freeze is True else shape.adapters(lora) if lora is not None else shape.parameters
    total = shape.parameters + (trains if lora is not None else 0)
    beside = given.get("reference_model") or (given.get("reference") if artifact.stage == "online" else None)
    if isinstance(beside, Policy) and not (
        lora is not None and beside == given["start"] and artifact.stage == "online"
    ):
        total += (shape_of(beside) or shape).parameters
    slots = {"RMSprop": 1}.get(type(given["settings"].optimizer).__name__, 2)
    tokens = _step_tokens(artifact, machine)
    activations = reading(shape, machine, tokens) if freeze is True else training(shape, machine, tokens)
    cache = 0
    if (sampling := given.get("sampling")) is not None:
        _, writing, cache = _writing(shape, artifact, machine, sampling)
        cache += max(0, writing - activations)  # drawing and learning take turns
    return Demand(total * WORDS, trains * WORDS, trains * WORDS * slots, activations, cache, tokens)


def training(shape: Measures, machine: Machine, tokens: int) -> int:
    """Bytes that a training pass over so many trie tokens holds at its highest, beside weights and gradients."""
    half = _half(machine)
    held = shape.layers * shape.held
    if machine.gradient_checkpointing:
        held = shape.layers * 8 * shape.hidden + shape.held
    out = int(tokens * (held + shape.around) * (2 if half else WORDS))
    out += min(KEEP, tokens * shape.vocabulary * WORDS) + _chunk(shape, machine) // 2
    out += shape.parameters * 2 if half else 0  # autocast keeps the weights it has cast for the pass
    return out + (BUCKET if machine.processes > 1 else 0)


def reading(shape: Measures, machine: Machine, tokens: int) -> int:
    """Bytes that a pass without gradients holds at its highest, beside the weights."""
    return tokens * shape.passing * (2 if _half(machine) else WORDS) + _chunk(shape, machine)


def drawing(
    shape: Measures, machine: Machine, rows: int, prompts: int, max_tokens: int, prompt: int = PROMPT
) -> tuple[int, int, int]:
    """Trie tokens read ahead, bytes of that pass, and bytes of keys and values of `rows` answers to `prompts`."""
    each = 2 if on_gpu(machine) else WORDS
    tokens = max(prompt, min(machine.micro_tokens, prompt * prompts))
    columns = -(-(prompt + max_tokens + 1) // 64) * 64
    cache = (rows * columns + 2 * tokens) * shape.cell * each
    return tokens, tokens * shape.passing * each + 4 * rows * shape.vocabulary * WORDS, cache


def _half(machine: Machine) -> bool:
    """Whether passes compute in bfloat16."""
    return machine.precision == "bf16" or (on_gpu(machine) and machine.precision == "auto")


def _writing(shape: Measures, artifact: Artifact, machine: Machine, sampling: Any) -> tuple[int, int, int]:
    rows = min(machine.sample_rows, artifact.count.get("samples", 0) or machine.sample_rows)
    return drawing(shape, machine, rows, -(-rows // sampling.n), sampling.max_tokens)


def _step_tokens(artifact: Artifact, machine: Machine) -> int:
    """Trie tokens of a pass: the machine's, or those of an optimiser step where that has fewer."""
    counts = artifact.own_count
    steps, tokens = counts.get("steps", 0), counts.get("train_tokens", 0)
    if not steps or not tokens:
        return machine.micro_tokens
    return max(1, min(machine.micro_tokens, -(-tokens // steps)))


def _chunk(shape: Measures, machine: Machine) -> int:
    """Bytes of the states that meet the vocabulary at once: their logits, and those once more."""
    return 2 * WORDS * max(64 * shape.vocabulary, 1 << (25 if on_gpu(machine) else 22))


# --- the machine -----------------------------------------------------------------------------------------------------


def on_gpu(machine: Machine) -> bool:
    """Whether the machine works on GPUs, found without torch where the system shows it."""
    if machine.device != "auto":
        return machine.device.startswith("cuda")
    if sys.platform == "linux":
        return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")
    return sys.platform == "win32" and "torch" in sys.modules and sys.modules["torch"].cuda.is_available()


def available(machine: Machine) -> int | None:
    """Bytes that a device of the machine has: as it says, else as the system does; None where nobody says.

    On a CPU all processes share them.
    """
    if machine.memory:
        return parsed(machine.memory)
    if on_gpu(machine):
        import torch

        index = int(machine.device.partition(":")[2] or 0)
        return int(torch.cuda.get_device_properties(index).total_memory) if torch.cuda.is_available() else None
    found = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def parsed(text: str) -> int | None:
    """Bytes as people write them; None for "any", which nothing exceeds.

    >>> parsed("80GB"), parsed("512 MiB"), parsed("any")
    (80000000000, 536870912, None)
    """
    if text == "any":
        return None
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if number is None or number[2].upper() not in units:
        raise UserError("--machine.memory", f"got {text!r}", 'bytes such as "80GB" or "24GiB", or "any"')
    return int(float(number[1]) * units[number[2].upper()])


def shortage(wanted: Demand, machine: Machine) -> str:
    """What a stage lacks, in words; "" where it fits, or nobody knows what the device has."""
    have = available(machine)
    needs = _needs(wanted, machine)
    if have is None or needs <= have:
        return ""
    sure = "does not fit" if needs > TRUSTED * have else "may not fit"
    of = f" for {machine.processes} processes" if _sharing(machine) > 1 else ""
    return f"{sure} into {in_bytes(have)}: needs about {in_bytes(needs)}{of}"


def _sharing(machine: Machine) -> int:
    """Processes that share a device's memory: on a CPU all of them."""
    return 1 if on_gpu(machine) else machine.processes


def _needs(wanted: Demand, machine: Machine) -> int:
    return (wanted.total + (0 if on_gpu(machine) else PROCESS)) * _sharing(machine)


def check(name: str, wanted: Demand, machine: Machine) -> None:
    """Raise `UserError` for a stage that does not fit even where the estimate is off by as much as it may be."""
    have = available(machine)
    if have is None or _needs(wanted, machine) <= TRUSTED * have:
        return
    cures = []
    if wanted.activations > wanted.parameters and wanted.tokens > 512:
        cures.append(f"lower --machine.micro-tokens (now {machine.micro_tokens})")
    if wanted.gradients and not machine.gradient_checkpointing:
        cures.append("set --machine.gradient-checkpointing")
    if wanted.cache > wanted.parameters:
        cures.append(f"lower --machine.sample-rows (now {machine.sample_rows})")
    if wanted.gradients + wanted.optimiser > wanted.activations:
        cures.append("train LoRA adapters")
    cures.append("take a larger machine, or go on all the same with --machine.memory any")
    cure = ", ".join(cures)
    raise UserError(f"making {name}", f"it {shortage(wanted, machine)}", str(wanted), cure[0].upper() + cure[1:] + ".")
