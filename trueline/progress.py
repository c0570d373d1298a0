"""What a person sees while a recipe is made: one quiet line per stage, with a bar, rate and time left on a terminal.

    have  asked-6902d4eb
    made  sft-8192ef8f       34.2 s   train tokens 120k
    3/7   dpo-55aa01c3       step 120 of 400 ━━━━━━╸━━━━━━━━━━━━  4.1/s  1:08 left

Off a terminal (a log file, CI) there are plain lines: one when a stage starts, one now and then, one when it ends.
Nothing here knows what a stage does; `Work.progress` is the only door through which a stage reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

EVERY = 15.0  # seconds between two lines of one stage off a terminal


class Meter(Protocol):
    """One running count of one stage."""

    def advance(self, n: int = 1) -> None: ...

    def update(self, text: str) -> None: ...


class Screen(Protocol):
    """Where progress goes; `pipeline.make` calls all but `meter`."""

    console: Console

    def have(self, name: str) -> None: ...

    def stage(self, name: str, index: int, total: int) -> contextlib.AbstractContextManager[None]: ...

    def made(self, name: str, seconds: float, counts: Mapping[str, int]) -> None: ...

    def meter(self, total: int, text: str, done: int = 0) -> contextlib.AbstractContextManager[Meter]: ...


def screen(console: Console | None = None) -> Screen:
    """The screen that suits where standard error goes."""
    console = console or Console(stderr=True, highlight=False)
    return Terminal(console) if console.is_terminal else Lines(console)


def short(n: float) -> str:
    """A count as people say it: 950, 1.6k, 2.3M.

    >>> [short(n) for n in (7, 999, 1600, 20_000, 1_234_567)]
    ['7', '999', '1.6k', '20k', '1.2M']
    """
    for unit in ("", "k", "M", "G"):
        if abs(n) < 999.5:
            digits = f"{n:.0f}" if unit == "" or abs(n) >= 99.5 else f"{n:.2g}"
            return f"{digits}{unit}"
        n /= 1000
    return f"{n:.3g}T"


def clock(seconds: float) -> str:
    """A duration: 3.2 s, 1:08 min, 2:10:05 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d} h" if hours else f"{minutes}:{whole % 60:02d} min"


def pace(rate: float) -> str:
    """A rate per second, or per minute where it is slow."""
    return f"{short(rate) if rate >= 10 else f'{rate:.1f}'}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"


def said(counts: Mapping[str, int]) -> str:
    """Counts in one line: 'samples 1.6k, critic calls 400'."""
    return ", ".join(f"{name.replace('_', ' ')} {short(n)}" for name, n in counts.items())


