"""What a person sees while a recipe is made: one quiet line per stage, a bar with rate and time left on a terminal.

Off a terminal (a log file, CI) there are plain lines: one when a stage starts, one now and then, one when it ends.
Nothing here knows what a stage does; `Work.progress` is the only door through which a stage reports.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from rich.console import Console

EVERY = 15.0  # seconds between two lines of one stage off a terminal


class Meter(Protocol):
    """One running count of one stage."""

    def advance(self, n: int = 1) -> None: ...

    def update(self, text: str) -> None: ...


class Lines:
    """Progress as plain lines, for what is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def meter(self, total: int, text: str, done: int = 0) -> Iterator[Meter]:
        """A count up to `total`, `done` of which were there before."""
        meter = _LineMeter(self.console, total, text, done)
        yield meter


class _LineMeter:
    def __init__(self, console: Console, total: int, text: str, done: int) -> None:
        self.console, self.total, self.text, self.done = console, total, text, done
        self.said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.console.print(f"  {self.text}: {self.done} of {self.total}")

    def update(self, text: str) -> None:
        self.text = text


def display(**options: Any) -> Lines:
    """The display that suits where standard error goes."""
    return Lines(**options)
