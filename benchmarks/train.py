"""Training side by side with TRL: one optimiser step of DPO, SFT and a reward model, the peer at its best CPU setting;
and a step of Quark and ALT, many answers to one prompt, side by side with the padded step that they take.

Both sides run their real loop (`trueline.train.fit.fit`, `Trainer.train`) over the same random tokens from the same
weights, in float32, with the reference's log-probs cached on both, the same AdamW, clipping and learning rate. The loss
of every step must agree to 1e-5, or the race is thrown away. Ours is timed as a whole, the peer by the step, without
the collating of its batches.

What bounds the ratio is arithmetic: `Work` counts the multiply-adds that each side does, padding included.

Shape suffixes: none; token counts are integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks import conditional, harness
from benchmarks.peer_trl import END, Peer, Setting, quiet
from trueline import trie
from trueline.heads import Head
from trueline.machine import Machine
from trueline.train import rows as rowing
from trueline.train.fit import fit
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.rows import Row
from trueline.train.score import scored
from trueline.train.settings import Settings

TOLERANCE = 1e-5
"""Largest relative difference of any step's loss, where float32 can tell."""

MACHINE = Machine(device="cpu", precision="fp32", micro_tokens=2048)
"""Ours at its own best setting: with a few thousand trie tokens at once the caches are missed more often."""


@dataclass(frozen=True)
class Lengths:
    """Token lengths of a data set, each drawn uniformly: prompt and answer, least and most."""

    name: str
    prompt: tuple[int, int]
    answer: tuple[int, int]


LENGTHS = (
    Lengths("TL;DR", (300, 420), (20, 60)),
    Lengths("HH", (40, 300), (20, 150)),
    Lengths("UltraFeedback", (30, 300), (100, 500)),
)


@dataclass(frozen=True)
class Size:
    """A Llama model by its shape; the name says its parameters without embeddings."""

    name: str
    hidden: int
    layers: int
    vocabulary: int = 8192

    def config(self) -> Any:
        """The transformers configuration: heads of 64, a gated MLP of 8/3 the width, rounded up to 32."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=-(-self.hidden * 8 // 3 // 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=1,
        )


SMALL, LARGE = Size("5M", 256, 6), Size("25M", 512, 8)


@dataclass(frozen=True)
class Pair:
    """A prompt and its two answers, end-of-sequence included, as ids."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def draw(lengths: Lengths, n: int, vocabulary: int, seed: int) -> list[Pair]:
    """`n` pairs of random tokens."""
    rng = np.random.default_rng(seed)

    def ids(span: tuple[int, int], end: bool = False) -> tuple[int, ...]:
        length = int(rng.integers(span[0], span[1] + 1)) - end
        return (*rng.integers(2, vocabulary, length).tolist(), *([END] if end else []))

    return [Pair(ids(lengths.prompt), ids(lengths.answer, True), ids(lengths.answer, True)) for _ in range(n)]


@dataclass(frozen=True)
class Plan:
    """What both sides do: `steps` optimiser steps of `batch` examples: pairs, or for SFT a prompt and one answer."""

    objective: str
    size: Size
    lengths: Lengths
    steps: int = 1
    batch: int = 8
    lr: float = 1e-6
    beta: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0

    @property
    def case(self) -> str:
        """How the table calls it."""
        return f"{self.objective} {self.lengths.name} {self.size.name}"

    @property
    def vocabulary(self) -> int:
        """Ids there are."""
        return self.size.vocabulary

    @cached_property
    def pairs(self) -> list[Pair]:
        """The data, in the order in which both sides see it."""
        return draw(self.lengths, self.steps * self.batch, self.vocabulary, self.seed)

    def model(self, attention: str = "sdpa", seed: int | None = None) -> Any:
        """The policy at the start, random weights from a seed."""
        from transformers import AutoModelForCausalLM

        torch.manual_seed(self.seed if seed is None else seed)
        return AutoModelForCausalLM.from_config(self.size.config(), attn_implementation=attention)

    def reference_model(self, attention: str = "sdpa") -> Any:
        """Another model as the reference, so that the first loss is not ln 2 whatever is computed."""
        return self.model(attention, self.seed + 1)

    def classifier(self, attention: str = "sdpa") -> Any:
        """The policy's body under a fresh scalar head, as transformers builds reward models."""
        from transformers import AutoModelForSequenceClassification

        config = self.size.config()
        config.num_labels = 1
        torch.manual_seed(self.seed + 2)
        found = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
        found.model.load_state_dict(self.model().model.state_dict())
        return found


