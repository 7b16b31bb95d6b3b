"""Connections have a control law of their own: a refusal is no reason to send less, only over fewer.

Refused beside so many open ones: that many is the ceiling from then on, held long. One more only where
connections are the bottleneck, one at a time. Likewise the messages that one connection may carry.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from agents.shape.figures import Law, Limits
from agents.shape.limit import Limit
from schemas.lane_report import LaneReport, Reply

KLASS = "connections"
"""The class of ``replies.toml`` for replies about connections, whenever they come."""
HELPED = 0.5
"""Where one more does not carry this part of what each of the others does, the bottleneck is elsewhere: at us, or in their queue."""


def about_connections(reply: Reply) -> bool:
    """Whether a reply speaks of connections, not of the rate: its class says so, or it came as a greeting."""
    return reply.open >= 0 or reply.klass == KLASS


def spent(reply: Reply) -> bool:
    """Whether it ended a connection that had carried messages: enough for that one."""
    return reply.open < 0 and reply.klass == KLASS and reply.carried > 0


def connect(
    limit: Limit, report: LaneReport, replies: Sequence[Reply], limits: Limits, law: Law, now: float
) -> tuple[Limit, str, Reply | None]:
    """The limit with what the report says of connections, what was decided ("" = nothing), a sample reply."""
    mine = [reply for reply in replies if reply.count and about_connections(reply)]
    over = [reply for reply in mine if spent(reply)]
    refused = [reply for reply in mine if not spent(reply)]
    what, sample = "", None
    carried = min((reply.carried for reply in over), default=0)
    if carried and carried < limit.carries(limits, now):
        until = now + law.refused_for
        reason = f"a connection was ended after {carried} messages: {carried} each for now"
        limit = replace(limit, per_connection=carried, per_connection_until=until, reason=reason)
        what, sample = "shorten", over[0]
    if refused:
        fewer = _refused(limit, report, refused, limits, law, now)
        if fewer.connections != limit.room(limits):
            what, sample = "narrow", refused[0]
        limit = fewer
    elif not what and report.kind == "delivery":
        limit, what = _more(limit, limits, law, now)
    return limit, what, sample


def _refused(
    limit: Limit, report: LaneReport, refused: Sequence[Reply], limits: Limits, law: Law, now: float
) -> Limit:
    """Down to what was open beside the refused one; no growth for long."""
    before = limit.room(limits)
    here = min((reply.open for reply in refused if reply.open >= 0), default=report.connections)
    room = min(before, here + limit.opened(but=report.worker))
    if room == before and now - limit.connected_at >= law.cut_after:
        room -= 1  # refused although there were no more than this
    room = max(1, room)
    reason = limit.reason
    if room < before:
        reason = f"a connection was refused: at most {room} at once for now"
    return replace(
        limit,
        connections=room,
        connected_at=now,
        connections_until=now + law.refused_for,
        reason=reason,
    )


def _more(limit: Limit, limits: Limits, law: Law, now: float) -> tuple[Limit, str]:
    """One more where all were busy again and again, below the rate allowed, and the last one more helped."""
    room = limit.room(limits)
    if room >= max(limits.connections, limits.max_connections) or now < limit.connections_until:
        return limit, ""
    quiet = now - max(limit.connected_at, limit.throttled_at, limit.cut_at)
    used = limit.measured().rate
    if quiet < law.connect_after or limit.short() < law.short or used >= law.used * limit.rate:
        return limit, ""
    if used <= limit.carried * (1 + HELPED / max(1, room - 1)):
        return limit, ""
    reason = f"{room} connections carry {used:.3g}/s of {limit.rate:.3g}/s: one more"
    return replace(limit, connections=room + 1, connected_at=now, carried=used, reason=reason), "widen"
