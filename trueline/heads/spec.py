"""Heads: scalars read off a language model's hidden states, as values, files and numbers.

    head = Head(names=("reward",), pooler="swiglu_bert")
    train(sft, Pairs(groups), DPH(), head=head)

A `Head` says what to build and is its own identity: which hidden state (`aggregate`), what it goes through (`pooler`),
and one linear output per name. `Heads`, the module it builds, lies in `readout`. Trained heads lie beside the weights
of a Hugging Face folder as `heads.safetensors` and `heads.json`, or in a folder of their own, without a backbone.

A reward is read at a sequence's last token, which has to be the end-of-turn that closes the assistant's last turn:
`chat` renders it so, `rewards` refuses what is not.

Where heads are trained is `train`'s business; what the numbers are used for, everybody's. Nothing here imports torch
before a model is there.

Shape suffixes: N sequences, H heads, D hidden width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trueline.errors import UserError, closest
from trueline.work import write_atomic

if TYPE_CHECKING:
    import numpy as np

    from trueline import trie
    from trueline.chat import Renderer
    from trueline.heads.readout import Heads
    from trueline.machine import Machine
    from trueline.models import Loaded

WEIGHTS, SPEC = "heads.safetensors", "heads.json"
Pooler = Literal["identity", "bert", "t5", "swiglu_bert", "swiglu_t5"]


@dataclass(frozen=True)
class Last:
    """The hidden state after the final norm, the one that the output head reads, at a sequence's last token."""


@dataclass(frozen=True)
class Layer:
    """One layer's hidden state at the last token: 0 is what the first layer receives, -1 what the output head reads.

    The states in between are as the layers give them, not normed (see `states`). norm: a LayerNorm after it.
    """

    index: int = -1
    norm: bool = False


@dataclass(frozen=True)
class WeightedSum:
    """A learned sum of `layers` (indices as in `Layer`) at the last token: sum of w_k m_k h_k, w a softmax over weights
    that start equal.

    dropout: in training, m_k is 0 with this chance and else 1 / (1 - dropout), drawn for each layer and sequence.
    norm: a LayerNorm after the sum.
    """

    layers: tuple[int, ...]
    dropout: float = 0.0
    norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError("WeightedSum(layers=...)", f"got {self.layers}", "one or more different indices")
        share("WeightedSum(dropout=...)", self.dropout)


@dataclass(frozen=True)
class AttentionPooler:
    """Attention over a conversation's turns on top of a frozen or training model; read at the last token.

    On the states x that `layers` gives, `repeats` times

        x <- x + SelfAttn(LN(x)); x <- x + CrossAttn(LN(x)); x <- x + FFN(LN(x))

    Self attention is causal within a turn and biased by slope_h (k - q) for a query at q and a key at k; cross
    attention sees the end-of-turn tokens before it and itself, biased by slope_h (turn of k - turn of q); head h of H
    has slope_h = 2^(-(h + 1) alibi_slope / H). The FFN is down(up(x) * silu(gate(x))). A turn begins with the special
    token that opens it.

    self_type: "self", or "pool" for a learned query, the same at every token, in self attention. The linear layers are
    shared between repeats; norms are each repeat's own, as are an added bias and low-rank factors of `lora_r` (0:
    none), scaled by lora_alpha / lora_r, with lora_dropout on their input. attention_heads: 0 takes the model's number.
    norm: a LayerNorm after it all (that of `layers` stands before).

    Source: the attention pooler that Hadji-Kyriacou's later code trains on top of frozen models.
    """

    layers: Layer | WeightedSum = Layer()
    self_type: Literal["self", "pool"] = "self"
    repeats: int = 2
    alibi_slope: float = 8.0
    lora_r: int = 8
    lora_alpha: float = 8.0
    lora_dropout: float = 0.0
    attention_heads: int = 0
    norm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Layer | WeightedSum):
            raise UserError("AttentionPooler(layers=...)", f"got {self.layers!r}", "a Layer or a WeightedSum")
        if self.self_type not in ("self", "pool"):
            raise UserError("AttentionPooler(self_type=...)", f'got "{self.self_type}"', '"self" or "pool"')
        for name, least in (("repeats", 1), ("alibi_slope", 0), ("lora_r", 0), ("attention_heads", 0)):
            if getattr(self, name) < least:
                got = f"got {getattr(self, name)}"
                raise UserError(f"AttentionPooler({name}=...)", got, f"a number of at least {least}")
        share("AttentionPooler(lora_dropout=...)", self.lora_dropout)


