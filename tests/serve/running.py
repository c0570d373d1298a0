"""A server of its own process, and ways to reach it that no client library would take."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAID = re.compile(r"at http://127\.0\.0\.1:(\d+)")


@dataclass
class Running:
    """A server that answers. log: the lines that it wrote."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, key: str = "", timeout: float = 30) -> tuple[int, Any, dict[str, str]]:
        """Status, the JSON that came, and headers; a body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, sent, headers)
            reply = connection.getresponse()
            said, told = reply.read(), {k.lower(): v for k, v in reply.getheaders()}
        return reply.status, json.loads(said) if "json" in told.get("content-type", "") else said.decode(), told

    def socket(self, sent: bytes = b"") -> socket.socket:
        """An open connection on which this was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.sendall(sent)
        return made

    def meter(self, name: str) -> float:
        """One of the server's numbers."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def until(self, name: str, wanted: float, seconds: float = 10) -> bool:
        """Whether a number of the server's gets there in time."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.meter(name) == wanted:
                return True
            time.sleep(0.05)
        return False


def post(path: str, body: Any) -> bytes:
    """A request as it goes over the wire."""
    text = json.dumps(body)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@contextlib.contextmanager
def running(policy: Path, *words: str, key: str = "") -> Iterator[Running]:
    """`trueline serve POLICY ...` at a free port, ended by SIGTERM."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRUELINE_API_KEY": key}
    command = [sys.executable, "-m", "trueline.cli", "serve", str(policy), "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if found := SAID.search(line):
                break
        else:
            raise AssertionError("".join(log))
        threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()
        yield Running(process, int(found[1]), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
