"""Artefacts: inert handles, and the store where what they stand for lies.

A handle (`Prompts`, `Groups`, `Policy`, `Logprobs`, `Report`) is what a stage call returns: which stage, with which
inputs, and the fingerprint that follows from them. It does nothing. `Store` says where the artefact lies, whether it is
there, and keeps two makers of the same one apart. How it gets made is `pipeline`'s business.

Paths are for people, identity is the fingerprint:

    store/store.json                        {"format": 1}: a newer trueline's store is refused, not misread
    store/policy/sft-8192ef8f/              the output: files that jq and transformers read
    store/policy/sft-8192ef8f/record.json   what it is, what it was made from, counts, seconds, versions
    store/policy/dpo-55aa01c3.part/         being made, or left by a killed run: the next `make` goes on from there
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import functools
import json
import os
import re
import shutil
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

import trueline.records as records
from trueline.errors import UserError
from trueline.fingerprint import File, Handle, added, call_site, canonical, digest, fingerprint, inside
from trueline.machine import Machine
from trueline.work import SCRATCH, replace, shards, write_atomic

__all__ = [
    "Artifact", "File", "Groups", "Logprobs", "Policy", "Prompts", "Report", "Store", "added", "canonical", "current",
    "fingerprint", "shards", "using",
]  # fmt: skip

FORMAT = 1
_HELD = ("prompts", "groups", "samples")  # counts that say what an artefact holds, and so are passed on
_HOLDING = ("prompts", "groups")  # the kinds that pass them on

_known: contextvars.ContextVar[dict[str, dict[str, int]] | None] = contextvars.ContextVar("known", default=None)


@contextlib.contextmanager
def counting() -> Iterator[dict[str, dict[str, int]]]:
    """A block in which counts are worked out once: estimates ask their parents', and graphs have many paths."""
    known = _known.get()
    if known is not None:
        yield known
        return
    fresh: dict[str, dict[str, int]] = {}
    token = _known.set(fresh)
    try:
        yield fresh
    finally:
        _known.reset(token)


