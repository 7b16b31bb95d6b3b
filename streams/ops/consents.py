"""What people and files say about consents, as events; what is on record, as rows: behind ``mailsluice consent``.

As with suppressions, nobody but the stage ``suppress`` writes the rows: a person's word is an event on ``mail-events``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from schemas.address import normalise
from schemas.codec import Malformed
from schemas.consent import BASES, TRACKING, Change, StreamConsent
from schemas.consent_rules import STREAMS
from schemas.event import MailEvent
from schemas.identity import event_id
from streams.ops.ask import utc
from streams.ops.suppressions import Row, Table, read_table, time_of

CONSENTS: Table[StreamConsent] = Table(
    "mail-consents", StreamConsent, lambda row: {change.id for change in row.changes}, lambda row: row.since
)
COLUMNS = (
    *("to", "tenant", "stream", "basis", "given", "until", "opens", "clicks"),
    *("wording", "source", "proof", "by"),
)
"""Of a file to be imported, and of an export."""
HISTORY = ("to", "tenant", "stream", "says", "about", "basis", "time", "asked", "until", "wording", "source",
           "proof", "by", "event")  # fmt: skip
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_YES, _NO = ("1", "true", "yes", "y"), ("", "0", "false", "no", "n")


class Said(NamedTuple):
    """A consent as somebody puts it on record. ``given`` and ``until`` are Unix seconds, 0 = not said.

    ``basis`` empty: only about ``tracking`` (letters).
    """

    tenant: str = "default"
    stream: str = "marketing"
    basis: str = ""
    given: float = 0.0
    until: float = 0.0
    tracking: str = ""
    wording: str = ""
    source: str = ""
    proof: str = ""
    by: str = ""


def granted(address: str, said: Said, now: float) -> MailEvent:
    """The event of a consent with its proof. Raises Malformed. The same words make the same event."""
    to = normalise(address).key
    if said.stream not in STREAMS:
        raise Malformed("bad_stream", f"stream must be one of {', '.join(STREAMS)}")
    if said.basis and said.basis not in BASES:
        raise Malformed("bad_basis", f"basis must be one of {', '.join(BASES)}")
    if said.basis == "double_opt_in" and not said.source:
        raise Malformed("no_source", "a double opt-in needs its source: which system sent the confirmation")
    if not said.basis and not said.tracking:
        raise Malformed("no_basis", f"what is agreed to? give a basis ({', '.join(BASES)}), opens or clicks")
    if not said.given:
        raise Malformed("no_time", "when was it given? an RFC 3339 time such as 2026-03-01T08:00:00Z")
    for name, at in (("given", said.given), ("until", said.until)):
        if at < 0:  # such as 0001-01-01, which some systems export for "never"
            raise Malformed(
                "bad_time", f"{name} lies before 1970: {utc(at)}; leave it empty where there is none"
            )
    if said.given > now + 60:
        raise Malformed("bad_time", f"given lies in the future: {utc(said.given)}")
    if not said.proof:
        raise Malformed("no_proof", "what proves it? an order number, a form's log line, a file's name ...")
    cause = "|".join((said.tenant, said.stream, said.basis, said.tracking, f"{said.given:.3f}", said.proof))
    return MailEvent(
        id=event_id(to, "consented", cause), kind="consented", mail="", time=said.given, tenant=said.tenant,
        to=to, stream=said.stream, basis=said.basis, until=said.until, tracking=said.tracking,
        wording=said.wording[:2000], url=said.source[:500], detail=said.proof[:1000], by=said.by[:200],
    )  # fmt: skip


def revoked(address: str, tenant: str, tracking: str, by: str, why: str, now: float) -> MailEvent:
    """The event of a consent that ends: that to ``tracking`` (letters), or without any that to the mail, which
    unsubscribes its recipient and so also suppresses. Raises Malformed."""
    to = normalise(address).key
    kind = "consent_revoked" if tracking else "unsubscribed"
    return MailEvent(
        id=event_id(to, kind, f"{tenant}|{tracking}|{now:.3f}"), kind=kind, mail="", time=now,  # type: ignore[arg-type]
        tenant=tenant, to=to, tracking=tracking, by=by[:200], detail=why[:1000], url="mailsluice consent revoke",
    )  # fmt: skip


def read_consents(lines: Iterable[str], wanted: Said, now: float) -> Iterator[Row]:
    """The rows of a CSV file with a header line, each as an event ``consented``. Raises BadFile first.

    Columns as in COLUMNS, only the address is needed where ``wanted`` fills in the others.
    """
    return read_table(lines, COLUMNS, lambda cells: granted(cells["to"], _said(cells, wanted), now))


def _said(cells: dict[str, str], wanted: Said) -> Said:
    texts = ("tenant", "stream", "basis", "wording", "source", "proof", "by")
    tracking = wanted.tracking
    for letter, name in zip(TRACKING, ("opens", "clicks"), strict=True):
        if name in cells:
            said = cells[name].lower()
            if said not in _YES + _NO:
                raise ValueError(f"{name} must be yes or no, not {said[:20]!r}")
            tracking = tracking.replace(letter, "") + (letter if said in _YES else "")
    return wanted._replace(
        **{name: cells[name] for name in texts if name in cells},
        given=_when("given", cells) or wanted.given,
        until=_when("until", cells) or wanted.until,
        tracking="".join(letter for letter in TRACKING if letter in tracking),
    )


def _when(name: str, cells: dict[str, str]) -> float:
    """A time, or a day as most customer files have it: its first moment, UTC."""
    text = cells.get(name, "")
    return time_of(name, f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text)


# -- for people and files


def cells_of(row: StreamConsent) -> tuple[str, ...] | None:
    """The row as a line of COLUMNS: what is granted, and on whose word; None where nothing is."""
    of_mail = next(
        (c for c in row.changes if row.state == "granted" and c.mail and c.time == row.since), None
    )
    change = of_mail or next((c for c in reversed(row.changes) if c.says == "granted" and c.tracking), None)
    if change is None or not (of_mail or row.tracking):
        return None
    yes = ("yes" if letter in row.tracking else "no" for letter in TRACKING)
    return (
        *(row.to, row.tenant, row.stream, row.basis, _time(change.time), _time(row.until), *yes),
        *(_harmless(change.wording), _harmless(change.source), _harmless(change.proof), change.by),
    )


def history_of(row: StreamConsent) -> Iterator[tuple[str, ...]]:
    """Every change of the row as a line of HISTORY."""
    for c in row.changes:
        about = "mail" if c.mail else ""
        about = " ".join(filter(None, (about, *(name for letter, name in _NAMES if letter in c.tracking))))
        yield (
            *(row.to, row.tenant, row.stream, c.says, about, c.basis, _time(c.time), _time(c.asked)),
            *(_time(c.until), _harmless(c.wording), _harmless(c.source), _harmless(c.proof), c.by, c.id),
        )


_NAMES = (("o", "opens"), ("c", "clicks"))


def _time(seconds: float) -> str:
    return utc(seconds).replace(" ", "T") if seconds else ""


def _harmless(text: str) -> str:
    """A stranger may have chosen it (the page that a form came from): no formula for a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def says(row: StreamConsent, now: float) -> str:
    """One sentence about a row."""
    whose = f"tenant {row.tenant}, {row.stream}"
    tracking = " and ".join(name for letter, name in _NAMES if letter in row.tracking)
    seen = f"; {tracking} may be tracked" if tracking else "; nothing may be tracked"
    if row.state == "none":
        return (
            f"no consent to mail: {whose}"
            + seen
            + (f"; {len(row.asked)} confirmations sent" if row.asked else "")
        )
    if row.state == "revoked":
        return f"revoked {utc(row.since)}: {whose}"
    until = f"until {utc(row.until)}" if row.until else "until it is revoked"
    over = "" if row.in_force(now) else " (over)"
    return f"granted {utc(row.since)} {until}{over}: {row.basis}, {whose}{seen}"


def told_of(change: Change) -> str:
    """One line about a change."""
    about = " and ".join(
        filter(
            None,
            ("mail" if change.mail else "", *(name for letter, name in _NAMES if letter in change.tracking)),
        )
    )
    parts = [
        f"{utc(change.time)} {change.says} ({about})",
        change.basis,
        f"asked for {utc(change.asked)}" if change.asked else "",
        f"shown: {change.wording}" if change.wording else "",
        f"from {change.source}" if change.source else "",
        f"proof: {change.proof}" if change.proof else "",
        f"by {change.by}" if change.by else "",
        f"event {change.id}",
    ]
    return "; ".join(filter(None, parts))
