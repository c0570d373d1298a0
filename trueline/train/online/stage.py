"""`online`: a policy writes, a critic scores, and what scored better than expected becomes likelier; again and again.

    better = online(sft, prompts, Reward(rater), PPO(), iterations=100)
    cheap = online(sft, prompts, Reward(rater), PPO(RLOO(), epochs=1), sampling=Sampling(n=4))

The stage binds together what the other files of this package do. Critics are those of `judge`, the optimiser loop is
that of `train`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from trueline.errors import UserError
from trueline.feedback.protocol import Critic, held_open, require_critic
from trueline.fingerprint import added, call_site
from trueline.heads import Head, Last
from trueline.models import LoRA
from trueline.pipeline import stage
from trueline.records import Group
from trueline.sample.protocol import Sampling, writing
from trueline.store import Groups, Policy, Prompts
from trueline.train.online.ppo import PPO
from trueline.train.online.snapshots import check_snapshots, place
from trueline.train.optimizers import AdamW, DecayTo, Optimizer, ParameterGroup
from trueline.train.settings import Settings

if TYPE_CHECKING:
    from trueline.machine import Machine
    from trueline.models import Loaded
    from trueline.records import Prompt
    from trueline.sample.protocol import Writing
    from trueline.train.online.loop import Iterations
    from trueline.work import Work

VALUE = Head(("value",), bias=True)


def expected(
    critic: Critic, algorithm: PPO, settings: Settings, sampling: Sampling, iterations: int, rollout: int, **_: Any
) -> dict[str, int]:
    """What a run will take: samples, critic calls, optimiser steps."""
    require_critic(critic, "online(critic=...)")
    samples = rollout * sampling.n
    return {
        "iterations": iterations, "samples": iterations * samples,
        "critic_calls": iterations * critic.calls(rollout, samples), "steps": planned(settings, samples, iterations),
    }  # fmt: skip


def planned(settings: Settings, samples: int, iterations: int) -> int:
    """Optimiser steps of a run whose critic never abstains."""
    return iterations * settings.epochs * -(-samples // settings.batch_size)


def online(
    start: Policy,
    prompts: Prompts | Groups,
    critic: Critic,
    algorithm: PPO = PPO(),  # noqa: B008  (frozen)
    *,
    sampling: Sampling = Sampling(n=4),  # noqa: B008  (frozen)
    iterations: int = 100,
    rollout: int = 64,
    batch_size: int = 64,
    lr: float = 1e-5,
    schedule: str = "constant",
    warmup: float = 0.0,
    floor: float = 0.0,
    weight_decay: float = 0.0,
    decay_to: DecayTo = "zero",
    no_decay: tuple[str, ...] | None = None,
    parameter_groups: tuple[ParameterGroup, ...] = (),
    max_grad_norm: float = 1.0,
    optimizer: Optimizer | None = None,
    lora: LoRA | None = None,
    head: Head | None = None,
    freeze: tuple[str, ...] = (),
    reference: Policy | None = None,
    watch: Critic | None = None,
    long: Literal["error", "drop"] = "error",
    max_dropped: float = 0.1,
    max_abstained: float = 0.5,
    chat: str = "auto",
    snapshots: tuple[int, ...] = (),
    seed: int = 0,
    label: str = "",
    machine: Machine | None = None,
) -> Policy:
    """The policy that `algorithm` makes of `start` by what `critic` says of its answers to `prompts`.

    Each iteration draws `sampling.n` answers to each of `rollout` prompts and learns from them in optimiser steps of
    `batch_size` answers. critic: whatever scores whole answers; of one that compares them, an answer's mean
    probability of winning. An answer that it says nothing of is left out; a larger share of them than max_abstained
    stops the run. watch: a critic that scores the same answers and is only logged, as a gold reward beside the one that
    is optimised. reference: the policy that the divergence is from (default: `start`). head: what reads values, where
    the algorithm needs them (default: one linear output); it is not saved with the policy. lora, freeze, chat and the
    settings of the optimiser: as in `train`; schedule and warmup are of all steps. long, max_dropped: what becomes of a
    prompt that leaves no room for `sampling.max_tokens`, as in `draw`. snapshots: iterations after which the policy as
    it is then is kept; `snapshot(policy, 10)` hands it out.

    Answers are drawn from the policy as it is when an iteration begins. At another temperature than 1, or with top_p,
    top_k, min_tokens or banned tokens, they come from another distribution than the one that is optimised, the policy
    at temperature 1; the record says so.

    Logged per iteration: reward, kl/answer (nats, from the reference), entropy, length, unfinished (share of answers
    that did not end), policy/clipped, value/explained, sampler/gap, and more (docs/online.md).
    """
    check(algorithm, sampling, iterations, rollout, lora, head, freeze)
    check_snapshots(snapshots, iterations)
    settings = Settings(
        lr, algorithm.epochs, batch_size, schedule, warmup, weight_decay, max_grad_norm, optimizer or AdamW(), seed,
        floor, decay_to, no_decay, parameter_groups,
    )  # fmt: skip
    values = (head or VALUE) if algorithm.advantage.values else None
    return optimised(
        start, prompts, critic, algorithm, settings, sampling, iterations=iterations, rollout=rollout,
        reference=reference or start, watch=watch, lora=lora, head=values, freeze=tuple(freeze), long=long,
        max_dropped=max_dropped, max_abstained=max_abstained, chat=chat,
        snapshots=tuple(snapshots), label=label or algorithm.name, machine=machine,
    )  # fmt: skip


def check(
    algorithm: PPO,
    sampling: Sampling,
    iterations: int,
    rollout: int,
    lora: LoRA | None,
    head: Head | None,
    freeze: Sequence[str],
) -> None:
    """Refuse what has no meaning, or no effect."""
    for name, value in (("iterations", iterations), ("rollout", rollout)):
        if not isinstance(value, int) or value < 1:
            raise UserError(call_site(), f"online({name}={value!r})", "a whole number of at least 1")
    if sampling.greedy:
        cure = "Leave the temperature at 1."
        raise UserError(call_site(), "online(sampling=...): temperature 0 tries nothing", "chance", cure)
    rule = algorithm.advantage
    if sampling.n < rule.least:
        got = f"online(sampling=...): {sampling.n} answer to each prompt"
        raise UserError(call_site(), got, f"at least {rule.least}, as {type(rule).__name__} compares them")
    if lora is not None and lora.dropout:
        got = f"online(lora=...): a dropout of {lora.dropout:g} makes every ratio of probabilities noise"
        raise UserError(call_site(), got, "LoRA(dropout=0)")
    if lora is not None and freeze:
        raise UserError(
            call_site(), f"online(freeze={freeze}, lora=...)", "adapters or a frozen model", "Leave one out."
        )
    if head is not None and not rule.values:
        raise UserError(call_site(), f"online(head=...): {type(rule).__name__} reads no values", "", "Leave it out.")
    if head is not None and (len(head.names) > 1 or not isinstance(head.aggregate, Last) or head.dropout):
        wanted = "a head of one output that reads the final state, without dropout"
        raise UserError(call_site(), f"online(head={head})", wanted, "Such as Head(('value',), pooler='bert').")


@stage(Policy, rev=1, name="online", estimate=expected, distributed=True)
def optimised(
    work: Work,
    start: Policy,
    prompts: Prompts | Groups,
    critic: Critic,
    algorithm: PPO,
    settings: Settings,
    sampling: Sampling,
    iterations: int,
    rollout: int,
    reference: Policy,
    watch: Critic | None = None,
    lora: LoRA | None = None,
    head: Head | None = None,
    freeze: tuple[str, ...] = (),
    long: Literal["error", "drop"] = "error",
    max_dropped: float = 0.1,
    max_abstained: float = 0.5,
    chat: str = "auto",
    snapshots: tuple[int, ...] = added(()),
) -> None:
    """Open `start`, iterate, save a folder that plain transformers opens."""
    import torch

    from trueline import models
    from trueline.train import fit
    from trueline.train.online.loop import Iterations, resume, run
    from trueline.train.online.rollouts import Collector
    from trueline.train.stage import freeze_parts

    critics = [critic] if watch is None else [critic, watch]
    for given in critics:
        require_critic(given, "online(critic=..., watch=...)")
    loaded = models.load(start, machine=work.machine, chat=chat, train=True, full=True)
    writer = writing(loaded, work.machine)
    asked = fitting(work, prompts, writer, sampling, long, max_dropped)
    if loaded.heads is not None:
        work.note("heads", "those of the start are left out")
    if freeze:
        work.count("parameters_trained", freeze_parts(loaded.model, freeze))
    heads = head.build(loaded.model, settings.seed, loaded.renderer) if head is not None else None
    # Without its adapters, a policy is the start again: no second model is opened for that.
    beside = None
    if lora is None or reference.fingerprint != start.fingerprint:
        beside = models.load(reference, machine=work.machine, chat=chat, full=True).model
        fit.check_vocabulary(loaded.model, beside, 0)
    if lora is not None:
        adapt(loaded, lora, settings.seed)
        work.note("lora", "trained as adapters, saved merged into the weights")
    note_sampling(work, sampling)
    fit.recompute_where_asked(loaded.model, work.machine)
    accelerator = fit.open_accelerator(loaded.model, work.machine, work)
    each = min(rollout, len(asked))
    if each < rollout:
        work.note("rollout", f"{each} prompts, all that there are, instead of {rollout}")
    loop = fit.Loop(
        loaded.model, (), algorithm, settings, work.machine, accelerator, None, heads,
        steps=planned(settings, each * sampling.n, iterations),
    )  # fmt: skip
    devices = [loop.device] if loop.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        for given in critics:
            stack.enter_context(held_open(given))
        collect = Collector(writer, critic, watch, asked, sampling, accelerator, work)
        ids = [writer.prompt_ids(prompt) for prompt in asked]
        state = Iterations(loop, algorithm, collect, ids, beside, each, max_abstained)
        resume(state, work)
        meter = stack.enter_context(work.progress(iterations, "online", done=state.done))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        history = run(state, iterations, work, meter, keeper(work, loaded, snapshots))
    for tracker in accelerator.trackers:
        tracker.finish()
    finish(work, state, history[-1], loaded)


def finish(work: Work, state: Iterations, last: dict[str, Any], loaded: Loaded) -> None:
    """Counts of the record, and the folder."""
    from trueline import models

    work.count("iterations", state.done)
    work.count("steps", state.steps)
    work.note("last_iteration", last)
    if work.main:
        models.save(loaded.model, loaded.tokenizer, work.dir)


def keeper(work: Work, loaded: Loaded, snapshots: Sequence[int]) -> Callable[[int], None]:
    """What keeps the policy after each iteration of `snapshots`."""
    import copy

    from trueline import models

    def keep(done: int) -> None:
        if done in snapshots and work.main:
            # Saving merges adapters for good: what goes on learning must not be what is saved.
            model = copy.deepcopy(loaded.model) if hasattr(loaded.model, "merge_and_unload") else loaded.model
            models.save(model, loaded.tokenizer, place(work.dir, done))

    return keep


def adapt(loaded: Loaded, lora: LoRA, seed: int) -> None:
    """Put adapters on the opened model, the same for the same seed."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loaded.model = lora.wrap(loaded.model)


