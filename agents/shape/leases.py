"""The lease book: who may use how much of a limit. Exact over any number of workers, no shared counter.

Two rules carry it. A grant counts until it has run out, whatever came after it, because the worker may
not have read what came after: so a raise for one begins only when what it displaces has run out. And a
worker counts a lease from when it *sent* the report that the lease answers, the book from when it
answers, so the worker stops first. Both clocks are monotonic.

Invariant, per limit: the sum over workers of their largest live grant never exceeds policy rate -
minimum; a worker that has not read of a cut yet uses at most what the limit was before. The minimum is
the floor of workers without a lease. While there is no lease at all, a worker may use its part of the
floor over one connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.shape.counted import work_of
from agents.shape.limit import Key
from agents.shape.turns import Turns
from schemas.lane_policy import ALL, LanePolicy, Lease
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


NOTHING = Grant(0.0, 0, 0.0)


def scaled(lent: int, most: int, before: int) -> int:
    """Connections that remain of ``lent`` when the limit goes from ``before`` down to ``most``: 1 at least."""
    return lent if most >= before else min(lent, max(1, lent * most // before))


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

    def last(self) -> Grant:
        """What it was lent last, if that still runs."""
        return self.grants[-1] if self.grants else NOTHING

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
        self._rooms: dict[Key, tuple[float, int]] = {}
        self._turns: Turns[Key] = Turns()

    def answer(self, report: LaneReport, policies: Iterable[LanePolicy], now: float) -> list[Lease]:
        """The leases that answer ``report``: one for each limit that it falls under. ``now`` monotonic."""
        found = [self._lease(report, policy, now) for policy in policies]
        return [lease for lease in found if lease is not None]

    def outstanding(self, key: Key, now: float) -> tuple[float, int]:
        """(rate, connections) that workers may be using of a limit, beside the floor."""
        holders = self._live(key, now).values()
        return sum(h.rate() for h in holders), sum(h.connections() for h in holders)

    def forget(self, now: float) -> None:
        """Drop limits and workers that nothing is heard of, some in their turn."""
        for key in self._turns.next(self._holders):
            if key in self._holders and not self._live(key, now):
                del self._holders[key]
                self._rooms.pop(key, None)

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

    def _lease(self, report: LaneReport, policy: LanePolicy, now: float) -> Lease | None:
        key: Key = (policy.kind, policy.name, policy.provider)
        holders = self._live(key, now)
        mine = holders.setdefault(report.worker, Holder(now, now))
        mine.seen = now
        other = {"source": report.dkim, "dkim": report.source}.get(policy.kind, "")
        if policy.provider == ALL and policy.kind != "from":  # of those a worker tells everything at once
            other = f"{report.provider}|{other}"
        mine.backlog[other] = (now, work_of(report, policy.kind, policy.name))
        if now < self.opens:
            # Heard, so that the first leases are shared among all.
            return None
        room = policy.rate - policy.minimum
        self._scale(key, holders, room, policy.connections)
        weight = self._weight(mine, holders, policy.connections)
        others = [holder for holder in holders.values() if holder is not mine]
        connections = self._connections(mine, others, policy.connections, weight, now)
        # To go on with what one has is no raise: it waits for nothing to run out.
        keep = min(mine.last().rate, room - sum(holder.last().rate for holder in others))
        free = room - sum(holder.rate() for holder in others)
        rate = max(0.0, min(room * weight, max(free, keep))) if connections else 0.0
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

    def _scale(self, key: Key, holders: dict[str, Holder], room: float, most: int) -> None:
        """A cut scales what is lent, as it does at the workers (``Allowance``), in the order of the log."""
        rate, connections = self._rooms.get(key, (room, most))
        self._rooms[key] = (room, most)
        if room >= rate and most >= connections:
            return
        for holder in holders.values():
            holder.grants = [
                Grant(
                    grant.rate * min(1.0, room / rate) if rate > 0 else 0.0,
                    scaled(grant.connections, most, connections),
                    grant.ends,
                )
                for grant in holder.grants
            ]

    def _weight(self, mine: Holder, holders: dict[str, Holder], connections: int) -> float:
        """This worker's share: mostly by backlog, a little evenly.

        Where connections are fewer than workers, those whose turn it is not can use nothing of the rate.
        """
        active = list(holders.values())
        if sum(holder.work() > 0 for holder in active) > connections:
            active = [holder for holder in active if holder is mine or not holder.starved()]
        total = sum(holder.work() for holder in active)
        even = 1 / len(active)
        return EVEN * even + (1 - EVEN) * mine.work() / total if total else even

    def _connections(self, mine: Holder, others: list[Holder], most: int, weight: float, now: float) -> int:
        """How many connections: by weight, at least one while there are any; else one each, in turns."""
        before = mine.last().connections
        scarce = sum(holder.work() > 0 for holder in (mine, *others)) > most
        waiting = [holder for holder in others if holder.starved()]
        wanted = 1 if scarce else max(1, round(most * weight))
        free = most - sum(holder.connections() for holder in others)
        keep = min(before, most - sum(holder.last().connections for holder in others))
        if not before:
            free -= sum(holder.since < mine.since for holder in waiting)
        elif waiting and (not mine.work() or (scarce and now - mine.since >= TURN * self.duration)):
            wanted = 0
        count = max(0, min(wanted, max(free, keep)))
        if bool(count) != bool(before):
            mine.since = now
        return count
