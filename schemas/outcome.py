"""What ended, or did not end, an attempt: the journal of gate two on ``mail-outcomes``."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event

State = Literal[
    "delivered", "bounced", "expired", "cancelled", "suppressed", "rejected", "unknown", "deferred", "intent"
]
TERMINAL = frozenset({"delivered", "bounced", "expired", "cancelled", "suppressed", "rejected"})
"""States that end a message. ``unknown`` ends it only under at-most-once (field ``final``)."""


@event("outcome", 1)
class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt's outcome. ``time`` and ``expires`` are Unix seconds, ``seconds`` the attempt's latency.

    ``reply`` is the raw SMTP text (bounded to 2,000 characters), ``phase`` the command it answered
    (connect, ehlo, starttls, mail, rcpt, data, dot), ``tls`` the protocol version or empty, ``klass``,
    ``scope``, ``action`` and ``rule`` what ``schemas.reply`` made of it. ``next_at``: when a deferred
    mail is tried again. ``site``: the MX site where it is no known provider's. ``security``: clear (no
    STARTTLS offered), broken (offered, but only clear text went through), encrypted (certificate not
    verified, nor required to be), verified (it is the host's, by a known authority), sts (verified, as the
    domain's MTA-STS policy asks), dane (it matches the host's TLSA records). ``asked``: who asks for TLS there: sts,
    testing (an MTA-STS policy in that mode), dane, setting (ours), or nobody. ``opened``: the connection was made for
    this mail, or could not be: so connections are counted.
    """

    id: str
    state: State
    attempt: int
    final: bool = False
    tenant: str = "default"
    campaign: str = ""
    stream: str = "marketing"
    to: str = ""
    origin: str = ""
    time: float = 0.0
    expires: float = 0.0
    reason: str = ""
    reply: str = ""
    phase: str = ""
    klass: str = ""
    scope: str = ""
    action: str = ""
    rule: str = ""
    provider: str = ""
    site: str = ""
    lane: str = ""
    source: str = ""
    mx: str = ""
    tls: str = ""
    security: str = ""
    asked: str = ""
    opened: bool = False
    dkim: str = ""
    seconds: float = 0.0
    next_at: float = 0.0

    @property
    def terminal(self) -> bool:
        """Whether nothing comes after it."""
        return self.final or self.state in TERMINAL
