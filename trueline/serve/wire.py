"""What may be asked over the wire, and how a mistake is told: OpenAI's fields, and a few of our own.

Requests are decoded strictly: an unknown field, a wrong type or a field that nothing here obeys is refused by name, so
that nobody believes in a setting that was never read.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from trueline.errors import UserError, closest
from trueline.records import Message, Prompt, Role

By = Literal["head", "reward-model", "logprob"]
B = TypeVar("B", bound="Body")
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 405: "invalid_request_error",
    408: "timeout_error", 413: "invalid_request_error", 429: "rate_limit_error", 504: "timeout_error",
}  # fmt: skip


class Refused(Exception):
    """A request that gets no answer: an HTTP status, and a body as OpenAI's clients read it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.wait = status, message, param, code, wait

    @property
    def body(self) -> bytes:
        """{"error": {"message", "type", "param", "code"}}"""
        return error_body(self.status, self.message, self.param, self.code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error as OpenAI's clients read it."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def mistake(error: UserError, status: int = 400, param: str | None = None) -> Refused:
    """A user's mistake as an answer to a request."""
    return Refused(status, str(error), param=param)


# --- requests --------------------------------------------------------------------------------------------------------


class Part(msgspec.Struct):
    """A piece of a message's content; only text is understood."""

    type: str
    text: str | None = None


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A message. A name is let through unread, as the templates have no place for it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: str | None = None

    def message(self, at: str) -> Message:
        """As our own record. Raises `Refused` for content that is no text."""
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Message(role, self.content)
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise Refused(400, f"{at}.content: a part of type {part.type!r}; this model reads text.", param=at)
        return Message(role, "".join(part.text or "" for part in self.content))


class StreamOptions(msgspec.Struct):
    """include_usage: whether a last event counts tokens."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chats and completions share.

    n: how many answers come back, the best first. best_of: of how many candidates (default n). rank_by: who decides;
    head: which head, where there are several. candidates: send all of them along, with what was said of each.
    condition: "best", "worst" or a text, put in front of the prompt as in training. seed: of the candidates; the same
    one draws the same ones.
    """

    model: str | None = None
    n: int | None = None
    best_of: int | None = None
    rank_by: By | None = None
    head: str | None = None
    candidates: bool = False
    condition: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Nobody's business here, and harmless.
    user: str | None = None
    metadata: Any = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not obeyed: refused unless they say what is the case anyway.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Any = None
    idle: ClassVar[tuple[str, ...]] = ("presence_penalty", "frequency_penalty", "logit_bias")

    @property
    def wanted(self) -> int:
        """How many answers come back."""
        return 1 if self.n is None else self.n

    @property
    def drawn(self) -> int:
        """How many candidates are drawn."""
        return self.wanted if self.best_of is None else self.best_of

    @property
    def most(self) -> int | None:
        """Tokens at most; None where nothing was said."""
        return self.max_tokens

    @property
    def tells_tokens(self) -> bool:
        """Whether the log-prob of each token is wanted."""
        return getattr(self, "logprobs", None) not in (None, False)

    def check(self, candidates: int, tokens: int) -> None:
        """Refuse what nothing obeys, and more than the server gives."""
        for name in self.idle:
            value = getattr(self, name)
            if value not in (None, 0, False, "", "none", "auto") and value not in ([], {}, {"type": "text"}, ["text"]):
                raise Refused(400, f"{name} is not supported here.", param=name, code="unsupported_parameter")
        if self.n is not None and self.n < 1:
            raise Refused(400, f"n is {self.n}; at least 1.", param="n")
        if self.drawn < self.wanted:
            raise Refused(400, f"best_of is {self.drawn}, fewer than n, {self.wanted}.", param="best_of")
        if self.drawn > candidates:
            name = "n" if self.best_of is None else "best_of"
            raise Refused(400, f"{name} is {self.drawn}; at most {candidates} candidates here.", param=name)
        if self.most is not None and not 1 <= self.most <= tokens:
            raise Refused(400, f"max_tokens is {self.most}; 1 to {tokens} here.", param="max_tokens")
        if self.stream and self.wanted > 1:
            raise Refused(400, f"n is {self.n}; a stream carries one answer.", param="n")
        for name, wanted in (("candidates", self.candidates), ("logprobs", self.tells_tokens)):
            if self.stream and wanted:
                raise Refused(400, f"{name} come with whole answers, not with a stream.", param=name)

    def prompt(self) -> Prompt:
        """What is asked."""
        raise TypeError("a chat or a completion")


class Chat(Body, kw_only=True):
    """The body of /v1/chat/completions."""

    messages: list[Turn]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None
    idle: ClassVar[tuple[str, ...]] = (
        *Body.idle, "top_logprobs", "tools", "tool_choice", "functions", "function_call", "response_format",
        "modalities", "audio", "prediction", "reasoning_effort", "verbosity", "web_search_options",
    )  # fmt: skip

    @property
    def most(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def prompt(self) -> Prompt:
        """The conversation. Raises `Refused` for one that asks nothing."""
        return Prompt(asked(self.messages, "messages", ends="user"))


class Completion(Body, kw_only=True):
    """The body of /v1/completions: one text to go on from."""

    prompt_: str | list[str] = msgspec.field(name="prompt")
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    idle: ClassVar[tuple[str, ...]] = (*Body.idle, "echo", "suffix")

    def prompt(self) -> Prompt:
        """The text, as a message that no template touches."""
        texts = [self.prompt_] if isinstance(self.prompt_, str) else self.prompt_
        if len(texts) != 1 or not texts[0]:
            raise Refused(400, f"prompt holds {len(texts)} texts; one that is not empty.", param="prompt")
        return Prompt.of(texts[0])


class Rewards(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/rewards: conversations that end with the assistant's turn, or one as `messages`."""

    model: str | None = None
    conversations: list[list[Turn]] | None = None
    messages: list[Turn] | None = None

    def read(self, most: int) -> list[tuple[Message, ...]]:
        """The conversations. Raises `Refused` for one that has no answer to read."""
        if (self.conversations is None) == (self.messages is None):
            raise Refused(400, "either conversations or messages is wanted.", param="conversations")
        given = [self.messages] if self.messages is not None else self.conversations or []
        if not 1 <= len(given) <= most:
            raise Refused(400, f"{len(given)} conversations; 1 to {most} here.", param="conversations")
        return [asked(turns, f"conversations[{i}]", ends="assistant") for i, turns in enumerate(given)]


def asked(turns: list[Turn], at: str, ends: Literal["user", "assistant"]) -> tuple[Message, ...]:
    """The messages of a conversation whose last one is the assistant's, or is not."""
    messages = tuple(turn.message(f"{at}[{i}]") for i, turn in enumerate(turns))
    if not messages:
        raise Refused(400, f"{at} is empty; at least one message.", param=at)
    if (messages[-1].role == "assistant") != (ends == "assistant"):
        wanted = "ends before the assistant's turn" if ends == "user" else "ends with the assistant's turn"
        raise Refused(400, f"{at} ends with the turn of {messages[-1].role}; a conversation here {wanted}.", param=at)
    return messages


def parsed(body: bytes, kind: type[B] | type[Rewards]) -> Any:
    """A request's body. Raises `Refused` naming the field, or the place where the JSON is broken."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        said, _, at = str(error).partition(" - at `$")
        param = at.rstrip("`").lstrip(".") or None
        if found := re.search(r"unknown field `(\w+)`", said):
            known = [f.encode_name for f in msgspec.structs.fields(kind)]
            raise Refused(
                400, f"Unknown field {found[1]}. {closest(found[1], known)}", param=found[1], code="unknown_parameter"
            ) from None
        if found := re.search(r"missing required field `(\w+)`", said):
            param = ".".join(filter(None, (param, found[1])))
        raise Refused(400, f"{param or 'The body'}: {said}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The body is not JSON: {error}.", code="malformed_json") from None
    except RecursionError:
        raise Refused(400, "The body is nested too deep.", code="malformed_json") from None