class Lines:
    """Progress as plain lines, for what is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._name = ""

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def have(self, name: str) -> None:
        """An artefact that is there already."""
        self._print(f"have  {name}")

    @contextlib.contextmanager
    def stage(self, name: str, index: int, total: int) -> Iterator[None]:
        """The block in which one artefact is made."""
        self._name = name
        self._print(f"make  {name} ({index} of {total})")
        yield

    def made(self, name: str, seconds: float, counts: Mapping[str, int]) -> None:
        """An artefact that has just been made."""
        self._print(f"made  {name} in {clock(seconds)}" + (f"; {said(counts)}" if counts else ""))

    @contextlib.contextmanager
    def meter(self, total: int, text: str, done: int = 0) -> Iterator[Meter]:
        """A count up to `total`, `done` of which were there before."""
        yield _LineMeter(self, total, text, done)


class _LineMeter:
    def __init__(self, lines: Lines, total: int, text: str, done: int) -> None:
        self.lines, self.total, self.text, self.done, self.before = lines, total, text, done, done
        self.began = self.said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= EVERY:
            self.said = now
            rate = (self.done - self.before) / (now - self.began)
            left = f", {clock((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
            self.lines._print(f"  {self.lines._name}: {self.text} {self.done} of {self.total}, {pace(rate)}{left}")

    def update(self, text: str) -> None:
        self.text = text


class _Pace(ProgressColumn):
    """Rate and time left."""

    def render(self, task: Task) -> Text:
        if not task.speed or task.total is None:
            return Text(clock(task.elapsed or 0.0), style="dim")
        left = (task.total - task.completed) / task.speed
        return Text(f"{pace(task.speed)}  {clock(left)} left", style="dim")


class Terminal:
    """One line per finished stage, and one live line for the stage at work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._base: TaskID | None = None
        self._open: list[TaskID] = []

    def have(self, name: str) -> None:
        """An artefact that is there already."""
        self.console.print(f"[dim]have  {escape(name)}[/]")

    @contextlib.contextmanager
    def stage(self, name: str, index: int, total: int) -> Iterator[None]:
        """The block in which one artefact is made: the live line."""
        progress = Progress(
            TextColumn(f"[cyan]{f'{index}/{total}':<5}[/] {escape(name)} "),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(bar_width=12),
            _Pace(table_column=Column(no_wrap=True, min_width=19)),
            console=self.console,
            transient=True,
            refresh_per_second=4,
            expand=True,
        )
        with progress:
            self._progress, self._base, self._open = progress, progress.add_task("", total=None), []
            try:
                yield
            finally:
                self._progress = None

    def made(self, name: str, seconds: float, counts: Mapping[str, int]) -> None:
        """An artefact that has just been made."""
        text = Text.assemble(("made  ", "green"), f"{name:<24} ", (f"{clock(seconds):>9}   {said(counts)}", "dim"))
        self.console.print(text, overflow="ellipsis", no_wrap=True)

    @contextlib.contextmanager
    def meter(self, total: int, text: str, done: int = 0) -> Iterator[Meter]:
        """A count up to `total`; the innermost of several is the one that shows."""
        progress = self._progress
        if progress is None:
            yield _LineMeter(Lines(self.console), total, text, done)
            return
        outer = self._open[-1] if self._open else self._base
        task = progress.add_task(text, total=total, completed=done)
        self._open.append(task)
        if outer is not None:
            progress.update(outer, visible=False)
        try:
            yield _BarMeter(progress, task)
        finally:
            self._open.remove(task)
            progress.remove_task(task)
            if outer is not None:
                progress.update(outer, visible=True)


class _BarMeter:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def advance(self, n: int = 1) -> None:
        self.progress.advance(self.task, n)

    def update(self, text: str) -> None:
        self.progress.update(self.task, description=text)


# --- across processes ------------------------------------------------------------------------------------------------


class ToFile:
    """Progress of a worker process, written to a file that the process which started it reads (`follow`)."""

    def __init__(self, path: Path) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.path = path

    def have(self, name: str) -> None:
        """Nothing: a worker makes one artefact."""

    @contextlib.contextmanager
    def stage(self, name: str, index: int, total: int) -> Iterator[None]:
        """Nothing: a worker makes one artefact."""
        yield

    def made(self, name: str, seconds: float, counts: Mapping[str, int]) -> None:
        """Nothing: the process that started the worker says so."""

    @contextlib.contextmanager
    def meter(self, total: int, text: str, done: int = 0) -> Iterator[Meter]:
        """A count up to `total`."""
        yield _FileMeter(self.path, total, text, done)


class _FileMeter:
    def __init__(self, path: Path, total: int, text: str, done: int) -> None:
        self.path, self.total, self.text, self.done, self.wrote = path, total, text, done, 0.0
        self._write()

    def _write(self) -> None:
        # Progress is for the eye only: where the file cannot be replaced just now, the next count says it.
        with contextlib.suppress(OSError):
            partial = self.path.with_suffix(".tmp")
            partial.write_text(json.dumps({"total": self.total, "text": self.text, "done": self.done}))
            os.replace(partial, self.path)
        self.wrote = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.wrote > 0.5 or self.done >= self.total:
            self._write()

    def update(self, text: str) -> None:
        self.text = text


class Follower:
    """Shows on a screen what a worker writes to a file; call `poll` now and then."""

    def __init__(self, path: Path, on: Screen) -> None:
        self.path, self.on = path, on
        self._stack = contextlib.ExitStack()
        self._meter: Meter | None = None
        self._last: dict[str, Any] = {}

    def poll(self) -> None:
        """Read the file and move the bar."""
        try:
            now = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return
        if self._meter is None or now["total"] != self._last["total"] or now["done"] < self._last["done"]:
            self._stack.close()
            self._meter = self._stack.enter_context(self.on.meter(now["total"], now["text"], now["done"]))
        else:
            self._meter.update(now["text"])
            self._meter.advance(now["done"] - self._last["done"])
        self._last = now

    def close(self) -> None:
        """Take the bar away."""
        self._stack.close()
