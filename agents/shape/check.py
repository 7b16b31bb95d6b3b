"""Is a report to be believed? Reports come from our own workers, but of any version, with any fault."""

from __future__ import annotations

import math

from schemas.lane_report import MOST_FROMS, MOST_LISTS, LaneReport

MOST = 10_000_000
_COUNTS = (
    *("attempts", "delivered", "deferred", "bounced", "unknown", "complaints", "late_bounces"),
    *("opens", "clicks", "waiting", "connections", "busy", "partitions", "traps", "listed"),
)


def refused(report: LaneReport) -> str:
    """Why a report is not to be believed, or ""; a refused report changes nothing."""
    for name in _COUNTS:
        if not 0 <= getattr(report, name) <= MOST:
            return f"{name} is {getattr(report, name)!s:.20}"
    if not 0 <= report.number < 2**63:
        return f"number is {report.number!s:.20}"
    if not (math.isfinite(report.seconds) and 0.05 <= report.seconds <= 86_400):
        return f"seconds is {report.seconds}"
    if not (math.isfinite(report.time) and report.time >= 0):
        return f"time is {report.time}"
    for text in (report.worker, report.provider, report.source, report.dkim):
        if len(text) > 255 or "|" in text or not text.isprintable():
            return f"not a name: {text[:40]!r}"
    if not report.worker:
        return "worker must be named"
    # What comes back may know neither: its mail is no longer remembered. Its campaign counts it all the same.
    if report.kind == "delivery" and not (report.provider and report.source):
        return "provider and source must be named"
    froms = [used for used in report.used if used.kind == "from"]
    if len(froms) > MOST_FROMS or len(report.used) - len(froms) > 4:
        return f"used: more than 4, or more than {MOST_FROMS} From addresses"
    if not all(0 <= n < 2**53 for u in report.used for n in (u.total, u.fresh, u.over, u.waiting)):
        return "used: an impossible count"
    for used in froms:
        if not 0 < len(used.name) <= 255 or "|" in used.name or not used.name.isprintable():
            return f"used: not an address: {used.name[:40]!r}"
    if len(report.lists) > MOST_LISTS or not all(len(t) <= 255 and t.isprintable() for t in report.lists):
        return f"lists: more than {MOST_LISTS}, or not names"
    counts = [(reply.count, reply.carried, reply.open + 1) for reply in report.replies]
    if len(counts) > 1000 or not all(0 <= count <= MOST for found in counts for count in found):
        return "replies: more than 1,000 kinds, or an impossible count"
    return ""