def fitting(
    work: Work, prompts: Prompts | Groups, writer: Writing, sampling: Sampling, long: str, max_dropped: float
) -> list[Prompt]:
    """The prompts that leave room for an answer, each once."""
    if long not in ("error", "drop"):
        raise UserError("online(long=...)", f'got "{long}"', '"error" or "drop"')
    asked = [item.prompt if isinstance(item, Group) else item for item in prompts.read()]
    # Random numbers go by a prompt's id: two prompts of one id would get the same answers.
    unique = list({prompt.id: prompt for prompt in asked}.values())
    if len(unique) < len(asked):
        work.note("repeated", f"{len(asked) - len(unique)} prompts that are there already are left out")
    kept = []
    for prompt in unique:
        error = writer.too_long(prompt, len(writer.prompt_ids(prompt)), sampling)
        if error is None:
            kept.append(prompt)
        elif long == "error":
            raise error
        else:
            work.drop(f"{error.got}; {error.wanted}", prompt, error.where)
    work.limit("prompts longer than the model's context", len(unique) - len(kept), len(unique), max_dropped)
    if not kept:
        raise UserError("online(prompts=...)", "there is none", "at least one prompt")
    return kept


def note_sampling(work: Work, sampling: Sampling) -> None:
    """Say in the record where answers are drawn from another distribution than the one that is optimised."""
    plain = Sampling()
    names = ("temperature", "top_p", "top_k", "min_tokens", "ban")
    changed = [
        f"{name}={getattr(sampling, name)!r}" for name in names if getattr(sampling, name) != getattr(plain, name)
    ]
    if changed:
        optimised_is = "log-probs are those at temperature 1 over all tokens, the policy that is optimised"
        work.note("sampling", f"answers are drawn with {', '.join(changed)}; {optimised_is}")
