"""The wait ladder: how a mail that is due later gets onto ``mail-wait-<rung>`` and where it goes on.

Inside one rung every record waits equally long, so that the head of the log is due first. A record due
in 5 h 23 m walks down: five times 1h, twice 10m, thrice 1m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas.codec import Headers
from schemas.mail import number


class Rung(NamedTuple):
    """One rung: ``name`` is the topic's suffix, ``seconds`` how long a record stays."""

    name: str
    seconds: float

    @property
    def topic(self) -> str:
        """The topic of the rung (logical name)."""
        return f"mail-wait-{self.name}"


RUNGS = (Rung("1m", 60.0), Rung("10m", 600.0), Rung("1h", 3600.0), Rung("6h", 21600.0))
"""The default lengths, shortest first. The names are fixed (``streams.topics``), the lengths settings."""


def rung_for(delay: float, rungs: Sequence[Rung] = RUNGS) -> Rung:
    """The longest rung that is not longer than ``delay`` seconds, else the shortest one."""
    return max(
        (rung for rung in rungs if rung.seconds <= delay), key=_seconds, default=min(rungs, key=_seconds)
    )


def onto_ladder(
    headers: Headers, next_topic: str, due: float, now: float, rungs: Sequence[Rung] = RUNGS
) -> tuple[str, Headers]:
    """(topic, headers) of the ladder record that comes back on ``next_topic`` at ``due`` (Unix seconds).

    The caller writes it with the value, key and partition of the mail, e.g.
    ``Out(topic, record.value, headers, record.key, record.partition)``.
    """
    found = dict(headers)
    found["next"] = next_topic.encode()
    found["due"] = number(due)
    return rung_for(due - now, rungs).topic, found


def off_ladder(headers: Headers) -> Headers:
    """The headers without what the ladder set."""
    found = dict(headers)
    for name in ("next", "due", "held"):
        found.pop(name, None)
    return found


def _seconds(rung: Rung) -> float:
    return rung.seconds
