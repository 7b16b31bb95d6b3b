"""What an event says about a recipient's consents, and whether somebody is asked to confirm. Pure.

A row is what follows from the set of things that were said, in the order in which they took effect, so that the
order and repetition of events do not matter. A confirmation takes effect when the subscription was *asked for*,
not when the link was pressed: who unsubscribed in between meant the later word.

After its recipient's no, only their own confirmed or proven yes counts: no purchase, no import on an implied
basis, and no address that somebody typed into a form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from schemas.consent import BASES, COUNTED, IMPLIED, TRACKING, Asked, Change, StreamConsent, ends
from schemas.consent_rules import ConsentRule
from schemas.event import MailEvent
from schemas.suppression import Suppression

DAY = 86400.0
MOST_MAILS = 3
"""Confirmation mails to one address in 24 hours, over all streams and tenants: forms are used to bomb mailboxes."""
MOST_CHANGES = 64
"""Changes of one row that are kept."""
_STRENGTH = {"double_opt_in": 3, "express": 2, "single_opt_in": 1}
TOLD = ("mailed", "granted", "limited", "known", "complained", "closed")
"""What may become of a subscription that is asked for: bounded, a label of metrics."""


class Answer(NamedTuple):
    """``row`` to be written, or None; ``mail``: the confirmation to be sent. ``told``: of TOLD, or ""."""

    row: StreamConsent | None = None
    mail: Asked | None = None
    told: Literal["", "mailed", "granted", "limited", "known", "complained", "closed"] = ""


def matters(event: MailEvent) -> bool:
    """Whether the event is about consent: most are not, and need no look at the state."""
    match event.kind:
        case (
            "subscription_requested"
            | "subscribed"
            | "consented"
            | "consent_revoked"
            | "unsubscribed"
            | "complained"
        ):
            return bool(event.to)
    return False


def stream_of(event: MailEvent) -> str:
    """The stream that an event is about. Who leaves by any mail leaves the marketing, as suppressions have it."""
    taken_back = event.kind == "subscribed" and not event.asked
    whole = taken_back or event.kind in ("unsubscribed", "complained", "consent_revoked")
    return "marketing" if whole else event.stream


def decide(
    event: MailEvent,
    rows: Sequence[StreamConsent],
    suppressions: Sequence[Suppression],
    rule: ConsentRule,
    now: float,
) -> Answer:
    """What becomes of an event, given all consents and suppressions of its recipient.

    ``rule`` is that of its tenant and ``stream_of``; ``now`` when the event was written, Unix seconds.
    """
    stream = stream_of(event)
    old = next((row for row in rows if row.tenant == event.tenant and row.stream == stream), None)
    row = old or StreamConsent(tenant=event.tenant, to=event.to, stream=stream, version=0)
    when = min(event.time, now)  # a clock that runs ahead must not outvote what is said later
    if event.kind == "subscription_requested":
        return _request(event, row, rows, suppressions, rule, when)
    change = _change(event, row, when)
    return Answer(_with(row, change) if change else None)


def granted(changes: Sequence[Change]) -> tuple[str, str, float, float, str]:
    """(state, basis, since, until, tracking) that follow from the changes."""
    state, basis, since, until, tracking = "none", "", 0.0, 0.0, frozenset[str]()
    for change in sorted(changes, key=_order):
        letters = frozenset(change.tracking)
        if change.says == "revoked":
            tracking -= letters
            if change.mail:
                state, basis, since, until, tracking = "revoked", "", change.time, 0.0, frozenset()
            continue
        if change.mail:
            if state == "revoked" and change.basis not in ("double_opt_in", "express"):
                continue
            over = bool(until) and _order(change)[0] >= until
            if state != "granted" or over or _worth(change.basis, change.until) > _worth(basis, until):
                state, basis, since, until = "granted", change.basis, change.time, change.until
        tracking |= letters
    return state, basis, since, until, "".join(letter for letter in TRACKING if letter in tracking)


def _worth(basis: str, until: float) -> tuple[float, int]:
    return (until or float("inf"), _STRENGTH.get(basis, 0))


def _order(change: Change) -> tuple[float, str]:
    return (change.asked or change.time, change.id)


def _with(row: StreamConsent, change: Change) -> StreamConsent | None:
    """The row after the change, or None where it knows it. Of a repeat with another time the first one stands."""
    known = {c.id: c for c in row.changes}
    same = known.get(change.id)
    if same is not None and _first(same) <= _first(change):
        return None
    known[change.id] = change
    # What an implied basis says is let go first: many of them must not push out the one word that counts.
    kept = sorted(known.values(), key=lambda c: (c.basis not in IMPLIED, *_order(c)))[-MOST_CHANGES:]
    if change not in kept:
        return None
    kept.sort(key=_order)
    state, basis, since, until, tracking = granted(kept)
    return replace(
        row,
        state=state,
        basis=basis,
        since=since,
        until=until,
        tracking=tracking,
        changes=tuple(kept),
        version=row.version + 1,
    )


def _first(change: Change) -> tuple[float, str]:
    return (change.time, repr(change))


def _change(event: MailEvent, row: StreamConsent, when: float) -> Change | None:
    """What the event says, or None where it says nothing."""
    tracking = "".join(letter for letter in TRACKING if letter in event.tracking)
    source, by = event.url[:500], event.by
    match event.kind:
        case "unsubscribed" | "complained":
            how = "complaint" if event.kind == "complained" else source or event.reason or "unsubscribed"
            return Change(id=event.id, says="revoked", time=when, source=how, by=by, proof=event.detail[:500])
        case "consent_revoked" if tracking:
            return Change(
                id=event.id, says="revoked", time=when, mail=False, tracking=tracking,
                source=source, by=by, proof=event.detail[:500],
            )  # fmt: skip
        case "subscribed" if event.asked:
            asked = next((a for a in row.asked if a.id == event.mail), None)
            return Change(
                id=event.id, says="granted", time=when, asked=min(event.asked, when), basis="double_opt_in",
                tracking=tracking, wording=asked.wording if asked else event.wording,
                source=asked.source if asked else source,
                proof="; ".join(filter(None, (asked.proof if asked else "", event.detail[:500]))),
            )  # fmt: skip
        case "subscribed":  # an unsubscribe taken back, by who has the mail that it came with
            return Change(
                id=event.id, says="granted", time=when, basis="express", source=source or "taken back"
            )
        case "consented" if tracking or event.basis:
            basis = event.basis
            until = min(filter(None, (event.until, ends(basis, when))), default=0.0)
            return Change(
                id=event.id, says="granted", time=when, mail=bool(basis), tracking=tracking, basis=basis,
                until=until, wording=event.wording[:2000], source=source, proof=event.detail[:1000], by=by,
            )  # fmt: skip
    return None


def _request(
    event: MailEvent,
    row: StreamConsent,
    rows: Sequence[StreamConsent],
    suppressions: Sequence[Suppression],
    rule: ConsentRule,
    when: float,
) -> Answer:
    if not rule.sender:
        return Answer(told="closed")
    again = next((asked for asked in row.asked if asked.id == event.id), None)
    if again is not None:  # its mail may not have been written: the same one, under the same key
        return Answer(mail=again)
    if any(change.id == event.id for change in row.changes):
        return Answer()
    against = {s.reason for s in suppressions if s.applies(event.tenant, row.stream, when)}
    if "complaint" in against:  # no confirmation would take it back
        return Answer(told="complained")
    left = "unsubscribe" in against or row.state == "revoked"
    if row.in_force(when) and row.basis not in IMPLIED and not left:
        return Answer(told="known")
    proof, tracking = event.detail[:500], event.tracking[:2]
    if not rule.double_opt_in and not left:
        change = Change(
            id=event.id, says="granted", time=when, basis="single_opt_in", tracking=tracking,
            wording=event.wording[:2000], source=event.url[:500], proof=proof,
        )  # fmt: skip
        return Answer(_with(row, change), told="granted")
    # Also those that a slower clock dates later: no 24 hours that this one falls into have more.
    if sum(asked.time > when - DAY for other in rows for asked in other.asked) >= MOST_MAILS:
        return Answer(told="limited")
    asked = Asked(
        id=event.id, time=when, until=when + rule.hours * 3600.0, wording=event.wording[:2000],
        source=event.url[:500], proof=proof, tracking=tracking,
    )  # fmt: skip
    since = when - max(COUNTED, rule.hours * 3600.0)
    kept = tuple(sorted((*(a for a in row.asked if a.time > since), asked), key=lambda a: (a.time, a.id)))
    return Answer(replace(row, asked=kept, version=row.version + 1), asked, "mailed")


assert set(_STRENGTH) | IMPLIED == set(BASES)
