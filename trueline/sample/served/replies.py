"""Replies that were paid for once: kept in the store as each arrives, found again by their content.

The key of a reply is the whole question (who was asked, the messages, how it was sampled, which of the prompt's answers
it is); a changed model, wording or temperature never meets an old reply. A killed run has lost nothing but what was in
flight. Beside them stands what each engine has cost in this store so far, in the same transaction, so that a budget
holds across runs.

SQLite holds both (`replies.sqlite` in the store's root); several runs may write at once. Deleting the file loses no
result, it only costs the calls again (and forgets what was spent).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from trueline.store import calls_kept

FILE = "replies.sqlite"
_LOOKUPS = 500  # SQLite allows at least 999 variables in one statement
_TABLES = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (engine TEXT PRIMARY KEY, name TEXT, calls INTEGER, prompt_tokens INTEGER,
    completion_tokens INTEGER, microusd REAL) WITHOUT ROWID;
"""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer of a server.

    why: "" for an ordinary answer, "refused" where the model declined, "filtered" where a content filter cut or kept
    the answer. calls: 1 for the first answer of a request, 0 for the others that came with it; these share its tokens.
    prompt_tokens, completion_tokens: as billed; None where the server did not say. microusd: None where unknown.
    first: log-probs of the likeliest first tokens, where they were asked for; logps: of the tokens of a given answer.
    """

    text: str
    stopped: Literal["stop", "length"] = "stop"
    why: Literal["", "refused", "filtered"] = ""
    calls: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    microusd: float | None = None
    first: dict[str, float] | None = None
    logps: tuple[float, ...] | None = None


class Spent(NamedTuple):
    """What an engine has cost in this store: requests answered, and micro-dollars."""

    calls: int = 0
    microusd: float = 0.0


class _Waiting(NamedTuple):
    engine: str
    name: str
    rows: list[tuple[str, Reply]]
    microusd: float


class Replies:
    """The open table. Its methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self._table.executescript(_TABLES)
        self._using, self._queueing = threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting] = []

    def close(self) -> None:
        """Close the file; every reply that `keep` returned for stands in it."""
        self._table.close()

    def look_up(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Those of `keys` that were answered before."""
        distinct, known = list(dict.fromkeys(keys)), {}
        with self._using:
            for start in range(0, len(distinct), _LOOKUPS):
                part = distinct[start : start + _LOOKUPS]
                query = f"SELECT key, reply FROM replies WHERE key IN ({','.join('?' * len(part))})"
                for key, reply in self._table.execute(query, part):
                    known[key] = msgspec.json.decode(reply, type=Reply)
        return known

    def spent(self, engine: str) -> Spent:
        """What `engine` (a fingerprint) has cost so far, by this run and every other."""
        with self._using:
            row = self._table.execute("SELECT calls, microusd FROM spent WHERE engine = ?", (engine,)).fetchone()
        return Spent(*row) if row else Spent()

    def keep(self, engine: str, name: str, rows: Sequence[tuple[str, Reply]], microusd: float) -> None:
        """Write replies and what they cost; they are on the disk when this returns.

        A transaction waits for the disk. Whoever gets to write takes along what others have brought meanwhile, so that
        many threads wait about as long as one.
        """
        with self._queueing:
            self._waiting.append(_Waiting(engine, name, list(rows), microusd))
        with self._using:
            with self._queueing:
                batch, self._waiting = self._waiting, []
            try:
                self._write(batch)
            except BaseException:
                with self._queueing:  # the others' replies: each tries again itself when its turn comes
                    self._waiting = batch + self._waiting
                raise

    def _write(self, batch: Sequence[_Waiting]) -> None:
        with self._table:  # one transaction
            for engine, name, rows, microusd in batch:
                encoded = [(key, msgspec.json.encode(reply)) for key, reply in rows]
                self._table.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", encoded)
                sums = [
                    sum(reply.calls for _, reply in rows),
                    sum(reply.prompt_tokens or 0 for _, reply in rows),
                    sum(reply.completion_tokens or 0 for _, reply in rows),
                    microusd,
                ]
                self._table.execute(
                    "INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (engine) DO UPDATE SET "
                    "calls = calls + excluded.calls, prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                    "completion_tokens = completion_tokens + excluded.completion_tokens, "
                    "microusd = microusd + excluded.microusd",
                    (engine, name, *sums),
                )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Replies]:
    """The table at `path`, made where it is not there. Raises `UserError` for a file that cannot be used."""
    with calls_kept(path), contextlib.closing(Replies(path)) as replies:
        yield replies
