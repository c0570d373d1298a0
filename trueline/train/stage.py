"""`train`: a policy, a view and an objective make a policy.

The stage binds together what the other files of this package do; a method adds a view and an objective, never a stage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueline.conditions.protocol import Condition, require_tokens
from trueline.errors import UserError
from trueline.fingerprint import added, call_site
from trueline.heads import Head
from trueline.models import LoRA
from trueline.pipeline import stage
from trueline.store import Logprobs, Policy
from trueline.train.objectives.protocol import name_of
from trueline.train.optimizers import AdamW, DecayTo, Optimizer, ParameterGroup
from trueline.train.score import score
from trueline.train.settings import Recurrence, Settings
from trueline.train.views import View, expected_examples, expected_tokens

if TYPE_CHECKING:
    from trueline.heads.readout import Heads
    from trueline.machine import Machine
    from trueline.models import Loaded
    from trueline.train.objectives.protocol import Objective
    from trueline.train.rows import Long, Order
    from trueline.work import Work


def expected(view: View, settings: Settings, max_length: int, **_: Any) -> dict[str, int]:
    """What a training will take: optimiser steps and tokens, estimated from the view."""
    examples = expected_examples(view)
    steps = -(-examples // settings.batch_size) * settings.epochs
    tokens = expected_tokens(view, max_length)
    if settings.recurrence is not None:
        steps = -(-tokens // (settings.batch_size * settings.recurrence.segment)) * settings.epochs
    return {"steps": steps, "train_tokens": tokens * settings.epochs}


def train(
    start: Policy,
    view: View,
    objective: Objective,
    *,
    lr: float = 1e-5,
    epochs: int = 1,
    batch_size: int = 32,
    schedule: str = "cosine",
    warmup: float = 0.1,
    floor: float = 0.0,
    weight_decay: float = 0.0,
    decay_to: DecayTo = "zero",
    no_decay: tuple[str, ...] | None = None,
    parameter_groups: tuple[ParameterGroup, ...] = (),
    max_grad_norm: float = 1.0,
    optimizer: Optimizer | None = None,
    max_length: int = 1024,
    long: Long = "drop",
    max_dropped: float = 0.1,
    lora: LoRA | None = None,
    head: Head | None = None,
    freeze: bool | tuple[str, ...] = False,
    recurrence: Recurrence | None = None,
    order: Order = "fresh",
    chat: str = "auto",
    seed: int = 0,
    reference: Policy | None = None,
    label: str = "",
    machine: Machine | None = None,
) -> Policy:
    """The policy that `objective` makes of `start` on the examples of `view`.

    lr: peak learning rate. epochs: passes over the examples. batch_size: examples per optimiser step. schedule:
    "cosine", "linear" or "constant", after `warmup` (a share of all steps below 1, else a number of steps), down to
    `floor` of the peak. weight_decay, decay_to, no_decay, parameter_groups: see `Settings`. max_grad_norm: global L2
    norm that gradients are clipped to, 0 leaves them. max_length: tokens of prompt and answer together; a longer row is
    handled as `long` says ("drop", "cut" its answer, "left" keeps its last tokens, "error", `CutBoth`); above
    max_dropped of dropped rows it stops.
    order: see `Settings`. lora: train low-rank adapters only, merged when saved. head: for an objective that reads
    rewards, the heads that a start without heads gets (default: `Head()`); a start's own heads are trained on, and
    asking for other ones than those is refused. freeze: train the heads only, the model stays as it is; or parts of
    parameter names, and what they fit stays as it is: ("blocks",) trains only what stands outside of the decoder's
    blocks, as new tokens ask for, ("blocks[:-8]",) that and the last eight blocks, as ALT does on TL;DR,
    ("blocks[:20]",) all but the first twenty. recurrence: lay the examples end to end and train over contiguous streams
    of them, for models with a memory. chat: the rendering ("auto": the tokenizer's own template, ChatML where it has
    none; "plain": text only). reference: the policy that an objective is kept close to (default: `start`); its
    log-probs are an artefact of their own, computed once; where its whole distribution is compared, it runs beside the
    policy.
    """
    settings = Settings(
        lr, epochs, batch_size, schedule, warmup, weight_decay, max_grad_norm, optimizer or AdamW(), seed,
        floor, decay_to, no_decay, parameter_groups, recurrence, order,
    )  # fmt: skip
    if "rollout" in objective.needs:
        got = f"train(...): {name_of(objective)} learns from answers that are drawn as it goes"
        raise UserError(call_site(), got, "", "Use online(start, prompts, critic, ...).")
    reads = "reward" in objective.needs
    check_head(type(objective).__name__, reads, head, freeze, lora)
    if freeze is True and (
        idle := {"logps", "reference_model", "entropy"} & getattr(objective, "moves", objective.needs)
    ):
        got = f"{name_of(objective)} would move the model by its {' and '.join(sorted(idle))}"
        raise UserError(call_site(), f"train(freeze=True): {got}", "heads alone", "Watch such parts at weight 0.")
    if recurrence is not None and objective.needs - {"logps"}:
        got = f"{type(objective).__name__} needs more than the log-probs of a stream's tokens"
        raise UserError(call_site(), f"train(recurrence=...): {got}", "SFT()")
    logprobs = None
    compares = "reference_model" in objective.needs
    if "reference" in objective.needs:
        logprobs = score(reference or start, view, max_length, long, chat, reads, machine=machine)
    elif reference is not None and not compares:
        name = type(objective).__name__
        raise UserError(call_site(), "train(reference=...)", f"an objective that reads one; {name} has no use for it")
    return trained(
        start, view, objective, settings, max_length=max_length, long=long, max_dropped=max_dropped, lora=lora,
        chat=chat, reference=logprobs, head=(head or Head()) if reads else None, freeze=freeze or False,
        reference_model=(reference or start) if compares else None, label=label or name_of(objective), machine=machine,
    )  # fmt: skip


def check_head(name: str, reads: bool, head: Head | None, freeze: bool | tuple[str, ...], lora: LoRA | None) -> None:
    """Refuse heads and frozen models that the objective `name` has no use for."""
    if head is not None and not reads:
        raise UserError(call_site(), "train(head=...)", f"an objective that reads rewards; {name} has no use for it")
    if freeze is True and not reads:
        raise UserError(call_site(), "train(freeze=True)", f"an objective that trains heads; {name} trains none")
    if freeze and lora is not None:
        cure = "Leave one of the two out."
        raise UserError(call_site(), f"train(freeze={freeze}, lora=...)", "adapters or a frozen model", cure)


@stage(Policy, rev=1, name="train", estimate=expected, distributed=True)
def trained(
    work: Work,
    start: Policy,
    view: View,
    objective: Objective,
    settings: Settings,
    max_length: int = 1024,
    long: Long = "drop",
    max_dropped: float = 0.1,
    lora: LoRA | None = None,
    chat: str = "auto",
    reference: Logprobs | None = None,
    head: Head | None = added(None),
    freeze: bool | tuple[str, ...] = added(False),
    reference_model: Policy | None = added(None),
) -> None:
    """Open `start`, render the view, fit, save a folder that plain transformers opens."""
    import torch

    from trueline import models
    from trueline.train.extend import beyond
    from trueline.train.fit import fit
    from trueline.train.rows import Encoder, encode
    from trueline.train.score import reference_of

    loaded = models.load(start, machine=work.machine, chat=chat, train=freeze is not True, full=True)
    if isinstance(condition := getattr(view, "condition", None), Condition):
        require_tokens(condition, loaded.renderer.opening_token, start.name)
    if not isinstance(freeze, bool):
        work.count("parameters_trained", freeze_parts(loaded.model, freeze))
    heads = heads_of(loaded, head, settings.seed) if head is not None else None
    if loaded.heads is not None and heads is None:
        work.note("heads", "those of the start are left out: this objective does not train them")
    fitting = models.fitting(loaded.model, max_length)
    if fitting < max_length:
        work.note("max_length", f"{fitting}, the model's own longest sequence, instead of {max_length}")
    beside = None
    if reference_model is not None:
        beside = models.load(reference_model, machine=work.machine, chat=chat, full=True)
    unknown = beyond(loaded.tokenizer, beside.tokenizer) if beside is not None else ()
    stripped = "stripped" in objective.needs
    encoder = Encoder(loaded.renderer, fitting, long, heads is not None, stripped, frozenset(unknown))
    rows = encode(view.examples(), encoder, work, max_dropped, expected_examples(view))
    if settings.recurrence is not None:
        from trueline.train import streams

        rows = streams.pack(rows, settings.batch_size, settings.recurrence.segment, settings.seed)
    model = loaded.model
    if lora is not None:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = lora.wrap(model)
        work.note("lora", "trained as adapters, saved merged into the weights")
    history = fit(
        model, rows, objective, settings, work=work, machine=work.machine, heads=heads,
        reference=reference_of(reference, rows) if reference is not None else None,
        reference_model=beside.model if beside is not None else None, excluded=unknown,
    )  # fmt: skip
    work.count("train_tokens", settings.epochs * sum(row.tokens for row in rows))
    work.count("steps", history[-1]["step"])
    work.note("last_step", history[-1])
    if work.main:
        models.save(model, loaded.tokenizer, work.dir, heads)


def heads_of(loaded: Loaded, head: Head, seed: int) -> Heads:
    """The start's heads, else new ones, ready to train. Raises `UserError` where other ones than the start's are asked
    for."""
    kept = loaded.heads
    if kept is None:
        return head.build(loaded.model, seed, loaded.renderer)
    if head not in (Head(), kept.spec):
        cure = "Leave head out to train those on, or start from a policy without heads."
        raise UserError("train(head=...)", f"got {head}", f"{kept.spec}, the heads that the start has", cure)
    return kept.requires_grad_(True).train()


def blocks_of(model: Any) -> tuple[str, int]:
    """What the names of the decoder blocks' parameters begin with (those of the list of modules that holds most), and
    how many blocks there are."""
    import torch

    lists = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)}
    if not lists:
        raise UserError('train(freeze=("blocks",))', "the model has no list of blocks", "", "Name parts of parameters.")
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in lists.items()}
    found = max(sizes, key=lambda name: sizes[name])
    return found + ".", len(lists[found])


def named_blocks(model: Any, name: str) -> list[str]:
    """The parts of names that a part stands for: "blocks" for all decoder blocks, "blocks[:20]" and "blocks[:-8]" for
    some of them, counted as Python does; any other part for itself."""
    asked = re.fullmatch(r"blocks(?:\[(-?\d*):(-?\d*)\])?", name)
    if asked is None:
        return [name]
    prefix, n = blocks_of(model)
    if name == "blocks":
        return [prefix]
    chosen = range(n)[slice(*(int(x) if x else None for x in asked.groups()))]
    if not chosen:
        raise UserError(f'train(freeze=("{name}",))', f"there are no such blocks among {n}", "at least one of them")
    return [f"{prefix}{i}." for i in chosen]


def freeze_parts(model: Any, names: Sequence[str]) -> int:
    """Leave the parameters as they are whose name holds one of `names`; how many numbers still train.

    "blocks" stands for the decoder's blocks, whatever the model calls them, and "blocks[:20]" for some. Raises
    `UserError` for a name that fits none, and where nothing is left to train.
    """
    known = dict(model.named_parameters())
    names = [part for name in names for part in named_blocks(model, name)]
    for name in names:
        if not any(name in full for full in known):
            some = list(known)
            wanted = f"parts of names such as {some[0]}, {some[len(some) // 2]}"
            raise UserError(f"train(freeze={tuple(names)!r})", f'no parameter\'s name holds "{name}"', wanted)
    left = 0
    for full, p in known.items():
        p.requires_grad_(not any(name in full for name in names))
        left += p.numel() * p.requires_grad
    if not left:
        raise UserError(f"train(freeze={tuple(names)!r})", "nothing is left to train", "some parameters")
    return left
