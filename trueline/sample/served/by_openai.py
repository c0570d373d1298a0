"""`OpenAI`: every server that speaks OpenAI's chat or completion protocol (OpenAI, vLLM, transformers serve, llama.cpp,
Ollama), through the `openai` SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.records import Completion, Prompt
from trueline.sample.protocol import Sampling
from trueline.sample.served.connection import Connection
from trueline.sample.served.engine import ENDED, Request, Served, check_settings, shared
from trueline.sample.served.faults import Asked, Passing
from trueline.sample.served.replies import Reply

HOME = "https://api.openai.com/v1"
_STOPS = 4  # stop texts that the protocol takes; further ones end an answer here
_TOP = {"chat": 20, "completion": 5}


@dataclass(frozen=True)
class OpenAI(Served):
    """Answers from a model behind OpenAI's protocols.

    model: its name there. protocol: "chat" (the server renders the messages) or "completion" (one text is continued as
    it stands; only such a server can tell `logprobs`). system: a system message put before every prompt. end: the text
    that ends an answer in the model's own format ("<|im_end|>"), for `logprobs` of answers that were not cut.
    choices: answers asked for in one request (the protocol's n): its prompt is billed once for all of them, but
    whether an answer then depends on how many are asked for is the server's affair; 1 asks once per answer.
    omit: settings never sent, for servers that refuse them ("temperature", "seed", "stop"). thinking: tokens that a
    reasoning model may think before it answers, on top of `max_tokens`; without them a short answer has no room left.
    extra: fields added to every request ({"reasoning_effort": "low"}, {"top_k": 0}, {"tools": [...]}: where the model
    calls a function instead of writing, the call's arguments are its answer). revision: whatever else tells this model
    from others of its name: a commit, a quantisation, a date.

    Identity is what defines the answer: all of these, and whether the model is OpenAI's own ("openai") or one of a
    server of one's own ("compatible"). The address is none of it: a server moves from port to port with the same
    model, and may show another model at the same address; `model` and `revision` say which it is.
    """

    sdk: ClassVar[str] = "openai"
    own_key: ClassVar[str] = "OPENAI_API_KEY"

    model: str
    connection: Connection = field(default_factory=Connection)
    protocol: Literal["chat", "completion"] = "chat"
    system: str = ""
    end: str = ""
    choices: int = 1
    omit: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    thinking: int = 0
    revision: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise UserError("OpenAI(model)", f"got {self.model!r}", "the model's name on the server")
        if self.protocol not in _TOP:
            raise UserError("OpenAI(protocol=...)", f"got {self.protocol!r}", '"chat" or "completion"')
        if self.protocol == "completion" and self.system:
            raise UserError("OpenAI(system=...)", "a text has no system message", 'protocol="chat"', "Leave it out.")
        if not isinstance(self.choices, int) or self.choices < 1:
            raise UserError("OpenAI(choices=...)", f"got {self.choices!r}", "a whole number of at least 1")
        check_settings("OpenAI", self.omit, self.extra, self.thinking)

    def _at_once(self) -> int:
        return self.choices

    def calls(self, prompts: int, samples: int) -> int:
        each = samples // prompts if prompts else 0
        return prompts * -(-each // self.choices)

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Natural log-probs of the tokens of each answer's text (and of `end`, where it was not cut), read by an echo.

        Raises `UserError` in the chat protocol, for an ended answer without `end`, for a server that does not echo, and
        where a token runs across the end of the prompt.
        """
        if self.protocol != "completion":
            return super().logprobs(prompts, completions)
        me, sampling = fingerprint(self, f"engine {self.name}"), Sampling(max_tokens=1, temperature=0.0)
        requests, keys = [], []
        for prompt, given in zip(prompts, completions, strict=True):
            keys.append([self._key(me, prompt, sampling, ("given", c.text, c.stopped)) for c in given])
            requests += [Request(prompt, sampling, [key], [0], given=c) for key, c in zip(keys[-1], given, strict=True)]
        found = self._answered(me, requests)
        return [[found[key].logps or () for key in of] for of in keys]

    def _places(self) -> int:
        return _TOP[self.protocol]

    def _client(self, asked: Asked) -> Any:
        import openai

        # A client without a key would look for one in the environment, and send it to whatever server this is.
        return openai.OpenAI(
            api_key=asked.key or "none", base_url=self.connection.base_url or HOME,
            timeout=self.connection.timeout_s, max_retries=0,
        )  # fmt: skip

    def _send(self, client: Any, request: Request) -> Any:
        if self.protocol == "completion":
            return client.completions.create(model=self.model, **self._settings(request, self._text(request)))
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *({"role": m.role, "content": m.content} for m in request.prompt.messages)]
        return client.chat.completions.create(model=self.model, **self._settings(request, {"messages": messages}))

    def _text(self, request: Request) -> dict[str, Any]:
        """The one text that the completion protocol continues, or is asked to echo."""
        if len(request.prompt.messages) > 1:
            raise UserError(
                f"engine {self.name}, prompt {request.prompt.id}", f"it has {len(request.prompt.messages)} messages",
                "one text to continue", 'Use protocol="chat".',
            )  # fmt: skip
        if request.given is None:
            return {"prompt": request.prompt.text}
        if request.given.stopped == "stop" and not self.end:
            raise UserError(
                f"engine {self.name}", "asked for the log-probs of an answer that ended", "the text that ends one",
                'Say it: OpenAI(..., end="<|im_end|>"), as the model\'s template writes it.',
            )  # fmt: skip
        # One token is written, since servers refuse to write none; it is not looked at.
        return {"prompt": request.prompt.text + self._answer(request.given), "echo": True, "logprobs": 1}

    def _answer(self, given: Completion) -> str:
        return given.text + (self.end if given.stopped == "stop" else "")

    def _settings(self, request: Request, asked: dict[str, Any]) -> dict[str, Any]:
        s, home = request.sampling, not self.connection.base_url
        limit = "max_completion_tokens" if self._newer else "max_tokens"
        body: dict[str, Any] = {**asked, limit: s.max_tokens + self.thinking}
        # The provider's defaults are 1; another server's are the model's own, and must be overruled.
        body |= {name: v for name in ("temperature", "top_p") if (v := getattr(s, name)) != 1 or not home}
        if s.stop:
            body["stop"] = list(s.stop[:_STOPS])
        if not s.greedy and not request.top:
            body["seed"] = request.seed
        if len(request.keys) > 1:
            body["n"] = len(request.keys)
        if request.top:
            chat = {"logprobs": True, "top_logprobs": request.top}
            body |= chat if self.protocol == "chat" else {"logprobs": request.top}
        more = {name: getattr(s, name) for name in ("top_k", "min_tokens") if getattr(s, name)}
        return {**self._without_omitted(body), "extra_body": {**self._without_omitted(more), **self.extra}}

    @property
    def _newer(self) -> bool:
        """OpenAI's own chat models no longer take max_tokens; other servers do not all know its new name."""
        return self.protocol == "chat" and not self.connection.base_url

    def _read(self, said: Any, request: Request) -> list[Reply]:
        choices, usage = said.choices, said.usage
        if not choices:
            raise Passing("the reply holds no answer")
        most = min(len(choices), len(request.keys))
        prompt = shared(usage.prompt_tokens if usage else None, most)
        written = shared(usage.completion_tokens if usage else None, most)
        out = []
        for i, choice in enumerate(sorted(choices, key=lambda c: c.index or 0)[:most]):
            told: dict[str, Any] = {"calls": int(i == 0), "prompt_tokens": prompt[i], "completion_tokens": written[i]}
            if request.given is not None:
                told["logps"] = self._echoed(choice, request)
            if request.top:
                told["first"] = self._first(choice)
            out.append(self._one(choice, told))
        return out

    def _one(self, choice: Any, told: dict[str, Any]) -> Reply:
        if choice.finish_reason in ("abort", "error"):
            raise Passing(f"the server broke the answer off ({choice.finish_reason})")
        ended, refused = choice.finish_reason in ENDED, False
        if self.protocol == "completion":
            text = choice.text or ""
        else:
            text, refused = choice.message.content or "", bool(getattr(choice.message, "refusal", None))
            if not text and (called := _called(choice)):
                text, ended = called, choice.finish_reason != "length"
        if not isinstance(text, str):
            raise TypeError("the answer is no text")
        if choice.finish_reason == "content_filter":
            return Reply(text, "length", "filtered", **told)
        if refused:
            return Reply("", "stop", "refused", **told)
        return Reply(text, "stop" if ended else "length", **told)

    def _first(self, choice: Any) -> dict[str, float]:
        told = choice.logprobs
        if not told or not (told.content if self.protocol == "chat" else told.top_logprobs):
            raise UserError(
                f"engine {self.name}", "the server tells no log-probs of first tokens", "a server and model that do"
            )
        if self.protocol == "chat":
            return {t.token: float(t.logprob) for t in told.content[0].top_logprobs}
        return {token: float(logp) for token, logp in told.top_logprobs[0].items()}

    def _echoed(self, choice: Any, request: Request) -> tuple[float, ...]:
        """The log-probs of the tokens between the end of the prompt and the end of the answer."""
        told = choice.logprobs
        if not told or not told.tokens or not told.token_logprobs or choice.text is None:
            raise UserError(
                f"engine {self.name}", "the server does not echo log-probs", "one that does (vLLM, llama.cpp)"
            )
        assert request.given is not None
        start = len(request.prompt.text)
        stop = start + len(self._answer(request.given))
        # Where a token begins is counted in the tokens' own texts: the offsets that are told count a BOS or do not.
        before = "".join(told.tokens).find(request.prompt.text + self._answer(request.given))
        if before < 0:
            raise UserError(
                f"engine {self.name}, prompt {request.prompt.id}", "the echoed tokens do not spell what was sent",
                "a server whose tokens are texts",
            )  # fmt: skip
        begin, out = -before, []
        for token, logp in zip(told.tokens, told.token_logprobs, strict=True):
            if begin < start < begin + len(token):
                raise UserError(
                    f"engine {self.name}, prompt {request.prompt.id}", f"the token {token!r} runs across its end",
                    "a prompt that ends where a token ends", "End the prompt without a space, or begin the answer so.",
                )  # fmt: skip
            if start <= begin < stop:
                out.append(float(logp))
            begin += len(token)
        return tuple(out)


def _called(choice: Any) -> str:
    """The arguments of the function that a model called instead of writing, as JSON; "" where it called none."""
    calls = [call.function for call in getattr(choice.message, "tool_calls", None) or ()]
    older = getattr(choice.message, "function_call", None)  # before tools; some configurations still ask so
    return next((call.arguments or "" for call in (*calls, *([older] if older else ()))), "")