class Ours:
    """Our loop over the plan's rows, ready to run again and again from the same weights."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.model = plan.model()
        self.start = {name: x.clone() for name, x in self.model.state_dict().items()}
        self.objective = {"DPO": DPO(beta=plan.beta), "SFT": SFT(), "RM": BradleyTerry()}[plan.objective]
        settings = {"schedule": "constant", "warmup": 0.0, "max_grad_norm": plan.max_grad_norm, "seed": plan.seed}
        self.settings = Settings(lr=plan.lr, batch_size=plan.batch, **settings)
        rows = to_rows(plan)
        self.reference = None
        if plan.objective == "DPO":
            self.reference = {r.key: r.logps for r in scored(plan.reference_model().eval(), rows, MACHINE)}
        # `fit` shuffles by a permutation of (seed, epoch): rows are laid so that it meets them in the plan's order.
        order = rowing.order(len(rows), plan.seed, 0)
        self.rows: list[Row] = [rows[i] for i in np.argsort(order)]
        self.heads = Head().build(self.model) if plan.objective == "RM" else None
        self.first_head = plan.classifier().score.weight.detach() if plan.objective == "RM" else None
        self.losses: list[float] = []

    def __call__(self) -> float:
        """Seconds of the plan's optimiser steps, from the starting weights."""
        self.model.load_state_dict(self.start)
        self.model.train()
        if self.heads is not None:
            self.heads.out.weight.data.copy_(self.first_head)
        arguments = {"reference": self.reference, "heads": self.heads, "machine": MACHINE}
        began = harness.now()
        history = fit(self.model, self.rows, self.objective, self.settings, **arguments)
        seconds = harness.now() - began
        self.losses = [row["loss"] for row in history]
        return seconds


def to_rows(plan: Plan) -> list[Row]:
    """The plan's pairs as our rows, in order."""
    out = []
    for number, pair in enumerate(plan.pairs):
        answers = (pair.chosen,) if plan.objective == "SFT" else (pair.chosen, pair.rejected)
        sequences = tuple(trie.Sequence.of(pair.prompt, answer) for answer in answers)
        out.append(Row(sequences, (True,) * len(answers), str(number), cost=trie.size(sequences)))
    return out


@dataclass(frozen=True)
class Work:
    """What a step computes. tokens: through all layers but the last feed-forward block, last: through that block.

    attended, last_attended: (query, key) pairs of one layer's attention, and of the last layer's. head: rows through
    the output head.
    """

    tokens: int = 0
    last: int = 0
    attended: int = 0
    last_attended: int = 0
    head: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def multiply_adds(self, size: Size) -> int:
        """Of one forward pass; a backward pass costs the same multiple of it on both sides."""
        projections, feed_forward = 4 * size.hidden**2, 3 * size.hidden * size.config().intermediate_size
        layers = size.layers * projections * self.tokens + feed_forward * ((size.layers - 1) * self.tokens + self.last)
        attention = 2 * size.hidden * ((size.layers - 1) * self.attended + self.last_attended)
        return layers + attention + size.hidden * size.vocabulary * self.head


def our_work(plan: Plan) -> Work:
    """Every trie token once, a query for each token of its own path, the rest for states that are read only."""
    total = Work()
    for row in to_rows(plan):
        batch = trie.build(row.sequences)
        read = batch.last_N if plan.objective == "RM" else batch.state_S
        depth = batch.positions_T + 1
        head = 0 if plan.objective == "RM" else read.numel()
        total += Work(len(batch), read.numel(), int(depth.sum()), int(depth[read].sum()), head)
    return total


