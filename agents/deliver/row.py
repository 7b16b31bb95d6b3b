"""What gate two remembers of a mail: its last attempt and how that ended. Pure."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from schemas.outcome import TERMINAL

_LETTERS = {
    "delivered": b"D",
    "bounced": b"B",
    "expired": b"E",
    "cancelled": b"C",
    "suppressed": b"S",
    "rejected": b"R",
    "deferred": b"d",
    "unknown": b"u",
    "intent": b"i",
}
_STATES = {letter: state for state, letter in _LETTERS.items()} | {b"U": "unknown"}
_ORDER = tuple(reversed(_LETTERS))
"""Of two ends of one attempt (two workers for a moment) everyone takes the same."""
KEPT = 86400.0
"""Seconds that a row outlives its mail: what comes later without a row is expired anyway."""


class Row(NamedTuple):
    """``attempt`` is the highest one journaled; ``terminal``: nothing may come after it."""

    attempt: int
    state: str
    terminal: bool


def reduce_outcome(value: bytes) -> tuple[bytes, float]:
    """An outcome's JSON -> (the row's bytes, the time until which it is kept)."""
    found = orjson.loads(value)
    state = found["state"]
    letter = b"U" if state == "unknown" and found.get("final") else _LETTERS[state]
    expires = found.get("expires", 0.0)
    return letter + b"%d" % found["attempt"], expires + KEPT if expires else 0.0  # 0: for ever


def read_row(value: bytes) -> Row:
    """The row in the bytes that ``reduce_outcome`` made."""
    letter = value[:1]
    state = _STATES[letter]
    return Row(int(value[1:]), state, letter == b"U" or state in TERMINAL)


def newer(old: bytes, new: bytes) -> bool:
    """Whether an entry takes the place of another: entries merge in any order to the same row.

    Terminal beats open, then the higher attempt; a real reply beats unknown and an intent.
    """
    a, b = read_row(old), read_row(new)
    return _rank(b) > _rank(a)


def _rank(row: Row) -> tuple[bool, bool, int, int]:
    return row.terminal, row.terminal and row.state != "unknown", row.attempt, _ORDER.index(row.state)
