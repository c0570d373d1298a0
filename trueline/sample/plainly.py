"""Sampling through transformers' `generate`, for models that our own loop cannot be proved for.

Prompts are taken one by one, unpadded, with all their answers as a batch, so that nothing depends on how a model treats
padding. Tokens are drawn by the same `Chooser` from the same random numbers as in `decode`: what differs is speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trueline.sample.choose import Chooser
from trueline.sample.decode import Task, Written


def write(
    model: Any,
    prompts: Sequence[np.ndarray],
    tasks: Sequence[Task],
    choose: Chooser,
    max_tokens: int,
    ended: Callable[[list[int]], bool] | None,
    rows: int,
) -> list[Written]:
    """One answer per task, in order. Arguments as of `decode.Decoder`."""
    out: list[Written] = []
    start = 0
    while start < len(tasks):
        same = start
        while same < len(tasks) and tasks[same].prompt == tasks[start].prompt and same - start < rows:
            same += 1
        out += _write(model, prompts[tasks[start].prompt], tasks[start:same], choose, max_tokens, ended)
        start = same
    return out


class _Step:
    """Chooses tokens in the place of `generate`, as a logits processor and as a stopping criterion."""

    def __init__(self, choose: Chooser, keys: np.ndarray, max_tokens: int, ended: Any) -> None:
        self.choose, self.keys, self.max_tokens, self.ended = choose, keys, max_tokens, ended
        self.answers = [Written([], [], "length") for _ in keys]
        self.over = np.zeros(len(keys), dtype=bool)

    def process(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = np.full(len(self.keys), len(max((a.tokens for a in self.answers), key=len)))
        chosen, logps = self.choose(scores, self.keys, counts)
        for row, (token, logp) in enumerate(zip(chosen.tolist(), logps.tolist(), strict=True)):
            if self.over[row]:
                continue
            answer = self.answers[row]
            answer.tokens.append(token)
            answer.logps.append(logp)
            if token in self.choose.ends or (self.ended is not None and self.ended(answer.tokens)):
                answer.stopped = "stop"
                self.over[row] = True
            self.over[row] |= len(answer.tokens) >= self.max_tokens
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, chosen[:, None], 0.0)

    def stop(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.from_numpy(self.over.copy()).to(input_ids.device)


def _write(
    model: Any, prompt: np.ndarray, tasks: Sequence[Task], choose: Chooser, max_tokens: int, ended: Any
) -> list[Written]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    device = next(model.parameters()).device
    ids = torch.from_numpy(prompt).to(device).expand(len(tasks), -1)
    step = _Step(choose, np.array([task.key for task in tasks], dtype=np.uint64), max_tokens, ended)
    # A generation config of our own: the model's may hold penalties, forced tokens or a length that we did not ask for.
    config = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, pad_token_id=0, use_cache=True)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([step.process]),
            stopping_criteria=StoppingCriteriaList([step.stop]),
        )
    return step.answers
