"""What a stage's memory comes to, measured and foretold: `python -m benchmarks.memory [--table]`.

Each case runs in a process of its own: highest resident size while it works, above what the process held before. On a
GPU it would be torch's own allocator that counts; this measures CPUs.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trueline.machine import Machine
from trueline.pipeline.memory import Demand, Measures, drawing, reading, training

CASES: dict[str, dict[str, Any]] = {
    "SFT 2M, town's small model": {"model": "small", "tokens": 4096},
    "SFT 9M": {"hidden": 256, "layers": 6, "tokens": 4096},
    "SFT 34M": {"hidden": 512, "layers": 8, "tokens": 2048},
    "SFT 34M, checkpointing": {"hidden": 512, "layers": 8, "tokens": 2048, "recompute": True},
    "SFT 9M, one key head": {"hidden": 256, "layers": 6, "tokens": 4096, "keys": 1},
    "DPO 34M": {"hidden": 512, "layers": 8, "tokens": 2048, "pairs": True},
    "scoring 9M": {"kind": "read", "hidden": 256, "layers": 6, "tokens": 8192},
    "drawing 2M, town's small model": {"kind": "draw", "model": "small", "rows": 64},
    "drawing 9M": {"kind": "draw", "hidden": 256, "layers": 6, "rows": 64},
}
LENGTH, ASKED, NEW = 256, 64, 128
TOWN = Path(__file__).resolve().parent.parent / "trueline" / "world" / "models"


def configuration(case: dict[str, Any]) -> Any:
    """The transformers configuration of a case."""
    from transformers import AutoConfig, LlamaConfig

    if "model" in case:
        return AutoConfig.from_pretrained(TOWN / case["model"])
    hidden = case["hidden"]
    return LlamaConfig(
        vocab_size=8192, hidden_size=hidden, intermediate_size=-(-hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=case["layers"], num_attention_heads=hidden // 64,
        num_key_value_heads=case.get("keys", hidden // 64), max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip


def foretold(case: dict[str, Any]) -> Demand:
    """What the plan's arithmetic says."""
    shape = Measures.of(configuration(case).to_dict())
    machine = Machine(
        device="cpu", micro_tokens=case.get("tokens", 8192), gradient_checkpointing=case.get("recompute", False)
    )
    if case.get("kind") == "draw":
        tokens, passing, cache = drawing(shape, machine, case["rows"], case["rows"], NEW, ASKED)
        return Demand(shape.parameters * 4, 0, 0, passing, cache, tokens)
    if case.get("kind") == "read":
        return Demand(shape.parameters * 4, 0, 0, reading(shape, machine, case["tokens"]), 0, case["tokens"])
    held = training(shape, machine, case["tokens"])
    return Demand(shape.parameters * 4, shape.parameters * 4, shape.parameters * 8, held, 0, case["tokens"])


def work(case: dict[str, Any]) -> None:
    """One case, for real."""
    from transformers import AutoModelForCausalLM

    from trueline import trie
    from trueline.trie import attention

    config = configuration(case)
    model = AutoModelForCausalLM.from_config(config)
    model.config.use_cache = False
    model = attention.enable(model) or model
    rng = np.random.default_rng(0)

    def ids(n: int) -> list[int]:
        return list(map(int, rng.integers(3, config.vocab_size, n)))

    if case.get("kind") == "draw":
        from trueline.sample import decode
        from trueline.sample.choose import Chooser
        from trueline.sample.protocol import Sampling

        prompts = [np.array(ids(ASKED)) for _ in range(case["rows"])]
        tasks = [decode.Task(i, i) for i in range(case["rows"])]
        model.eval().requires_grad_(False)
        decode.Decoder(model, prompts, tasks, Chooser(Sampling(), ()), NEW, None, case["rows"]).run()
        return
    rows = case["tokens"] // LENGTH
    if case.get("kind") == "read":
        import torch

        sequences = [trie.Sequence.of(ids(8), ids(LENGTH - 8)) for _ in range(rows)]
        with torch.no_grad():
            trie.forward(model.eval().requires_grad_(False), trie.build(sequences))
        return
    learn(model, case, ids, 2 * rows)


def learn(model: Any, case: dict[str, Any], ids: Any, rows: int) -> None:
    """Two optimiser steps of one full pass each."""
    from trueline import trie
    from trueline.train.fit import fit
    from trueline.train.objectives.dpo import DPO
    from trueline.train.objectives.sft import SFT
    from trueline.train.rows import Row
    from trueline.train.settings import Settings

    data = []
    for number in range(rows):
        prompt, half = ids(ASKED), (LENGTH - ASKED) // 2
        answers = [ids(half), ids(half)] if case.get("pairs") else [ids(LENGTH - ASKED)]
        sequences = tuple(trie.Sequence.of(prompt, answer) for answer in answers)
        data.append(Row(sequences, (True,) * len(answers), str(number), cost=LENGTH))
    machine = Machine(
        device="cpu", precision="fp32", micro_tokens=case["tokens"], gradient_checkpointing=bool(case.get("recompute"))
    )
    reference = {row.key: (-100.0, -110.0) for row in data} if case.get("pairs") else None
    objective: Any = DPO() if case.get("pairs") else SFT()
    fit(model.train(), data, objective, Settings(1e-6, 1, rows // 2), machine=machine, reference=reference)


def peak() -> int:
    """Highest resident size so far, in bytes."""
    return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x).split()[1]) * 1024


def measured(name: str) -> int:
    """Bytes of a case above what its process held before, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--case", name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table, or measure one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES))
    chosen = parser.parse_args().case
    if chosen is not None:
        import torch

        torch.set_num_threads(1)
        case = CASES[chosen]
        small = {"tokens": 512, "hidden": 64, "layers": 1, "rows": 2}
        work({**{k: v for k, v in case.items() if k not in ("model", "keys")}, **small})  # what is loaded but once
        gc.collect()
        before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
        work(case)
        print(peak() - before)
        return
    print("| case | measured | foretold | foretold / measured |\n| --- | --- | --- | --- |")
    for name, case in CASES.items():
        real, said = measured(name), foretold(case).total
        print(f"| {name} | {real / 1e6:.0f} MB | {said / 1e6:.0f} MB | {said / real:.2f} |")


if __name__ == "__main__":
    main()