Aggregate = Last | Layer | WeightedSum | AttentionPooler
KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Aggregate)}


@dataclass(frozen=True)
class Head:
    """What reads a number off a hidden state: the value is configuration and identity.

    names: one linear output each. aggregate: which hidden state is read. pooler, with d the model's width and f the
    width of its feed-forward blocks:

        identity               dropout
        bert, t5               Linear(d, d), tanh, dropout;  t5: the dropout comes first
        swiglu_bert, swiglu_t5 Linear(d, 2f), x * silu(g), Linear(f, d), tanh, dropout;  t5: the dropout comes first

    where x is the first half of the 2f features and g the second. bias: of the outputs; the poolers always have one.
    Every linear weight starts from N(0, 0.02), every bias at 0.

    Parameters at d = 1536 and f = 4096, the one output included: 1,536 (identity), 2,362,368 (bert, t5) and 18,885,632
    (swiglu). Source: Hadji-Kyriacou and Arandjelović 2024 (arXiv 2405.20053).
    """

    names: tuple[str, ...] = ("reward",)
    pooler: Pooler = "identity"
    aggregate: Aggregate = Last()
    dropout: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", (self.names,) if isinstance(self.names, str) else tuple(self.names))
        wrong = [name for name in self.names if not name.replace("-", "_").isidentifier()]
        if not self.names or wrong or len(set(self.names)) < len(self.names):
            raise UserError("Head(names=...)", f"got {self.names!r}", "one or more different names, letters and digits")
        known = list(get_args(Pooler))
        if self.pooler not in known:
            cure = closest(str(self.pooler), known)
            raise UserError("Head(pooler=...)", f"got {self.pooler!r}", f"one of {', '.join(known)}", cure)
        if type(self.aggregate) not in KINDS.values():
            raise UserError("Head(aggregate=...)", f"got {self.aggregate!r}", f"one of {', '.join(KINDS)}")
        share("Head(dropout=...)", self.dropout)

    def build(self, model: Any, seed: int = 0, renderer: Renderer | None = None) -> Heads:
        """New heads over `model`, on its device, in float32; the same weights for the same seed.

        renderer: how its conversations are rendered; an `AttentionPooler` has to know what opens and closes a turn.

        Raises `UserError` for layers that the model has not.
        """
        import torch

        from trueline.heads.readout import Heads

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = Heads(self, shape_of(model, self.aggregate, renderer))
        return made.to(next(model.parameters()).device)


def share(where: str, value: float) -> None:
    """Refuse a dropout that is none."""
    if not 0 <= value < 1:
        raise UserError(where, f"got {value}", "a share from 0 to below 1")


@dataclass(frozen=True)
class ModelShape:
    """What heads need to know of a model: the width of the states they read, the width of its feed-forward blocks, its
    attention heads; how many states it reports and which tokens open and close a turn, where they have to know."""

    width: int
    ffn: int
    attention_heads: int
    states: int = 0
    turn: tuple[int, int] = (-1, -1)


