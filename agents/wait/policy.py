"""When a record on the wait ladder wakes, and where it goes then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agents import Reject
from schemas.codec import Headers, Record
from schemas.ladder import RUNGS, Rung, off_ladder, onto_ladder
from schemas.lanes import lane_names, lane_topic
from schemas.mail import NOW, base_topic, is_verdict, verdict

_AIMS = frozenset(("mail-screened", *map(lane_topic, lane_names())))
MAY_GO_TO = _AIMS | {topic + NOW for topic in _AIMS}
"""Topics that a ladder record may name: no other can be written by forging one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of wait."""

    rungs: tuple[Rung, ...] = RUNGS
    """The ladder, shortest rung first."""
    paused: str = "10m"
    """The rung on which the mail of a paused campaign waits for its next look."""


class Slip(NamedTuple):
    """What a ladder record says. Times are Unix seconds; ``expires`` 0 = never; ``campaign`` tenant/id."""

    next: str
    due: float
    expires: float
    campaign: str


def read(record: Record) -> Slip:
    """The slip of a ladder record. Raises Reject or Malformed for one that no stage of ours wrote."""
    aim = record.text("next")
    if aim not in MAY_GO_TO:
        raise Reject("bad_next", f"header next names {aim[:60]!r}, where the ladder may not write")
    if "due" not in record.headers:
        raise Reject("bad_header", "header due is missing")
    campaign = f"{record.text('tenant', 'default')}/{record.text('campaign')}"
    return Slip(aim, _finite(record, "due"), _finite(record, "expires"), campaign)


def wakes_at(record: Record, slip: Slip, rungs: Sequence[Rung], now: float) -> float:
    """Unix seconds: when the record has been on its rung for its length, or is due, or expires.

    A time stamp ahead of our clock (the embedded broker keeps the writer's) holds it no longer than
    the rung from now.
    """
    length = next(
        (rung.seconds for rung in rungs if rung.topic == base_topic(record.topic)), rungs[0].seconds
    )
    turn = min(record.timestamp / 1000, now) + length
    return min(turn, slip.due, slip.expires or slip.due)


def onward(record: Record, slip: Slip, state: str, settings: Settings, now: float) -> tuple[str, Headers]:
    """(topic, headers) for a record that wakes. ``state`` is its campaign's: active, paused, cancelled, or
    canary: the mail is of the rest that waits for one.

    Nothing is ended here: what may not be sent goes where it would have gone, as a verdict. A verdict
    that is on the ladder keeps its own reason.
    """
    ended = _ended(slip, state, now)
    if is_verdict(record):
        return slip.next, off_ladder(record.headers)
    if ended:
        return slip.next, verdict(off_ladder(record.headers), *ended)
    due = slip.due
    if due <= now:
        if state not in ("paused", "canary"):
            return slip.next, off_ladder(record.headers)
        rung = next((r for r in settings.rungs if r.name == settings.paused), settings.rungs[0])
        due = min(now + rung.seconds, slip.expires or now + rung.seconds)
        _, headers = onto_ladder(record.headers, slip.next, due, now, settings.rungs)
        headers["held"] = b"canary" if state == "canary" else b"campaign"
        return rung.topic, headers
    return onto_ladder(record.headers, slip.next, due, now, settings.rungs)


def _ended(slip: Slip, state: str, now: float) -> tuple[str, str, str] | None:
    if state == "cancelled":
        return "cancelled", "campaign_cancelled", "the campaign was cancelled while the mail waited"
    if slip.expires and slip.expires <= now:
        return "expired", "while_waiting", "the time in which it may be sent was over while it waited"
    return None


def _finite(record: Record, name: str) -> float:
    found = record.number(name)
    if not 0 <= found < 1e11:
        raise Reject("bad_header", f"header {name} is no time: {found}")
    return found
