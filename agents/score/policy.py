"""What an event adds to what we know of a contact.

Human clicks count far more than human opens; machine opens are counted apart and earn nothing (Apple's
privacy proxy opens every mail); machine clicks (gateways that follow every link) leave no trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from schemas.contact import REMEMBERED, Contact
from schemas.event import MailEvent

DAY = 86400.0
PREFIX = 12
"""Digits of an event id that the row remembers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What reading is worth."""

    half_life: float = 30.0
    """Days in which a score halves."""
    click: float = 10.0
    """Points of a human click."""
    open: float = 2.0
    """Points of a human open."""
    remembered: int = 20
    """Events of a contact that are recognised when they come again."""


def matters(event: MailEvent) -> bool:
    """Whether the event is counted at all."""
    if event.kind == "clicked":
        return bool(event.to) and not event.machine
    return bool(event.to) and event.kind in ("delivered", "opened")


def decide(event: MailEvent, contact: Contact | None, settings: Settings, now: float) -> Contact | None:
    """The contact after the event, or None where nothing changes (a repeat). ``now`` is in Unix seconds."""
    if not matters(event):
        return None
    old = contact or Contact(tenant=event.tenant, to=event.to, version=0)
    seen = event.id[:PREFIX]
    if seen in old.seen:
        return None
    when = min(event.time, now)  # a clock that runs ahead must not keep a contact fresh
    new = _counted(event, old, when)
    points = {"opened": settings.open, "clicked": settings.click}.get(event.kind, 0.0)
    return replace(
        new,
        first_seen=min(old.first_seen or when, when),
        score=_score(old, new, 0.0 if event.machine else points, when, settings),
        seen=(*old.seen, seen)[-settings.remembered :],
        version=old.version + 1,
    )


def score_at(contact: Contact, now: float, settings: Settings) -> float:
    """The score as it is worth at ``now``: the row holds it as of the contact's last counted event."""
    return contact.score * _decay(now - _as_of(contact), settings)


def _counted(event: MailEvent, old: Contact, when: float) -> Contact:
    if event.kind == "delivered":
        recent = old.recent
        if event.stream == "marketing":  # sorted: the order of events does not matter
            recent = tuple(sorted((*recent, int(when))))[-REMEMBERED:]
        return replace(
            old, delivered=old.delivered + 1, last_delivered=max(old.last_delivered, when), recent=recent
        )
    if event.machine:
        return replace(old, machine_opens=old.machine_opens + 1)
    if event.kind == "opened":
        return replace(old, opens=old.opens + 1, last_open=max(old.last_open, when))
    return replace(old, clicks=old.clicks + 1, last_click=max(old.last_click, when))


def _score(old: Contact, new: Contact, points: float, when: float, settings: Settings) -> float:
    # Old points and new ones are both brought to the new row's time, so the order of events does not matter.
    as_of = _as_of(new)
    kept = old.score * _decay(as_of - _as_of(old), settings) if old.score else 0.0
    return round(kept + points * _decay(as_of - when, settings), 6)


def _as_of(contact: Contact) -> float:
    return max(contact.last_delivered, contact.last_open, contact.last_click)


def _decay(seconds: float, settings: Settings) -> float:
    return 0.5 ** (max(seconds, 0.0) / (settings.half_life * DAY))
