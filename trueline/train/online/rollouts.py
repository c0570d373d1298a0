"""One iteration's answers: drawn from the policy as it is now, scored by a critic, read by policy and reference.

Answers are trained on as they were sampled, token for token; nothing is rendered a second time. Old log-probs are read
by the pass over a trie that trains too, so that the first ratio of an iteration is 1; how far the sampler's own are
from them is reported. Both are at temperature 1 over all tokens: the policy that is optimised. Other sampling settings
draw from another distribution than that.

What was drawn and scored is written down before anything is learned from it. A run that is killed reads it again
instead of drawing and asking again.

Shape suffixes: E tokens of all answers, end to end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch

from trueline import trie
from trueline.errors import UserError
from trueline.feedback.protocol import Critic, meter, metering
from trueline.records import Completion, Group, Prompt, Record
from trueline.train.fit import values
from trueline.train.views import mean_preference
from trueline.trie.passes import passes
from trueline.work import Work, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from trueline.heads.readout import Heads
    from trueline.machine import Machine
    from trueline.sample.protocol import Sampling, Writing

Item = TypeVar("Item")
Found = TypeVar("Found")
Scores = tuple[float | None, ...]


class Answered(Record, frozen=True):
    """A prompt, by its number, with its answers, what the critic said of them, and what the watching one did.

    {"prompt": 17, "completions": [{"text": "Ada.", "stopped": "stop", "tokens": [312, 2]}], "scores": [0.85]}
    """

    prompt: int
    completions: tuple[Completion, ...]
    scores: Scores
    watched: Scores = ()


class Kept(Record, frozen=True):
    """An iteration's answers in the file of a run under way, and what was counted while they were drawn and scored."""

    answered: tuple[Answered, ...]
    counts: dict[str, int] = {}


class Judged(NamedTuple):
    """One answer, to the prompt of this number, and its score."""

    prompt: int
    completion: Completion
    score: float


@dataclass(eq=False)
class Collector:
    """Draws and scores; `shared` deals the prompts to the processes."""

    writer: Writing
    critic: Critic
    watch: Critic | None
    prompts: Sequence[Prompt]
    sampling: Sampling
    accelerator: Any
    work: Work

    def __call__(self, number: int, chosen: Sequence[int]) -> tuple[Answered, ...]:
        """The scored answers to the prompts `chosen` in iteration `number`, from its file where there is one."""
        path = self.path(number)
        if path.is_file():
            kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        else:
            with metering() as metered:
                found = shared(self.accelerator, chosen, lambda part: self.answered(number, part))
            counts = Counter[str]()
            for each in everyones(self.accelerator, dict(metered)):
                counts.update(each)
            kept = Kept(tuple(found), dict(counts))
            if self.accelerator.is_main_process:
                write_atomic(path, msgspec.json.encode(kept))
            self.accelerator.wait_for_everyone()
        for name, n in kept.counts.items():
            self.work.count(name, n)
        return kept.answered

    def path(self, number: int) -> Path:
        """The file of an iteration."""
        return self.work.scratch / f"rollout-{number:06d}.json"

    def forget(self, before: int) -> None:
        """Remove the files of iterations that a checkpoint stands for."""
        for path in self.work.scratch.glob("rollout-*.json"):
            if path.name < self.path(before).name:
                path.unlink()

    def answered(self, number: int, chosen: Sequence[int]) -> list[Answered]:
        """Drawn and scored here and now. A seed of its own makes each iteration's answers to a prompt new ones."""
        if not chosen:
            return []
        sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed * 1_000_003 + number)
        prompts = [self.prompts[i] for i in chosen]
        written = self.writer.generate(prompts, sampling)
        groups = [Group(prompt, tuple(said)) for prompt, said in zip(prompts, written, strict=True)]
        scores = scored(self.critic, groups)
        watched: list[Scores] = [()] * len(groups)
        if self.watch is not None:
            # What looking on costs is no part of what the policy learned from.
            with metering() as aside:
                watched = scored(self.watch, groups)
            for name, n in aside.items():
                meter(f"watched_{name}", n)
        rows = zip(chosen, groups, scores, watched, strict=True)
        return [Answered(int(i), group.completions, *said) for i, group, *said in rows]


