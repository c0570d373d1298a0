"""Multiple choice side by side with lm-evaluation-harness: the same texts through its own model and through ours.

Both sides get the same requests, as the harness makes them of a task, and are timed from text to numbers: `HFLM` at
several batch sizes, and `LM`, which is `HFLM` with its passes taken over tries. All start from one saved model in
float32. Every log-likelihood must agree to 1e-4 and every greedy flag exactly, or the race is thrown away.

What is asked are random words, in the lengths of five public data sets (`Lengths`: quantiles of real rows under GPT-2's
tokenizer). What bounds the ratio is arithmetic: the multiply-adds of each side, padding included. Memory is measured in
processes of their own: the highest resident size of a run over that before it.

Shape suffixes: none; token counts are integers.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks import harness
from benchmarks.train import Size, Work
from trueline import trie
from trueline.evaluate.lm_eval import LM
from trueline.machine import Machine
from trueline.trie import passes

TOLERANCE = 1e-4
MACHINE = Machine(device="cpu", precision="fp32")
BATCHES = (1, 2, 4, 8)

Answers = list[tuple[float, bool]]


@dataclass(frozen=True)
class Lengths:
    """Token lengths by their least, quartiles and greatest (1st and 99th percentile of real rows)."""

    at: tuple[int, int, int, int, int]

    def draw(self, rng: np.random.Generator) -> int:
        """A length, linear between the quantiles."""
        return round(float(np.interp(rng.random(), (0, 0.25, 0.5, 0.75, 1), self.at)))


HELLASWAG = Lengths((15, 38, 53, 63, 88)), Lengths((6, 19, 31, 40, 63))
ARC = Lengths((12, 18, 25, 36, 86)), Lengths((1, 2, 4, 7, 16))
BOOLQ = Lengths((38, 89, 124, 163, 403))
RACE = Lengths((92, 258, 336, 394, 667)), Lengths((6, 10, 12, 15, 25)), Lengths((1, 4, 6, 9, 17))
MMLU = Lengths((295, 359, 459, 511, 732)), Lengths((32, 50, 62, 80, 143))


@dataclass(frozen=True)
class Case:
    """Questions of one kind for one model. n: questions (RACE: passages); quick: so many in a quick run."""

    kind: str
    size: Size
    n: int
    quick: int = 0

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"{self.kind}-like {self.size.name}"

    @functools.cached_property
    def requests(self) -> list[tuple[str, str]]:
        """(context, continuation) as the harness makes them, all options of a question in a row."""
        rng = np.random.default_rng(0)

        def words(length: int) -> str:
            return " ".join(f"w{i}" for i in rng.integers(2, self.size.vocabulary, length))

        out: list[tuple[str, str]] = []
        before = words(MMLU[0].draw(rng)) + " " if self.kind == "5-shot MMLU" else ""
        for _ in range(self.n):
            if self.kind == "RACE":
                passage = words(RACE[0].draw(rng))
                for _ in range(4):
                    ask = f"{passage} {words(RACE[1].draw(rng))}"
                    out += [(ask, " " + words(RACE[2].draw(rng))) for _ in range(4)]
                continue
            question, option = {
                "HellaSwag": HELLASWAG, "ARC": ARC, "BoolQ": (BOOLQ, None), "5-shot MMLU": (MMLU[1], None),
            }[self.kind]  # fmt: skip
            ask = before + words(question.draw(rng))
            fixed = {"BoolQ": [" w10", " w11"], "5-shot MMLU": [" w10", " w11", " w12", " w13"]}.get(self.kind)
            out += [(ask, text) for text in fixed or [" " + words(option.draw(rng)) for _ in range(4)]]
        return out

    @property
    def instances(self) -> list[Any]:
        """The requests in the harness' own wrapping."""
        return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(self.requests)]


def saved(size: Size, folder: Path) -> Path:
    """A model folder: random weights, and a tokenizer whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    path = folder / size.name
    if path.exists():
        return path
    vocabulary = {"<eos>": 0, "<pad>": 1, **{f"w{i}": i for i in range(2, size.vocabulary)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>").save_pretrained(path)
    torch.manual_seed(0)
    LlamaForCausalLM(size.config()).save_pretrained(path)
    return path


class Side:
    """One side of a race: a model of the harness, and what it said last."""

    def __init__(self, lm: Any, case: Case) -> None:
        self.lm, self.case = lm, case
        self.answers: Answers = []

    def __call__(self) -> float:
        """Seconds from texts to numbers."""
        requests = self.case.instances
        began = harness.now()
        self.answers = self.lm.loglikelihood(requests, disable_tqdm=True)
        return harness.now() - began


# --- what arithmetic allows ------------------------------------------------------------------------------------------


def encoded(case: Case) -> list[tuple[list[int], list[int]]]:
    """Requests as ids: a word's number is its id."""
    return [([int(w[1:]) for w in a.split()], [int(w[1:]) for w in b.split()]) for a, b in case.requests]


