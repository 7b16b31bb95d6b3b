"""One partition's local state: keys and values in SQLite, with the position of the log applied to it.

A file can always be deleted: it is filled again from Kafka. Rows are written only from the log's tail.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

FORMAT = "2"


class Taken(Exception):
    """Another process has written to the file since: it owns the partition now, or shares the directory."""


class Store:
    """Keys and values with an expiry (Unix seconds, 0 = never) and one position per followed log."""

    def __init__(self, path: Path, identity: str) -> None:
        """Opens or makes the file. One of another ``identity`` (topic, partition, P) or format, or one
        that SQLite cannot read, is deleted and begun anew."""
        self.path = path
        self._identity = identity
        self._at: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(identity)
        except OSError as error:
            raise OSError(
                f"cannot make the state directory {path.parent}: {error}; check MAILSLUICE_STATE"
            ) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(
                    f"cannot open the state file {path.name}: {error}; check the disk and MAILSLUICE_STATE"
                ) from error
            self.remove()
            self._db = self._open(identity)
        self._get = "SELECT v FROM rows WHERE k = ?"

    def _open(self, identity: str) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=32)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-16000")
        db.execute("CREATE TABLE IF NOT EXISTS about (k TEXT PRIMARY KEY, v TEXT)")
        found = dict(db.execute("SELECT k, v FROM about"))
        if found and (found.get("identity") != identity or found.get("format") != FORMAT):
            db.close()
            self.remove()
            return self._open(identity)
        db.execute(
            "CREATE TABLE IF NOT EXISTS rows (k BLOB PRIMARY KEY, v BLOB NOT NULL, until REAL NOT NULL) WITHOUT ROWID"
        )
        db.execute("CREATE INDEX IF NOT EXISTS rows_until ON rows (until) WHERE until > 0")
        db.execute("INSERT OR REPLACE INTO about VALUES ('identity', ?), ('format', ?)", (identity, FORMAT))
        return db

    def position(self, log: str) -> int:
        """The next offset of ``log`` to apply, or -1."""
        row = self._db.execute("SELECT v FROM about WHERE k = ?", ("at " + log,)).fetchone()
        self._at[log] = int(row[0]) if row else -1
        return self._at[log]

    def mark(self, log: str) -> str:
        """What was written with the position."""
        row = self._db.execute("SELECT v FROM about WHERE k = ?", ("mark " + log,)).fetchone()
        return row[0] if row else ""

    def get(self, key: bytes) -> bytes | None:
        """The value under a key."""
        row = self._db.execute(self._get, (key,)).fetchone()
        return row[0] if row else None

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """All (key, value) with the prefix, in key order. Keys are text: no byte is 0xff."""
        return self._db.execute(
            "SELECT k, v FROM rows WHERE k >= ? AND k < ?", (prefix, prefix + b"\xff")
        ).fetchall()

    def apply(
        self,
        log: str,
        position: int,
        puts: Iterable[tuple[bytes, bytes, float]],
        deletes: Iterable[bytes] = (),
        mark: str = "",
    ) -> None:
        """Write rows and the position in one transaction. Raises sqlite3.Error (a full disk) and Taken.

        ``mark``: how the record just below the position is known again.

        A worker that was frozen, has lost the partition and wakes must not write what its successor on
        this machine has long passed: the rows would go back in time.
        """
        db = self._db
        expected = self._at.get(log)
        db.execute("BEGIN IMMEDIATE")
        try:
            if expected is not None and self.position(log) != expected:
                raise Taken(
                    f"{self.path.name} stands at {self._at[log]}, not at {expected} where this process left it"
                )
            db.executemany("DELETE FROM rows WHERE k = ?", [(key,) for key in deletes])
            db.executemany(
                "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v, until = excluded.until",
                puts,
            )
            db.execute(
                "INSERT OR REPLACE INTO about VALUES (?, ?), (?, ?)",
                ("at " + log, str(position), "mark " + log, mark),
            )
            db.execute("COMMIT")
            self._at[log] = position
        except BaseException:
            if db.in_transaction:  # SQLite ends it by itself when the disk is full
                db.execute("ROLLBACK")
            raise

    def expire(self, now: float, limit: int = 5000) -> int:
        """Delete rows whose time has passed, at most ``limit``; returns how many."""
        cursor = self._db.execute(
            "DELETE FROM rows WHERE k IN (SELECT k FROM rows WHERE until > 0 AND until < ? LIMIT ?)",
            (now, limit),
        )
        return cursor.rowcount

    def count(self) -> int:
        """Number of rows."""
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin_anew(self) -> None:
        """Throw everything away."""
        self._db.close()
        self.remove()
        self._at.clear()
        self._db = self._open(self._identity)

    def remove(self) -> None:
        """Delete the file and its companions."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
