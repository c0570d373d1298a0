"""The training loop: once, for every objective.

An optimiser step is `batch_size` examples. Its weight (pairs, tokens: what the objective says; several where its loss
is a sum of means) is counted over all micro-batches and processes *before* the first forward pass and divides each loss
before its backward pass, so that memory, accumulation and the number of processes change nothing. Random numbers come
from (seed, step, process), the order of the data from (seed, epoch): a resumed run needs neither saved.

What is trained on is `rows`' business, what is minimised `objectives`', where it runs `machine`'s. Processes are
accelerate's; gradients are summed across them by hand, since a pass over a trie is not a call of the model's `forward`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trueline import machine as machines
from trueline import models, trie
from trueline.errors import UserError
from trueline.train import batches, checkpoints, rows, schedules, streams
from trueline.train.objectives.protocol import Adapting, as_vector
from trueline.train.optimizers import built, parameter_groups
from trueline.train.settings import Settings
from trueline.trie import attention

if TYPE_CHECKING:
    from trueline.heads.readout import Heads
    from trueline.machine import Machine
    from trueline.progress import Meter
    from trueline.train.objectives.protocol import Batch, Loss, Objective
    from trueline.train.rows import Row
    from trueline.work import Work

LOG_EVERY = 10
"""Steps between two readings of the metrics: each reading waits for the device."""

BUCKET = 1 << 25
"""Numbers summed across processes at once; bounds the memory of the flattened copy."""


@dataclass
class Loop:
    """The state of one training; `fit` drives it.

    So does `online`, which gives it other `rows` as it goes; `steps` says then how many it takes (0: as many as the
    epochs over `rows` have).
    """

    model: Any
    rows: Sequence[Row]
    objective: Objective
    settings: Settings
    machine: Machine
    accelerator: Any
    reference: batches.Reference | None
    heads: Heads | None
    reference_model: Any = None
    excluded: tuple[int, ...] = ()
    steps: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.frozen = not named
        if self.heads is not None:
            named |= {f"heads.{name}": p for name, p in self.heads.named_parameters()}
        self.parameters: dict[str, torch.nn.Parameter] = named
        groups = parameter_groups(named.items(), self.settings.decay, self.settings.parameter_groups)
        self.optimizer = built(self.settings.optimizer, groups, self.settings.lr)
        self.per_epoch = self.steps or rows.steps_per_epoch(
            len(self.rows), self.settings.batch_size, self.settings.order
        )
        self.total = self.steps or self.per_epoch * self.settings.epochs
        self.warm = schedules.warmup_steps(self.settings.warmup, self.total)
        self.want = wanted(self.objective, self.heads)
        self.dtype = models.autocast_dtype(self.machine)
        self.coefficients = self.objective.begin() if isinstance(self.objective, Adapting) else {}
        self.pending: list[dict[str, Any]] = []
        self.memory: streams.Memory | None = None
        if self.settings.recurrence is not None:
            streams.check(self.model, self.accelerator.num_processes)
            self.memory = streams.Memory(self.settings.recurrence)

    def step(self, number: int, indices: Any) -> None:
        """One optimiser step, the `number`-th from 0, over the rows at `indices`."""
        began = time.perf_counter()
        settings = self.settings
        lr = settings.lr * schedules.multiplier(settings.schedule, number, self.total, self.warm, settings.floor)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        processes = self.accelerator.num_processes
        mine = batches.share(self.rows, indices, self.accelerator.process_index, processes)
        probing = self.probing(number)
        micro = batches.micro_batches(self.rows, mine, self.machine.micro_tokens, self.reference, probing)
        weights = self.weights(micro, probing)
        torch.manual_seed((settings.seed * 1_000_003 + number) * 1009 + self.accelerator.process_index)
        losses = []
        for batch in micro:
            try:
                batch.coefficients = self.coefficients
                loss = self.loss(batches.to(batch, self.device))
                mean = divided(loss.sum, weights)
                mean.backward()
            except torch.OutOfMemoryError as error:
                raise out_of_memory(number + 1, len(batch.trie), self.machine) from error
            losses.append({"loss": (mean.detach(), 0.0), **loss.metrics})
        if processes > 1:
            self.sum_gradients()
        norm = self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pending.append(
            {
                "step": number + 1,
                "epoch": (number + 1) / self.per_epoch,
                "lr": lr,
                "grad_norm": norm,
                "losses": losses,
                "coefficients": self.coefficients,
                "examples": len(mine),
                "tokens": sum(self.rows[i].tokens for i in mine),
                "trie_tokens": sum(len(batch.trie) for batch in micro),
                "seconds": time.perf_counter() - began,
            }
        )
        if self.coefficients and isinstance(self.objective, Adapting):
            self.adapt(losses)

    def adapt(self, losses: Sequence[Mapping[str, Any]]) -> None:
        """Move the objective's coefficients by what the step reported, the same on all processes."""
        assert isinstance(self.objective, Adapting)
        watched = self.objective.watches
        each = [[float(x) for name in watched for x in loss[name]] for loss in losses]
        total = torch.tensor([*each, [0.0] * 2 * len(watched)], dtype=torch.float64).sum(0)
        if self.accelerator.num_processes > 1:
            total = self.sum_over_processes(total)
        values = iter(total.tolist())
        seen = {name: (next(values), next(values)) for name in watched}
        self.coefficients = self.objective.adapt(self.coefficients, seen)

    def probing(self, number: int) -> batches.Probing | None:
        """Labels and probes of step `number`, where the objective reads any."""
        if self.heads is None or "labels" not in self.objective.needs:
            return None
        return batches.Probing(self.heads.names, getattr(self.objective, "probes", 1), (self.settings.seed, number))

    def weights(self, micro: Sequence[Batch], probing: batches.Probing | None) -> tuple[float, ...]:
        """What each of the objective's sums is divided by, counted over all micro-batches and processes."""
        counted = [as_vector(self.objective.weight(batch)) for batch in micro]
        if self.accelerator.num_processes == 1:
            return tuple(map(sum, zip(*counted, strict=True)))
        # A process without rows has to know how many weights there are all the same.
        shown = as_vector(self.objective.weight(batches.collate(self.rows[:1], self.reference, probing)))
        total = torch.tensor([*counted, [0.0] * len(shown)], dtype=torch.float64).sum(0)
        return tuple(self.sum_over_processes(total).tolist())

    def loss(self, batch: Batch) -> Loss:
        """One forward pass and the objective's view of it."""
        with models.autocast(self.device, self.dtype), torch.set_grad_enabled(not self.frozen):
            if self.memory is not None:
                outputs = self.memory.forward(self.model, batch)
            else:
                outputs = trie.forward(self.model, batch.trie, self.want, against=self.against(batch))
        if self.heads is not None and "values" in self.objective.needs:
            batch.values_E = values(self.heads, outputs, batch.trie)
        elif self.heads is not None:
            batch.rewards_NH, batch.heads = self.heads(outputs, batch.trie), self.heads.names
        if self.heads is not None and batch.probe_at_X is not None:
            assert outputs.scored_hidden_SD is not None and outputs.last_hidden_ND is not None
            hidden_XD = torch.cat([outputs.scored_hidden_SD, outputs.last_hidden_ND])[batch.probe_at_X]
            batch.probe_rewards_XH = self.heads.pool(hidden_XD)
        return self.objective(outputs, batch)

    def against(self, batch: Batch) -> trie.Against | None:
        """The reference model as this objective compares with it."""
        if self.reference_model is None:
            return None
        needs = self.objective.needs
        bare = batch.reference_trie if "stripped" in needs else None
        return trie.Against(self.reference_model, bare, "reverse" in needs, self.excluded)

    def clip(self) -> torch.Tensor:
        """Clip the gradients in place; their global norm before."""
        parameters = list(self.parameters.values())
        if self.settings.max_grad_norm:
            return torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the process group."""
        return self.accelerator.reduce(tensor.to(self.accelerator.device), reduction="sum")

    def sum_gradients(self) -> None:
        """Sum gradients over processes, in buckets. A parameter that no process used keeps none, as in one process."""
        parameters = list(self.parameters.values())
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        used = self.sum_over_processes(used).cpu()
        live = [p for p, n in zip(parameters, used.tolist(), strict=True) if n]
        for p in live:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in buckets(live, BUCKET):
            flat = self.sum_over_processes(torch.cat([p.grad.reshape(-1) for p in bucket if p.grad is not None]))
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p).to(p.device)

    def flush(self) -> list[dict[str, Any]]:
        """Read the metrics of the steps since the last flush, over all processes, as rows of numbers.

        Raises `UserError` where a loss or a gradient is not finite.
        """
        steps, self.pending = [summed(step) for step in self.pending], []
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            found = gather_object(steps)
            each = len(steps)
            steps = [merged(found[i::each]) for i in range(each)]
        logged = [as_row(step) for step in steps]
        for row in logged:
            for name in ("loss", "grad_norm"):
                if not math.isfinite(row[name]):
                    cure = "Lower lr, lengthen the warm-up, or compute in fp32."
                    raise UserError(f"training step {row['step']}", f"{name} is {row[name]}", "a finite number", cure)
        return logged


def wanted(objective: Objective, heads: Heads | None) -> frozenset[str]:
    """What a forward pass has to give."""
    reads = {
        "logps": {"logps"}, "reference_model": {"kl"}, "entropy": {"entropy"},
        "labels": {"scored_hidden", "last_hidden"}, "values": {"scored_hidden"},
    }  # fmt: skip
    want = frozenset(what for need in objective.needs for what in reads.get(need, ()))
    return want | heads.want if heads is not None and "values" not in objective.needs else want


def values(heads: Heads, outputs: trie.Outputs, batch: trie.Trie) -> torch.Tensor:
    """values_E: what the head reads at the states that predict the scored tokens."""
    assert outputs.scored_hidden_SD is not None
    return heads.pool(outputs.scored_hidden_SD)[batch.state_E, 0]


def divided(sums: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """Each sum over its weight, added up; a sum that nothing counted towards counts nothing."""
    if len(weights) == 1 and weights[0]:
        return sums.reshape(()) / weights[0]
    divisors = sums.new_tensor([weight or math.inf for weight in weights])
    return (sums.reshape(-1) / divisors).sum()


def out_of_memory(step: int, tokens: int, machine: Machine) -> UserError:
    """What to turn when a micro-batch does not fit: none of it changes the result."""
    cures = [f"Lower machine.micro_tokens (now {machine.micro_tokens})"] if tokens > machine.micro_tokens // 2 else []
    cures += [] if machine.gradient_checkpointing else ["set machine.gradient_checkpointing"]
    cure = ", or ".join([*cures, "lower max_length, or train LoRA adapters"])
    return UserError(
        f"training step {step}", f"a micro-batch of {tokens} trie tokens does not fit into the device's memory", "",
        cure[0].upper() + cure[1:] + "; the run goes on from its last checkpoint.",
    )  # fmt: skip


def summed(step: dict[str, Any]) -> dict[str, Any]:
    """A pending step with its tensors as numbers, read from the device at once."""
    metrics: dict[str, list[Any]] = {}
    for loss in step["losses"]:
        for name, pair in loss.items():
            metrics.setdefault(name, []).append(pair)
    flat = [x for pairs in metrics.values() for pair in pairs for x in pair] + [step["grad_norm"]]
    tensors = [x.detach().reshape(()).to(torch.float32) for x in flat if isinstance(x, torch.Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else [])
    numbers = iter([next(values) if isinstance(x, torch.Tensor) else float(x) for x in flat])
    sums = {
        name: [sum(column) for column in zip(*[(next(numbers), next(numbers)) for _ in pairs], strict=True)]
        for name, pairs in metrics.items()
    }
    out = {name: value for name, value in step.items() if name != "losses"}
    return out | {"grad_norm": next(numbers), "metrics": sums}


def merged(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """One step as seen by all processes."""
    out = dict(steps[0])
    for name in ("examples", "tokens", "trie_tokens"):
        out[name] = sum(step[name] for step in steps)
    out["seconds"] = max(step["seconds"] for step in steps)
    names = dict.fromkeys(name for step in steps for name in step["metrics"])
    columns = {name: [step["metrics"][name] for step in steps if name in step["metrics"]] for name in names}
    out["metrics"] = {name: [sum(x) for x in zip(*pairs, strict=True)] for name, pairs in columns.items()}
    return out


def as_row(step: dict[str, Any]) -> dict[str, Any]:
    """What is logged of a step; a metric that nothing counted towards is left out."""
    metrics = dict(step["metrics"])
    loss = metrics.pop("loss", [0.0, 0.0])[0]
    row = {name: step[name] for name in ("step", "epoch", "lr")}
    row |= {"loss": loss, "grad_norm": step["grad_norm"]}
    row |= {name: total / count for name, (total, count) in metrics.items() if count}
    row |= step["coefficients"]
    row |= {name: step[name] for name in ("examples", "tokens", "trie_tokens")}
    return row | {"sharing": step["tokens"] / max(1, step["trie_tokens"]), "seconds": round(step["seconds"], 4)}


def buckets(parameters: list[torch.nn.Parameter], most: int) -> Iterator[list[torch.nn.Parameter]]:
    """Consecutive parameters of one dtype, at most `most` numbers together (one parameter at least)."""
    bucket: list[torch.nn.Parameter] = []
    room = most
    for p in parameters:
        if bucket and (p.numel() > room or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, room = [], most
        bucket.append(p)
        room -= p.numel()
    if bucket:
        yield bucket


def fit(
    model: Any,
    data: Sequence[Row],
    objective: Objective,
    settings: Settings,
    *,
    reference: batches.Reference | None = None,
    heads: Heads | None = None,
    reference_model: Any = None,
    excluded: tuple[int, ...] = (),
    work: Work | None = None,
    machine: Machine | None = None,
) -> list[dict[str, Any]]:
    """Train `model` (and `heads`) in place on `data`; the metric rows of the steps taken by this call.

    `model` is in training mode and ready for `trie.forward`; what has `requires_grad` is trained. Where nothing of it
    has, only the heads are, and no backward pass goes through the model. `reference` holds the summed log-probs of each
    row's answers, and `reference_model` is the reference itself, frozen and on the same device, where the objective
    needs them; `excluded` are the policy's tokens that it does not know. With `work`, metrics, progress and checkpoints
    go to its folder, and a checkpoint found there is resumed from; without, nothing is written.

    Raises `UserError` for data that does not fit the objective, and for a loss that is not finite.
    """
    machine = machine or machines.current()
    batches.check_pairs(data, objective.needs)
    if reference is not None:
        batches.check_reference(data, reference)
    if "labels" in objective.needs and heads is not None:
        batches.check_labels(data, getattr(objective, "attributes", ()) or heads.names)
    batches.check_stripped(data, objective.needs)
    if reference_model is not None and "stripped" not in objective.needs:
        check_vocabulary(model, reference_model, len(excluded))
    recompute_where_asked(model, machine)
    accelerator = open_accelerator(model, machine, work)
    loop = Loop(model, data, objective, settings, machine, accelerator, reference, heads, reference_model, excluded)
    start = resume(loop, work) if work is not None else 0
    devices = [loop.device] if loop.device.type == "cuda" else []
    bar = work.progress(loop.total, "train", done=start) if work is not None else contextlib.nullcontext()
    with torch.random.fork_rng(devices=devices), bar as meter:
        history = run(loop, start, work, meter)
    for tracker in accelerator.trackers:
        tracker.finish()
    return history


def recompute_where_asked(model: Any, machine: Machine) -> None:
    """Gradient checkpointing, where the machine asks for it."""
    if machine.gradient_checkpointing:
        # Renamed in transformers 5; the old name goes in 6.
        recompute = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        recompute({"use_reentrant": False})


def check_vocabulary(model: Any, reference: Any, unknown: int) -> None:
    """Refuse to compare next-token distributions over different tokens, where the objective does not ask for that."""
    ours, theirs = (attention.core(m).get_output_embeddings().weight.shape[0] for m in (model, reference))
    if ours != theirs or unknown:
        cure = "Take one with the same tokenizer, such as the start."
        got = f"it has {theirs} tokens" if ours != theirs else f"it does not know {unknown} tokens of the policy's"
        raise UserError("train(reference=...)", got, f"{ours}, as the policy has", cure)


def resume(loop: Loop, work: Work) -> int:
    """Put a killed run's last checkpoint into place, if there is one; the number of steps already taken."""
    state = checkpoints.restore(work.scratch, loop.parameters, loop.optimizer)
    if state is None:
        return 0
    if loop.memory is not None:
        loop.memory.restore(state["memory"], loop.device)
    loop.coefficients = state.get("coefficients", loop.coefficients)
    work.restore(state["work"])
    return int(state["step"])


