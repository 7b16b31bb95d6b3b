"""What an event says about somebody who was, or is to be, erased. Pure.

All that is left is one row under the keyed hash, the mark. While it is in force no event makes rows in clear, and
events from before it never do again: neither what comes late nor what is worked on twice brings anything back.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from schemas.event import MailEvent
from schemas.suppression import Suppression

REASON = "erased"


def mark_among(rows: Sequence[Suppression]) -> Suppression | None:
    """The mark among the rows of an address and of its hashes."""
    return next((row for row in rows if row.reason == REASON), None)


def erase(
    event: MailEvent, rows: Sequence[Suppression], name: str, now: float
) -> tuple[Suppression | None, list[Suppression]]:
    """(the mark to be written, or None where it is there; the rows to be deleted). ``name``: the hash."""
    when, old = min(event.time, now), mark_among(rows)
    if old is not None and when <= old.time:
        # Worked on before. Whatever is left from before the mark was not deleted in time.
        left = [row for row in rows if row is not old and (old.active or row.time <= old.time)]
        return None, left
    mark = Suppression(
        tenant="",
        to=old.to if old else name,
        scope="global",
        reason="erased",
        origin=event.id,
        time=when,
        version=old.version + 1 if old else 1,
    )
    return mark, [row for row in rows if row is not old]


def silent(event: MailEvent, mark: Suppression | None, now: float) -> bool:
    """Whether the event says nothing because of the mark."""
    return mark is not None and (mark.active or min(event.time, now) <= mark.time)


def take_back(event: MailEvent, mark: Suppression | None, now: float) -> Suppression | None:
    """The mark, released by an operator: all tenants', as the erasure was, so with scope global."""
    when = min(event.time, now)
    if mark is None or not mark.active or when <= mark.time:
        return None
    if event.kind != "released" or event.scope != "global" or event.reason not in ("", REASON):
        return None
    return replace(mark, active=False, time=when, origin=event.id, version=mark.version + 1)
