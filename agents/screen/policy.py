"""May this recipient get this mail now? Pure: everything it looks at is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from schemas.gate import GateRow
from schemas.identity import mail_id
from schemas.mail import twin
from schemas.suppression import Suppression


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of screen."""

    horizon: float = 14 * 86400.0
    """Seconds for which a send is remembered: a duplicate that comes later passes again."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """What the headers of an enqueued record say. Times are Unix seconds."""

    id: str
    origin: str
    tenant: str
    campaign: str
    stream: str
    to: str
    lane: str
    expires: float
    not_before: float
    host: str = ""
    outcome: str = ""
    reason: str = ""
    digest: str = ""


def keys_of(mail: Candidate) -> tuple[str, ...]:
    """The keys under which gate one remembers a mail.

    Marketing: campaign x recipient (one mail of a campaign to one address). The id only where it is an
    idempotency key's, or where it is all there is (transactional: two password resets both go).
    """
    by_id = f"i|{mail.id}"
    if mail.stream != "marketing" or mail.outcome:
        return (by_id,)
    by_recipient = f"c|{mail.to}|{mail.tenant}|{mail.campaign}"
    keyed = mail.id != mail_id(mail.tenant, None, mail.to, mail.origin)
    return (by_recipient, by_id) if keyed else (by_recipient,)


def looked_up(mail: Candidate) -> tuple[str, ...]:
    """The keys under which a decision about this very send may lie: enqueue may have refused it in one try
    and taken it in another, and the first of the two stands."""
    by_recipient, by_id = f"c|{mail.to}|{mail.tenant}|{mail.campaign}", f"i|{mail.id}"
    # The usual one first. Both, because a campaign's stream may have changed between two tries.
    return (by_recipient, by_id) if mail.stream == "marketing" else (by_id, by_recipient)


def missing(row: GateRow, found: str) -> bool:
    """Whether the row of a send that is redone, found under key ``found``, has to be written under its other
    keys as well: a crash may have come between the two. Not so where enqueue had refused the send: that is
    remembered under its id alone."""
    return row.decision == "pass" or not found.startswith("i|")


def repeat(mail: Candidate, row: GateRow) -> str:
    """What a second record under a known key is: "again" (the same send redone), duplicate or conflict."""
    if row.origin == mail.origin:
        return "again"
    same_id = row.key == f"i|{mail.id}"
    return "conflict" if same_id and row.digest and row.digest != mail.digest else "duplicate"


def decide(
    mail: Candidate, suppressions: Iterable[Suppression], settings: Settings, now: float
) -> tuple[str, str]:
    """(decision, reason): ``pass``, or the kind of the event that ends the mail here.

    Order: what enqueue refused, expiry, no mail host, suppressions. Null MX is permanent at once (RFC 7505).
    """
    if mail.outcome:
        return mail.outcome, mail.reason
    if mail.expires and mail.expires <= now:
        return "expired", "before_screen"
    if mail.host:
        return "bounced", mail.host
    for row in suppressions:
        if row.applies(mail.tenant, mail.stream, now):
            return "suppressed", row.reason
    return "pass", ""


def row_for(key: str, mail: Candidate, decision: str, reason: str, settings: Settings, now: float) -> GateRow:
    """The row to remember under ``key``. It outlives the mail by a day, or lasts the horizon."""
    return GateRow(
        key=key,
        origin=mail.origin,
        decision=decision,
        reason=reason,
        lane=mail.lane,
        to_topic=twin("mail-screened", mail.stream) if decision == "pass" else "",
        expires=mail.expires,
        not_before=mail.not_before,
        until=max(now + settings.horizon, mail.expires + 86400.0),
        digest=mail.digest,
    )
