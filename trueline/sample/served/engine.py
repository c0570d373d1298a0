"""What all engines over HTTP share: keys, the kept replies, threads, waits, budget, and counts.

An engine of a protocol (`by_openai`, `by_anthropic`) says how a request looks and how its reply is read; everything
else is here. One request asks for one answer, with a seed of its own (from the sampling's seed, the prompt and the
answer's number), so that an answer does not depend on how many others are asked for, and a larger `n` later asks only
for what is new.

The key of a reply holds the engine's fingerprint, the messages, the sampling without `n`, and which of the answers it
is. While answers are drawn at random it holds the prompt's id as well: two prompts of a corpus that ask the same are
answered apart, as every engine does; at temperature 0 they share one reply.

Counted in the record of the stage (`meter`): calls (requests whose answers were used), cached_calls (those of them that
were kept from before), prompt_tokens, completion_tokens and cost_microusd (of all answers used, kept or new: what the
result needs, in a resumed run too), unpriced_calls (whose cost is unknown), paid_microusd (what was paid this time),
retries, refused, filtered, and repeated (answers drawn at random that say what an earlier one to the same prompt says:
where nearly all do, the server did not heed the temperature).
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import msgspec

from trueline import store
from trueline.errors import UserError
from trueline.feedback.protocol import meter
from trueline.fingerprint import canonical, fingerprint
from trueline.records import Completion, Prompt
from trueline.sample.protocol import NoRoom, Sampling
from trueline.sample.served import replies as kept
from trueline.sample.served.asking import Pace, in_threads
from trueline.sample.served.budget import Budget
from trueline.sample.served.connection import Connection
from trueline.sample.served.faults import Asked, Filtered, Passing, understood
from trueline.sample.served.prices import Price, price
from trueline.sample.served.replies import Replies, Reply
from trueline.sample.stops import cut

_SECRETS = ("api_key", "key", "token", "access_token", "auth_token", "authorization", "x_api_key", "password")
ENDED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence"})


@dataclass(eq=False)
class Request:
    """Some answers to one prompt, to be asked for at once: `keys` and `numbers` of the answers still wanted.

    given: the answer whose log-probs are asked for instead; top: how many first tokens to tell the log-probs of.
    """

    prompt: Prompt
    sampling: Sampling
    keys: list[str]
    numbers: list[int]
    given: Completion | None = None
    top: int = 0

    @property
    def seed(self) -> int:
        """31 bits from the sampling's seed, the prompt, and the number of the first answer."""
        text = f"{self.sampling.seed}\0{self.prompt.id}\0{self.numbers[0]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


@dataclass(eq=False)
class _Session:
    """What is open between `with` and its end: how often it was entered, and the SDK's client once there is one.

    uncounted: keys of replies that were bought by a call which then found no room for another prompt.
    """

    entered: int = 0
    client: Any = None
    uncounted: set[str] = dataclasses.field(default_factory=set)


