"""What mail may go by its recipient's consents, and what of it may be tracked (``schemas.consent``)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from agents import View
from agents.screen.rules import Known
from schemas.consent import consent_key
from schemas.consent_rules import ConsentRule, ConsentRules


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What screen reads of a row of mail-consents."""

    state: str = "none"
    until: float = 0.0
    tracking: str = ""


read_standing = msgspec.json.Decoder(Standing).decode
_NONE = Standing()


class Agreed(NamedTuple):
    """``refusal`` is empty where the mail may go, else says why not. ``letters``: the header ``consent``; None
    where the send's own word counts."""

    refusal: str = ""
    letters: bytes | None = None


FREE = Agreed()
"""Nothing is asked for."""


def agreed(standing: Standing, rule: ConsentRule, due: float) -> Agreed:
    """What a mail may do that goes out at ``due`` (Unix seconds). Pure."""
    over = bool(standing.until) and due >= standing.until
    refusal = ""
    if rule.require and (standing.state != "granted" or over):
        if standing.state == "granted":
            day = datetime.fromtimestamp(max(standing.until, 0.0), UTC).date()
            refusal = f"the consent on record ended on {day}"
        elif standing.state == "revoked":
            refusal = "the consent on record was revoked"
        else:
            refusal = "there is no consent on record"
    return Agreed(refusal, standing.tracking.encode() if rule.tracking == "consent" else None)


def is_seen(said: bool, contact: Known, agreed: Agreed) -> bool:
    """Whether opens or clicks of a mail may be seen. ``said``: its send says so."""
    if agreed.letters is not None:
        return bool(agreed.letters)
    consent = contact.consent
    return said or (consent is not None and (consent.opens or consent.clicks))


class Consents:
    """``view`` gives the consents of a partition, read to their end."""

    def __init__(self, rules: ConsentRules, view: Callable[[int], View]) -> None:
        self._rules = rules
        self._view = view

    def of(self, to: str, tenant: str, stream: str, partition: int, due: float) -> Agreed:
        """What a mail may do that goes out at ``due``; one look at the table where the tenant asks for one."""
        rule = self._rules.of(tenant, stream)
        if not rule.asks:
            return FREE
        raw = self._view(partition).get(consent_key(to, tenant, stream))
        return agreed(read_standing(raw) if raw else _NONE, rule, due)
