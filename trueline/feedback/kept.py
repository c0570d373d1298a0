"""Answers that were paid for, by key, in a SQLite file of the store: what is kept survives a kill and is shared.

Two runs may write at once; what is written under a key never changes. Deleting the file loses no result, it only costs
the calls again. What a key stands for is the caller's business.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence

from trueline import store

_LOOKUPS = 500  # SQLite allows at least 999 variables in one statement


class Kept:
    """An open table: a key and the values of its columns per row. Threads may share it."""

    def __init__(self, connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
        self.connection, self.table, self.columns = connection, table, columns
        self._lock = threading.Lock()

    def known(self, keys: Iterable[str]) -> dict[str, tuple[object, ...]]:
        """The values of those keys that are there."""
        distinct, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(distinct), _LOOKUPS):
            part = distinct[start : start + _LOOKUPS]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, {', '.join(self.columns)} FROM {self.table} WHERE key IN ({marks})"
            found.update({key: values for key, *values in self.connection.execute(query, part)})
        return {key: tuple(values) for key, values in found.items()}

    def keep(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Write rows of (key, values ...), all or none; they are safe when this returns."""
        marks = ",".join("?" * (1 + len(self.columns)))
        with self._lock, self.connection:  # one transaction
            self.connection.executemany(f"INSERT OR IGNORE INTO {self.table} VALUES ({marks})", rows)


@contextlib.contextmanager
def opened(file: str, table: str, columns: Sequence[str]) -> Iterator[Kept]:
    """A table of the store in force. columns: "name TYPE" each.

    Raises `UserError` for a file that SQLite cannot use.
    """
    here = store.current()
    here.create()
    path = here.root / file
    with (
        store.calls_kept(path),
        contextlib.closing(sqlite3.connect(path, timeout=60, check_same_thread=False)) as connection,
    ):
        layout = ", ".join(["key TEXT PRIMARY KEY", *columns])
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({layout}) WITHOUT ROWID")
        yield Kept(connection, table, [column.split()[0] for column in columns])