class Served(abc.ABC):
    """The base of the engines over HTTP. sdk: the module it speaks through. own_key: its provider's usual variable."""

    sdk: ClassVar[str]
    own_key: ClassVar[str]
    remembers: ClassVar[bool] = True

    model: str
    connection: Connection
    system: str
    extra: Mapping[str, Any]
    omit: tuple[str, ...]
    thinking: int

    @property
    def service(self) -> str:
        """Whose models these are: "openai", "anthropic", or "compatible" for a server named by its address."""
        return "compatible" if self.connection.base_url else self.sdk

    @property
    def name(self) -> str:
        """What signs the answers: "openai:gpt-5-mini", "served:Qwen/Qwen2.5-7B-Instruct"."""
        return f"{'served' if self.service == 'compatible' else self.service}:{self.model}"

    def identity(self) -> str:
        """The service: a name means one model there and may mean another elsewhere. No address: see the class."""
        return self.service

    def __enter__(self) -> Any:
        vars(self).setdefault("_session", _Session()).entered += 1
        return self

    def __exit__(self, *error: Any) -> None:
        session = self._session
        session.entered -= 1
        if not session.entered:
            del vars(self)["_session"]
            if session.client is not None:
                session.client.close()

    @property
    def _session(self) -> _Session:
        if "_session" not in vars(self):
            raise RuntimeError(f"an engine is used inside `with`: with {type(self).__name__}(...) as engine: ...")
        return vars(self)["_session"]

    def calls(self, prompts: int, samples: int) -> int:
        """Requests that `samples` answers to so many prompts need, where none is kept: for the plan."""
        return samples

    # --- asking ------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in order; a refusal is one without text.

        Raises `UserError` for what will not pass (a wrong key, an unknown model, a prompt without room), for an error
        that has not passed after `retries` attempts, and when the budget is used up. What was answered by then is kept.
        """
        self._check(prompts, sampling)
        me = fingerprint(self, f"engine {self.name}")
        keys = [[self._key(me, p, sampling, (number,)) for number in range(sampling.n)] for p in prompts]
        requests = [Request(p, sampling, of, list(range(sampling.n))) for p, of in zip(prompts, keys, strict=True)]
        found = self._answered(me, requests)
        out = [[self._completion(found[key], sampling) for key in of] for of in keys]
        if not sampling.greedy and (same := sum(len(said) - len({c.text for c in said}) for said in out)):
            meter("repeated", same)
        return out

    def first_logprobs(self, prompts: Sequence[Prompt], among: Sequence[str]) -> list[dict[str, float]]:
        """Per prompt, the natural log-probs of the answers of one token that `among` names, at temperature 1.

        Only as many of the likeliest tokens are told as the protocol has places for (20 in chat, 5 in completions); an
        alternative that is not among them is left out. Tokens that differ in spaces only count as one. Worked: told
        "m" -0.2, " m" -2.5 and "M" -3.0; among ("m", "M"): m is log(e^-0.2 + e^-2.5) = -0.105, M is -3.0.

        Raises `UserError` where the server tells none.
        """
        me, sampling = fingerprint(self, f"engine {self.name}"), Sampling(max_tokens=1)
        top = self._places()
        keys = [self._key(me, p, sampling, ("first", top)) for p in prompts]
        requests = [Request(p, sampling, [key], [0], top=top) for p, key in zip(prompts, keys, strict=True)]
        found = self._answered(me, requests)
        out = []
        for key in keys:
            shares: dict[str, float] = {}
            for token, logp in (found[key].first or {}).items():
                if (said := token.strip()) in among:
                    shares[said] = shares.get(said, 0.0) + math.exp(logp)
            out.append({name: math.log(share) for name, share in shares.items() if share})
        return out

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Log-probs of given answers. Raises `UserError`: this protocol has no way to ask for them."""
        raise UserError(
            f"engine {self.name}", "its protocol cannot tell how likely a given answer is", "",
            'Ask a server that echoes: OpenAI(..., protocol="completion"), or use a local model.',
        )  # fmt: skip

    def _answered(self, me: str, requests: Sequence[Request]) -> dict[str, Reply]:
        """The reply to every key of the requests: kept ones, and the others asked for, each once."""
        wanted = list(dict.fromkeys(key for request in requests for key in request.keys))
        here = store.current()
        here.create()
        with kept.opened(here.root / kept.FILE) as table:
            known = table.look_up(wanted)
            fresh: dict[str, Reply] = {}
            todo = self._todo(requests, set(known))
            if todo:
                try:
                    self._ask_all(me, todo, table, fresh)
                except NoRoom:  # whoever asks for the rest again has still bought these now
                    self._session.uncounted |= set(fresh)
                    raise
        new = set(fresh) | self._session.uncounted & set(known)
        self._session.uncounted -= new
        self._count([(key, reply, key in new) for key, reply in (known | fresh).items()])
        return known | fresh

    def _todo(self, requests: Sequence[Request], done: set[str]) -> list[Request]:
        """What is left to ask, no answer twice, as many answers to a request as the engine asks for."""
        out, most = [], self._at_once()
        for request in requests:
            pairs = zip(request.keys, request.numbers, strict=True)
            left = [(key, number) for key, number in pairs if key not in done]
            done |= {key for key, _ in left}
            for start in range(0, len(left), most):
                keys, numbers = zip(*left[start : start + most], strict=True)
                out.append(dataclasses.replace(request, keys=list(keys), numbers=list(numbers)))
        return out

    def _ask_all(self, me: str, todo: list[Request], table: Replies, fresh: dict[str, Reply]) -> None:
        asked = self._asked()
        pace = Pace(asked.where, self.connection)
        rate = price(self.service, self.model, self.connection.prices)
        if rate is None and self.connection.max_cost is not None:
            raise UserError(
                f"engine {self.name}", f"no table says what {self.model} costs", "a price, to hold max_cost by",
                "Write it into a table of your own ($TRUELINE_PRICES or prices=...), or limit max_calls.",
            )  # fmt: skip
        budget = Budget(self.name, self.connection, lambda: table.spent(me))
        session = self._session
        if session.client is None:
            session.client = self._client(asked)

        def work(request: Request) -> list[Request]:
            worst = self._worst(request, rate)
            budget.reserve(worst)
            try:
                said = pace.patiently(partial(self._reply, session.client, request, asked))
                said = [_priced(reply, rate) for reply in said[: len(request.keys)]]
                unknown = any(reply.microusd is None for reply in said)
                cost = worst if unknown else sum(reply.microusd or 0.0 for reply in said)
                rows = list(zip(request.keys, said, strict=False))
                table.keep(me, self.name, rows, cost)
            finally:
                budget.settle(worst)
            fresh.update(rows)
            left = len(rows)  # a server may give fewer answers than it was asked for
            more = dataclasses.replace(request, keys=request.keys[left:], numbers=request.numbers[left:])
            return [more] if more.keys else []

        try:
            in_threads(todo, work, pace)
        finally:
            if pace.retried:
                meter("retries", pace.retried)

    def _reply(self, client: Any, request: Request, asked: Asked) -> list[Reply]:
        """One attempt. Raises `Passing` or `UserError`."""
        import importlib

        sdk = importlib.import_module(self.sdk)
        try:
            said = self._send(client, request)
            try:
                replies = self._read(said, request)
            except (AttributeError, TypeError, KeyError, IndexError) as error:
                raise Passing(f"the reply lacks what the protocol promises ({error})") from None
        except (sdk.APIError, ValueError) as error:
            named = f"prompt {request.prompt.id} ({request.prompt.text[:40]!r})"
            mapped = understood(error, sdk, asked, named)
            if isinstance(mapped, Filtered):
                return [Reply("", "length", "filtered")]
            if isinstance(mapped, NoRoom):
                mapped.prompt = request.prompt.id
            raise mapped from None
        if not replies:
            raise Passing("the reply holds no answer")
        return replies

    def _asked(self) -> Asked:
        c = self.connection
        key = c.key(self.own_key)
        named = c.key_env or ("" if c.base_url else self.own_key)
        return Asked(self.name, c.base_url, self.model, key, named)

    def _worst(self, request: Request, rate: Price | None) -> float:
        """Micro-dollars that a request can cost: no token is shorter than a byte (and a few tokens frame a message)."""
        if rate is None:
            return 0.0
        given = request.given.text if request.given else ""
        texts = [self.system, *(m.content for m in request.prompt.messages), given]
        prompt = sum(len(text.encode()) + 16 for text in texts)
        return rate.of(prompt, (request.sampling.max_tokens + self.thinking) * len(request.keys))

    # --- keys, answers, counts ---------------------------------------------------------------------------------------

    def _key(self, me: str, prompt: Prompt, sampling: Sampling, what: tuple[Any, ...]) -> str:
        drawn = "" if sampling.greedy or what[0] in ("first", "given") else prompt.id
        settings = canonical(dataclasses.replace(sampling, n=1))
        question = (me, drawn, prompt.messages, settings, what)
        return hashlib.sha256(msgspec.json.encode(question, order="sorted")).hexdigest()[:40]

    def _completion(self, reply: Reply, sampling: Sampling) -> Completion:
        ended = cut(reply.text, sampling.stop)  # what a server was not told, or did not heed
        if ended is not None:
            return Completion(ended, author=self.name)
        return Completion(reply.text, author=self.name, stopped=reply.stopped)

    def _count(self, used: Sequence[tuple[str, Reply, bool]]) -> None:
        told = {"refused": 0, "filtered": 0, "unpriced_calls": 0, "prompt_tokens": 0, "completion_tokens": 0}
        cost, paid = 0.0, 0.0
        for _, reply, new in used:
            if reply.why:
                told[reply.why] += 1
            told["prompt_tokens"] += reply.prompt_tokens or 0
            told["completion_tokens"] += reply.completion_tokens or 0
            told["unpriced_calls"] += reply.calls if reply.microusd is None else 0
            cost += reply.microusd or 0.0
            paid += (reply.microusd or 0.0) if new else 0.0
        calls = sum(reply.calls for _, reply, _ in used)
        told |= {"calls": calls, "cached_calls": calls - sum(reply.calls for _, reply, new in used if new)}
        told |= {"cost_microusd": round(cost), "paid_microusd": round(paid)}
        for name, n in told.items():
            if n:
                meter(name, n)

    def _check(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        for prompt in prompts:
            if prompt.messages[-1].role == "assistant":
                raise UserError(
                    f"engine {self.name}, prompt {prompt.id}", "it ends with the assistant's turn",
                    "messages that end before the assistant's next turn",
                )  # fmt: skip
        if sampling.ban:
            raise UserError(
                f"engine {self.name}", f"got Sampling(ban={sampling.ban!r})",
                "no banned tokens: a server's tokens are not known here", "Leave ban out, or use a local model.",
            )  # fmt: skip

    def _without_omitted(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name not in self.omit}

    # --- a protocol's own --------------------------------------------------------------------------------------------

    def _at_once(self) -> int:
        """How many answers one request may ask for."""
        return 1

    @abc.abstractmethod
    def _client(self, asked: Asked) -> Any:
        """The SDK's client, which itself tries nothing twice."""

    @abc.abstractmethod
    def _send(self, client: Any, request: Request) -> Any:
        """One request through the SDK; its reply as the SDK gives it."""

    @abc.abstractmethod
    def _read(self, said: Any, request: Request) -> list[Reply]:
        """The answers in a reply, at most as many as were asked for."""

    @abc.abstractmethod
    def _places(self) -> int:
        """How many of the likeliest first tokens the protocol tells of. Raises `UserError` where it tells none."""


def _priced(reply: Reply, rate: Price | None) -> Reply:
    if rate is None or reply.prompt_tokens is None or reply.completion_tokens is None:
        return reply
    return msgspec.structs.replace(reply, microusd=rate.of(reply.prompt_tokens, reply.completion_tokens))


def shared(total: int | None, parts: int) -> list[int | None]:
    """A request's tokens over its answers, as evenly as whole numbers go: 7 over 3 are 3, 2, 2."""
    if total is None:
        return [None] * parts
    return [total // parts + (i < total % parts) for i in range(parts)]


def check_settings(where: str, omit: Any, extra: Any, thinking: Any) -> None:
    """Refuse an `omit` that is no tuple of texts, an `extra` that is no mapping or names a key, and no `thinking`."""
    if not isinstance(thinking, int) or isinstance(thinking, bool) or thinking < 0:
        raise UserError(f"{where}(thinking=...)", f"got {thinking!r}", "a whole number of tokens")
    if not isinstance(omit, tuple) or not all(isinstance(name, str) and name for name in omit):
        raise UserError(f"{where}(omit=...)", f"got {omit!r}", 'a tuple of names, such as ("temperature",)')
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise UserError(
            f"{where}(extra=...)", f"got {type(extra).__name__}", "fields of the request, with their values"
        )
    keylike = [name for name in extra if name.lower().replace("-", "_") in _SECRETS]
    if keylike:
        raise UserError(
            f"{where}(extra=...)", f"it names {', '.join(keylike)}", "no secret: what is here is recorded",
            "Put the key into the environment: Connection(key_env=...).",
        )  # fmt: skip
