"""A campaign, as its owner publishes it on ``mail-campaigns`` (compacted; key: tenant/id)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.codec import event

Identifier = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$(?!\n)")]
"""Letters, digits and ``. _ : -``: goes into headers, tokens, metrics and file names.

The patterns end in ``$(?!\\n)`` because Python's ``$`` alone also matches before a final line feed."""
HeaderText = Annotated[str, Meta(max_length=998, pattern=r"^[^\r\n\x00]*$(?!\n)")]
"""Text that goes into a mail header: no CR, LF or NUL (header injection, RFC 5322 section 2.2)."""
Stream = Literal["marketing", "transactional"]
ClockTime = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
"""Hours and minutes on a wall clock, HH:MM."""


class Quiet(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"begin": "from", "end": "to"},
):
    """Hours in which nobody is written to: ``from`` to ``to`` (HH:MM, may go over midnight), on the clock of the
    send's ``time_zone``, else of ``zone`` (IANA names)."""

    begin: ClockTime = "21:00"
    end: ClockTime = "08:00"
    zone: Annotated[str, Meta(max_length=60)] = "UTC"


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """When the campaign may go out. ``at`` and ``expires_at`` are RFC 3339 times with a zone.

    ``spread_hours``: each mail is due at a moment of its own within so many hours after ``at`` (or after its
    send was received). ``quiet``: what is due in these hours is due after them.
    """

    at: Annotated[datetime, Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    spread_hours: Annotated[float, Meta(ge=0, le=168)] = 0.0
    quiet: Quiet | None = None


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the campaign that goes first; the rest waits until it proved good.

    ``share`` of the recipients, always the same ones of a campaign. ``minutes`` after its first attempt, and
    with at least ``minimum`` attempts that ended (delivered or bounced), the rest may go, if fewer than
    ``bounces`` of those bounced, fewer than ``complaints`` of those delivered complained, and fewer than
    ``deferrals`` of all attempts were deferred. From the minimum on, whatever reaches its limit pauses the
    campaign. ``state`` is written by the pipeline: ``passed`` or ``failed``; leave it out.
    """

    share: Annotated[float, Meta(gt=0, le=0.5)] = 0.02
    minutes: Annotated[float, Meta(ge=1, le=1440)] = 30.0
    minimum: Annotated[int, Meta(ge=20, le=1_000_000)] = 100
    bounces: Annotated[float, Meta(gt=0, le=1)] = 0.05
    complaints: Annotated[float, Meta(gt=0, le=1)] = 0.003
    deferrals: Annotated[float, Meta(gt=0, le=1)] = 0.2
    state: Literal["waiting", "passed", "failed"] = "waiting"


@event("campaign", 1)
class Campaign(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"sender": "from"},
):
    """One campaign. ``html``, ``text`` and ``subject`` are minijinja templates over the send's variables.

    ``sender`` (wire name ``from``) and ``reply_to`` are mailboxes: ``Name <address>`` or ``address``.
    ``guarantee`` decides what happens to a mail whose reply never came: ``at_least_once`` tries again,
    ``at_most_once`` journals an intent first and ends it as unknown. ``priority`` 0 (last) to 9 (first).
    ``canary``: a few first, the rest when they proved good (marketing only).
    """

    id: Identifier
    tenant: Identifier = "default"
    stream: Stream = "marketing"
    state: Literal["active", "paused", "cancelled"] = "active"
    sender: HeaderText
    reply_to: HeaderText = ""
    subject: HeaderText = ""
    html: Annotated[str, Meta(max_length=2_000_000)] = ""
    text: Annotated[str, Meta(max_length=2_000_000)] = ""
    list_id: HeaderText = ""
    headers: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,76}$(?!\n)")], HeaderText] = {}
    schedule: Schedule = Schedule()
    tracking: bool = True
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    guarantee: Literal["at_least_once", "at_most_once"] = "at_least_once"
    canary: Canary | None = None

    def __post_init__(self) -> None:
        """A password reset cannot wait for others to prove anything."""
        if self.canary is not None and self.stream != "marketing":
            raise ValueError("canary: only a marketing campaign sends a part of it first")

    @property
    def rest_waits(self) -> bool:
        """Whether all but the canary's recipients wait for it."""
        return self.canary is not None and self.canary.state != "passed"

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"{self.tenant}/{self.id}".encode()
