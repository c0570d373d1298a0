"""The one thread that computes: every pass through every model happens here, one after the other.

    with Worker([live]) as worker:
        numbers = await asyncio.wrap_future(worker.do(lambda: heads.rewards(loaded, sequences)))

Between two steps of the running batches it does what was asked of it meanwhile: takes orders in, drops those whose
client has gone, reads rewards. With nothing to write and nothing asked it sleeps.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from trueline.sample.protocol import Live

T = TypeVar("T")


class Worker:
    """Runs until its block is left."""

    def __init__(self, lives: Sequence[Live]) -> None:
        self.lives = tuple(lives)
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="trueline-worker", daemon=True
        )

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._asked.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it works still."""
        return self._thread.is_alive()

    def do(self, call: Callable[[], T]) -> Future[T]:
        """Have `call` called between two steps; its result, or what it raised."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

        self._asked.put(run)
        return future

    def _run(self) -> None:
        busy = False
        while True:
            try:
                call = self._asked.get(block=not busy)
                while True:
                    if call is None:
                        return
                    call()
                    call = self._asked.get(block=False)
            except queue.Empty:
                pass
            wrote = [live.advance() for live in self.lives]
            busy = any(wrote)
