"""The iterations: answers drawn, scored and read, then `epochs` passes of the one training loop over them.

An optimiser step is `fit.Loop.step`, as in every other training; here it gets other rows as the iterations go. What is
random follows from (seed, iteration), (seed, step) and (seed, prompt, answer, token), so that a killed run goes on from
its last checkpoint to the same bytes.

Shape suffixes: N answers, E tokens of all answers, end to end.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trueline import trie
from trueline.errors import UserError
from trueline.train import checkpoints, fit, rows
from trueline.train.online import rewards
from trueline.train.online.ppo import KL
from trueline.train.online.protocol import Advantages, Rollout
from trueline.train.online.rollouts import Answered, Collector, Judged, Read, read, reading, shared
from trueline.train.rows import Row

if TYPE_CHECKING:
    from trueline.progress import Meter
    from trueline.train.online.ppo import PPO
    from trueline.work import Work

COUNTED = ("samples", "abstained", "tokens", "train_tokens")
"""What is added up over the iterations in the record."""

REPORTED = ("loss", "grad_norm", "policy/", "value/")
"""What is logged of the optimiser steps, as the mean over those of an iteration."""


@dataclass(eq=False)
class Iterations:
    """The state of one run; `run` drives it.

    collect: draws and scores. prompts: token ids of each prompt. reference: the model that the divergence is from, None
    for the policy without its adapters. each: prompts of an iteration.
    """

    loop: fit.Loop
    algorithm: PPO
    collect: Collector
    prompts: Sequence[Sequence[int]]
    reference: Any
    each: int
    max_abstained: float = 0.5
    kl: float = 0.0
    done: int = 0
    steps: int = 0
    seen: rewards.Moments = field(default_factory=rewards.Moments)

    def __post_init__(self) -> None:
        self.kl = self.algorithm.first_kl

    def chosen(self, number: int) -> np.ndarray:
        """The prompts of an iteration: every one comes up once before any comes up again, the rest of a pass that
        fills no iteration left out."""
        n = len(self.prompts)
        epoch, at = divmod(number, n // self.each)
        return rows.order(n, self.loop.settings.seed, epoch)[at * self.each : (at + 1) * self.each]

    def iterate(self) -> dict[str, Any]:
        """One iteration; what is logged of it."""
        number = self.done
        with reading(self.loop.model):
            answered = self.collect(number, self.chosen(number).tolist())
            kept = self.judged(number, answered)
            sequences = [self.sequence(answer) for answer in kept]
            found = shared(self.loop.accelerator, sequences, self.read)
        rollout = gathered(kept, found)
        worth_N, self.seen = rewards.of_answers(rollout, self.algorithm, self.seen)
        if number == 0 and rollout.values_E is not None:
            rollout = dataclasses.replace(rollout, values_E=rollout.values_E + self.lift(worth_N, rollout.values_E))
        rewards_E = rewards.of_tokens(worth_N, rollout, self.algorithm, self.kl)
        advantages = self.algorithm.advantage(rewards_E, rollout)
        report = described(rollout, rewards_E, advantages) | gap(kept, found) | watched(answered)
        report |= {KL: self.kl, **drawn(answered)}
        steps = self.learn(self.rows(number, sequences, rollout, advantages), rollout.group_N)
        self.kl = self.algorithm.next_kl(self.kl, report["kl/answer"], len(kept))
        self.done = number + 1
        return {"iteration": self.done, "step": self.steps, "lr": steps[-1]["lr"], **report, **mean_of(steps)}

    def judged(self, number: int, answered: Sequence[Answered]) -> list[Judged]:
        """Every answer that the critic said something of."""
        kept = [
            Judged(each.prompt, completion, score)
            for each in answered
            for completion, score in zip(each.completions, each.scores, strict=True)
            if score is not None
        ]
        total = sum(len(each.completions) for each in answered)
        if not kept or total - len(kept) > self.max_abstained * total:
            raise UserError(
                f"critic {self.collect.critic.name} in iteration {number + 1}",
                f"it gave no score to {total - len(kept)} of {total} answers",
                f"at most a share of max_abstained={self.max_abstained:g}",
                "Take a critic that scores answers or compares them, or mend its wording.",
            )  # fmt: skip
        return kept

    def sequence(self, answer: Judged) -> trie.Sequence:
        """Prompt and answer as they were sampled, scored on the answer's tokens."""
        assert answer.completion.tokens is not None
        return trie.Sequence.of(self.prompts[answer.prompt], answer.completion.tokens)

    def read(self, sequences: Sequence[trie.Sequence]) -> list[Read]:
        """What policy, value head and reference say of these answers."""
        loop = self.loop
        return read(loop.model, sequences, loop.heads, self.reference, loop.machine, loop.dtype)

    def lift(self, worth_N: np.ndarray, values_E: np.ndarray) -> float:
        """Let a new value head begin at what answers are worth on average; by how much that lifts it.

        Learning the mean takes many steps, in which every answer's end looks better than its beginning.
        """
        assert self.loop.heads is not None
        bias = self.loop.heads.out.bias
        lift = float(worth_N.mean() - values_E.mean())
        if bias is None:
            return 0.0
        with torch.no_grad():
            bias.add_(lift)
        return lift

    def rows(
        self, number: int, sequences: Sequence[trie.Sequence], rollout: Rollout, advantages: Advantages
    ) -> list[Row]:
        """The answers as rows of the training loop, with the numbers that the loss reads of each token."""
        numbers = {"logps": rollout.logps_E, "advantages": advantages.advantages_E, "reference": rollout.reference_E}
        if advantages.returns_E is not None and rollout.values_E is not None:
            numbers |= {"values": rollout.values_E, "returns": advantages.returns_E}
        kind = next(self.loop.model.parameters()).dtype
        wide = np.float64 if kind.itemsize == 8 else np.float32
        cuts = rollout.last_N[:-1] + 1
        pieces = {name: np.split(value_E.astype(wide), cuts) for name, value_E in numbers.items()}
        return [
            Row(
                (sequence,), (bool(rollout.ended_N[i]),), f"{number}/{i}", cost=len(sequence),
                given={name: piece[i] for name, piece in pieces.items()},
            )
            for i, sequence in enumerate(sequences)
        ]  # fmt: skip

    def learn(self, given: list[Row], group_N: np.ndarray) -> list[dict[str, Any]]:
        """The optimiser steps of an iteration; what each reports."""
        loop = self.loop
        loop.rows, loop.coefficients = given, {KL: self.kl}
        settings = loop.settings
        for indices in mini_batches(group_N, settings.batch_size, settings.epochs, settings.seed, self.done):
            loop.step(self.steps, indices)
            self.steps += 1
        return loop.flush()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides weights and optimiser."""
        moments = [self.seen.count, self.seen.mean, self.seen.squares]
        return {"iteration": self.done, "step": self.steps, "kl": self.kl, "moments": moments}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.done, self.steps, self.kl = state["iteration"], state["step"], state["kl"]
        self.seen = rewards.Moments(*state["moments"])


def mini_batches(group_N: np.ndarray, size: int, epochs: int, seed: int, iteration: int) -> Iterator[np.ndarray]:
    """Indices of the answers of each optimiser step of an iteration.

    Prompts are shuffled anew in every pass and their answers stay together, so that a step pays for a prompt once.
    """
    groups, number_N = np.unique(group_N, return_inverse=True)
    for epoch in range(epochs):
        place_G = rows.order(groups.size, seed, iteration * epochs + epoch)
        order = np.argsort(place_G[number_N], kind="stable")
        for start in range(0, order.size, size):
            yield order[start : start + size]


def gathered(kept: Sequence[Judged], found: Sequence[Read]) -> Rollout:
    """Scores and readings of an iteration's answers, laid end to end, in double precision."""

    def joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces).astype(np.float64)

    values = [f.values_E for f in found if f.values_E is not None]
    return Rollout(
        counts_N=np.array([f.logps_E.size for f in found]),
        group_N=np.unique([answer.prompt for answer in kept], return_inverse=True)[1],
        ended_N=np.array([answer.completion.stopped == "stop" for answer in kept]),
        scores_N=np.array([answer.score for answer in kept], dtype=np.float64),
        logps_E=joined([f.logps_E for f in found]),
        reference_E=joined([f.reference_E for f in found]),
        values_E=joined(values) if values else None,
        entropy_E=joined([f.entropy_E for f in found]),
    )