class Artifact(Handle):
    """An inert handle on what one stage makes of its inputs.

    stage, rev: which stage, and its hand-set revision. inputs: every argument of the call, defaults included. label:
    for people; not part of the identity. function: the stage's body. machine: what to run on, if the call said so.
    identity_inputs: their canonical forms; `fingerprint` (64 hex digits) is the hash of these with stage and rev.
    parents: the artefacts among the inputs, wherever they hide.
    """

    kind: ClassVar[str] = "artifact"

    def __init__(
        self,
        *,
        stage: str,
        rev: int,
        inputs: dict[str, Any],
        identity: dict[str, Any],
        label: str,
        function: Callable[..., Any],
        estimate: Callable[..., dict[str, int]] | None = None,
        distributed: bool = False,
        machine: Machine | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", label) or label.endswith(".part"):
            raise UserError(call_site(), f"the label {label!r}", "a label has letters, digits, '-', '_', '+' and '.'")
        self.stage, self.rev, self.inputs, self.label, self.function = stage, rev, inputs, label, function
        self.estimate, self.distributed, self.machine = estimate, distributed, machine
        self.identity_inputs = identity
        self.fingerprint = digest({"stage": stage, "rev": rev, "inputs": identity})
        self.parents: tuple[Artifact, ...] = tuple(dict.fromkeys(inside(inputs, Artifact)))
        self.written = call_site()

    @property
    def short(self) -> str:
        """The first eight hex digits of the fingerprint."""
        return self.fingerprint[:8]

    @property
    def name(self) -> str:  # type: ignore[override]
        """label-short: what folders and people call it."""
        return f"{self.label}-{self.short}"

    @property
    def path(self) -> Path:
        """Its folder in the store in force, made or not."""
        return current().folder(self)

    @property
    def made(self) -> bool:
        """Whether it is in the store in force."""
        return current().find(self) is not None

    @property
    def record(self) -> dict[str, Any]:
        """Its `record.json`; raises `UserError` while it is not made."""
        found = current().find(self)
        if found is None:
            raise UserError(self.name, "it is not made yet", "", "Run `trueline make` first.")
        return read_record(found)

    @property
    def count(self) -> dict[str, int]:
        """What it holds and what it took, by name; the stage's estimate (and the parents') while it is not made.

        "prompts", "groups" and "samples" are passed on from the Prompts and Groups it is made from where the stage
        itself does not say; "critic_calls", "train_tokens" and the like are its own.
        """
        with counting() as known:
            if self.fingerprint not in known:
                known[self.fingerprint] = self.passed_on | self.own_count
            return known[self.fingerprint]

    @property
    def passed_on(self) -> dict[str, int]:
        """What the Prompts and Groups that it is made from hold; empty for a kind that holds neither."""
        out: dict[str, int] = {}
        if self.kind in _HOLDING:
            for parent in self.parents:
                held = parent.count if parent.kind in _HOLDING else {}
                out |= {name: max(n, out.get(name, 0)) for name, n in held.items() if name in _HELD}
        return out

    @property
    def own_count(self) -> dict[str, int]:
        """What its stage itself counted, or estimates."""
        found = current().find(self)
        if found is not None:
            said = read_record(found)["counts"]
        else:
            said = self.estimate(**self.inputs) if self.estimate else {}
        return {str(name): int(n) for name, n in said.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


class Prompts(Artifact):
    """`prompts.jsonl`: one Prompt per line."""

    kind = "prompts"

    def read(self) -> Iterator[records.Prompt]:
        """The prompts, in order."""
        return records.read_jsonl(self.path / "prompts.jsonl", records.Prompt)


class Groups(Artifact):
    """`groups.jsonl`: one Group per line."""

    kind = "groups"

    def read(self) -> Iterator[records.Group]:
        """The groups, in order."""
        return records.read_jsonl(self.path / "groups.jsonl", records.Group)


class Policy(Artifact):
    """A Hugging Face folder: config.json, model.safetensors, tokenizer files.

    A folder of the user's is not copied: the artefact then holds only `pointer.json` {"path": ...}; `folder` is where
    the files really are.
    """

    kind = "policy"

    @property
    def folder(self) -> Path:
        """The Hugging Face folder."""
        pointer = self.path / "pointer.json"
        if not pointer.exists():
            return self.path
        folder = Path(json.loads(pointer.read_bytes())["path"])
        if not folder.is_dir():
            raise UserError(self.name, f"the model folder {folder} is gone", "", "Put it back.")
        return folder


class Logprobs(Artifact):
    """`logprobs.jsonl`: per example {"key": content hash, "logps": [...], "counts": [...]}, one number per answer."""

    kind = "logprobs"


class Report(Artifact):
    """`report.json`, and for people `report.html` or `table.txt`."""

    kind = "report"


@functools.lru_cache(maxsize=4096)
def _read_record(path: str, mtime_ns: int) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            record = json.load(file)
    except ValueError:
        raise UserError(path, "the record is no JSON", "", "Remove its folder and make it again.") from None
    return dict(record)


def read_record(folder: Path) -> dict[str, Any]:
    """The `record.json` of an artefact's folder (the same object while the file does not change)."""
    path = folder / "record.json"
    return _read_record(str(path), path.stat().st_mtime_ns)


class Store:
    """A folder of artefacts, found by fingerprint."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(Path(root).expanduser()))
        self._checked = False

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def check(self) -> None:
        """Refuse a store that a newer trueline wrote; silent for one that does not exist yet."""
        if self._checked:
            return
        mark = self.root / "store.json"
        if mark.exists():
            try:
                found = int(json.loads(mark.read_bytes())["format"])
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    str(mark), "it does not say which format the store has", 'it holds {"format": 1}'
                ) from None
            if found > FORMAT:
                raise UserError(
                    str(self.root), f"this store has format {found}, written by a newer trueline",
                    f"this one reads format {FORMAT}", "Upgrade trueline, or name another store with --store.",
                )  # fmt: skip
            self._checked = True

    def create(self) -> None:
        """Make the folder and its format mark, if they are not there."""
        self.check()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not (self.root / "store.json").exists():
                mine = self.root / f"store.json.{uuid.uuid4().hex}"  # several processes may begin at once
                mine.write_bytes(msgspec.json.encode({"format": FORMAT}) + b"\n")
                replace(mine, self.root / "store.json")
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(
                str(self.root), f"no store can be made here ({error.strerror})", "a store is a folder of its own",
                "Name another with --store.",
            ) from None  # fmt: skip

    def find(self, artifact: Artifact) -> Path | None:
        """The folder of a finished artefact, whatever label it was made under; None where it is not made."""
        self.check()
        first = self.root / artifact.kind / artifact.name
        for folder in (first, *sorted(first.parent.glob(f"*-{artifact.short}*"))):
            whole = folder.suffix != ".part" and (folder / "record.json").exists()
            if whole and read_record(folder)["fingerprint"] == artifact.fingerprint:
                return folder
        return None

    def folder(self, artifact: Artifact) -> Path:
        """Where the artefact lies or will lie; more digits where another with the same eight is there already."""
        found = self.find(artifact)
        if found is not None:
            return found
        first = self.root / artifact.kind / artifact.name
        return first.with_name(f"{artifact.label}-{artifact.fingerprint[:16]}") if first.exists() else first

    def part(self, artifact: Artifact) -> Path:
        """Where the artefact is made: what a killed run left, under whatever label, or a new name."""
        final = self.folder(artifact)
        for part in sorted(final.parent.glob(f"*-{artifact.short}*.part")):
            known = begun(part) or (read_record(part) if (part / "record.json").exists() else {})
            if known.get("fingerprint") == artifact.fingerprint:
                return part
        return final.with_name(final.name + ".part")

    def records(self, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """(folder, record) of every finished artefact of a kind."""
        self.check()
        for path in sorted((self.root / kind).glob("*/record.json")):
            if path.parent.suffix != ".part":
                yield path.parent, read_record(path.parent)

    @contextlib.contextmanager
    def lock(self, artifact: Artifact, waiting: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
        """Keep other makers of this artefact out; waits for one that is at work, after saying who through `waiting`.

        The operating system holds the lock for the process: a killed maker leaves none behind.
        """
        from filelock import FileLock, Timeout

        folder = self.root / ".locks"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{artifact.fingerprint}.lock")
        try:
            lock.acquire(timeout=0.05)
        except Timeout:
            maker = begun(self.part(artifact))
            waiting(f"process {maker.get('pid', '?')} on {maker.get('host', '?')}")
            lock.acquire(poll_interval=0.2)
        try:
            for rank in folder.glob(
                f"{artifact.fingerprint}.*.lock"
            ):  # workers of a killed maker, dying in this moment
                with FileLock(rank, timeout=60):
                    pass
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def hold(self, artifact: Artifact, rank: int) -> Iterator[None]:
        """What a worker process of the maker holds while it lives, so that the next maker waits for its end."""
        from filelock import FileLock

        with FileLock(self.root / ".locks" / f"{artifact.fingerprint}.{rank}.lock"):
            yield

    def begin(self, artifact: Artifact) -> Path:
        """The `….part` folder, marked as ours; what an earlier run left in it is kept."""
        part = self.part(artifact)
        part.mkdir(parents=True, exist_ok=True)
        now = {
            "fingerprint": artifact.fingerprint, "pid": os.getpid(), "host": socket.gethostname(), "at": time.time(),
            "runs": begun(part).get("runs", 0) + 1,
        }  # fmt: skip
        write_atomic(part / "begun.json", msgspec.json.encode(now))
        return part

    def finish(self, artifact: Artifact, part: Path) -> Path:
        """Give a part whose record stands its final name; scratch goes first, since the record vouches for the rest."""
        for name in SCRATCH:
            shutil.rmtree(part / name, ignore_errors=True)
        for path in (part / "begun.json", *part.glob("*.tmp")):  # half-written when a run was killed
            path.unlink(missing_ok=True)
        final = self.folder(artifact)
        replace(part, final)
        return final


def begun(part: Path) -> dict[str, Any]:
    """Who began a part, when, and how many runs worked on it; {} where nobody says."""
    try:
        return dict(json.loads((part / "begun.json").read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


_current: contextvars.ContextVar[Store | None] = contextvars.ContextVar("store", default=None)


@functools.cache
def _at(root: str) -> Store:
    return Store(root)


def current() -> Store:
    """The store in force; where none was set, $TRUELINE_STORE or ./store."""
    return _current.get() or _at(os.path.abspath(os.environ.get("TRUELINE_STORE", "store")))


@contextlib.contextmanager
def using(store: Store | str | os.PathLike[str]) -> Iterator[Store]:
    """Put a store (or the folder of one) in force for a block."""
    chosen = store if isinstance(store, Store) else _at(os.path.abspath(Path(store).expanduser()))
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)


@contextlib.contextmanager
def calls_kept(path: Path) -> Iterator[None]:
    """Around the use of a SQLite file that saves calls, in the store's root.

    Raises `UserError` where the file cannot be used, `OSError` where the disk is full.
    """
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        if "disk is full" in str(error):
            raise OSError(errno.ENOSPC, str(error), str(path)) from error
        raise UserError(
            str(path), f"the kept replies cannot be used ({error})", "a readable SQLite file",
            "Delete it: no result is lost, only the calls are made again.",
        ) from error  # fmt: skip
