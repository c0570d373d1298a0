"""A step over many answers to one prompt behind conditions: ours over two tries, the peer padded as Quark and ALT are.

The peer is a plain loop over transformers' own forward: the policy over rows of condition, prompt and answer, the
reference over rows of prompt and answer, padded on the right; log-softmax, divergence over the whole vocabulary and
entropy where answers stand. Its micro-batches, and whether it asks for the logits of the answers' positions alone, are
settings; the fastest counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import harness
from benchmarks.peer_trl import END
from trueline import trie
from trueline.machine import Machine
from trueline.train.fit import fit
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.rows import Row
from trueline.train.settings import Settings

if TYPE_CHECKING:
    from benchmarks.train import Size, Work

LR, CLIP = 1e-6, 1.0
OBJECTIVE = ConditionalLM(kl=0.05, entropy=0.06)
MACHINE = Machine(device="cpu", precision="fp32", micro_tokens=8192)
"""Ours at its own best setting, which is the default: smaller micro-batches compute the prompt more often."""


@dataclass(frozen=True)
class Samples:
    """`n` answers to one prompt, each behind one of `conditions` texts of `condition` tokens; lengths as on TL;DR."""

    size: Size
    n: int = 96
    conditions: int = 5
    condition: int = 4
    prompt: tuple[int, int] = (300, 420)
    answer: tuple[int, int] = (20, 60)
    seed: int = 0

    @property
    def case(self) -> str:
        """How the table calls it."""
        return f"Conditional TL;DR {self.size.name}: {self.n} answers to one prompt"

    @cached_property
    def rows(self) -> list[tuple[list[int], list[int], list[int]]]:
        """Condition, prompt and answer of each sample, random tokens; the answers end."""
        rng = np.random.default_rng(self.seed)

        def ids(span: tuple[int, int]) -> list[int]:
            return rng.integers(2, self.size.vocabulary, int(rng.integers(span[0], span[1] + 1))).tolist()

        said = [ids((self.condition, self.condition)) for _ in range(self.conditions)]
        prompt = ids(self.prompt)
        return [(said[k % self.conditions], prompt, [*ids(self.answer)[:-1], END]) for k in range(self.n)]

    def model(self, seed: int) -> Any:
        """A random model from a seed."""
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(self.size.config(), attn_implementation="sdpa")


class Ours:
    """Our loop over the samples, ready to run again and again from the same weights."""

    def __init__(self, samples: Samples) -> None:
        self.model, self.reference = samples.model(0), samples.model(1).eval().requires_grad_(False)
        self.start = {name: x.clone() for name, x in self.model.state_dict().items()}
        self.rows = to_rows(samples)
        self.settings = Settings(
            lr=LR, batch_size=samples.n, schedule="constant", warmup=0.0, max_grad_norm=CLIP, seed=samples.seed
        )
        self.losses: list[float] = []

    def __call__(self) -> float:
        """Seconds of one optimiser step, the building of its tries included."""
        self.model.load_state_dict(self.start)
        self.model.train()
        began = harness.now()
        history = fit(self.model, self.rows, OBJECTIVE, self.settings, reference_model=self.reference, machine=MACHINE)
        seconds = harness.now() - began
        self.losses = [row["loss"] for row in history]
        return seconds


def to_rows(samples: Samples) -> list[Row]:
    """The samples as our rows."""
    out = []
    for number, (condition, prompt, answer) in enumerate(samples.rows):
        ours = (trie.Sequence.of([*condition, *prompt], answer),)
        bare = (trie.Sequence.of(prompt, answer),)
        out.append(Row(ours, (True,), str(number), cost=trie.size(ours) + trie.size(bare), reference=bare))
    return out


@dataclass(frozen=True)
class Padding:
    """How the peer runs: rows of a micro-batch, and whether only the answers' positions reach the output head."""

    rows: int
    answers_only: bool

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"padded {self.rows} rows{', logits of answers' if self.answers_only else ''}"


class Padded:
    """The padded step under one setting, ready to run again and again from the same weights."""

    def __init__(self, samples: Samples, setting: Padding) -> None:
        self.samples, self.setting = samples, setting
        self.model, self.reference = samples.model(0).train(), samples.model(1).eval().requires_grad_(False)
        self.start = {name: x.clone() for name, x in self.model.state_dict().items()}
        # By length, so that little is padded; an optimiser step is the same in any order.
        self.order = sorted(samples.rows, key=lambda row: len(row[2]))
        self.losses: list[float] = []

    def logits(self, model: Any, befores: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
        """At the positions that predict the answers' tokens, row after row."""
        rows = [[*before, *answer] for before, answer in zip(befores, answers, strict=True)]
        longest = max(map(len, rows))
        # All prompts are equally long and nothing causal sees the padding behind a row: no mask, the fastest kernels.
        ids = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
        keep = max(map(len, answers)) + 1 if self.setting.answers_only else 0
        found = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        first = len(befores[0]) - 1 - (longest - found.shape[1])
        return torch.cat([x[first : first + len(answer)] for x, answer in zip(found, answers, strict=True)])

    def __call__(self) -> float:
        """Seconds of one optimiser step."""
        self.model.load_state_dict(self.start)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        tokens = sum(len(answer) for _, _, answer in self.order)
        began, loss = harness.now(), 0.0
        for at in range(0, len(self.order), self.setting.rows):
            conditions, prompts, answers = zip(*self.order[at : at + self.setting.rows], strict=True)
            policy = self.logits(self.model, [c + p for c, p in zip(conditions, prompts, strict=True)], list(answers))
            with torch.no_grad():
                log_q = F.log_softmax(self.logits(self.reference, list(prompts), list(answers)), -1)
            log_p = F.log_softmax(policy, -1)
            nll = F.nll_loss(log_p, torch.tensor([i for answer in answers for i in answer]), reduction="sum")
            kl = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
            entropy = -(log_p.exp() * log_p).sum()
            part = (nll + OBJECTIVE.kl * kl - OBJECTIVE.entropy * entropy) / tokens
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        optimizer.step()
        self.losses = [loss]
        return harness.now() - began


def our_work(samples: Samples, work: type[Work]) -> tuple[Work, Work]:
    """Of policy and reference: each trie token once, the rest for states that predict something."""
    rows = to_rows(samples)
    out = []
    for batch in (trie.build([r.sequences[0] for r in rows]), trie.build([r.reference[0] for r in rows])):
        read, depth = batch.state_S, batch.positions_T + 1
        out.append(work(len(batch), len(read), int(depth.sum()), int(depth[read].sum()), len(read)))
    # A reference's states meet the output head once for each state of the policy that they are compared with.
    return out[0], replace(out[1], head=out[0].head)


def peer_work(samples: Samples, setting: Padding, work: type[Work]) -> tuple[Work, Work]:
    """Of policy and reference: padded micro-batches, causal attention, logits of all positions or of the answers'."""
    totals = [work(), work()]
    ordered = sorted(samples.rows, key=lambda row: len(row[2]))
    for at in range(0, len(ordered), setting.rows):
        part = ordered[at : at + setting.rows]
        answer, prompt = max(len(a) for _, _, a in part), len(part[0][1])
        for which, longest in enumerate((len(part[0][0]) + prompt + answer, prompt + answer)):
            n = len(part) * longest
            attended = len(part) * longest * (longest + 1) // 2
            head = len(part) * (answer + 1) if setting.answers_only else n
            totals[which] += work(n, n, attended, attended, head)
    return totals[0], totals[1]


SETTINGS = (Padding(4, True), Padding(4, False))
"""Four rows at once were the fastest of 1, 4 and 16 when all were tried (docs/performance.md)."""
