"""What a stage's body is handed: a folder to work in, and the ways of counting, dropping, noting and reporting.

Everything written through a `Work` is resumable by construction. Counts and dropped rows made inside a `shards` call
belong to their shard and stand or fall with it; a body that checkpoints by itself keeps `state()` in its checkpoint and
hands it to `restore` when it goes on. Scratch (`shards/`, `scratch/`) is removed only after the record stands, so that
a kill between the last step and the rename loses nothing.

Which artefact is made when, and where its folder ends up, is `pipeline`'s and `store`'s business.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from trueline.errors import UserError
from trueline.fingerprint import Handle
from trueline.machine import Machine
from trueline.progress import Meter, Screen, screen
from trueline.records import encode

Item = TypeVar("Item")

Span = tuple[int, int, int]
"""One shard: its number, its first item, and the item after its last."""
Made = tuple[bytes, bytes]
"""What a shard came to: its side file (counts, dropped rows), and its records."""
Make = Callable[[Span], Made]

SCRATCH = ("shards", "scratch")
DROPPED, METRICS = "dropped.jsonl", "metrics.jsonl"


class Work:
    """One artefact in the making.

    dir: the `….part` folder; what a killed run left there is still in it. machine: what to run on. artifact: the
    handle. on: where progress goes. main: False in all but the first process of a process group; counting, dropping,
    noting, logging and progress are without effect there, so a body reports global numbers without asking who it is.
    """

    def __init__(
        self, dir: Path, machine: Machine, artifact: Handle, on: Screen | None = None, main: bool = True
    ) -> None:
        self.dir, self.machine, self.artifact, self.main = Path(dir), machine, artifact, main
        self.counts: Counter[str] = Counter()
        self.notes: dict[str, Any] = {}
        self.on = on or screen()
        # Who makes the shards: here, one after the other, or (pipeline.spread) the workers of a cluster.
        self.over: Callable[[Sequence[Span], Make], Iterable[tuple[int, Made]]] = _here
        self._offsets: dict[str, int] = {}
        self._shard: _Shard | None = None

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints and the like, removed when the artefact is finished."""
        folder = self.dir / "scratch"
        folder.mkdir(exist_ok=True)
        return folder

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a count of the record (`samples`, `critic_calls`, `train_tokens`, ...)."""
        if self.main:
            (self._shard.counts if self._shard else self.counts)[name] += int(n)

    def drop(self, reason: str, row: Any, where: str = "") -> None:
        """Write a row aside to `dropped.jsonl` with the reason; counted as `dropped`."""
        line = encode({"reason": reason, "where": where, "row": row} if where else {"reason": reason, "row": row})
        self.count("dropped")
        if self._shard is not None:
            self._shard.dropped.append(line)
        else:
            self._append(DROPPED, line)

    def limit(self, share: str, dropped: int, total: int, allowed: float) -> None:
        """Stop the run where more than the share `allowed` of `total` rows was dropped; `share` names it."""
        if total and dropped / total > allowed:
            raise UserError(
                self.artifact.name,
                f"{dropped} of {total} rows ({dropped / total:.1%}) are {share}",
                f"at most {allowed:.1%} is allowed",
                f"The rows and their reasons are in {self.dir / DROPPED}: mend them, or allow a larger share.",
            )

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON-able fact in the record."""
        if self.main:
            self.notes[key] = value

    def log(self, metrics: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        self._append(METRICS, encode(metrics))

    @contextlib.contextmanager
    def progress(self, total: int, text: str, done: int = 0) -> Iterator[Meter]:
        """A bar up to `total` with `.advance(n)` and `.update(text)`; `done` of it stands from an earlier run."""
        if not self.main:
            yield _Silent()
            return
        with self.on.meter(total, text, done) as meter:
            yield meter

    def state(self) -> dict[str, Any]:
        """Counts, notes and file lengths so far, JSON-able: for a body's own checkpoint."""
        for name in self._offsets:  # a checkpoint must not outlive, in a power cut, the rows that it speaks of
            with open(self.dir / name, "rb+") as file:
                os.fsync(file.fileno())
        return {"counts": dict(self.counts), "notes": self.notes, "offsets": dict(self._offsets)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`: lines logged or dropped after it are cut off, so that none stands twice."""
        if not self.main:
            return
        self.counts, self.notes = Counter(state["counts"]), dict(state["notes"])
        self._offsets = dict(state["offsets"])
        for name in (DROPPED, METRICS):
            if self._offsets.get(name):
                os.truncate(self.dir / name, self._offsets[name])
            else:
                (self.dir / name).unlink(missing_ok=True)

    def _append(self, name: str, line: bytes) -> None:
        # The file is cut to what this run (or the state it restored) wrote: a killed run's lines do not stand twice.
        if not self.main:
            return
        path, offset = self.dir / name, self._offsets.get(name, 0)
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(line)
        self._offsets[name] = offset + len(line)


class _Silent:
    def advance(self, n: int = 1) -> None:
        pass

    def update(self, text: str) -> None:
        pass


class _Shard:
    """What is counted and dropped while one shard is made."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.dropped: list[bytes] = []


def shards(
    work: Work,
    items: Sequence[Item],
    process: Callable[[Sequence[Item]], Sequence[Any]],
    out: str = "groups.jsonl",
    size: int | None = None,
) -> int:
    """Process `items` in shards and write the records, in order, to `out` in the work folder; returns how many.

    A shard is finished when its file has its final name (`shards/00000.jsonl`); finished shards are skipped when a
    killed run goes on, with what was counted and dropped in them. `process` must give an item the same records
    whichever shard it stands in. `size` is items per shard (default: the machine's `shard`; a run that goes on keeps
    the size it began with).
    """
    folder = work.dir / "shards" / Path(out).stem
    folder.mkdir(parents=True, exist_ok=True)
    size = _shard_size(folder, size or work.machine.shard, len(items))
    spans = [(at, start, min(start + size, len(items))) for at, start in enumerate(range(0, len(items), size))]
    paths = [folder / f"{index:05d}.jsonl" for index in range(len(spans))]
    todo = [span for span, path in zip(spans, paths, strict=True) if not path.exists()]
    done = len(items) - sum(end - start for _, start, end in todo)
    with work.progress(len(items), Path(out).stem, done=done) as meter:
        for index, (side, lines) in work.over(todo, lambda span: _made(work, items[span[1] : span[2]], process)):
            # The side file first: the shard's own name is the mark that both are whole.
            write_atomic(paths[index].with_suffix(".side"), side)
            write_atomic(paths[index], lines)
            meter.advance(spans[index][2] - spans[index][1])
    return _join(work, paths, work.dir / out)


def _shard_size(folder: Path, size: int, items: int) -> int:
    """The size the shards in `folder` were begun with; a plan for other items is a defect of the body."""
    plan = folder / "plan.json"
    if plan.exists():
        begun = json.loads(plan.read_bytes())
        if begun["items"] == items:
            return int(begun["size"])
        for path in folder.iterdir():
            path.unlink()
    write_atomic(plan, msgspec.json.encode({"size": size, "items": items}))
    return size


def _here(spans: Sequence[Span], make: Make) -> Iterator[tuple[int, Made]]:
    """The shards, made in this process in order."""
    for span in spans:
        yield span[0], make(span)


def _made(work: Work, batch: Sequence[Item], process: Callable[[Sequence[Item]], Any]) -> Made:
    shard = work._shard = _Shard()
    try:
        lines = b"".join(encode(record) for record in process(batch))
    finally:
        work._shard = None
    side = {"counts": dict(shard.counts), "dropped": [line.decode() for line in shard.dropped]}
    return msgspec.json.encode(side), lines


def _join(work: Work, paths: Sequence[Path], out: Path) -> int:
    records = 0
    partial = out.with_name(out.name + ".tmp")
    with open(partial, "wb") as file:
        for path in paths:
            side = json.loads(path.with_suffix(".side").read_bytes())
            for name, n in side["counts"].items():
                work.count(name, n)
            for line in side["dropped"]:
                work._append(DROPPED, line.encode())
            content = path.read_bytes()
            records += content.count(b"\n")
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, out)
    return records


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is either whole under its name or not there: temporary name, flush to disk, rename."""
    partial = path.with_name(path.name + ".tmp")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    replace(partial, path)


def replace(source: Path, target: Path) -> None:
    """`os.replace`, tried again for a moment where a virus scanner or an indexer holds the file (Windows)."""
    for wait in (0.05, 0.2, 0.5, 1.0):
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(wait)
    return os.replace(source, target)
