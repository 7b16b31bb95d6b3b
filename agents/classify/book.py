"""Whose mail an id is: a partition's memory of delivered mail, in one SQLite file.

One table per day of expiry, dropped as a whole when its day is over: deleting rows one by one would cost
more than writing them. Its truth is ``mail-outcomes``; a lost file costs what the tokens in a report cannot
say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec

from agents import Retry

DAY = 86400.0
STEP = 5000
"""Rows that are looked at together for whom to forget: others take their turns between."""


class _Whose(msgspec.Struct, array_like=True, gc=False):
    """The first field of a row (``agents.classify.policy.Owner``)."""

    to: str


_whose = msgspec.msgpack.Decoder(_Whose).decode


class Book(Protocol):
    """What the agent needs of it."""

    def remember(self, id: str, row: bytes, until: float) -> None:
        """Keep ``row`` until ``until`` (Unix seconds), seen at once, durable after ``commit``."""

    def find(self, id: str) -> bytes | None:
        """The row of ``id``, or None."""

    def days(self) -> list[int]:
        """The days of expiry of which it holds rows."""

    def forget(self, people: Collection[str], day: int, after: bytes = b"") -> bytes | None:
        """Delete the rows of these recipients that expire on ``day``, looking at STEP rows from ``after`` on: some
        milliseconds. Returns where to go on, None at the day's end."""

    def commit(self, now: float) -> None:
        """Write what was remembered; forget the days that are over."""

    def close(self) -> None:
        """Commit and close."""


class SqliteBook:
    """A book in a file. Raises Retry where the file cannot be read or written for now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-4000")
        self._db.execute("PRAGMA secure_delete=ON")  # of who was erased nothing stays in free pages
        rows = self._db.execute(
            "SELECT name FROM sqlite_master WHERE type='table' AND name GLOB 'day_[0-9]*'"
        )
        self._days = sorted(int(name[4:]) for (name,) in rows)
        self._new: dict[int, dict[bytes, bytes]] = {}
        self._swept = 0.0

    def remember(self, id: str, row: bytes, until: float) -> None:
        """Keep ``row`` at least until ``until``."""
        self._new.setdefault(int(until // DAY), {})[_key(id)] = row

    def find(self, id: str) -> bytes | None:
        """The row of ``id``: what is not yet written first, then the youngest days."""
        key = _key(id)
        for rows in self._new.values():
            if key in rows:
                return rows[key]
        try:
            for day in reversed(self._days):
                found = self._db.execute(f"SELECT row FROM day_{day} WHERE id = ?", (key,)).fetchone()
                if found:
                    return bytes(found[0])
        except sqlite3.Error as error:
            raise self._unwell(error) from None
        return None

    def days(self) -> list[int]:
        """Oldest first, after what waits was written."""
        self.commit(0.0)
        return list(self._days)

    def forget(self, people: Collection[str], day: int, after: bytes = b"") -> bytes | None:
        """A step through one day's table, in one transaction."""
        try:
            rows = self._db.execute(
                f"SELECT id, row FROM day_{day} WHERE id > ? ORDER BY id LIMIT {STEP}", (after,)
            ).fetchall()
            gone = [(id,) for id, row in rows if _whose(row).to in people]
            if gone:
                self._db.execute("BEGIN")
                self._db.executemany(f"DELETE FROM day_{day} WHERE id = ?", gone)
                self._db.execute("COMMIT")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._unwell(error) from None
        return bytes(rows[-1][0]) if len(rows) == STEP else None

    def commit(self, now: float) -> None:
        """One transaction for all that was remembered; once an hour, old days go."""
        try:
            if self._new:
                self._write()
            if now - self._swept > 3600:
                self._swept = now
                self._sweep(now)
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._unwell(error) from None

    def _write(self) -> None:
        self._db.execute("BEGIN")
        for day, rows in self._new.items():
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS day_{day} (id BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"
            )
            self._db.executemany(f"INSERT OR REPLACE INTO day_{day} VALUES (?, ?)", rows.items())
        self._db.execute("COMMIT")
        self._days = sorted({*self._days, *self._new})
        self._new.clear()

    def _sweep(self, now: float) -> None:
        for day in [day for day in self._days if (day + 1) * DAY < now]:
            self._db.execute(f"DROP TABLE day_{day}")
            self._days.remove(day)

    def _unwell(self, error: sqlite3.Error) -> Retry:
        return Retry(5.0, f"{self._path}: {error}; is its disk full?")

    def close(self) -> None:
        """Commit and close."""
        self.commit(0.0)
        self._db.close()


def _key(id: str) -> bytes:
    # Ids are 32 hex digits; anything else (nobody's) keeps its own bytes and finds nothing.
    try:
        return bytes.fromhex(id)
    except ValueError:
        return id.encode("utf-8", "replace")
