"""A rule and an engine for processes that import them by name; the engine takes its process down when it is told to."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from trueline.errors import UserError
from trueline.records import Completion


@dataclass(frozen=True)
class Dying:
    """Dies at the prompt whose text ends with `at` as long as a file is left in `folder`; refuses one that it is told
    to."""

    folder: str
    at: str = ""
    refused: str = "-"
    name = "dying"

    def __enter__(self):
        (Path(self.folder) / f"opened-{os.getpid()}").touch()
        return self

    def __exit__(self, *error):
        return None

    def generate(self, prompts, sampling):
        for prompt in prompts:
            if prompt.text.endswith(self.refused):
                raise UserError("prompt", prompt.text, "another one")
            lives = sorted(Path(self.folder).glob("life-*"))
            if prompt.text.endswith(self.at) and lives:
                lives[0].unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return [[Completion(f"{p.text} {i}", author=self.name) for i in range(sampling.n)] for p in prompts]

    def logprobs(self, prompts, completions):
        return [[(0.0,) for _ in given] for given in completions]


def brevity(text: str) -> float:
    return 1 / (1 + len(text))