def our_work(case: Case) -> Work:
    """Every trie token once; the last layer's feed-forward part and the head for states that predict something."""
    sequences = [trie.Sequence.of(context, continuation) for context, continuation in encoded(case)]
    total = Work()
    for part in passes.packs(sequences, MACHINE.micro_tokens, passes.AIM, ends=False):
        batch = trie.build((sequences[i] for i in part), ends=False)
        depth, read = batch.positions_T + 1, batch.state_S
        total += Work(len(batch), read.numel(), int(depth.sum()), int(depth[read].sum()), read.numel())
    return total


def peer_work(case: Case, batch: int) -> Work:
    """Padded batches in the harness' order; requests that differ in their last token only are one row."""
    rows = {tuple(context + continuation[:-1]) for context, continuation in encoded(case)}
    lengths = sorted((len(row) for row in rows), reverse=True)
    total = Work()
    for start in range(0, len(lengths), batch):
        n, longest = len(lengths[start : start + batch]), lengths[start]
        attended = n * longest * (longest + 1) // 2
        total += Work(n * longest, n * longest, attended, attended, n * longest)
    return total


# --- the race --------------------------------------------------------------------------------------------------------


def difference(case: Case, ours: Answers, theirs: Answers) -> float:
    """The largest difference of a log-likelihood. Raises where it is above `TOLERANCE`, or a greedy flag differs."""
    apart = max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    flags = sum(a != b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    if apart > TOLERANCE or flags:
        raise AssertionError(f"{case.name}: {apart:g} apart, {flags} greedy flags differ, so nothing was compared")
    return apart


def race(case: Case, folder: Path, options: harness.Options) -> harness.Result:
    """Race both sides, hold their numbers together, and say what the arithmetic allows and what memory they took."""
    path = str(saved(case.size, folder))
    ours = Side(LM(path, MACHINE), case)
    sizes = BATCHES[::3] if options.quick else BATCHES
    peers = {f"HFLM batch {n}": Side(HFLM(path, device="cpu", dtype="float32", batch_size=n), case) for n in sizes}
    result = harness.race(case.name, ours, peers, repeats=options.repeats)
    apart = max(difference(case, ours.answers, peer.answers) for peer in peers.values())
    batch = int(result.peer.rpartition(" ")[2])
    mine, other = our_work(case), peer_work(case, batch)
    note = f"tokens {other.tokens} / {mine.tokens}; log-likelihoods within {apart:.0e}"
    if not options.quick:
        note += f"; peak memory {memory(case, path, batch):.0f} / {memory(case, path, 0):.0f} MB above base"
    return replace(
        result,
        bound=other.multiply_adds(case.size) / mine.multiply_adds(case.size),
        unit=f"{len(case.requests)} requests",
        note="; ".join(filter(None, [note, result.note])),
    )


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(case: Case, path: str, batch: int) -> float:
    """Peak resident MB of one run in a process of its own, over what it held before. batch: 0 for ours."""
    words = json.dumps({"kind": case.kind, "n": case.n, "path": path, "batch": batch, "size": case.size.name})
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.evaluate", "--memory-of", words], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    return float(out.stdout.split()[-1])


def memory_of(words: str) -> None:
    """The other end of `memory`: print the megabytes."""
    asked_for = json.loads(words)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    case = Case(asked_for["kind"], SIZES[asked_for["size"]], asked_for["n"])
    path, batch = asked_for["path"], asked_for["batch"]
    lm = HFLM(path, device="cpu", dtype="float32", batch_size=batch) if batch else LM(path, MACHINE)
    few = case.instances[:2]
    lm.loglikelihood(few, disable_tqdm=True)
    requests = case.instances
    # Linux: 5 sets the highest resident size back to the present one.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    lm.loglikelihood(requests, disable_tqdm=True)
    print((resident("VmHWM") - before) / 1024)


def resident(what: str) -> int:
    """A line of the process's status, in KB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1])
    raise SystemExit("memory is measured on Linux only")


SMALL, LARGE = Size("5M", 256, 6), Size("110M", 768, 12)
SIZES = {size.name: size for size in (SMALL, LARGE)}
CASES = (
    Case("HellaSwag", SMALL, 12, 6),
    Case("ARC", SMALL, 24, 12),
    Case("BoolQ", SMALL, 16, 10),
    Case("RACE", SMALL, 3, 1),
    Case("5-shot MMLU", SMALL, 40, 12),
)
FULL = (
    Case("HellaSwag", LARGE, 3),
    Case("ARC", LARGE, 6),
    Case("BoolQ", LARGE, 6),
    Case("RACE", LARGE, 1),
    Case("5-shot MMLU", LARGE, 8),
)


def bench(options: harness.Options) -> Iterator[harness.Result]:
    """Every case, one after the other."""
    import transformers

    transformers.logging.set_verbosity_error()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        for case in (*CASES, *(FULL if options.full else ())):
            chosen = replace(case, n=case.quick) if options.quick else case
            if options.wants(chosen.name):
                yield race(chosen, Path(folder), options)


def main(argv: Sequence[str]) -> None:
    """The benchmark, or one of its own processes."""
    if argv[:1] == ["--memory-of"]:
        memory_of(argv[1])
    else:
        harness.main("evaluate", bench, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
