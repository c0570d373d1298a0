"""Verdicts that were paid for once: a cache keyed by content, kept in the store and shared by runs and stages.

The key is the whole question: who was asked (the comparer's fingerprint), the prompt as it stands in the record, and
both answers in the order shown. A changed temperature, wording or model is another comparer and never meets an old
verdict. Abstentions are kept too: a comparer is a function of its item, so asking again would buy the same reply.

SQLite holds it (`verdicts.sqlite` in the store's root): a killed run keeps every finished call, and two runs may
write at once. Deleting the file loses no result, it only costs the calls again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from trueline import store
from trueline.errors import UserError
from trueline.feedback.protocol import Comparer, Item, Verdict, meter
from trueline.fingerprint import fingerprint

FILE = "verdicts.sqlite"
_LOOKUPS = 500  # SQLite allows at least 999 variables in one statement


def ask(comparer: Comparer, items: Sequence[Item]) -> list[Verdict]:
    """The comparer's verdicts on the items, in order; only items never answered before are asked, each once."""
    asker = fingerprint(comparer, f"comparer {comparer.name}")
    keys = [item_key(asker, item) for item in items]
    here = store.current()
    here.create()
    with _opened(here.root / FILE) as table:
        known = _look_up(table, keys)
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
        if missing:
            said = comparer.compare(list(missing.values()))
            if len(said) != len(missing):
                raise ValueError(f"comparer {comparer.name} gave {len(said)} verdicts for {len(missing)} items")
            fresh = dict(zip(missing, said, strict=True))
            rows = [(key, verdict.p, verdict.raw) for key, verdict in fresh.items()]
            with table:  # one transaction
                table.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)
            known.update(fresh)
    meter("critic_calls", len(items))
    meter("cached", len(items) - len(missing))
    return [known[key] for key in keys]


def item_key(asker: str, item: Item) -> str:
    """Hash of one question: the comparer's fingerprint, the prompt's record, the two answers in the order shown."""
    return hashlib.sha256(msgspec.json.encode((asker, *item), order="sorted")).hexdigest()[:40]


def _look_up(table: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Verdict]:
    distinct = list(dict.fromkeys(keys))
    known = {}
    for start in range(0, len(distinct), _LOOKUPS):
        part = distinct[start : start + _LOOKUPS]
        query = f"SELECT key, p, raw FROM verdicts WHERE key IN ({','.join('?' * len(part))})"
        known.update({key: Verdict(p, raw) for key, p, raw in table.execute(query, part)})
    return known


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as table:
            table.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, p REAL, raw TEXT) WITHOUT ROWID")
            yield table
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            raise OSError(errno.ENOSPC, str(error), str(path)) from error
        raise UserError(
            str(path), f"the verdict cache cannot be used ({error})", "a readable SQLite file",
            "Delete it: no result is lost, only the calls are made again.",
        ) from error  # fmt: skip
