"""Orders to stop: nearly everything is refused, so the rate says nothing. Wait, ask by a trickle, come back.

A provider that slows a source down takes part of the mail; one that suspends it, whose quota is used up
or that has lost its capacity takes none. To cut towards zero would forget what it takes on other days.
So: where the reply names a time, stay away so long; else a trickle. Then back to where it was, doubling.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from agents.shape.figures import Law, Limits
from agents.shape.limit import Limit
from agents.shape.warm import PACE
from schemas.lane_report import LaneReport, Reply

FEW = 5
"""Attempts below which a share is chance."""
HELD = 300.0
"""Seconds for which a rate must have been taken to be worth returning to."""
EACH_TIME = 0.95
LEAST = 60.0
"""A shorter time that a reply names is no suspension."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ASKED = re.compile(
    r"\b(?:in|after|for|within|next|wait)\s+(?:about\s+|another\s+|at\s+least\s+)?(\d{1,6}(?:\.\d{1,3})?)\s*"
    r"(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b",
    re.IGNORECASE,
)


def asked(text: str) -> float:
    """Seconds that a reply asks to stay away ("try again in 2 hours"), 0.0 where it names none."""
    found = _ASKED.search(text[:1000])
    return float(found[1]) * _UNITS[found[2][0].lower()] if found else 0.0


def turned_away(report: LaneReport, law: Law) -> list[Reply]:
    """Replies 421 that stand against nearly all attempts: the host shuts us out, whatever else they say.

    421 is about the channel, never about a recipient (RFC 5321, 3.8); one among many is a domain's matter.
    """
    found = [r for r in report.replies if r.action == "retry" and r.scope == "domain" and r.open < 0]
    found = [r for r in found if r.sample.startswith("421")]
    if sum(reply.count for reply in found) <= law.stop * report.attempts:
        return []
    return [replace(reply, action="slow", scope="source") for reply in found]


def held(limit: Limit, law: Law, now: float) -> Limit:
    """Before a change of the rate: the present one, where it was taken for long, is worth remembering."""
    since = max(limit.cut_at, limit.raised_at, limit.suspended_until)
    until = limit.throttled_at if since < limit.throttled_at < now - 1 else now
    if until - since < HELD or (limit.rate < limit.proven and now - limit.proven_at < law.proven):
        return limit
    return replace(limit, proven=limit.rate, proven_at=now)


def halt(limit: Limit, limits: Limits, law: Law, now: float, text: str) -> tuple[Limit, str]:
    """The limit after newest reports of nothing but refusals, or on its way back from that."""
    after = limit.cut_at + law.settle
    attempts, throttled = limit.newest(after)
    if attempts < 2 * FEW:  # too few in one report
        seen = limit.measured(after)
        attempts, throttled = seen.attempts, seen.throttled
    if attempts >= FEW and throttled > law.stop * attempts:
        return _stopped(limit, limits, law, now, text, throttled / attempts)
    if limit.stopped_at:
        return _back(limit, limits, law, now, attempts, throttled)
    return limit, ""


def _stopped(
    limit: Limit, limits: Limits, law: Law, now: float, text: str, share: float
) -> tuple[Limit, str]:
    caps = limit.caps()
    if caps is not None:  # the pace that binds is the plan's
        limit = replace(limit, rate=max(limits.minimum, min(limit.rate, PACE * caps[1] / 3600)))
    wait = min(law.asked, asked(text))
    first = not limit.stopped_at
    if (
        not first
        and wait < LEAST
        and (limit.rate <= limits.minimum or now - limit.cut_at < law.trickle_after)
    ):
        return limit, ""
    if first:
        limit = held(limit, law, now)
        known = limit.proven if now - limit.proven_at <= law.proven else 0.0
        # A little less each time, so that a quota that the rate overruns is not overrun for ever.
        known = max(limit.rate, known * EACH_TIME)
        limit = replace(limit, proven=known, proven_at=now, stopped_at=now)
        rate = limit.proven * law.trickle
    else:
        rate = limit.rate / 2
    rate = max(limits.minimum, min(limit.rate * law.deepest, rate)) if first else max(limits.minimum, rate)
    until, what = limit.suspended_until, "cut"
    reason = f"{share:.0%} of attempts refused: a trickle asks when it is over"
    if wait >= LEAST:
        until, what = now + wait, "suspend"
        reason = f"{share:.0%} of attempts refused: {wait:.0f} s away, as the reply asks"
    limit = replace(limit, rate=rate, suspended_until=until, probes=0, cut_at=now, reason=reason)
    return limit, what


def _back(
    limit: Limit, limits: Limits, law: Law, now: float, attempts: int, throttled: int
) -> tuple[Limit, str]:
    """Up again while it is taken; a share refused on the way is a rate again, and the law's matter."""
    goal = min(limits.maximum, limit.proven * law.near)
    if throttled > law.share * attempts and throttled > 1 and attempts >= FEW:
        return replace(limit, stopped_at=0.0), ""
    if limit.rate >= goal * 0.999:
        return replace(limit, stopped_at=0.0, ceiling=max(limit.ceiling, goal)), ""
    quiet = now - max(limit.cut_at, limit.raised_at, limit.throttled_at, limit.suspended_until)
    if quiet < law.resume_after or attempts < 1 or now < limit.frozen_until:
        return limit, ""
    rate = min(goal, limit.rate * law.resume)
    reason = f"taken again: back towards {goal:.3g}/s"
    return replace(limit, rate=rate, raised_at=now, reason=reason), "raise"
