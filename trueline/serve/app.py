"""The addresses: chats, completions, rewards, models, health, numbers, and a page to look at it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from trueline.serve import wire
from trueline.serve.answers import Answered, Asked, Candidate, Desk
from trueline.serve.door import counted
from trueline.serve.wire import Refused

log = logging.getLogger("trueline")

PAGE = Path(__file__).with_name("page.html")
EXCESS = 32 << 20  # bytes of a body that is too long which are still read, so that its sender gets to hear why
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/rewards")


class Plain(Response):
    """JSON, already encoded."""

    media_type = "application/json"


def app(desk: Desk, keys: tuple[str, ...] = (), draining: Callable[[], bool] = lambda: False) -> Any:
    """The server's application. keys: what a client has to show one of; draining: whether the server is closing."""
    made = FastAPI(title="trueline", docs_url=None, redoc_url=None, openapi_url=None)
    made.add_exception_handler(Refused, _refused)
    made.add_exception_handler(HTTPException, _strange)
    page = PAGE.read_bytes()

    @made.get("/")
    async def look() -> Response:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    @made.get("/health")
    async def health() -> Response:
        well = desk.worker.alive and not draining()
        said = "ok" if well else "draining" if desk.worker.alive else "broken"
        return Plain(msgspec.json.encode({"status": said}), 200 if well else 503)

    @made.get("/metrics")
    async def metrics() -> Response:
        return Response(desk.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @made.get("/v1/models")
    async def models(request: Request) -> Response:
        check_key(request, keys)
        cards = [served.card() for served in desk.house.everyone]
        return Plain(msgspec.json.encode({"object": "list", "data": cards}))

    @made.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        check_key(request, keys)
        return Plain(msgspec.json.encode(desk.house.named(name).card()))

    @made.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await write(desk, request, keys, wire.Chat)

    @made.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await write(desk, request, keys, wire.Completion)

    @made.post("/v1/rewards")
    async def rewards(request: Request) -> Response:
        check_key(request, keys)
        given = await body(request, desk)
        with desk.place():
            return await in_time(request, desk, score(desk, wire.parsed(given, wire.Rewards)))

    return counted(made, desk.meters, ("/", "/health", "/metrics", "/v1/models", *ROUTES))


def check_key(request: Request, keys: tuple[str, ...]) -> None:
    """Refuse a client that shows no key, where one is wanted."""
    if not keys:
        return
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    # Every key is compared, so that the time says nothing of which one was nearly right.
    same = [hmac.compare_digest(shown.strip().encode(), key.encode()) for key in keys]
    if kind.lower() != "bearer" or not any(same):
        raise Refused(401, "This server wants a key: Authorization: Bearer KEY.", code="invalid_api_key")


async def body(request: Request, desk: Desk) -> bytes:
    """The request's body. Raises `Refused` for one that is too long, or too slow in coming."""
    most, found, size = desk.limits.max_body, bytearray(), 0
    declared = request.headers.get("content-length", "")
    over = declared.isdecimal() and int(declared) > most
    try:
        async with asyncio.timeout(desk.limits.patience):
            if not (over and int(declared) > EXCESS):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > EXCESS:
                        break
                    if over := over or size > most:
                        found.clear()
                    else:
                        found += chunk
    except ClientDisconnect:
        raise Refused(499, "The client left.") from None
    except TimeoutError:
        seconds = f"{desk.limits.patience:g} seconds"
        raise Refused(408, f"The request did not arrive within {seconds}.", code="too_slow") from None
    if over:
        raise Refused(413, f"The request has more than {most} bytes, the most this server reads.", code="too_large")
    return bytes(found)


async def write(desk: Desk, request: Request, keys: tuple[str, ...], kind: type[wire.Body]) -> Response:
    """Answers to a chat or a completion, whole or as a stream."""
    check_key(request, keys)
    asked = desk.asked(wire.parsed(await body(request, desk), kind))
    if not asked.body.stream:
        with desk.place():
            return await in_time(request, desk, whole(desk, asked))
    with contextlib.ExitStack() as stack:
        stack.enter_context(desk.place())
        stream = Stream(desk, asked, request)
        await in_time(request, desk, stream.begin())
        stream.holds = stack.pop_all()
    return stream


async def in_time(request: Request, desk: Desk, work: Awaitable[Any]) -> Any:
    """What `work` gives. Raises `Refused` where it takes too long; given up where the client leaves."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait((task, left), timeout=desk.limits.timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if left.done():
            desk.meters.gone.inc()
            raise Refused(499, "The client left.")
        raise overdue(desk)
    finally:
        for each in (task, left):
            if not each.done():
                each.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(task, left, return_exceptions=True)


def overdue(desk: Desk) -> Refused:
    """The refusal of what takes too long."""
    return Refused(504, f"The answer was not whole after {desk.limits.timeout:g} seconds.", code="timeout")


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def score(desk: Desk, asked: wire.Rewards) -> Response:
    """The rewards of given conversations."""
    conversations = asked.read(desk.limits.candidates)
    served = desk.house.reader(asked.model)
    for number, messages in enumerate(conversations):
        served.check_size(sum(len(m.content.strip()) for m in messages), f"conversations[{number}]")
    rows = await desk.did(lambda: served.read(conversations))
    data = []
    for number, row in enumerate(rows):
        if row is None:
            at = f"conversations[{number}]"
            raise Refused(
                400, f"{at} is longer than the {served.context} tokens that {served.name} can look at.", param=at,
                code="context_length_exceeded",
            )  # fmt: skip
        data.append({"index": number, "rewards": dict(zip(served.heads, row, strict=True))})
    return Plain(msgspec.json.encode({"object": "list", "model": served.name, "data": data}))


# --- replies ---------------------------------------------------------------------------------------------------------


async def whole(desk: Desk, asked: Asked) -> Response:
    """A reply of all wanted answers, the best first."""
    answered = await desk.answered(asked)
    chat = isinstance(asked.body, wire.Chat)
    choices = [_choice(number, one, chat) for number, one in enumerate(answered.candidates[: asked.body.wanted])]
    reply = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion", "created": int(time.time()),
        "model": asked.served.name, "choices": choices, "usage": usage(answered), "trueline": _ours(asked, answered),
    }  # fmt: skip
    return Plain(msgspec.json.encode(reply))


def _choice(number: int, one: Candidate, chat: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": number,
        "finish_reason": one.said.stopped,
        "logprobs": None,
        "scores": one.scores,
    }
    if chat:
        choice["message"] = {"role": "assistant", "content": one.said.text, "refusal": None}
        if one.logprobs:
            content = [
                {"token": t, "logprob": x, "bytes": list(t.encode()), "top_logprobs": []} for t, x in one.logprobs
            ]
            choice["logprobs"] = {"content": content, "refusal": None}
    else:
        choice["text"] = one.said.text
        if one.logprobs:
            tokens, logps = zip(*one.logprobs, strict=True)
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": logps, "top_logprobs": None, "text_offset": None}
    return choice


def _ours(asked: Asked, answered: Answered) -> dict[str, Any]:
    """What OpenAI's protocol has no place for: who ranked, the seed, the condition, all candidates on request."""
    said: dict[str, Any] = {"by": answered.by, "seed": answered.seed, "condition": answered.condition}
    if asked.body.candidates:
        said["candidates"] = [
            {
                "index": one.index, "text": one.said.text, "finish_reason": one.said.stopped,
                "tokens": len(one.said.tokens or ()), "scores": one.scores,
            }
            for one in answered.candidates
        ]  # fmt: skip
    return said


def usage(answered: Answered) -> dict[str, int]:
    """Tokens; those of all candidates count as written."""
    read, written = answered.prompt_tokens, answered.tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Stream(Response):
    """Server-sent events of one answer. holds: what is given back when it is over (its place in the queue)."""

    media_type = "text/event-stream"

    def __init__(self, desk: Desk, asked: Asked, request: Request) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.desk, self.asked, self.request = desk, asked, request
        self.pieces: AsyncIterator[str | Answered] = desk.pieces(asked)
        self.holds = contextlib.ExitStack()
        self.chat = isinstance(asked.body, wire.Chat)
        self.frame = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": int(time.time()), "model": asked.served.name,
        }  # fmt: skip
        self.ends = asyncio.get_running_loop().time() + desk.limits.timeout

    async def begin(self) -> None:
        """Wait until the request is taken in: until then a mistake has a status of its own."""
        await anext(self.pieces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.holds:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.ensure_future(self._send(send))
            left = asyncio.ensure_future(gone(receive))
            try:
                await asyncio.wait((sending, left), return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    self.desk.meters.gone.inc()
            finally:
                for each in (sending, left):
                    each.cancel()
                await asyncio.gather(sending, left, return_exceptions=True)
                await self.pieces.aclose()  # type: ignore[attr-defined]

    async def _send(self, send: Send) -> None:
        async def event(data: bytes) -> None:
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

        try:
            async with asyncio.timeout_at(self.ends):
                if self.chat:
                    await event(self._chunk({"role": "assistant", "content": ""}))
                async for piece in self.pieces:
                    if isinstance(piece, Answered):
                        await event(self._chunk({} if self.chat else "", piece.candidates[0].said.stopped))
                        options = self.asked.body.stream_options
                        if options is not None and options.include_usage:
                            await event(msgspec.json.encode({**self.frame, "choices": [], "usage": usage(piece)}))
                    elif piece:
                        self._first()
                        await event(self._chunk({"content": piece} if self.chat else piece))
            await event(b"[DONE]")
        except TimeoutError:
            # Whoever does not read cannot be told either, and must not be waited for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await event(overdue(self.desk).body)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        except Refused as refused:
            logged(refused)
            await event(refused.body)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _first(self) -> None:
        if self.ends:
            began = self.ends - self.desk.limits.timeout
            self.desk.meters.first.observe(asyncio.get_running_loop().time() - began)
            self.ends = 0.0

    def _chunk(self, piece: Any, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta" if self.chat else "text": piece, "finish_reason": reason, "logprobs": None}
        return msgspec.json.encode({**self.frame, "choices": [choice]})


# --- mistakes --------------------------------------------------------------------------------------------------------


def logged(refused: Refused) -> None:
    """Keep what broke for whoever runs the server."""
    if refused.__cause__ is not None:
        log.error("%s", refused.message, exc_info=refused.__cause__)


async def _refused(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    logged(refused)
    headers = {} if refused.wait is None else {"Retry-After": str(refused.wait)}
    if refused.status in (408, 413):
        headers["Connection"] = "close"
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Plain(refused.body, refused.status, headers)


async def _strange(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.url.path} is not asked with {request.method}.",
    }
    message = known.get(error.status_code, str(error.detail))
    return Plain(wire.error_body(error.status_code, message), error.status_code, dict(error.headers or {}))
