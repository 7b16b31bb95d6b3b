"""The lease book: who may use how much of a limit. Exact over any number of workers, no shared counter.

Two rules carry it. A grant counts until it has run out, whatever came after it, because the worker may
not have read what came after: so a raise for one begins only when what it displaces has run out. And a
worker counts a lease from when it *sent* the report that the lease answers, the book from when it
answers, so the worker stops first. Both clocks are monotonic.

Invariant, per limit: the sum over workers of their largest live grant never exceeds the largest
(policy rate - minimum) of the last ``duration`` seconds. The minimum is the floor of workers without a
lease. While there is no lease at all, a worker may use the floor over one connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.shape.limit import Key
from schemas.lane_policy import LanePolicy, Lease
from schemas.lane_report import LaneReport

EVEN = 0.1
"""Part of a limit that is shared evenly, so that a worker whose first mail arrives need not wait."""
TURN = 5.0
"""With more workers than connections each holds one for so many lease durations, then the next."""


class Grant(NamedTuple):
    """What a worker may use until ``ends`` (the book's monotonic clock)."""

    rate: float
    connections: int
    ends: float


@dataclass(slots=True)
class Holder:
    """One worker on one limit. ``backlog`` by the other half of its reports (DKIM domain or source)."""

    seen: float
    since: float
    """Since when it holds a connection, or waits for one."""
    grants: list[Grant] = field(default_factory=list)
    backlog: dict[str, tuple[float, int]] = field(default_factory=dict)

    def rate(self) -> float:
        """The most that it may be using now."""
        return max((grant.rate for grant in self.grants), default=0.0)

    def connections(self) -> int:
        """The most connections that it may have open now."""
        return max((grant.connections for grant in self.grants), default=0)

    def work(self) -> int:
        """Mail it has to send: waiting, or just sent."""
        return sum(count for _, count in self.backlog.values())

    def starved(self) -> bool:
        """Whether it has mail but was given no connection."""
        return bool(self.grants) and self.grants[-1].connections == 0 and self.work() > 0


class Book:
    """Leases of every limit. ``start``: when this leader took over; grants begin one duration later."""

    def __init__(self, duration: float, start: float) -> None:
        self.duration = duration
        self.opens = start + duration
        self._holders: dict[Key, dict[str, Holder]] = {}

    def answer(self, report: LaneReport, policies: Iterable[LanePolicy], now: float) -> list[Lease]:
        """The leases that answer ``report``: one for each limit that it falls under. ``now`` monotonic."""
        return [self._lease(report, policy, now) for policy in policies if now >= self.opens]

    def outstanding(self, key: Key, now: float) -> tuple[float, int]:
        """(rate, connections) that workers may be using of a limit, beside the floor."""
        holders = self._live(key, now).values()
        return sum(h.rate() for h in holders), sum(h.connections() for h in holders)

    def forget(self, now: float) -> None:
        """Drop limits and workers that nothing is heard of."""
        for key in list(self._holders):
            if not self._live(key, now):
                del self._holders[key]

    def _live(self, key: Key, now: float) -> dict[str, Holder]:
        holders = self._holders.setdefault(key, {})
        for worker, holder in list(holders.items()):
            holder.grants = [grant for grant in holder.grants if grant.ends > now]
            stale = [name for name, (seen, _) in holder.backlog.items() if seen <= now - self.duration]
            for name in stale:
                del holder.backlog[name]
            if not holder.grants and holder.seen <= now - self.duration:
                del holders[worker]
        return holders

    def _lease(self, report: LaneReport, policy: LanePolicy, now: float) -> Lease:
        key: Key = (policy.kind, policy.name, policy.provider)
        holders = self._live(key, now)
        mine = holders.setdefault(report.worker, Holder(now, now))
        mine.seen = now
        other = report.dkim if policy.kind == "source" else report.source
        mine.backlog[other] = (now, report.waiting + report.attempts)
        weight = self._weight(mine, holders)
        connections = self._connections(mine, holders, policy.connections, weight, now)
        free = policy.rate - policy.minimum - sum(h.rate() for h in holders.values() if h is not mine)
        wanted = (policy.rate - policy.minimum) * weight if connections else 0.0
        rate = max(0.0, min(wanted, free))
        mine.grants.append(Grant(rate, connections, now + self.duration))
        return Lease(
            worker=report.worker,
            number=report.number,
            provider=policy.provider,
            kind=policy.kind,
            name=policy.name,
            rate=rate,
            connections=connections,
            per_connection=policy.per_connection,
            duration=self.duration,
        )

    def _weight(self, mine: Holder, holders: dict[str, Holder]) -> float:
        """This worker's share: mostly by backlog, a little evenly; starved ones can use nothing."""
        active = [holder for holder in holders.values() if holder is mine or not holder.starved()]
        total = sum(holder.work() for holder in active)
        even = 1 / len(active)
        return EVEN * even + (1 - EVEN) * mine.work() / total if total else even

    def _connections(
        self, mine: Holder, holders: dict[str, Holder], most: int, weight: float, now: float
    ) -> int:
        """How many connections: by weight, at least one while there are any; else in turns."""
        free = most - sum(holder.connections() for holder in holders.values() if holder is not mine)
        waiting = [h for h in holders.values() if h is not mine and h.starved()]
        before = mine.grants[-1].connections if mine.grants else 0
        if before:
            over = waiting and (not mine.work() or (before == 1 and now - mine.since >= TURN * self.duration))
            count = 0 if over else max(0, min(free, max(1, round(most * weight))))
        else:
            earlier = sum(holder.since < mine.since for holder in waiting)
            count = max(0, min(free - earlier, max(1, round(most * weight))))
        if bool(count) != bool(before):
            mine.since = now
        return count
