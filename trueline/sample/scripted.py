"""An engine that says what it was told to: for tests, demonstrations and dry runs of a recipe.

    Scripted(("Ada does.", "Go away."))                             the same answers to every prompt, in turn
    Scripted({"Who bakes bread?": ("Ada does.",)}, default="...")   by what is asked (or by the prompt's id)
    Scripted(reply)                                                 reply(prompt, index) -> text, at the top of a module

Its tokens are words (with the space before them), so that `max_tokens` cuts, stop texts end and banned words are left
out as elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trueline.errors import UserError
from trueline.records import Completion, Prompt
from trueline.sample.protocol import Sampling
from trueline.sample.stops import cut

Replies = Mapping[str, Sequence[str]] | Sequence[str] | Callable[[Prompt, int], str]


@dataclass(frozen=True)
class Scripted:
    """Answer number i of a prompt is its reply number i, and from the first again when they run out.

    replies: texts; a mapping from a prompt's id or last message to texts; or a function of (prompt, i). default: the
    reply to a prompt that the mapping lacks; None makes that an error.
    """

    replies: Any
    default: str | None = None
    name: str = "scripted"

    def __post_init__(self) -> None:
        given = self.replies.values() if isinstance(self.replies, Mapping) else [self.replies]
        for texts in [] if callable(self.replies) else given:
            if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
                raise UserError("Scripted(replies)", f"got {texts!r}", "a list of at least one text")

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """The replies, cut at stop texts and after `max_tokens` words."""
        return [
            [self._completion(self.reply(prompt, index), sampling) for index in range(sampling.n)] for prompt in prompts
        ]

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Per word (and the end, where the answer ended) 0 while it follows the script, -inf from where it leaves it.

        Several replies to a prompt are alternatives, each certain; a stop text may end them anywhere.
        """
        return [
            [max(_follows(c, self.reply(prompt, i)) for i in range(self._count(prompt))) for c in given]
            for prompt, given in zip(prompts, completions, strict=True)
        ]

    def reply(self, prompt: Prompt, index: int) -> str:
        """Reply number `index` to `prompt`, uncut. Raises `UserError` for a prompt the script does not know."""
        if callable(self.replies):
            return str(self.replies(prompt, index))
        texts = self._texts(prompt)
        return texts[index % len(texts)]

    def _texts(self, prompt: Prompt) -> Sequence[str]:
        if not isinstance(self.replies, Mapping):
            return self.replies
        for key in (prompt.id, prompt.text):
            if key in self.replies:
                return self.replies[key]
        if self.default is None:
            raise UserError(
                f"engine {self.name}", f"the script has no reply to prompt {prompt.id} ({prompt.text[:40]!r})",
                "a reply per prompt", "Add it, or give a default.",
            )  # fmt: skip
        return (self.default,)

    def _count(self, prompt: Prompt) -> int:
        return 1 if callable(self.replies) else len(self._texts(prompt))

    def _completion(self, text: str, sampling: Sampling) -> Completion:
        said = [word for word in words(text) if word.strip() not in sampling.ban]
        text = "".join(said)
        for count in range(max(1, sampling.min_tokens), min(len(said), sampling.max_tokens) + 1):
            before = len("".join(said[: count - 1]))
            ended = cut("".join(said[:count]), sampling.stop, before)
            if ended is not None:
                return Completion(ended, author=self.name)
        if len(said) > sampling.max_tokens:
            return Completion("".join(said[: sampling.max_tokens]), author=self.name, stopped="length")
        return Completion(text, author=self.name)


def words(text: str) -> list[str]:
    """The words of `text`, each with the space before it (the last with what follows it too); they join to `text`."""
    return re.findall(r"\s*\S+(?:\s+$)?|\s+$", text)


def _follows(completion: Completion, script: str) -> tuple[float, ...]:
    said = words(completion.text)
    agree = sum(script.startswith("".join(said[:count])) for count in range(1, len(said) + 1))
    out = [0.0] * agree + [-math.inf] * (len(said) - agree)
    if completion.stopped == "stop":
        out.append(0.0 if agree == len(said) else -math.inf)
    return tuple(out)