def shape_of(model: Any, aggregate: Aggregate = Last(), renderer: Renderer | None = None) -> ModelShape:
    """The shape of a causal language model of transformers, wrapped or not, as `aggregate` reads it."""
    from trueline.trie.attention import core

    inner = core(model)
    config, output = inner.config.get_text_config(), inner.get_output_embeddings()
    width, states = int(getattr(output, "in_features", output.weight.shape[1])), 0
    if not isinstance(aggregate, Last):
        widths = reported(inner)
        width, states = one_width(widths, aggregate), len(widths)

    def first(default: int, *names: str) -> int:
        found = (getattr(config, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value > 0), default)

    ffn = first(4 * width, "intermediate_size", "ffn_dim", "n_inner", "d_ffn")
    turn = (-1, -1)
    if isinstance(aggregate, AttentionPooler):
        if renderer is None:
            raise ValueError("an AttentionPooler has to know what opens and closes a turn: build(..., renderer=...)")
        turn = (renderer.start_id, renderer.end_id)
    return ModelShape(width, ffn, first(1, "num_attention_heads", "n_head", "n_heads"), states, turn)


def reported(model: Any) -> list[int]:
    """The width of each hidden state that `model` reports, embeddings first."""
    import torch

    with torch.no_grad():
        ids = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
        given = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    if not getattr(given, "hidden_states", None):
        got = "it reports no hidden states"
        raise UserError(type(model).__name__, got, "a model whose layers can be read", "Use aggregate=Last().")
    return [int(layer.shape[-1]) for layer in given.hidden_states]


def one_width(widths: list[int], aggregate: Aggregate) -> int:
    """The width of the states that `aggregate` reads. Raises `UserError` for layers that are not there or differ."""
    chosen = layers_of(aggregate)
    where = f"{type(aggregate).__name__} of layers {chosen}"
    if any(not -len(widths) <= index < len(widths) for index in chosen):
        raise UserError(where, f"the model reports {len(widths)} states", f"indices below {len(widths)}")
    if len({index % len(widths) for index in chosen}) < len(chosen):
        raise UserError(where, f"two of them are the same of {len(widths)} states", "different ones")
    found = {widths[index] for index in chosen}
    if len(found) > 1:
        raise UserError(where, f"they are {sorted(found)} wide", "layers of one width")
    return found.pop()


def layers_of(aggregate: Aggregate) -> tuple[int, ...]:
    """The indices of the states that `aggregate` reads."""
    if isinstance(aggregate, AttentionPooler):
        return layers_of(aggregate.layers)
    return aggregate.layers if isinstance(aggregate, WeightedSum) else (getattr(aggregate, "index", -1),)


# --- files -----------------------------------------------------------------------------------------------------------


def save(heads: Heads, folder: str | Path) -> None:
    """Write `heads` into a folder, a model's or one of their own: weights in safetensors, the rest in JSON."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps({"head": plain(heads.spec), "shape": dataclasses.asdict(heads.shape)}, indent=2)
    write_atomic(folder / SPEC, text.encode() + b"\n")


def found_in(folder: Path) -> bool:
    """Whether heads lie in this folder."""
    return (folder / SPEC).is_file()


def names_in(folder: Path) -> list[str]:
    """The names of the heads in this folder. Raises `UserError` where they cannot be read."""
    try:
        return list(json.loads((folder / SPEC).read_text())["head"]["names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'heads in "{folder}"', f"{SPEC} cannot be read ({error})", "as heads.save wrote it") from error


def open(folder: str | Path, model: Any) -> Heads:
    """The heads of a folder for `model`: on its device, frozen, dropout off.

    Raises `UserError` where the folder holds none, or those of a model of another shape.
    """
    from safetensors.torch import load_file

    from trueline.heads.readout import Heads

    folder = Path(folder)
    where = f'heads in "{folder}"'
    if not found_in(folder):
        cure = "Train some: train(..., DPH(), head=Head()), or a reward model with BradleyTerry()."
        raise UserError(where, f"there is no {SPEC}", "a folder that heads.save wrote", cure)
    try:
        kept = json.loads((folder / SPEC).read_text())
        spec, shape = value_of(kept["head"]), ModelShape(**value_of(kept["shape"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(where, f"{SPEC} cannot be read ({error})", "as heads.save wrote it") from error
    reads = spec.aggregate
    own = shape_of(model, reads.layers if isinstance(reads, AttentionPooler) else reads)
    if (own.width, own.ffn, own.states) != (shape.width, shape.ffn, shape.states):
        got = f"they are of a model of width {shape.width}, feed-forward width {shape.ffn}, {shape.states} states read"
        wanted = f"{own.width}, {own.ffn} and {own.states}, as this model has"
        raise UserError(where, got, wanted, "Open them on the model that they were trained on.")
    made = Heads(spec, shape)
    try:
        made.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError) as error:
        got = str(error).splitlines()[0]
        raise UserError(where, f"{WEIGHTS} does not fit ({got})", f"the weights that {SPEC} describes") from error
    return made.to(next(model.parameters()).device).requires_grad_(False).eval()


def plain(value: Any) -> Any:
    """A specification as JSON: its kind and its fields."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return value


