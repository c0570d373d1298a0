"""A real HTTP server that answers like the Perspective API: scores, limits, broken replies, as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "AIza-not-a-real-key-0123456789"


def toxicity(text: str) -> float:
    """The server's opinion: the share of capitals."""
    return sum(c.isupper() for c in text) / len(text)


def reply(question: dict[str, Any], value: float | None = None) -> dict[str, Any]:
    """What the API says of a question."""
    (attribute,) = question["requestedAttributes"]
    score = {"value": toxicity(question["comment"]["text"]) if value is None else value, "type": "PROBABILITY"}
    scores = {attribute: {"spanScores": [{"begin": 0, "end": 1, "score": score}], "summaryScore": score}}
    return {"attributeScores": scores, "languages": question["languages"], "clientToken": question["clientToken"]}


class Analyzer:
    """What was asked, when, with which headers; `plan` says for a text's n-th request what is answered.

    plan(text, n) returns None for an honest reply, (status, body, headers), or a function of the question that returns
    the bytes to send. most: requests that were in work at once.
    """

    def __init__(self, plan: Callable[[str, int], Any]) -> None:
        self.plan, self.asked, self.at, self.headers, self.paths = plan, [], [], [], []
        self.most = self._now = 0
        self.lock = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        question = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = question["comment"]["text"]
        with self.lock:
            self.asked.append(text)
            self.at.append(time.monotonic())
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            n = self.asked.count(text)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            planned = self.plan(text, n)
            status, extra = 200, {}
            if planned is None:
                body = json.dumps(reply(question)).encode()
            elif callable(planned):
                body = planned(question)
            else:
                status, body, extra = planned
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **extra}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed or lost patience
        finally:
            with self.lock:
                self._now -= 1


def error(status: int, message: str, reason: str = "", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """An error as Google's APIs write it."""
    details = [{"reason": reason}] if reason else []
    said = {"error": {"code": status, "message": message, "status": "X", "details": details}}
    return status, json.dumps(said).encode(), headers


@contextlib.contextmanager
def serving(plan: Callable[[str, int], Any] = lambda text, n: None) -> Iterator[tuple[str, Analyzer]]:
    """(address, what happened) of a running server."""
    analyzer = Analyzer(plan)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a reply in one piece: in two, the second waits for the client's delayed acknowledgement

        def do_POST(self) -> None:
            analyzer.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1alpha1/comments:analyze", analyzer
    finally:
        server.shutdown()
        server.server_close()