def described(rollout: Rollout, rewards_E: np.ndarray, advantages: Advantages) -> dict[str, Any]:
    """An iteration's answers in numbers.

    reward: the critic's mean score; reward/token_sum: of all that an answer's tokens were rewarded with. kl/answer: the
    mean over answers of log p - log p_ref, summed. value/explained: the share of the returns' variance that values
    foresaw. reward/se, kl/se: standard errors over prompts, none for a single one.
    """
    apart_E = rollout.logps_E - rollout.reference_E
    n, tokens = rollout.counts_N.size, rollout.logps_E.size
    out = {
        "reward": rollout.scores_N.mean(), "reward/deviation": rollout.scores_N.std(),
        "reward/token_sum": rewards_E.sum() / n, "kl/answer": apart_E.sum() / n, "kl/token": apart_E.sum() / tokens,
        "length": tokens / n, "unfinished": 1 - rollout.ended_N.mean(),
        "advantage/deviation": advantages.advantages_E.std(),
    }  # fmt: skip
    out |= standard_error("reward/se", rollout.scores_N, rollout.group_N)
    out |= standard_error("kl/se", rollout.summed(apart_E), rollout.group_N)
    if rollout.entropy_E is not None:
        out["entropy"] = rollout.entropy_E.mean()
    if advantages.returns_E is not None and rollout.values_E is not None:
        spread = advantages.returns_E.var()
        out["value/mean"] = rollout.values_E.mean()
        out["value/explained"] = 1 - (advantages.returns_E - rollout.values_E).var() / spread if spread > 0 else 0.0
    return {name: float(value) for name, value in out.items()}