def run(loop: Loop, start: int, work: Work | None, meter: Meter | None) -> list[dict[str, Any]]:
    """Take the steps from `start` to the end; log and checkpoint on the way."""
    settings, accelerator = loop.settings, loop.accelerator
    history: list[dict[str, Any]] = []
    every = loop.machine.checkpoint_steps if work is not None else 0
    shuffled = loop.memory is None
    prompts = [row.prompt for row in loop.rows] if settings.order == "together" else ()
    steps = rows.plan(
        len(loop.rows), settings.batch_size, settings.epochs, settings.seed, start, shuffled, settings.order, prompts
    )
    for done, indices in enumerate(steps, start + 1):
        loop.step(done - 1, indices)
        keep = bool(every) and done % every == 0 and done < loop.total
        if keep or done % LOG_EVERY == 0 or done == loop.total:
            fresh = loop.flush()
            history += fresh
            if work is not None and meter is not None:
                report(fresh, work, accelerator, meter)
        if keep and work is not None:
            if accelerator.is_main_process:
                state = {"step": done, "work": work.state(), "coefficients": loop.coefficients}
                memory = loop.memory.state() if loop.memory is not None else None
                checkpoints.save(work.scratch, state, loop.parameters, loop.optimizer, memory)
            accelerator.wait_for_everyone()
        if meter is not None:
            meter.advance(1)
    return history


def report(fresh: list[dict[str, Any]], work: Work, accelerator: Any, meter: Meter) -> None:
    """Rows to metrics.jsonl and the tracker, the last loss to the progress bar."""
    for row in fresh:
        work.log(row)
        if accelerator.trackers:
            accelerator.log(row, step=row["step"])
    meter.update(f"train, loss {fresh[-1]['loss']:.4f}")


def open_accelerator(model: Any, machine: Machine, work: Work | None) -> Any:
    """The process group in force (or none), and the tracker, if one is asked for."""
    from accelerate import Accelerator

    cpu = next(model.parameters()).device.type == "cpu"
    if not machine.tracker or work is None:
        return Accelerator(cpu=cpu)
    accelerator = Accelerator(cpu=cpu, log_with=machine.tracker, project_dir=str(work.dir))
    accelerator.init_trackers("trueline")
    return accelerator
