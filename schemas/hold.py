"""What operators did: holds on tenants, lanes and sources, and every command, on ``mail-lane-policy``.

A campaign's own state is in its record on ``mail-campaigns``; tenants, lanes and sources have none, so
theirs is a ``hold`` here, where deliver reads already how fast it may send.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event

HeldKind = Literal["tenant", "lane", "source"]
HeldState = Literal["active", "paused", "cancelled"]


@event("hold", 1)
class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant, lane or source is paused, cancelled, or active again. The newest record of a key counts.

    ``lane``: the name of a lane (schemas.lanes), of a provider, or of an MX site in a shared lane.
    ``source``: as in MAILSLUICE_DELIVER_SOURCES, or ``default``. Cancelled: the mail of a tenant or lane
    ends as cancelled; a source is withdrawn. ``time`` Unix seconds.
    """

    kind: HeldKind
    name: str
    state: HeldState
    why: str = ""
    who: str = ""
    time: float = 0.0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"hold|{self.kind}|{self.name}".encode()


@event("command", 1)
class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's command: ``what`` was done to what (``on``: selection by name), by whom, why, when.

    Written before anything is done, and once more under the same key, with ``counts``, when all is done:
    ``done`` false in the log means that the command is at work or was killed at it. ``time`` Unix seconds.
    """

    what: str
    on: dict[str, str] = {}
    who: str
    why: str
    time: float
    done: bool = False
    counts: dict[str, int] = {}

    @property
    def key(self) -> bytes:
        """The key on the compacted topic: the time keeps every command under compaction."""
        return f"command|{self.time:.3f}|{self.who}|{self.what}".encode()
