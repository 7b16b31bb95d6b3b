"""When a mail is due: its campaign's start, spread over hours, outside the recipient's quiet hours. Pure.

Decided by the mail's id and the time of its send alone, so that redone work decides the same. What is due
later waits on the ladder before it is rendered. Attempts after the first follow the ladder, not the hours.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta, tzinfo
from hashlib import blake2b

from schemas.campaign import Quiet, Schedule

MORNING = 900.0
"""Seconds over which what was held by quiet hours is spread after their end."""


def share_of(mail: str) -> float:
    """A number in [0, 1) that belongs to a mail's id (hexadecimal digits), evenly spread over many."""
    return int(mail[:12], 16) / 16**12


def in_canary(tenant: str, campaign: str, recipient: str, share: float) -> bool:
    """Whether a recipient (normalised address) belongs to the part that goes first: always the same ones of a
    campaign, others in another campaign, so that nobody is every campaign's canary."""
    digest = blake2b(f"{tenant}/{campaign}|{recipient}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) < share * 2**48


def due_of(mail: str, received: float, schedule: Schedule, zone: tzinfo | None) -> float:
    """Unix seconds at which the mail is due, not before it was ``received``. ``zone``: the recipient's, for
    quiet hours; without one there are none."""
    due = max(received, schedule.at.timestamp()) if schedule.at else received
    if schedule.spread_hours:
        due += share_of(mail) * schedule.spread_hours * 3600.0
    if schedule.quiet and zone:
        due = awake(due, schedule.quiet, zone, share_of(mail[12:] or mail))
    return due


def awake(due: float, quiet: Quiet, zone: tzinfo, share: float) -> float:
    """``due``, or a moment after the quiet hours that it falls into. The clock on the recipient's wall counts:
    hours that are skipped or repeated in the night of a change of time are as quiet as any."""
    begin, end = _clock(quiet.begin), _clock(quiet.end)
    local = datetime.fromtimestamp(due, zone)
    wall = local.time()
    over_midnight = begin > end
    if begin == end or not (wall >= begin or wall < end if over_midnight else begin <= wall < end):
        return due
    day = local.date() + timedelta(days=1 if over_midnight and wall >= begin else 0)
    return datetime.combine(day, end, zone).timestamp() + share * MORNING


def _clock(text: str) -> time:
    hours, minutes = text.split(":")
    return time(int(hours), int(minutes))
