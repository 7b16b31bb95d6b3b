"""Who must not get mail, and until when: ``mail-suppressions`` (compacted, co-partitioned by recipient)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event


@event("suppression", 1)
class Suppression(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One suppression. ``scope``: global (every tenant), tenant, or stream (``stream`` names it).

    ``until`` is Unix seconds, 0 for ever. ``active`` False is a release (or a soft window's state);
    ``version`` orders writes, not arrival. ``hits`` are the days (Unix day numbers) of soft bounces, and
    ``window`` names the soft window that they count in ("" is the usual one): each counts by itself.

    ``erased``: ``to`` is no address but its keyed hash (``schemas.erasure``), all that is left of somebody who
    asked to be erased; the scope is global. It lies in the partition of the address.
    """

    tenant: str
    to: str
    scope: Literal["global", "tenant", "stream"] = "tenant"
    stream: str = ""
    reason: Literal["hard_bounce", "soft_bounces", "complaint", "unsubscribe", "manual", "erased"]
    origin: str = ""
    time: float = 0.0
    until: float = 0.0
    active: bool = True
    version: int = 1
    hits: tuple[int, ...] = ()
    window: str = ""

    @property
    def key(self) -> bytes:
        """The key on the compacted topic; the recipient first, so that a prefix scan finds all of theirs."""
        tail = f"|{self.window}" if self.window else ""
        return f"{self.to}|{self.tenant}|{self.scope}|{self.stream}|{self.reason}{tail}".encode()

    def in_force(self, now: float) -> bool:
        """Whether it is neither released nor over at ``now`` (Unix seconds)."""
        return self.active and not (self.until and now >= self.until)

    def applies(self, tenant: str, stream: str, now: float) -> bool:
        """Whether it forbids a mail of this tenant and stream at ``now`` (Unix seconds).

        Transactional mail stops on a bad address or somebody's word alone: a full mailbox may have room again
        for the password that its owner waits for.
        """
        if not self.in_force(now):
            return False
        if stream == "transactional" and self.reason == "soft_bounces":
            return False
        if self.scope == "global":
            return True
        return self.tenant == tenant and (self.scope == "tenant" or self.stream == stream)
