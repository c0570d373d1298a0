"""What a request may use, so that no client takes the server from the others."""

from __future__ import annotations

from dataclasses import dataclass

from trueline.errors import UserError
from trueline.machine import Runtime


@dataclass(frozen=True)
class Limits(Runtime):
    """Bounds of requests.

    queue: requests that may wait or be answered at once; one more gets 429.
    candidates: answers at most that one request may have drawn, and conversations that it may have scored.
    max_tokens: tokens at most of one answer, and its length where a request names none and the context has room.
    max_body: bytes at most of a request.
    timeout: seconds from a request to the end of its answer; what is not done by then gets 504.
    patience: seconds that a client may take to send a request; slower ones get 408.
    drain: seconds that answers under way may still take after SIGTERM.
    """

    queue: int = 128
    candidates: int = 64
    max_tokens: int = 1024
    max_body: int = 1 << 20
    timeout: float = 120.0
    patience: float = 10.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name in ("queue", "candidates", "max_tokens", "max_body"):
            if getattr(self, name) < 1:
                raise UserError(f"--limits.{name.replace('_', '-')}", f"got {getattr(self, name)}", "at least 1")
        for name in ("timeout", "patience", "drain"):
            if not getattr(self, name) > 0:
                raise UserError(f"--limits.{name}", f"got {getattr(self, name)}", "a number of seconds above 0")
