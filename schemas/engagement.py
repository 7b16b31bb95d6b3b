"""What readers did, from the HTTP edge: ``mail-engagement`` (co-partitioned by recipient)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event


@event("engagement", 1)
class Engagement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One open, click, unsubscribe or subscription. ``time`` Unix seconds. ``agent``: the User-Agent, cut to 200.

    ``asked``: of a ``subscribed`` that confirms a ``subscription_requested``, when that was; ``mail`` is then that
    event's id. ``wording`` and ``tracking`` as in ``schemas.event``.
    """

    kind: Literal[
        "opened", "clicked", "unsubscribed", "subscribed", "subscription_requested", "consent_revoked"
    ]
    mail: str
    tenant: str
    campaign: str
    stream: str = "marketing"
    to: str = ""
    origin: str = ""
    time: float = 0.0
    url: str = ""
    agent: str = ""
    address: str = ""
    one_click: bool = False
    provider: str = ""
    dkim: str = ""
    wording: str = ""
    asked: float = 0.0
    tracking: str = ""
