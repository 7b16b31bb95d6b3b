"""What is left of a contact who was erased: a mark under the keyed hash. Pure.

As for the suppressions: while it is in force nothing is counted, and what is from before it never is again.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from schemas.contact import Contact
from schemas.event import MailEvent


def erase(
    event: MailEvent, rows: Sequence[Contact], mark: Contact | None, name: str, now: float
) -> tuple[Contact | None, list[Contact]]:
    """(the mark to be written, or None where it is there; the contacts to be deleted). ``name``: the hash."""
    when = min(event.time, now)
    if mark is not None and when <= max(mark.erased, mark.released):
        return None, [row for row in rows if in_force(mark) or row.first_seen <= mark.released]
    old = mark or Contact(tenant="", to=name, version=0)
    return replace(old, erased=when, version=old.version + 1), list(rows)


def in_force(mark: Contact) -> bool:
    """Whether nobody has taken it back."""
    return mark.erased > mark.released


def silent(event: MailEvent, mark: Contact | None, now: float) -> bool:
    """Whether the event counts for nothing because of the mark."""
    return mark is not None and (in_force(mark) or min(event.time, now) <= mark.released)


def take_back(event: MailEvent, mark: Contact | None, now: float) -> Contact | None:
    """The mark, released by an operator."""
    when = min(event.time, now)
    if mark is None or not in_force(mark) or when <= mark.erased:
        return None
    if event.kind != "released" or event.scope != "global" or event.reason not in ("", "erased"):
        return None
    return replace(mark, released=when, version=mark.version + 1)