def peer_work(plan: Plan, rows: int) -> Work:
    """Padded micro-batches of `rows` examples: a padding mask makes attention square, the head reads every position."""
    examples = [[len(p.prompt) + len(a) for a in (p.chosen, p.rejected)] for p in plan.pairs]
    if plan.objective == "SFT":
        examples = [pair[:1] for pair in examples]
    total = Work()
    for at in range(0, len(examples), rows):
        lengths = [n for example in examples[at : at + rows] for n in example]
        longest, n = max(lengths), len(lengths)
        padded = any(x != longest for x in lengths)
        attended = n * (longest**2 if padded else longest * (longest + 1) // 2)
        head = 0 if plan.objective == "RM" else n * (longest - 1)
        total += Work(n * longest, n * longest, attended, attended, head)
    return total


def settings(plan: Plan, quick: bool = False) -> list[Setting]:
    """Attention kernels and micro-batches of the peer; the fastest is the peer that counts.

    Every other choice is made as it was fastest when all were tried (docs/performance.md).
    """
    options: Mapping[str, Any] = {"precompute_ref_log_probs": True} if plan.objective == "DPO" else {}
    named = [("sdpa", plan.batch), ("sdpa", 1)]
    if not quick:
        named[1:1] = [("eager", plan.batch), ("sdpa", plan.batch // 2)]
    return [Setting(f"TRL {name} {cut}x{plan.batch // cut}", plan.batch // cut, name, options) for name, cut in named]


def tolerance(plan: Plan) -> float:
    """What the losses may differ by, relatively: a DPO loss is as sharp as the peer's sums of log-probs.

    Those are float32 numbers of about tokens x ln V, whose spacing times beta moves the loss (near ln 2 or above): 500
    tokens over 8,192 ids sum to 4,505, the spacing there is 4.9e-4, and with beta 0.1 that makes 7e-5 of ln 2.
    """
    if plan.objective != "DPO":
        return TOLERANCE
    longest = max(len(answer) for p in plan.pairs for answer in (p.chosen, p.rejected))
    spacing = float(np.spacing(np.float32(longest * np.log(plan.vocabulary))))
    return max(TOLERANCE, plan.beta * spacing / float(np.log(2)))


def difference(case: str, ours: list[float], peer: list[float], allowed: float = TOLERANCE) -> float:
    """The largest relative difference of a step's loss. Raises where it is above `allowed`."""
    found = max(abs(a - b) / abs(b) for a, b in zip(ours, peer, strict=True))
    if found > allowed:
        raise AssertionError(f"{case}: the losses {ours} and {peer} differ, so nothing was compared")
    return found


def run(plan: Plan, options: harness.Options) -> harness.Result:
    """Race both sides, hold their losses together, and say what the arithmetic allows."""
    ours = Ours(plan)
    peers = {s.name: Peer(plan, s) for s in settings(plan, options.quick)}
    result = harness.race(plan.case, ours, peers, repeats=options.repeats)
    allowed = tolerance(plan)
    apart = max(difference(f"{plan.case}, {n}", ours.losses, p.losses, allowed) for n, p in peers.items())
    mine, theirs = our_work(plan), peer_work(plan, peers[result.peer].setting.rows)
    real = sum(s.ids.size for row in to_rows(plan) for s in row.sequences)
    tokens = " / ".join(str(n // plan.steps) for n in (theirs.tokens, real, mine.tokens))
    return replace(
        result,
        bound=theirs.multiply_adds(plan.size) / mine.multiply_adds(plan.size),
        unit=f"step of {plan.batch} {'answers' if plan.objective == 'SFT' else 'pairs'}",
        note="; ".join(filter(None, [f"tokens {tokens}; losses within {apart:.0e}", result.note])),
    )


def run_conditional(samples: conditional.Samples, options: harness.Options) -> harness.Result:
    """The same of a step over many answers to one prompt: a backward pass counts twice a forward pass, the reference
    has none."""
    ours = conditional.Ours(samples)
    chosen = {setting.name: setting for setting in conditional.SETTINGS}
    peers = {name: conditional.Padded(samples, setting) for name, setting in chosen.items()}
    result = harness.race(samples.case, ours, peers, repeats=options.repeats)
    apart = max(difference(f"{samples.case}, {n}", ours.losses, p.losses) for n, p in peers.items())
    mine, theirs = conditional.our_work(samples, Work), conditional.peer_work(samples, chosen[result.peer], Work)
    cost = [3 * policy.multiply_adds(samples.size) + ref.multiply_adds(samples.size) for policy, ref in (theirs, mine)]
    told = [f"{theirs[k].tokens} / {mine[k].tokens} {n}" for k, n in enumerate(("policy", "reference"))]
    return replace(
        result,
        bound=cost[0] / cost[1],
        unit=f"step of {samples.n} answers",
        note="; ".join(filter(None, [f"tokens {', '.join(told)}; losses within {apart:.0e}", result.note])),
    )


def bench(options: harness.Options) -> Iterator[harness.Result]:
    """Every case, one after the other."""
    quiet()
    # One padded step of it takes longer than all that `--quick` may.
    for size in () if options.quick else (SMALL, LARGE) if options.full else (SMALL,):
        samples = conditional.Samples(size)
        if options.wants(samples.case):
            yield run_conditional(samples, options)
    for size in (SMALL, LARGE) if options.full else (SMALL,):
        for objective in ("DPO", "RM", "SFT") if size is SMALL else ("DPO",):
            for lengths in LENGTHS[1:2] if options.quick else LENGTHS:
                pairs = 4 if options.quick else 8
                plan = Plan(objective, size, lengths, batch=pairs * 2 if objective == "SFT" else pairs)
                if options.wants(plan.case):
                    yield run(plan, options)


if __name__ == "__main__":
    harness.main("train", bench, __doc__.splitlines()[0])
