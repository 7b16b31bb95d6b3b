"""Bounces that come faster than mail systems make them: capped, so that nobody empties a list with replays.

Pure. Counts are kept in memory, by the hour in which a report came: a restart forgets them, and then at most
one more cap's worth counts in that hour.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from schemas.event import MailEvent

HOUR = 3600.0
MOST = 50_000
"""Addresses and campaigns that are counted in an hour."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounces by mail an hour that still count, in one partition."""

    address: int = 10
    """About one address: a mail has one final report, and a reader gets few mails an hour."""
    campaign: int = 500
    """About one campaign; hosts that refuse by mail what they took by SMTP are few."""


class Floods:
    """Bounces by mail, counted hour by hour."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._hour = 0
        self._seen: Counter[tuple[str, str, str]] = Counter()

    def take(self, event: MailEvent) -> tuple[MailEvent, Literal["", "address", "campaign"]]:
        """The event, and whose flood it belongs to; then its action is hold and its reason ``flood``."""
        if event.kind != "bounced" or event.reason != "late_dsn":
            return event, ""
        hour = int(event.time // HOUR)
        if hour > self._hour or len(self._seen) > MOST:
            self._hour = max(hour, self._hour)
            self._seen.clear()
        whose: Literal["", "address", "campaign"] = ""
        if self._count(("address", event.tenant, event.to)) > self._caps.address:
            whose = "address"
        elif event.campaign and self._count(("campaign", event.tenant, event.campaign)) > self._caps.campaign:
            whose = "campaign"
        if not whose:
            return event, ""
        detail = f"more bounces about one {whose} in an hour than are believed: it counts against nobody"
        return replace(event, action="hold", reason="flood", detail=detail), whose

    def _count(self, key: tuple[str, str, str]) -> int:
        self._seen[key] += 1
        return self._seen[key]
