"""Who agreed to get mail of a stream, and to be seen reading it: ``mail-consents`` (compacted, co-partitioned
by recipient)."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec

from schemas.codec import event

Basis = Literal["double_opt_in", "single_opt_in", "express", "customer", "purchase", "inquiry"]
BASES: tuple[str, ...] = get_args(Basis)
"""How a consent came about. ``double_opt_in``: confirmed by a link in a mail to the address. ``single_opt_in``:
typed into a form, by whomever. ``express``: said or written, the proof tells how. The others are implied:
``customer`` (a sale in the EU, ePrivacy Directive 2002/58/EC article 13(2)), ``purchase`` and ``inquiry`` (CASL,
S.C. 2010 c. 23, section 10(10): 24 and 6 months)."""
IMPLIED = frozenset({"customer", "purchase", "inquiry"})
MONTHS = {"purchase": 24, "inquiry": 6}
"""Calendar months after which an implied consent ends by itself; one without a number does not."""
COUNTED = 2 * 86400.0
"""Seconds for which a confirmation mail is remembered at least: twice as long as it counts, for clocks differ."""
TRACKING = "oc"
"""Letters of what may be tracked, as in the header ``consent`` (schemas.mail): opens, clicks."""


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said once about a consent. ``id`` is the event's, ``time`` when it was said, Unix seconds.

    ``asked``: when the subscription was asked for that this confirms, 0 where there was no asking. ``mail``:
    whether it is about the mail, or only about ``tracking`` (letters). ``basis``, ``until`` (0 = for ever) and
    ``wording`` (what was shown) belong to a granting; ``source`` is where it came from (a page, a file, a
    command), ``proof`` what shows it, ``by`` who put it on record.
    """

    id: str
    says: Literal["granted", "revoked"]
    time: float
    asked: float = 0.0
    mail: bool = True
    tracking: str = ""
    basis: str = ""
    until: float = 0.0
    wording: str = ""
    source: str = ""
    proof: str = ""
    by: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subscription that was asked for, and for which a confirmation mail was made. ``id`` is the event's;
    ``until`` how long the link in the mail is good."""

    id: str
    time: float
    until: float = 0.0
    wording: str = ""
    source: str = ""
    proof: str = ""
    tracking: str = ""


@event("consent", 1)
class StreamConsent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The consents of one recipient to one stream of one tenant, with their history.

    ``state``, ``basis``, ``since``, ``until`` and ``tracking`` follow from ``changes`` (in the order in which
    they took effect). ``until``: Unix seconds at which the consent ends by itself, 0 = never. ``asked``: the
    confirmation mails of late. ``version`` orders writes, not arrival.
    """

    tenant: str
    to: str
    stream: str = "marketing"
    state: Literal["none", "granted", "revoked"] = "none"
    basis: str = ""
    since: float = 0.0
    until: float = 0.0
    tracking: str = ""
    changes: tuple[Change, ...] = ()
    asked: tuple[Asked, ...] = ()
    version: int = 1

    @property
    def key(self) -> bytes:
        """The key on the compacted topic; the recipient first, so that a prefix scan finds all of theirs."""
        return consent_key(self.to, self.tenant, self.stream)

    @property
    def goes(self) -> float:
        """When nothing may be left of the row, Unix seconds; 0 = never. Who was asked and never confirmed has given
        no reason to be kept: only their confirmation mails are counted, for as long as they count."""
        if self.changes or not self.asked:
            return 0.0
        return max(max(asked.until, asked.time + COUNTED) for asked in self.asked)

    def in_force(self, now: float) -> bool:
        """Whether there is a consent to mail at ``now`` (Unix seconds)."""
        return self.state == "granted" and not (self.until and now >= self.until)


def goes(raw: bytes) -> float:
    """``StreamConsent.goes`` of a row as it is on the topic."""
    return msgspec.json.decode(raw, type=StreamConsent).goes


def consent_key(to: str, tenant: str, stream: str) -> bytes:
    """The key of a row of mail-consents."""
    return f"{to}|{tenant}|{stream}".encode()


def ends(basis: str, time: float) -> float:
    """When a consent on this basis, given at ``time``, ends by itself (Unix seconds); 0 = never.

    Calendar months, to the same day or the last of its month.
    """
    months = MONTHS.get(basis, 0)
    if not months:
        return 0.0
    given = datetime.fromtimestamp(
        max(time, 0.0), UTC
    )  # before 1970 nothing was given: no year is out of range
    year, month = divmod(given.year * 12 + given.month - 1 + months, 12)
    return given.replace(
        year=year, month=month + 1, day=min(given.day, monthrange(year, month + 1)[1])
    ).timestamp()
