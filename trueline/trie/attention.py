"""Exact attention over a token trie, for every transformers causal language model.

`enable` registers our attention with transformers (attention and mask interface alike, so that no dense mask is built)
and proves it once per model: one tiny trie through the model against the same sequences padded. A model whose numbers
do not agree, or whose attention does what we cannot do over a trie (state space, soft-capped scores, sinks, position
biases, custom code), is marked for the padded path, with one log line that says so. Without a trie in the call, an
enabled model attends as transformers' own `sdpa` does, so that sampling and everything else go on as before.

What a trie is, is `trie`'s business; which calls it takes, `layout`'s; the arithmetic, `nodewise`'s and `flex`'s.

Shape suffixes: T trie tokens, N sequences, L their padded length, D hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trueline.errors import UserError
from trueline.trie import flex, nodewise, vocabulary
from trueline.trie.lastlayer import LastLayer
from trueline.trie.layout import Layout

Tensor = torch.Tensor

NAME = "trueline"
MARK = "_trueline_path"
KERNELS = {"cpu": ("flash", "plain"), "cuda": ("flex", "plain")}
# Largest root-mean-square difference between trie and padded, relative to the spread of the padded numbers. Rounding
# stays an order of magnitude below; attention that sees wrong tokens lands far above.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
LOW_PRECISION = 6e-2
# Arguments that attention functions receive and that change nothing over a trie.
HARMLESS = {"position_ids", "cache_position", "position_embeddings", "cu_seq_lens_q", "cu_seq_lens_k"}

log = logging.getLogger("trueline")


@dataclass(frozen=True)
class Path:
    """How a model runs: `kernel` over tries ("": padded, for `reason`); `head`: its output head can be read by rows."""

    kernel: str
    head: bool
    reason: str = ""
    last: LastLayer | None = field(default=None, repr=False)


class Untrieable(Exception):
    """The model asks for attention that we cannot do over a trie; the message says what."""


@dataclass(eq=False)
class Pass:
    """One model call over a trie, as the attention function receives it.

    `last` is set where the last layer may leave out what nobody reads. `masks` and `windows` note the windows that
    masks were asked for and that attention was told; `seen` is the attention module that was called last.
    """

    layout: Layout
    kernel: str
    last: LastLayer | None = None
    masks: set[int | None] = field(default_factory=set)
    windows: set[int | None] = field(default_factory=set)
    seen: torch.nn.Module | None = None


_under_way: contextvars.ContextVar[Pass | None] = contextvars.ContextVar("trie_pass", default=None)


@contextlib.contextmanager
def passing(layout: Layout, kernel: str, last: LastLayer | None = None) -> Iterator[Pass]:
    """For the length of one model call over a trie; what it gives goes into the call as the keyword argument `trie`.

    The mask interface is called without the model's keyword arguments, so it looks here whether there is a trie.
    """
    if last is not None and last.recomputed():
        last = None
    given = Pass(layout, kernel, last)
    token = _under_way.set(given)
    read_K = torch.from_numpy(layout.read).to(layout.device)
    try:
        with last.only(read_K) if last is not None else contextlib.nullcontext():
            yield given
    finally:
        _under_way.reset(token)


def _mask(*args: Any, **kwargs: Any) -> Any:
    from transformers.masking_utils import sdpa_mask

    given = _under_way.get()
    if given is None:
        return sdpa_mask(*args, **kwargs)
    if kwargs.get("use_vmap"):
        raise Untrieable("it lays a mask of its own over the causal one")
    given.masks.add(kwargs.get("local_size"))
    return None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    trie: Pass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: heads first in, tokens first out."""
    if trie is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    window = kwargs.pop("sliding_window", None)
    scale = kwargs.pop("scaling", None)
    if dropout := kwargs.pop("dropout", 0.0):
        _say_dropout(type(module).__name__, dropout)
    _refuse(module, query, key, attention_mask, kwargs)
    trie.windows.add(window)
    trie.seen = module
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if trie.kernel == "flex":
        return flex.attend(query, key, value, trie.layout, scale, window), None
    plan = trie.layout.plan(window, trie.last is not None and trie.last.attention is module)
    return nodewise.attend(query, key, value, plan, nodewise.KERNELS[trie.kernel], scale), None