def value_of(form: Any) -> Any:
    """The specification that `plain` wrote, or plain values. Raises KeyError or TypeError for another kind or field."""
    if isinstance(form, list):
        return tuple(map(value_of, form))
    if not isinstance(form, dict):
        return form
    fields = {name: value_of(item) for name, item in form.items() if name != "kind"}
    return {**KINDS, "Head": Head}[form["kind"]](**fields) if "kind" in form else fields


# --- numbers ---------------------------------------------------------------------------------------------------------


def rewards(loaded: Loaded, sequences: Sequence[trie.Sequence], machine: Machine | None = None) -> np.ndarray:
    """What the heads of `loaded` read at the last token of each sequence: float32 [N, H], no gradient.

    Sequences are put into tries of at most `machine.micro_tokens` tokens, neighbours in token order together.

    Raises `UserError` for a policy without heads, and for a sequence that does not end with the end-of-turn that closes
    the assistant's turn.
    """
    import numpy as np
    import torch

    from trueline import models
    from trueline.trie import passes

    heads = require(loaded)
    check_closed(sequences, loaded.renderer)
    out_NH = np.zeros((len(sequences), len(heads.names)), np.float32)
    dtype = models.autocast_dtype(machine)
    for part, batch, outputs in passes.passes(loaded.model, sequences, heads.want, machine, dtype):
        with torch.inference_mode():
            out_NH[part] = heads(outputs, batch).float().cpu().numpy()
    return out_NH


def require(loaded: Loaded) -> Heads:
    """The heads of an opened policy. Raises `UserError` where it has none."""
    if loaded.heads is None:
        from trueline.heads.classification import is_classifier

        cure = "Train some: train(..., DPH(), head=Head()), or a reward model with BradleyTerry()."
        if is_classifier(loaded.folder):
            cure = (
                "It is a classifier of transformers: Classifier(folder) reads it, from_classifier makes a policy of it."
            )
        raise UserError(f'policy "{loaded.folder}"', "it has no heads", "a policy trained with a head", cure)
    return loaded.heads


def column(heads: Heads, name: str, where: str) -> int:
    """Index of the head called `name` ("": the first). Raises `UserError` naming `where` for one that is not there."""
    if name and name not in heads.names:
        got = f'there is no head "{name}"'
        raise UserError(where, got, f"one of {', '.join(heads.names)}", closest(name, list(heads.names)))
    return heads.names.index(name) if name else 0


def check_closed(sequences: Sequence[trie.Sequence], renderer: Renderer) -> None:
    """Refuse sequences whose last token is not the end-of-turn that closes the assistant's turn."""
    for sequence in sequences:
        ids = sequence.ids.tolist()
        if ids[-1] != renderer.end_id or not renderer.closes_answer(ids):
            shown = renderer.text_of(ids[-12:])
            got = f'the sequence that ends "{shown}" does not end with the end-of-turn that closes the answer'
            cure = "Build it from prompt_ids(...) and answer_ids(text, ended=True), or from renderer.closed(ids)."
            raise UserError("reading a reward", got, "exactly that token, last", cure)


def __getattr__(name: str) -> Any:
    """`heads.Heads`, without importing torch before somebody asks for it."""
    if name == "Heads":
        from trueline.heads.readout import Heads

        return Heads
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