def scored(critic: Critic, groups: Sequence[Group]) -> list[Scores]:
    """One score per completion of each group, None where the critic abstained; of a critic that only compares, the mean
    probability of winning.

    Raises `UserError` for a critic that changes what it is given, and for a score that is no finite number.
    """
    said = critic(groups)
    if [(g.prompt, g.completions) for g in said] != [(g.prompt, g.completions) for g in groups]:
        wanted = "the same groups in the same order, with something added"
        raise UserError(f"critic {critic.name}", "it changed what it was given", wanted)
    found = []
    for group in said:
        scores = group.scores()
        if group.preferences and all(score is None for score in scores):
            scores = mean_preference(group)
        for score in scores:
            if score is not None and not math.isfinite(score):
                raise UserError(f"critic {critic.name} on prompt {group.prompt.id}", f"it said {score}", "a number")
        found.append(tuple(scores))
    return found


def everyones(accelerator: Any, mine: Found) -> list[Found]:
    """What each process has, in their order, on all of them."""
    if accelerator.num_processes == 1:
        return [mine]
    from accelerate.utils import gather_object

    return list(gather_object([mine]))


def shared(accelerator: Any, items: Sequence[Item], work: Callable[[list[Item]], list[Found]]) -> list[Found]:
    """What `work` makes of the items, one each, in order: every process works on its share of them and gets all."""
    processes = accelerator.num_processes
    out: list[Any] = [None] * len(items)
    for process, part in enumerate(everyones(accelerator, work(list(items[accelerator.process_index :: processes])))):
        out[process::processes] = part
    return out


@dataclass(frozen=True, eq=False)
class Read:
    """Of one answer's tokens: log-probs under policy and reference, entropy of the policy there, and values (or
    None)."""

    logps_E: np.ndarray
    reference_E: np.ndarray
    entropy_E: np.ndarray
    values_E: np.ndarray | None


def read(
    model: Any,
    sequences: Sequence[trie.Sequence],
    heads: Heads | None,
    reference: Any,
    machine: Machine,
    dtype: torch.dtype | None,
) -> list[Read]:
    """What the policy `model` (and its value head) and the reference say of the scored tokens of `sequences`.

    reference: a model, or None for the policy without its adapters.
    """
    if not sequences:
        return []
    want = frozenset({"logps", "entropy"} | ({"scored_hidden"} if heads is not None else set()))
    ours = _each(model, sequences, want, heads, machine, dtype)
    if reference is not None:
        theirs = _each(reference, sequences, trie.LOGPS, None, machine, dtype)
    else:
        with model.disable_adapter():
            theirs = _each(model, sequences, trie.LOGPS, None, machine, dtype)
    return [Read(o["logps"], r["logps"], o["entropy"], o.get("values")) for o, r in zip(ours, theirs, strict=True)]


def _each(
    model: Any,
    sequences: Sequence[trie.Sequence],
    want: frozenset[str],
    heads: Heads | None,
    machine: Machine,
    dtype: torch.dtype | None,
) -> list[dict[str, np.ndarray]]:
    """What was asked for of each sequence's scored tokens, by name."""
    out: list[dict[str, np.ndarray]] = [{} for _ in sequences]
    for part, batch, outputs in passes(model, sequences, want, machine, dtype):
        found = {"logps": outputs.logps_E}
        if outputs.entropy_E is not None:
            found["entropy"] = outputs.entropy_E
        if heads is not None:
            # A pass may compute in low precision; the head does not.
            with torch.autocast(batch.tokens_T.device.type, enabled=False):
                found["values"] = values(heads, outputs, batch)
        cuts = np.cumsum(outputs.counts_N.tolist())[:-1]
        for name, value_E in found.items():
            for i, piece in zip(part, np.split(value_E.cpu().numpy(), cuts), strict=True):
                out[i][name] = piece
    return out


@contextlib.contextmanager
def reading(model: Any) -> Any:
    """For a block, the policy as it is sampled from and read: in eval mode."""
    model.eval()
    try:
        yield
    finally:
        model.train()
