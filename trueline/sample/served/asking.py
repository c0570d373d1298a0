"""Many questions at once, each as often as it takes: bounded threads, growing waits, and a clean stop.

Every thread takes the next question when it is done with one, so no more than `concurrency` are ever in flight. A wait
that the server asks for (Retry-After) holds all threads back, since a limit is the account's and not a request's. After
an error that will not pass, and after Ctrl-C, nothing new is sent; what is in flight is waited for and kept, since it
is paid for.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from trueline.errors import UserError
from trueline.sample.served.connection import Connection
from trueline.sample.served.faults import Passing

log = logging.getLogger("trueline")

T = TypeVar("T")
A = TypeVar("A")


class Stopped(Exception):
    """Another question ended the run: this one is not asked."""


class Pace:
    """The waits of one engine: between two attempts of a request, and of all requests where the server asks for one."""

    def __init__(self, where: str, connection: Connection) -> None:
        self.where, self.connection = where, connection
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.retried = 0

    def patiently(self, send: Callable[[], T]) -> T:
        """What `send` returns, tried again after each `Passing`, up to `retries` times.

        Raises `UserError` when it has not passed by then, or where the server asks for a longer wait than `patience_s`.
        """
        import tenacity

        c = self.connection
        growing = tenacity.wait_exponential_jitter(initial=c.backoff_s, max=c.longest_s, jitter=c.backoff_s)

        def once() -> T:
            self._hold()
            return send()

        trying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(c.retries + 1), tenacity.stop_when_event_set(self.stop)),
            wait=growing,
            sleep=tenacity.sleep_using_event(self.stop),
            before_sleep=self._before_sleep,
            reraise=True,
        )
        try:
            return trying(once)
        except Passing as last:
            if self.stop.is_set():
                raise Stopped from None
            raise UserError(
                self.where, f"no reply after {c.retries + 1} attempts; the last: {last.reason}", "",
                "Every reply so far is kept: run again, and it goes on.",
            ) from None  # fmt: skip

    def _before_sleep(self, state: Any) -> None:
        error = state.outcome.exception()
        with self._lock:
            self.retried += 1
            if error.after_s is not None:
                self._not_before = max(self._not_before, time.monotonic() + error.after_s)
        if error.after_s is not None and error.after_s > self.connection.patience_s:
            raise UserError(
                self.where, f"{error.reason}; it asks to wait {error.after_s:.0f} seconds",
                f"at most patience_s={self.connection.patience_s:g}",
                "Every reply so far is kept: run again later, or allow a longer wait.",
            )  # fmt: skip
        wait = max(state.next_action.sleep, error.after_s or 0.0)
        if wait >= 5:
            log.warning("%s: %s; waiting %.0f s", self.where, error.reason, wait)

    def _hold(self) -> None:
        """Wait until the server wants to be asked again."""
        while (left := self._not_before - time.monotonic()) > 0:
            # Not all at the same moment: that is what brought the limit about.
            self.stop.wait(left + random.uniform(0, self.connection.backoff_s))
            if self.stop.is_set():
                raise Stopped
        if self.stop.is_set():
            raise Stopped


def in_threads(todo: Iterable[A], work: Callable[[A], Iterable[A]], pace: Pace) -> None:
    """`work` on every item, in at most `concurrency` threads; what it returns is to be done too.

    Raises the first error, after what was in flight has ended.
    """
    waiting = list(todo)[::-1]
    threads = min(pace.connection.concurrency, len(waiting))
    lock, errors = threading.Lock(), list[BaseException]()

    def run() -> None:
        while not pace.stop.is_set():
            with lock:
                if not waiting:
                    return
                item = waiting.pop()
            try:
                more = list(work(item))
            except Stopped:
                return
            except BaseException as error:
                with lock:
                    errors.append(error)
                pace.stop.set()
                return
            with lock:
                waiting.extend(more[::-1])

    # Daemons, so that a second Ctrl-C, during the wait below, ends the program.
    crew = [threading.Thread(target=run, name=f"asking-{i}", daemon=True) for i in range(threads)]
    for thread in crew:
        thread.start()
    try:
        for thread in crew:
            thread.join()
    except BaseException:
        pace.stop.set()
        log.warning("%s: stopping; waiting for the replies in flight (Ctrl-C again: do not)", pace.where)
        for thread in crew:
            thread.join()
        raise
    if errors:
        raise errors[0]
