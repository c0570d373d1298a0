"""Sampling side by side with transformers' own `generate`: the same tokens, by our loop and by its best setting.

Ours is the loop behind the engine `HF` (`trueline.sample.decode`); the peer is `model.generate` with its dynamic and
its static cache, and continuous batching (`ContinuousBatchingManager`). All start from the same prompts and weights in
float32, and every greedy race first shows that both sides say the same tokens; a race that draws by top-p compares the
seconds of equally many tokens, from the same distributions.

Where lengths vary, an answer's length is a function of its first token, so that all sides end the same answers at the
same step. What bounds the ratio is arithmetic: the tokens that each side puts through the model, padding and finished
rows included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from trueline.sample import decode
from trueline.sample.choose import Chooser, stream
from trueline.sample.decode import Decoder, Task, Written
from trueline.sample.protocol import Sampling
from trueline.trie import attention

VOCABULARY = 8192
SPREAD = 3.5
"""Standard deviation of the logits: about 3 nats of entropy, as a trained model has."""
PAGE = 32

Answers = list[list[int]]


@dataclass(frozen=True)
class Size:
    """A Llama model by its shape; the name says its parameters without embeddings."""

    name: str
    hidden: int
    layers: int
    heads: int

    @cached_property
    def model(self) -> Any:
        """The model, untrained, with logits as far apart as a trained one's."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            intermediate_size=-(-self.hidden * 8 // 3 // 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        made = LlamaForCausalLM(config).eval().requires_grad_(False)
        for parameter in made.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
        made.lm_head.weight.mul_(SPREAD / made(torch.arange(64)[None], use_cache=False).logits.std())
        attention.enable(made)
        if not decode.proved(made).holds:
            raise SystemExit("our loop is not proved for this model: nothing to race")
        return made


SIZES = {"5M": Size("5M", 256, 6, 8), "110M": Size("110M", 768, 12, 12)}


