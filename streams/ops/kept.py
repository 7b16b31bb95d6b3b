"""The state files of workers, opened read-only, and how each stage merges the topic that its file follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import orjson

from agents.deliver.row import newer as newer_outcome
from agents.deliver.row import reduce_outcome
from schemas.address import hashed
from schemas.codec import parse
from schemas.consent import StreamConsent, goes
from schemas.contact import Contact
from schemas.gate import GateRow
from schemas.suppression import Suppression
from streams.ops.refold import Merged, Row
from streams.store import FORMAT

SLACK = 60.0
"""Seconds by which a worker's clock may be ahead of ours when it lets rows go."""


def _until(value: bytes) -> Row:
    return value, parse(value, GateRow).until


def _newer_suppression(old: bytes, new: bytes) -> bool:
    return parse(new, Suppression).version >= parse(old, Suppression).version


def _newer_consent(old: bytes, new: bytes) -> bool:
    return parse(new, StreamConsent).version >= parse(old, StreamConsent).version


def _newer_contact(old: bytes, new: bytes) -> bool:
    return parse(new, Contact).version >= parse(old, Contact).version


KEPT: dict[tuple[str, str], Callable[[], Merged]] = {
    ("screen", "mail-screen-log"): lambda: Merged(_until),
    ("screen", "mail-suppressions"): lambda: Merged(newer=_newer_suppression),
    ("screen", "mail-contacts"): Merged,
    ("deliver", "mail-outcomes"): lambda: Merged(reduce_outcome, newer_outcome),
    ("deliver", "mail-suppressions"): lambda: Merged(newer=_newer_suppression),
    ("suppress", "mail-suppressions"): lambda: Merged(newer=_newer_suppression),
    ("screen", "mail-consents"): lambda: Merged(newer=_newer_consent),
    ("suppress", "mail-consents"): lambda: Merged(lambda value: (value, goes(value)), _newer_consent),
    ("score", "mail-contacts"): lambda: Merged(newer=_newer_contact),
}
"""(stage, topic) -> how the stage's files merge the topic."""


def open_file(path: Path) -> sqlite3.Connection:
    """A database as it is now: what its worker writes later is not seen. Raises sqlite3.Error."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only a read begins the snapshot
    return db


class File:
    """One state file, read at one moment: its transaction sees nothing that is written later."""

    def __init__(self, worker: str, stage: str, topic: str, path: Path, identity: str) -> None:
        self.name = f"{worker} {stage}/{path.name}"
        self.stage, self.topic = stage, topic
        self.db = open_file(path)
        about = dict(self.db.execute("SELECT k, v FROM about"))
        self.fault = ""
        if (about.get("identity"), about.get("format")) != (identity, FORMAT):
            self.fault = f"expected {identity!r} of format {FORMAT}, found {about.get('identity')!r}"
        self.position = int(about.get("at " + topic, "-1"))
        self.merged: Merged = KEPT[stage, topic]()
        self.done = False
        self.wrong: dict[bytes, str] = {}

    def compare(self, now: float, whole: bool) -> int:
        """Fill ``wrong``; returns how many rows were compared. ``whole``: retention took nothing of the log."""
        self.done = True
        expected, seen, found = self.merged.rows, 0, set[bytes]()
        for key, value, until in self.db.execute("SELECT k, v, until FROM rows"):
            row = expected.get(key)
            seen += row is not None
            if key in found:
                self.wrong[key] = f"expected one row, found another {said(value)}"
            elif row is None and whole:
                self.wrong[key] = f"expected no row, found {said(value)}"
            elif row is not None and (row[0] != value or abs(row[1] - until) > 0.001):
                self.wrong[key] = (
                    f"expected {said(row[0])} until {row[1]:.0f}, found {said(value)} until {until:.0f}"
                )
            found.add(key)
        if seen < len(expected):
            for key, (value, until) in expected.items():
                gone = 0 < until < now + SLACK
                if not gone and key not in found:
                    self.wrong[key] = f"expected {said(value)}, found no row"
        return len(found)


def homes_in(directory: Path) -> dict[str, Path]:
    """The state directories of workers below ``directory`` (itself included), named by where they lie."""
    stages = {stage for stage, _ in KEPT} | {"classify"}
    found = {path.parent for stage in stages for path in directory.rglob(stage) if path.is_dir()}
    return {path.relative_to(directory).as_posix(): path for path in sorted(found)}


def name_of(key: bytes) -> str:
    """A key in a report: hashed."""
    # Keys begin with an address, or have one inside.
    return hashed(key.decode("utf-8", "replace"))


def said(value: bytes | None) -> str:
    """A value for people, without the address in it."""
    if value is None:
        return "nothing"
    if value[:1] != b"{":
        return value[:40].decode("utf-8", "replace")
    fields = orjson.loads(value)
    return " ".join(f"{k}={v}" for k, v in fields.items() if k not in ("to", "key", "seen"))[:300]
