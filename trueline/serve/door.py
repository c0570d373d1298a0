"""The door: connections that send too slowly are shown out, and whatever happens behind it is counted.

uvicorn waits for the head of a request for ever; a few thousand clients that send a byte a minute would take all its
connections. Here a connection has so many seconds from its opening, or from the first byte after its last answer, to
the end of a request's head. (Bodies have their own clock, where they are read.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from trueline.serve import wire
from trueline.serve.meters import Meters

log = logging.getLogger("trueline")


def protocol(patience: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, with so many seconds of patience."""

    class Watched(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._heard()
            elif self.waiting is None and not self.transport.is_closing():
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._heard()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self.waiting = self.loop.call_later(patience, self._late)

        def _heard(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _late(self) -> None:
            self.waiting = None
            if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
                return
            body = wire.error_body(408, f"The request did not arrive within {patience:g} seconds.", code="too_slow")
            head = f"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            self.transport.close()

    return Watched


def counted(app: ASGIApp, meters: Meters, routes: tuple[str, ...]) -> ASGIApp:
    """`app` with its requests counted and timed; what breaks in it is logged, and told without a traceback."""

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        path = scope["path"]
        route = next((r for r in routes if path == r or path.startswith(r + "/")), "other")

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, heard)
        except Exception:
            log.exception("%s %s broke", scope["method"], scope["path"])
            if not status:
                body = wire.error_body(500, "The server broke over this request.", code="internal_error")
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await heard({"type": "http.response.start", "status": 500, "headers": headers})
                await send({"type": "http.response.body", "body": body})
        finally:
            meters.requests.labels(route, str(status)).inc()
            meters.seconds.labels(route).observe(time.perf_counter() - began)

    return around