def _refuse(module: torch.nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    if mask is not None:
        raise Untrieable("it builds its own attention mask")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise Untrieable("its attention is not of a sequence to itself")
    if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        raise Untrieable("its attention is not causal")
    for name, given in kwargs.items():
        changes = name == "softcap" or (isinstance(given, torch.Tensor) and name not in HARMLESS)
        if changes and given is not None:
            raise Untrieable(f'its attention takes "{name}"')


@functools.cache
def _say_dropout(where: str, dropout: float) -> None:
    log.warning("%s: the attention dropout of %g is not applied over tries", where, dropout)


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def core(model: Any) -> Any:
    """The transformers model inside data-parallel, compiled and PEFT wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif isinstance(getattr(model, "module", None), torch.nn.Module):
            model = model.module
        else:
            return model


def after(model: Any) -> vocabulary.After:
    """What `model` does to the logits of its head."""
    return vocabulary.After.of(core(model).config)


def enable(model: Any) -> Any:
    """Let `model` (any causal language model of transformers, wrapped or not) run over tries; returns it.

    The first call on a model runs the self-check (three or four passes over some thirty tokens) and marks the model;
    later calls return at once.
    """
    path(model)
    return model


def path(model: Any) -> Path:
    """How `model` runs, proved on the first call."""
    inner = core(model)
    known = getattr(inner, MARK, None)
    if isinstance(known, Path):
        return known
    found = _prove(inner)
    setattr(inner, MARK, found)
    if not found.kernel:
        log.warning("%s runs padded, not over tries: %s", type(inner).__name__, found.reason)
    return found


def _prove(model: Any) -> Path:
    """Run the tiny trie and its padded twin, kernel after kernel, until one agrees."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(type(model).__name__, "it has no output head", "a causal language model", "Load one.")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        example = _example(model)
        truth = _padded(model, example)
        with torch.no_grad():
            logits_TV = after(model)(head(truth.hidden))
        if not truth.same(logits_TV, truth.logits):
            return Path("", False, "its logits are not those of its output head")
        return _choose(model, example, truth)
    finally:
        for module in training:
            module.training = True


def _choose(model: Any, example: _Example, truth: _Seen) -> Path:
    # Asked first, because transformers warns at length when such a model is set to another attention.
    if not getattr(model, "_can_set_attn_implementation", lambda: True)():
        return Path("", True, "it does not attend through transformers' attention interface")
    before = model.config._attn_implementation
    reason = ""
    try:
        _register()
        model.set_attn_implementation(NAME)
        for kernel in KERNELS.get(example.ids_T.device.type, ("plain",)):
            reason, attention = _disagreement(model, example, truth, kernel, None)
            if not reason:
                last = LastLayer.around(model, attention) if attention is not None else None
                if last is not None and _disagreement(model, example, truth, kernel, last)[0]:
                    last = None
                return Path(kernel, True, last=last)
    except (Untrieable, ValueError) as error:
        reason = str(error)
    model.set_attn_implementation(before)
    return Path("", True, reason)


@dataclass(frozen=True, eq=False)
class _Example:
    """A tiny trie: ids, nodes, depths, what is read, and its four sequences as indices, right-padded with -1."""

    ids_T: Tensor
    nodes: np.ndarray
    positions: np.ndarray
    read: np.ndarray
    cells_NL: np.ndarray


def _example(model: Any) -> _Example:
    nodes = np.array(
        [[0, 9, 30, -1], [9, 15, 25, 0], [15, 19, 19, 1], [19, 25, 25, 1], [25, 30, 30, 0], [30, 37, 37, -1]]
    )
    paths = [np.concatenate([np.arange(*nodes[i, :2]) for i in path]) for path in ((0, 1, 2), (0, 1, 3), (0, 4), (5,))]
    cells_NL = np.full((len(paths), max(path.size for path in paths)), -1)
    positions = np.zeros(nodes[-1, 1], np.int64)
    for row, path in enumerate(paths):
        cells_NL[row, : path.size] = path
        positions[path] = np.arange(path.size)
    weight = model.get_input_embeddings().weight
    ids_T = torch.from_numpy(np.random.default_rng(0).integers(0, weight.shape[0], positions.size)).to(weight.device)
    read = np.array([8, 16, 17, 18, 24, 26, 27, 28, 33, 34, 35])
    return _Example(ids_T, nodes, positions, read, cells_NL)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one pass gives: final-norm hidden states (what the output head reads), logits, and how far they round."""

    hidden: Tensor
    logits: Tensor
    tolerance: float

    def at(self, index: Any) -> _Seen:
        """Some positions of it."""
        return _Seen(self.hidden[index], self.logits[index], self.tolerance)

    def same(self, got: Tensor, wanted: Tensor) -> bool:
        """Equal up to rounding: root-mean-square difference against the spread of what is wanted."""
        if got.shape != wanted.shape or not torch.isfinite(got).all():
            return False
        got, wanted = got.double(), wanted.double()
        return bool((got - wanted).square().mean().sqrt() <= self.tolerance * wanted.std() + 1e-300)


def _run(model: Any, **inputs: Any) -> _Seen:
    states: list[Tensor] = []
    dtypes: list[torch.dtype] = []

    def note(_: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        states.append(given[0])
        if torch.is_autocast_enabled(given[0].device.type):
            dtypes.append(torch.get_autocast_dtype(given[0].device.type))

    hook = model.get_output_embeddings().register_forward_pre_hook(note)
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    dtypes += [states[-1].dtype, logits.dtype]
    return _Seen(states[-1], logits, max(TOLERANCE.get(dtype, LOW_PRECISION) for dtype in dtypes))


@torch.no_grad()
def _padded(model: Any, example: _Example) -> _Seen:
    """What the padded twin gives for each token of the tiny trie."""
    cells_NL = torch.from_numpy(example.cells_NL).to(example.ids_T.device)
    real_NL = cells_NL >= 0
    ids_NL = example.ids_T[cells_NL.clamp(min=0)] * real_NL
    try:
        seen = _run(model, input_ids=ids_NL)
    except ValueError:
        # transformers' sdpa refuses soft-capped scores; its eager attention does all that a model asks for.
        model.set_attn_implementation("eager")
        seen = _run(model, input_ids=ids_NL)
    # A shared token stands in several sequences; any of them will do.
    where_T = torch.zeros_like(example.ids_T)
    where_T[cells_NL[real_NL]] = torch.arange(real_NL.numel(), device=real_NL.device)[real_NL.flatten()]
    return _Seen(seen.hidden.flatten(0, 1), seen.logits.flatten(0, 1), seen.tolerance).at(where_T)


def _disagreement(
    model: Any, example: _Example, truth: _Seen, kernel: str, last: LastLayer | None
) -> tuple[str, torch.nn.Module | None]:
    """Why the trie pass with `kernel` cannot be trusted, "" where it agrees with the padded one; the last attention."""
    device = example.ids_T.device
    read = example.read if last is not None else np.arange(example.positions.size)
    positions = torch.from_numpy(example.positions).to(device)
    # A compiled kernel may fail in its backward alone, which must not come to light in the middle of a training.
    trained = [p for p in model.parameters() if p.requires_grad][:1] if kernel == "flex" else []
    try:
        with (
            torch.set_grad_enabled(bool(trained)),
            passing(Layout(example.nodes, example.positions, read, device), kernel, last) as given,
        ):
            seen = _run(model, input_ids=example.ids_T[None], position_ids=positions[None], trie=given)
            if trained:
                torch.autograd.grad(seen.hidden.float().sum(), trained, allow_unused=True)
    except Untrieable as error:
        return str(error), None
    except Exception as error:  # whatever third-party code raises, the padded path still stands
        return f"a pass over a trie raised {type(error).__name__}: {error}".splitlines()[0], None
    if not given.windows:
        return "its attention does not see the trie", None
    if given.masks - {None} != given.windows - {None}:
        return f"its masks have windows {given.masks}, its attention {given.windows}", None
    rows = torch.from_numpy(read).to(device)
    got, wanted = seen.at(0).at(rows), truth.at(rows)
    if not (truth.same(got.hidden.detach(), wanted.hidden) and truth.same(got.logits.detach(), wanted.logits)):
        return "its numbers over a trie differ from the padded ones", None
    return "", given.seen