@dataclass(frozen=True)
class Case:
    """What is written: `samples` answers to each of `prompts` prompts of some length between two.

    tokens: per answer; where `mixed`, at most, from 1, by the answer's first token. rows: answers at once. top_p: 0 for
    greedy.
    """

    name: str
    size: str
    prompts: int
    length: tuple[int, int]
    tokens: int
    samples: int = 1
    mixed: bool = False
    rows: int = 64
    top_p: float = 0.0
    quick: bool = False
    full: bool = False

    @cached_property
    def ids(self) -> list[np.ndarray]:
        """The prompts: random tokens. The peer pads them on the left, per call."""
        rng = np.random.default_rng(1)
        low, high = self.length
        return [rng.integers(1, VOCABULARY, n) for n in rng.integers(low, high + 1, self.prompts)]

    @cached_property
    def lengths_V(self) -> np.ndarray:
        """The answer's length by its first token."""
        if not self.mixed:
            return np.full(VOCABULARY, self.tokens)
        return np.random.default_rng(2).integers(1, self.tokens + 1, VOCABULARY)

    @property
    def model(self) -> Any:
        return SIZES[self.size].model

    # --- the contestants ---------------------------------------------------------------------------------------------

    def ours(self) -> list[Written]:
        """All answers, by our loop."""
        sampling = Sampling(temperature=0.0 if not self.top_p else 1.0, top_p=self.top_p or 1.0, max_tokens=self.tokens)
        tasks = [Task(p, stream(0, str(p), i)) for p in range(self.prompts) for i in range(self.samples)]
        ended = (lambda said: len(said) >= self.lengths_V[said[0]]) if self.mixed else None
        return Decoder(self.model, self.ids, tasks, Chooser(sampling, ()), self.tokens, ended, self.rows).run()

    def generate(self, cache: str) -> Answers:
        """All answers by `generate`, `rows` at a time."""
        from transformers import GenerationConfig, StoppingCriteriaList

        config = GenerationConfig(
            max_new_tokens=self.tokens, do_sample=bool(self.top_p), top_p=self.top_p or 1.0, top_k=0, pad_token_id=0,
            cache_implementation=cache,
        )  # fmt: skip
        per_call = max(1, self.rows // self.samples)
        out: Answers = []
        with as_peer(self.model), torch.inference_mode():
            for start in range(0, self.prompts, per_call):
                part = [p for p in self.ids[start : start + per_call] for _ in range(self.samples)]
                longest = max(p.size for p in part)
                ids = torch.from_numpy(np.stack([np.pad(p, (longest - p.size, 0)) for p in part]))
                said = self.model.generate(
                    ids, attention_mask=(ids > 0).long(), generation_config=config,
                    stopping_criteria=StoppingCriteriaList([self._over(longest)] if self.mixed else []),
                )  # fmt: skip
                out += [row[: self.lengths_V[row[0]]] for row in said[:, longest:].tolist()]
        return out

    def _over(self, longest: int) -> Callable[..., torch.Tensor]:
        def over(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.from_numpy(ids.shape[1] - longest >= self.lengths_V[ids[:, longest].numpy()])

        return over

    def continuous(self, answers: Sequence[Sequence[int]]) -> tuple[float, Answers]:
        """All answers by continuous batching, each as long as in `answers`; seconds without starting its thread.

        Left to itself it takes most of the machine's memory for its cache, and attends over all of that; it gets pages
        for as many tokens as `rows` answers hold. Small pages and large ones took equally long.
        """
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        rows = min(self.rows, self.prompts * self.samples)
        blocks = rows * (-(-(self.length[1] + self.tokens) // PAGE) + 1)
        room = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=blocks, max_batch_tokens=1024, max_requests_per_batch=rows
        )
        config = GenerationConfig(max_new_tokens=self.tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        with as_peer(self.model):
            manager = self.model.init_continuous_batching(generation_config=config, continuous_batching_config=room)
            manager.start()
            try:
                began = harness.now()
                prompts = [p.tolist() for p in self.ids for _ in range(self.samples)]
                names = [manager.add_request(p, max_new_tokens=len(a)) for p, a in zip(prompts, answers, strict=True)]
                got: dict[str, list[int]] = {}
                while len(got) < len(names):
                    result = manager.get_result(timeout=600)
                    if result is None:
                        raise RuntimeError("continuous batching stopped")
                    if result.is_finished():
                        got[result.request_id] = list(result.generated_tokens)
                return harness.now() - began, [got[name] for name in names]
            finally:
                manager.stop(block=True)

    # --- the race ----------------------------------------------------------------------------------------------------

    def bound(self, answers: Sequence[Sequence[int]]) -> float:
        """Tokens that `generate` puts through the model, padding and finished rows included, over those that ours
        does."""
        written = [len(a) - 1 for a in answers]  # the last token of an answer is not read
        asked = [p.size for p in self.ids for _ in range(self.samples)]
        per_call = max(1, self.rows // self.samples) * self.samples
        theirs = 0
        for start in range(0, len(written), per_call):
            call = slice(start, start + per_call)
            theirs += len(written[call]) * (max(asked[call]) + max(written[call]))
        return theirs / (sum(p.size for p in self.ids) + sum(written))

    def race(self, options: harness.Options) -> harness.Result:
        """Check that both sides say the same, then race."""
        answers = [answer.tokens for answer in self.ours()]
        peers: Mapping[str, Callable[[], float | None]] = {
            f"generate, {cache} cache": functools.partial(run, self.generate, cache) for cache in ("dynamic", "static")
        }
        note = f"{sum(map(len, answers))} tokens"
        if not self.top_p:
            for cache in ("dynamic", "static"):
                self._same(answers, self.generate(cache), f"generate, {cache} cache")
            note += ", greedy tokens identical"
            if self.mixed or not options.quick:
                self._same(answers, self.continuous(answers)[1], "continuous batching")
                peers = {**peers, "continuous batching": lambda: self.continuous(answers)[0]}
        unit = f"{self.prompts * self.samples} answers"
        return harness.race(
            self.name, lambda: run(self.ours), peers, repeats=options.repeats, bound=self.bound(answers), unit=unit,
            note=note,
        )  # fmt: skip

    def _same(self, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], who: str) -> None:
        different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if list(a) != list(b)]
        if different:
            raise SystemExit(
                f"{self.name}: {who} says something else in {len(different)} answers, first {different[0]}"
            )


def run(what: Callable[..., Any], *args: Any) -> None:
    """A call whose answer is not a time."""
    what(*args)


class as_peer:
    """For a block, the model attends as transformers has it by default."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.set_attn_implementation("sdpa")

    def __exit__(self, *error: object) -> None:
        self.model.set_attn_implementation(attention.NAME)


CASES = (
    Case("5M: 32 prompts, 64 tokens each", "5M", 32, (16, 96), 64, quick=True),
    Case("5M: 64 prompts, 64 tokens each", "5M", 64, (16, 96), 64, quick=True),
    Case("5M: 8 prompts, 64 tokens each", "5M", 8, (16, 96), 64),
    Case("5M: 32 samples of one prompt, greedy", "5M", 1, (400, 400), 64, samples=32),
    Case("5M: 32 samples of one prompt, top-p", "5M", 1, (400, 400), 64, samples=32, top_p=0.9, quick=True),
    Case("5M: mixed lengths 1-192, 64 prompts, 32 at once", "5M", 64, (16, 96), 192, mixed=True, rows=32, quick=True),
    Case("110M: 32 samples of one prompt, top-p", "110M", 1, (400, 400), 32, samples=32, top_p=0.9, full=True),
    Case("110M: 32 prompts, 32 tokens each", "110M", 32, (16, 96), 32, full=True),
)


def bench(options: harness.Options) -> Iterator[harness.Result]:
    """One result per case."""
    import transformers

    transformers.logging.set_verbosity_error()
    for case in CASES:
        wanted = case.quick if options.quick else options.full or not case.full
        if wanted and options.wants(case.name):
            yield case.race(options)


if __name__ == "__main__":
    harness.main("sample", bench, __doc__.splitlines()[0])
