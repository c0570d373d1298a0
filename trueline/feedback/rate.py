"""A token bucket: never more than so many requests a second, however many threads wait for their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Stopped(Exception):
    """The bucket was closed: nobody gets a turn any more."""


class Bucket:
    """Hands out turns: `per_second` of them on average, at most `burst` at once after a rest.

    Worked: 4 a second, burst 1: turns at 0, 0.25, 0.5, 0.75, ... seconds; burst 3, after a rest: 0, 0, 0, 0.25, ...

    clock, sleep: the time in seconds, and how to wait so long (None: a wait that `close` ends).
    """

    def __init__(
        self,
        per_second: float,
        burst: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.per_second, self.burst, self.clock = per_second, burst, clock
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._lock = threading.Lock()
        self._tokens, self._at = burst, clock()

    def take(self) -> None:
        """Wait for a turn and take it. Raises `Stopped` once the bucket is closed."""
        while True:
            with self._lock:
                self._refill()
                if self._tokens >= 1 - 1e-9:
                    self._tokens -= 1
                    return
                wait = (1 - self._tokens) / self.per_second
            self.wait(wait)  # and look again: there may have been a pause, or somebody quicker

    def pause(self, seconds: float) -> None:
        """Let nobody take a turn for so long: a limit that the server speaks of holds for all."""
        with self._lock:
            self._refill()
            self._tokens = min(self._tokens, 1 - seconds * self.per_second)

    def wait(self, seconds: float) -> None:
        """Sleep. Raises `Stopped` once the bucket is closed."""
        if seconds > 0:
            self._sleep(seconds)
        if self._closed.is_set():
            raise Stopped

    def close(self) -> None:
        """Wake and turn away everybody who waits."""
        self._closed.set()

    def _refill(self) -> None:
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
