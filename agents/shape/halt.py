"""Orders to stop: nearly everything is refused, so the rate says nothing. Wait, ask by a trickle, come back.

A provider that slows a source down takes part of the mail; one that suspends it, whose quota is used up
or that has lost its capacity takes none. To cut towards zero would forget what it takes on other days.
So: where the reply names a time, stay away so long; else a trickle. Then back to where it was, doubling.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from agents.shape.connections import about_connections
from agents.shape.figures import Law, Limits
from agents.shape.limit import Limit
from agents.shape.warm import PACE
from schemas.lane_report import Reply

FEW = 5
"""Attempts below which a share is chance."""
STILL = 0.5
"""While stopped, more than this share refused says that it is not over: a quota that leaks is no rate to settle at."""
HELD = 300.0
"""Seconds for which a rate must have been taken to be worth returning to, LONG after the last cut:"""
LONG = 3600.0
"""what an hour's quota lets through until it is used up is no rate that the provider takes."""
EACH_TIME = 0.95
SHUT = frozenset({"", "source", "dkim", "domain", "config"})
"""Scopes of replies that may say that a source is shut out; the others are a recipient's or a message's."""
HOURS = 3600.0
"""Longer than greylisting asks for."""
LEAST = 60.0
"""A shorter time that a reply names is no suspension."""
SELDOM = 1200.0
"""The longer a stop lasts, the more seldom is asked whether it is over; at least once in so many seconds."""
LATER = 7200.0
"""A stop that has lasted so long, with ways back that were refused in between, is of a rate too high to come back to:"""
LESS = 0.8
"""each one of them is tried with less."""
LEAKS = 1200.0
"""So soon after a stop, what is taken of a part is the leak of a quota that is used up, or of bad luck, and no rate."""
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


def turned_away(reply: Reply) -> bool:
    """Whether a reply, be it about a rate or not, may be one of a host that shuts us out.

    One among many is a domain's or a message's matter. Nearly all of them are an order to stop, whatever
    their words. Greylisting is none (all pairs of a new sender are new), unless it wants hours.
    """
    if about_connections(reply) or reply.action not in ("slow", "retry", "hold"):
        return False
    if reply.sample.startswith("421"):
        return True  # of the channel, never of a recipient (RFC 5321, 3.8), whatever its words say
    return reply.scope in SHUT and (reply.klass != "greylist" or asked(reply.sample) >= HOURS)


def held(limit: Limit, law: Law, now: float) -> Limit:
    """What is used of the present rate, and was taken for long, is worth remembering; a refusal now and then is none."""
    since = max(limit.cut_at, limit.raised_at, limit.suspended_until)
    if now - since < HELD or now - limit.cut_at < LONG:
        return limit
    known = limit.proven if now - limit.proven_at < law.proven else 0.0
    seen = limit.measured()
    used = min(max(seen.rate, seen.taken) * (1 - seen.share), limit.rate)
    if used < law.near**2 * known or (used <= known and now - limit.proven_at < LONG):
        return limit  # less for now, which is not forgotten in a week; or no news
    return replace(limit, proven=max(used, (used + known) / 2), proven_at=now)


def halt(limit: Limit, limits: Limits, law: Law, now: float, text: str) -> tuple[Limit, str]:
    """The limit after newest reports of nothing but refusals, or on its way back from that."""
    after = limit.cut_at + law.settle
    if limit.stopped_at:  # each mail asks, and the last answer counts
        bound, enough, (attempts, throttled) = STILL, 1, limit.answered(max(after, limit.raised_at))
    else:
        bound, enough, (attempts, throttled) = law.stop, FEW, limit.newest(after)
        if attempts < 2 * FEW:  # too few in one report
            seen = limit.measured(after)
            attempts, throttled = seen.attempts, seen.throttled + seen.turned
    if attempts >= enough and throttled > bound * attempts:
        return _stopped(limit, limits, law, now, text, throttled / attempts)
    if limit.stopped_at:
        return _back(limit, limits, law, now, attempts, throttled)
    return limit, ""


def _stopped(
    limit: Limit, limits: Limits, law: Law, now: float, text: str, share: float
) -> tuple[Limit, str]:
    limit = replace(limit, throttled_at=now)
    caps = limit.caps()
    if caps is not None:  # the pace that binds is the plan's
        limit = replace(limit, rate=min(limit.rate, max(limits.minimum, PACE * caps[1] / 3600)))
    wait = min(law.asked, asked(text))
    first = not limit.stopped_at
    lasted = 0.0 if first else now - limit.stopped_at
    least = min(limits.minimum, 1 / max(law.ask, min(SELDOM, lasted / 8)))
    if not first and wait < LEAST and (limit.rate <= least or now - limit.cut_at < law.trickle_after):
        return limit, ""
    if first:
        # Back to a little less each time, so that a quota that the rate overruns is not overrun for ever.
        limit = replace(limit, stopped_at=now, ceiling=limit.rate * EACH_TIME, met=limit.met + 1)
        rate = max(least, min(limit.rate * min(law.deepest, law.trickle), law.asks))
    else:
        if lasted > LATER and limit.raised_at > limit.cut_at:
            # No hour's quota by now: what each way back goes to is more than it takes.
            limit = replace(limit, ceiling=max(limit.rate, limit.ceiling * LESS))
        rate = max(least, min(limit.rate / 2, law.asks))
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
    goal = min(limits.maximum, limit.ceiling)
    if throttled > law.share * attempts and throttled > 1 and attempts >= FEW:
        if now - limit.stopped_at < LEAKS:
            rate = max(min(limits.minimum, 1 / law.ask), min(limit.rate / 2, law.asks))
            reason = f"{throttled} of {attempts} refused on the way back: a trickle asks again"
            return replace(limit, rate=rate, cut_at=now, throttled_at=now, reason=reason), "cut"
        least = 0.0 if now - limit.stopped_at > LATER else limits.minimum
        return replace(limit, stopped_at=0.0, rate=max(least, limit.rate)), ""
    if limit.rate >= goal * 0.999:
        # After long the ceiling may be elsewhere.
        met = limit.met if now - limit.stopped_at < LONG else 0
        return replace(limit, stopped_at=0.0, met=met), ""
    quiet = now - max(limit.cut_at, limit.raised_at, limit.throttled_at, limit.suspended_until)
    if quiet < law.resume_after or attempts < 1:  # no growth, so no freeze forbids it
        return limit, ""
    rate = min(goal, max(limit.rate * law.resume, goal * law.stride))
    reason = f"taken again: back towards {goal:.3g}/s"
    return replace(limit, rate=rate, raised_at=now, reason=reason), "raise"
