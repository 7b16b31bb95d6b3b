"""What an event says about who may still get mail.

Only a bad address, a complaint or an unsubscribe suppresses at once. Soft failures (a full mailbox) count
in a window of days and start over after a success. Blocks, policy and content refusals never suppress:
they say something about us, not about the address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from msgspec.structs import replace

from schemas.codec import Malformed
from schemas.event import MailEvent
from schemas.suppression import Suppression

DAY = 86400.0
_HINTS = get_type_hints(Suppression)
SCOPES: tuple[str, ...] = get_args(_HINTS["scope"])
REASONS: tuple[str, ...] = get_args(_HINTS["reason"])


@dataclass(frozen=True, slots=True)
class Window:
    """Soft failures on ``hits`` different days within ``days`` suppress.

    It counts replies whose rule name contains ``rule``. ``name`` is part of the rows' key: never change it.
    """

    name: str
    rule: str
    hits: int
    days: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How strict to be."""

    hard_days: float = 0.0
    """Days for which a bad address is suppressed; 0 = for ever."""
    soft_days: float = 30.0
    """Days for which repeated soft failures suppress; 0 = for ever. Mailboxes are emptied again."""
    share_bad_addresses: bool = False
    """Whether a bad address counts for every tenant, not only for the one whose mail bounced."""
    complaints_end_all: bool = False
    """Whether a complaint ends all mail of the tenant, receipts too, and not only the marketing."""
    windows: tuple[Window, ...] = (
        # Microsoft's "Access denied" is an unknown user, or a fault in that domain's directory.
        Window("access-denied", "access-denied", 2, 14),
        # Apple's "inactive" mailboxes may come back: it takes failures over weeks.
        Window("apple-inactive", "apple-inactive", 4, 42),
        Window("", "", 3, 14),
    )
    """The first whose ``rule`` occurs in the name of the reply's rule counts; the last takes all others."""


def matters(event: MailEvent) -> bool:
    """Whether the event can change a row at all: most cannot, and need no look at the state."""
    match event.kind:
        case "delivered" | "complained" | "unsubscribed" | "subscribed" | "blocked" | "released" | "erased":
            return bool(event.to)
        case "bounced" | "soft_bounced" | "deferred":
            return bool(event.to) and event.action in ("suppress", "soft")
    return False


def decide(
    event: MailEvent, rows: Sequence[Suppression], settings: Settings, now: float
) -> list[Suppression]:
    """The rows to write, given all rows of the event's recipient. ``now`` is in Unix seconds.

    The same event again writes nothing: it is not newer than the row that it wrote. Raises Malformed where a
    person's event names a scope or reason that there is not.
    """
    known = {row.key: row for row in rows}
    when = min(event.time, now)  # a clock that runs ahead must not make later events look old
    match event.kind:
        case "bounced" if event.action == "suppress":
            return _suppress(
                _bad_address(event, settings), known, when, _until(when, settings.hard_days), now
            )
        case "bounced" | "soft_bounced" | "deferred" if event.action == "soft":
            return _count(event, known, when, settings)
        case "complained":
            return _suppress(_complained(event, settings), known, when, 0, now)
        case "unsubscribed":
            return _suppress(_leaves(event, "unsubscribe"), known, when, 0, now)
        case "subscribed":  # takes back an unsubscribe; after a complaint only a person may
            # A confirmation speaks from when the subscription was asked for: who left in between said so later,
            # and the link pressed once more changes nothing.
            said = min(event.asked or when, when)
            return _release([known.get(_leaves(event, "unsubscribe").key)], event, said)
        case "blocked":
            return _suppress(_by_hand(event), known, when, event.until, now)
        case "released":
            return _release([row for row in rows if _is_meant(row, event)], event, when)
        case "delivered":
            return _release([row for row in rows if _is_soft(row, event.tenant)], event, when)
    return []


def _bad_address(event: MailEvent, settings: Settings) -> Suppression:
    if settings.share_bad_addresses:
        return Suppression(tenant="", to=event.to, scope="global", reason="hard_bounce", origin=event.id)
    return Suppression(tenant=event.tenant, to=event.to, reason="hard_bounce", origin=event.id)


def _leaves(event: MailEvent, reason: Literal["complaint", "unsubscribe"]) -> Suppression:
    # Receipts and password resets go on: who leaves the newsletter has not left the shop.
    return Suppression(
        tenant=event.tenant, to=event.to, scope="stream", stream="marketing", reason=reason, origin=event.id
    )


def _complained(event: MailEvent, settings: Settings) -> Suppression:
    row = _leaves(event, "complaint")
    return replace(row, scope="tenant", stream="") if settings.complaints_end_all else row


def _by_hand(event: MailEvent) -> Suppression:
    scope, reason = event.scope or "tenant", event.reason or "manual"
    if scope not in SCOPES or reason not in REASONS or reason in ("soft_bounces", "erased"):
        raise Malformed(
            "bad_suppression", f"scope is one of {', '.join(SCOPES)}; reason of {', '.join(REASONS)}"
        )
    if scope == "stream" and not event.stream:
        raise Malformed("bad_suppression", "scope stream needs the name of the stream")
    return Suppression(
        tenant="" if scope == "global" else event.tenant,
        to=event.to,
        scope=scope,  # type: ignore[arg-type]
        stream=event.stream if scope == "stream" else "",
        reason=reason,  # type: ignore[arg-type]
        origin=event.id,
    )


def _is_meant(row: Suppression, event: MailEvent) -> bool:
    """Whether a release is about this row: of its tenant, or global; narrowed by what it names."""
    if (row.scope == "global") != (event.scope == "global"):
        return False
    if row.scope != "global" and row.tenant != event.tenant:
        return False
    narrower = event.scope in ("", "global") or (row.scope == event.scope)
    stream = event.scope != "stream" or row.stream == event.stream
    return narrower and stream and event.reason in ("", row.reason)


def _until(when: float, days: float) -> float:
    return when + days * DAY if days else 0.0


def _is_soft(row: Suppression, tenant: str) -> bool:
    return row.reason == "soft_bounces" and row.tenant == tenant


def _suppress(
    row: Suppression, known: Mapping[bytes, Suppression], when: float, until: float, now: float
) -> list[Suppression]:
    old = known.get(row.key)
    if old and (when <= old.time or (old.active and not old.until)):
        return []
    if until and until <= now:  # history: what it would suppress is over
        return []
    return [replace(row, time=when, until=until, version=_next(old))]


def _count(
    event: MailEvent, known: Mapping[bytes, Suppression], when: float, settings: Settings
) -> list[Suppression]:
    window = next(window for window in settings.windows if window.rule in event.rule)
    row = Suppression(
        tenant=event.tenant, to=event.to, reason="soft_bounces", origin=event.id, window=window.name
    )
    old, day = known.get(row.key), int(when // DAY)
    if old and (when <= old.time or day in old.hits or old.in_force(when)):
        return []
    earlier = old.hits if old else ()
    hits = (*(hit for hit in earlier if day - window.days < hit), day)
    row = replace(row, time=when, version=_next(old))
    if len(hits) < window.hits:
        return [replace(row, active=False, hits=hits)]
    return [replace(row, until=_until(when, settings.soft_days))]


def _release(rows: Sequence[Suppression | None], event: MailEvent, when: float) -> list[Suppression]:
    return [
        replace(row, active=False, hits=(), until=0.0, time=when, origin=event.id, version=row.version + 1)
        for row in rows
        if row and when > row.time and (row.active or row.hits)
    ]


def _next(old: Suppression | None) -> int:
    return old.version + 1 if old else 1
