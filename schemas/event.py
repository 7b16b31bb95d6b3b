"""The public stream ``mail-events``: what CRM and analytics read. At-least-once, deterministic ids."""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from schemas.codec import Headers, Record, event

Kind = Literal[
    "queued",
    "deferred",
    "delivered",
    "bounced",
    "complained",
    "opened",
    "clicked",
    "unsubscribed",
    "subscribed",
    "replied",
    "rejected",
    "suppressed",
    "expired",
    "cancelled",
    "unknown",
    "soft_bounced",
    "blocked",
    "released",
    "subscription_requested",
    "consented",
    "consent_revoked",
    "erased",
]


@event("event", 1)
class MailEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fact about one mail. ``id`` identifies the event (drop repeats by it), ``mail`` the message.

    ``time`` is Unix seconds. ``klass``/``scope``/``action``/``rule`` as in ``schemas.reply``; ``reply``
    the provider's words. ``machine`` marks an open or click that a proxy or scanner made. ``origin`` is
    the send that it belongs to (``mailsluice audit`` counts by it). ``security``: what the connection that
    took the mail was worth, as in ``schemas.outcome``.

    ``blocked`` and ``released`` are about an address, not a mail: a person, or a list from another system, says
    that it must not, or may again, get mail. ``scope``, ``stream``, ``reason`` and ``until`` are then those of
    ``schemas.suppression``, ``by`` is who said so and ``detail`` why. ``suggestion``: the address that was most
    likely meant, where screen stopped a mistyped one.

    ``subscription_requested``, ``subscribed``, ``consented`` and ``consent_revoked`` are about consent
    (``schemas.consent``): somebody typed the address into a form; its owner confirmed that (``asked``: when it was
    typed; ``mail`` is the id of that event); a person or an import says that there is a consent, on ``basis``, or
    with none only about ``tracking``; it ends for ``tracking`` alone (letters: o opens, c clicks). ``wording`` is
    what was shown, ``url`` where it came from, ``detail`` the proof, ``until`` when it ends.

    ``erased``: what is held about ``to`` is to be forgotten, by us at once, by who reads this stream too.
    """

    id: str
    kind: Kind
    mail: str
    time: float
    tenant: str = "default"
    campaign: str = ""
    stream: str = "marketing"
    to: str = ""
    origin: str = ""
    attempt: int = 0
    reason: str = ""
    detail: str = ""
    reply: str = ""
    klass: str = ""
    scope: str = ""
    action: str = ""
    rule: str = ""
    provider: str = ""
    source: str = ""
    dkim: str = ""
    url: str = ""
    machine: bool = False
    terminal: bool = False
    security: str = ""
    until: float = 0.0
    by: str = ""
    suggestion: str = ""
    basis: str = ""
    wording: str = ""
    asked: float = 0.0
    tracking: str = ""


@cache
def headers_of(kind: Kind) -> Headers:
    """The headers of an event. ``kind`` is among them, so that a reader can pass over what is nothing to it unread.

    One dictionary a kind: do not write into it."""
    return {"type": b"event", "version": b"1", "kind": kind.encode()}


def written(record: Record, fact: MailEvent) -> float:
    """When an event was written to its topic, Unix seconds: no event is of later, whatever its ``time`` says.

    Of the record, not of whoever reads it, so that the same events make the same rows on every reading.
    A record without a timestamp (-1 or 0) says what its event says.
    """
    return record.timestamp / 1000 if record.timestamp > 0 else fact.time
