"""Best-of-16 with rewards read while decoding, against reading them afterwards: the whole time, sampling included.

All sides sample the same candidates by our own loop, from the same random numbers. Ours feeds each one's end-of-turn as
one more step and reads the head there. The others run finished candidates through a model again: the same one with the
same head, or a reward model of equal size. Each of these has two settings: over tries (one prompt once for its
candidates, our own way) and right-padded, the candidates of a prompt as a batch (everybody's way); neither computes
logits. Scores of the same head are shown to agree to 1e-4 first.

What bounds the ratio is arithmetic: tokens through a model, a prompt counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.sample import SIZES, VOCABULARY, as_peer, run
from trueline import trie
from trueline.heads import Head
from trueline.heads.readout import Heads
from trueline.sample.choose import Chooser, stream
from trueline.sample.decode import Decoder, Reading, Task, Written
from trueline.sample.protocol import Sampling

END = 0
TOLERANCE = 1e-4
MICRO_TOKENS = 8192
LAST = frozenset({"last_hidden"})


@dataclass(frozen=True)
class Case:
    """`candidates` answers to each of `prompts` prompts, sampled by top-p. length, tokens: of a prompt and an answer,
    between two; quick: so many prompts in a quick run."""

    name: str
    size: str
    prompts: int
    length: tuple[int, int]
    tokens: tuple[int, int]
    candidates: int = 16
    quick: int = 0
    full: bool = False

    @property
    def model(self) -> Any:
        return SIZES[self.size].model

    @cached_property
    def reward_model(self) -> Any:
        """Another model of the same shape."""
        return replace(SIZES[self.size], name="reward model").model

    @cached_property
    def heads(self) -> Heads:
        return Head().build(self.model)

    @cached_property
    def ids(self) -> list[np.ndarray]:
        """The prompts: random tokens."""
        rng = np.random.default_rng(1)
        return [rng.integers(1, VOCABULARY, n) for n in rng.integers(self.length[0], self.length[1] + 1, self.prompts)]

    @cached_property
    def lengths_V(self) -> np.ndarray:
        """An answer's length by its first token."""
        return np.random.default_rng(2).integers(self.tokens[0], self.tokens[1] + 1, VOCABULARY)

    # --- the contestants ---------------------------------------------------------------------------------------------

    def sample(self, reading: Reading | None = None) -> list[Written]:
        """All candidates, prompt by prompt."""
        tasks = [Task(p, stream(0, str(p), i)) for p in range(self.prompts) for i in range(self.candidates)]
        choose = Chooser(Sampling(top_p=0.9, max_tokens=self.tokens[1]), ())
        return Decoder(self.model, self.ids, tasks, choose, self.tokens[1], self._ended, reading=reading).run()

    def _ended(self, said: list[int]) -> bool:
        return len(said) >= int(self.lengths_V[said[0]])

    def ours(self) -> list[float]:
        """Rewards read while decoding."""
        written = self.sample(Reading(lambda _, said: [*said, END], self.heads.pool))
        return [answer.read[0] for answer in written]

    def closed(self, written: Sequence[Written]) -> list[trie.Sequence]:
        """Prompt, candidate and end-of-turn."""
        ids = [[*self.ids[i // self.candidates], *answer.tokens, END] for i, answer in enumerate(written)]
        return [trie.Sequence(np.array(each), np.zeros(len(each), bool)) for each in ids]

    @torch.inference_mode()
    def over_tries(self, model: Any) -> list[float]:
        """Rewards by a pass of `model` over tries."""
        given, out = self.closed(self.sample()), []
        groups = [given[i : i + self.candidates] for i in range(0, len(given), self.candidates)]
        for part in trie.pack(groups, MICRO_TOKENS):
            batch = trie.build([sequence for at in part for sequence in groups[at]])
            out += self.heads(trie.forward(model, batch, LAST), batch)[:, 0].tolist()
        return out

    @torch.inference_mode()
    def padded(self, model: Any) -> list[float]:
        """Rewards by a pass of `model` over padded batches, the candidates of a prompt each."""
        given, out = self.closed(self.sample()), []
        with as_peer(model):
            for start in range(0, len(given), self.candidates):
                part = given[start : start + self.candidates]
                longest = max(map(len, part))
                ids = torch.from_numpy(np.stack([np.pad(s.ids, (0, longest - len(s))) for s in part]))
                last = torch.tensor([len(s) - 1 for s in part])
                hidden_NLD = model.model(input_ids=ids, use_cache=False).last_hidden_state
                out += self.heads.pool(hidden_NLD[torch.arange(len(part)), last])[:, 0].tolist()
        return out

    # --- the race ----------------------------------------------------------------------------------------------------

    def bound(self, written: Sequence[Written]) -> float:
        """Tokens through a model where they are read afterwards, over those that ours puts through it."""
        prompts, answers = sum(p.size for p in self.ids), sum(len(w.tokens) for w in written)
        # Sampling reads all but an answer's last token; ours then reads that and the end-of-turn, the others all.
        return (2 * prompts + 2 * answers) / (prompts + answers + len(written))

    def races(self, options: harness.Options) -> Iterator[harness.Result]:
        """Against the same head in a second pass, and against a reward model."""
        written, read = self.sample(), np.array(self.ours())
        for reads in (self.over_tries, self.padded):
            if (difference := np.abs(np.array(reads(self.model)) - read).max()) > TOLERANCE:
                raise SystemExit(f"{self.name}: {reads.__name__} differs by {difference:.1e}")
        note = f"{sum(len(w.tokens) for w in written)} tokens in {len(written)} candidates"
        for who, model in (("the same head afterwards", self.model), ("a reward model", self.reward_model)):
            peers = {
                f"{who}, {how}": (lambda reads=reads, model=model: run(reads, model))
                for how, reads in (("over tries", self.over_tries), ("padded", self.padded))
            }
            yield harness.race(
                f"{self.name}: against {who}", lambda: run(self.ours), peers, repeats=options.repeats,
                bound=self.bound(written), unit=f"{self.candidates} candidates to {self.prompts} prompts", note=note,
            )  # fmt: skip


CASES = (
    Case("5M HH", "5M", 8, (40, 300), (20, 150), quick=4),
    Case("5M TL;DR", "5M", 8, (300, 420), (20, 60), quick=4),
    Case("110M TL;DR", "110M", 2, (300, 420), (20, 60), full=True),
)


def bench(options: harness.Options) -> Iterator[harness.Result]:
    """Two results per case."""
    for case in CASES:
        wanted = bool(case.quick) if options.quick else options.full or not case.full
        if wanted and options.wants(case.name):
            yield from (replace(case, prompts=case.quick) if options.quick else case).races(options)


if __name__ == "__main__":
    harness.main("rank", bench, __doc__.splitlines()[0])