def standard_error(name: str, value_N: np.ndarray, group_N: np.ndarray) -> dict[str, float]:
    """How far the mean of a number per answer may be from that of all prompts, under `name`; {} for one prompt.

    Answers to a prompt are alike, so its mean counts once: of 1, 3 to one prompt and 6 to another it is that of 2 and
    6, sqrt(8) / sqrt(2) = 2.
    """
    size_G = np.bincount(group_N)
    mean_G = np.bincount(group_N, weights=value_N)[size_G > 0] / size_G[size_G > 0]
    return {name: float(mean_G.std(ddof=1) / np.sqrt(mean_G.size))} if mean_G.size > 1 else {}


def gap(kept: Sequence[Judged], found: Sequence[Read]) -> dict[str, float]:
    """How far the sampler's log-probs are from those of the pass that trains, mean and largest, where it knows them."""
    apart = [
        np.abs(f.logps_E - np.array(answer.completion.logprobs))
        for answer, f in zip(kept, found, strict=True)
        if answer.completion.logprobs is not None
    ]
    if not apart:
        return {}
    apart_E = np.concatenate(apart)
    return {"sampler/gap": float(apart_E.mean()), "sampler/gap_max": float(apart_E.max())}


def drawn(answered: Sequence[Answered]) -> dict[str, int]:
    """How much was drawn: answers, those without a score among them, and tokens."""
    said = [completion for each in answered for completion in each.completions]
    silent = sum(score is None for each in answered for score in each.scores)
    return {"samples": len(said), "abstained": silent, "tokens": sum(len(c.tokens or ()) for c in said)}


def watched(answered: Sequence[Answered]) -> dict[str, float]:
    """The mean score of the critic that only watches, and its standard error over prompts."""
    said = [(score, i) for i, each in enumerate(answered) for score in each.watched if score is not None]
    if not said:
        return {}
    scores_N, group_N = np.array([score for score, _ in said]), np.array([i for _, i in said])
    return {"watched": float(scores_N.mean()), **standard_error("watched/se", scores_N, group_N)}


def mean_of(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the optimiser steps reported, on average; and their seconds and trie tokens in all."""
    names = dict.fromkeys(name for step in steps for name in step if name.startswith(REPORTED))
    out = {name: float(np.mean([step[name] for step in steps if name in step])) for name in names}
    tokens, trie_tokens = (sum(step[name] for step in steps) for name in ("tokens", "trie_tokens"))
    return out | {"train_tokens": tokens, "sharing": tokens / max(1, trie_tokens)}


def run(
    state: Iterations, iterations: int, work: Work, meter: Meter, keep: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Iterate to the end from where `state` is; log and checkpoint on the way. keep: told of each that is done."""
    loop, history, saved = state.loop, [], state.steps
    every = loop.machine.checkpoint_steps
    while state.done < iterations:
        began = time.perf_counter()
        row = state.iterate()
        row["seconds"] = round(time.perf_counter() - began, 3)
        history.append(row)
        for name in COUNTED:
            work.count(name, row[name])
        fit.report([row], work, loop.accelerator, meter)
        meter.update(f"online, reward {row['reward']:.3f}, KL {row['kl/answer']:.2f}")
        meter.advance(1)
        keep(state.done)  # before the checkpoint: a run that goes on from there has what lies behind it
        if every and state.steps - saved >= every and state.done < iterations:
            saved = state.steps
            if loop.accelerator.is_main_process:
                kept = {**state.state(), "work": work.state()}
                checkpoints.save(work.scratch, kept, loop.parameters, loop.optimizer)
                state.collect.forget(state.done)
            loop.accelerator.wait_for_everyone()
    return history


def resume(state: Iterations, work: Work) -> None:
    """Put a killed run's last checkpoint into place, if there is one."""
    kept = checkpoints.restore(work.scratch, state.loop.parameters, state.loop.optimizer)
    if kept is not None:
        state.restore(kept)
        work.restore(kept["work"])
