"""What we know of a contact's engagement: ``mail-contacts`` (compacted, co-partitioned by recipient)."""

from __future__ import annotations

import msgspec

from schemas.codec import event
from schemas.send import Consent

REMEMBERED = 20
"""Marketing mails of a contact whose time of delivery is remembered."""


@event("contact", 1)
class Contact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts and last times (Unix seconds; 0 = never) of one recipient of one tenant.

    ``recent``: when the last marketing mails were delivered, at most REMEMBERED, the oldest first. ``seen``: the first 12 digits of the ids of the last events counted, so that a repeat counts once.

    Of somebody who was erased only ``to`` is left, which is then a keyed hash (``schemas.erasure``), with no tenant,
    and when that was (``erased``), and when an operator took it back (``released``).
    """

    tenant: str
    to: str
    delivered: int = 0
    opens: int = 0
    clicks: int = 0
    machine_opens: int = 0
    first_seen: float = 0.0
    last_delivered: float = 0.0
    last_open: float = 0.0
    last_click: float = 0.0
    consent: Consent | None = None
    score: float = 0.0
    version: int = 1
    seen: tuple[str, ...] = ()
    recent: tuple[int, ...] = ()
    erased: float = 0.0
    released: float = 0.0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"{self.to}|{self.tenant}".encode()
