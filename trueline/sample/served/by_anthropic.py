"""`Anthropic`: Anthropic's messages, through the `anthropic` SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trueline.errors import UserError
from trueline.sample.served.connection import Connection
from trueline.sample.served.engine import ENDED, Request, Served, check_settings
from trueline.sample.served.faults import Asked
from trueline.sample.served.replies import Reply

HOME = "https://api.anthropic.com"
# From 2026-10-21 on the API refuses temperature, top_p and top_k; the version before still takes them.
SAMPLED = {"anthropic-version": "2023-06-01"}


@dataclass(frozen=True)
class Anthropic(Served):
    """Answers from one of Anthropic's models, or of a server that speaks its protocol.

    model: its name there. system: a system text before every prompt (system messages of a prompt are put behind it).
    omit: settings never sent ("temperature"). thinking: tokens that the model may think before it answers, on top of
    `max_tokens`. extra: fields added to every request ({"thinking": {"type": "adaptive"}}). revision: whatever else
    tells this model from others of its name.

    The protocol knows no seed: a rerun says the same because replies are kept. Its present version knows no temperature
    either: a sampling at temperature 1 with all tokens sends nothing of the kind; any other is sent under the version
    before (2023-06-01), which models that still take it accept. Identity is as for `OpenAI`.
    """

    sdk: ClassVar[str] = "anthropic"
    own_key: ClassVar[str] = "ANTHROPIC_API_KEY"

    model: str
    connection: Connection = field(default_factory=Connection)
    system: str = ""
    omit: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    thinking: int = 0
    revision: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise UserError("Anthropic(model)", f"got {self.model!r}", "the model's name")
        check_settings("Anthropic", self.omit, self.extra, self.thinking)

    def _client(self, asked: Asked) -> Any:
        import anthropic

        return anthropic.Anthropic(
            api_key=asked.key or "none", base_url=self.connection.base_url or HOME,
            timeout=self.connection.timeout_s, max_retries=0,
        )  # fmt: skip

    def _send(self, client: Any, request: Request) -> Any:
        s, messages = request.sampling, request.prompt.messages
        system = "\n\n".join(filter(None, [self.system, *(m.content for m in messages if m.role == "system")]))
        asked = [{"role": m.role, "content": m.content} for m in messages if m.role != "system"]
        body: dict[str, Any] = {"max_tokens": s.max_tokens + self.thinking, "messages": asked}
        if system:
            body["system"] = system
        if told := [stop for stop in s.stop if stop.strip()]:  # the API refuses blank ones: those end an answer here
            body["stop_sequences"] = told
        drawn = {"temperature": s.temperature} if s.temperature != 1 else {}
        drawn |= {"top_p": s.top_p} if s.top_p != 1 else {}
        drawn |= {name: getattr(s, name) for name in ("top_k", "min_tokens") if getattr(s, name)}
        drawn = self._without_omitted(drawn)
        return client.messages.create(
            model=self.model, **self._without_omitted(body), extra_body={**drawn, **self.extra},
            extra_headers=SAMPLED if drawn else None,
        )  # fmt: skip

    def _read(self, said: Any, request: Request) -> list[Reply]:
        usage, why = said.usage, said.stop_reason
        told: dict[str, Any] = {}
        if usage is not None:
            kept = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
            told = {"prompt_tokens": usage.input_tokens + kept, "completion_tokens": usage.output_tokens}
        if why == "refusal":
            return [Reply("", "stop", "refused", **told)]
        text = "".join(block.text for block in said.content if block.type == "text")
        return [Reply(text, "stop" if why in ENDED else "length", **told)]

    def _places(self) -> int:
        raise UserError(
            f"engine {self.name}", "Anthropic's protocol tells no log-probs", "",
            "Ask for a verdict in words, or use a server that speaks OpenAI's protocol.",
        )  # fmt: skip
