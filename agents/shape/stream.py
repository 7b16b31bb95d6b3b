"""When a fault of ours stops a whole stream: a source, or a DKIM domain, to everybody.

One hostile or broken domain must not stop anybody else's mail. So a reply acts at its own scope first, and
a stream stops only where a fault of ours shows in a share of many attempts and over many recipient
domains; at a named provider, where it takes most of what it is offered amiss, the stream stops there.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.shape.figures import Sweep
from agents.shape.limit import Kind
from schemas.lane_report import LaneReport, Reply

MOST_DOMAINS = 1000
OURS_OF_SOURCE = frozenset({"source"})
OURS_OF_SIGNER = frozenset({"dkim", "config"})
"""Scopes of replies that say a fault is ours: of the address; of the domain that signs, or of how it is set up."""


class Stop(NamedTuple):
    """A stream to be stopped at ``provider`` ("" = everywhere): why, and a reply that says so."""

    kind: Kind
    name: str
    provider: str
    reason: str
    sample: str


@dataclass(slots=True)
class Tried:
    """A stream's attempts and faults of ours since ``since``, and the recipient domains that told of them."""

    since: float
    attempts: int = 0
    faults: int = 0
    domains: set[str] = field(default_factory=set)
    at: dict[str, list[int]] = field(default_factory=dict)
    """Attempts and faults by named provider."""


@dataclass(slots=True)
class Streams:
    """What every stream met within the last hour or so."""

    tried: dict[tuple[Kind, str], Tried] = field(default_factory=dict)

    def add(self, report: LaneReport, named: Set[str], rules: Sweep, now: float) -> list[Stop]:
        """Take in a delivery report; the streams that it shows to be at fault. They begin to count anew."""
        found = []
        for kind, name, scopes in (
            ("source", report.source, OURS_OF_SOURCE),
            ("dkim", report.dkim, OURS_OF_SIGNER),
        ):
            if not name:
                continue
            stream: tuple[Kind, str] = (kind, name)  # type: ignore[assignment]  # the two literals above
            mine = [reply for reply in report.replies if reply.action == "hold" and reply.scope in scopes]
            tried = self.tried.get(stream)
            if tried is None or now - tried.since > rules.stop_window:
                tried = self.tried[stream] = Tried(now)
            stop = _told(tried, stream, report, mine, named, rules)
            if stop is not None:
                del self.tried[stream]
                found.append(stop)
        return found

    def forget(self, rules: Sweep, now: float) -> None:
        """Drop what is too old to say anything."""
        for stream, tried in list(self.tried.items()):
            if now - tried.since > rules.stop_window:
                del self.tried[stream]


def _told(
    tried: Tried,
    stream: tuple[Kind, str],
    report: LaneReport,
    mine: list[Reply],
    named: Set[str],
    rules: Sweep,
) -> Stop | None:
    faults = sum(reply.count for reply in mine)
    tried.attempts, tried.faults = tried.attempts + report.attempts, tried.faults + faults
    if len(tried.domains) < MOST_DOMAINS:
        tried.domains.update(reply.domain for reply in mine if reply.domain)
    there = [0, 0]
    if report.provider in named:
        there = tried.at.setdefault(report.provider, [0, 0])
        there[0] += report.attempts
        there[1] += faults
    if not faults:
        return None
    sample = mine[0].sample
    many = tried.attempts >= rules.stop_attempts and tried.faults >= rules.stop_share * tried.attempts
    if many and len(tried.domains) >= rules.stop_domains:
        text = (
            f"{tried.faults} of {tried.attempts} attempts met a fault of ours at {len(tried.domains)} domains"
        )
        return Stop(*stream, "", text, sample)
    if there[0] >= rules.stop_attempts and there[1] >= rules.stop_whole * there[0]:
        text = f"{there[1]} of {there[0]} attempts at {report.provider} met a fault of ours"
        return Stop(*stream, report.provider, text, sample)
    return None
