"""Who is next among tenants and campaigns that wait for one provider: stride scheduling on two levels. Pure.

Each tenant gets the same share of what a feed sends, and inside it each campaign a share by its weight, as
long as it has mail in the buffer; what one does not use goes to the others. In a campaign mail keeps its order,
but for ranks (``choose``): the lowest goes first.

A campaign whose mail has to wait for a limit of its own (of its DKIM domain, its From address, its pool's
sources) is parked: the others go on.

What Kafka's order allows: a feed sees the records that deliver has in work, at most the stage's window of
each partition. What lies further back in a partition waits until the window moves, whatever its campaign
is; a campaign that is spread over all partitions comes into sight with the first free place in any of them.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from agents.deliver.job import Mail

T = TypeVar("T")
_Flow = dict[int, deque[Mail]]
"""A campaign's mail by rank, the lowest first."""


class _Turns(Generic[T]):
    """Members that take turns by weight: a member's pass grows by 1 / weight with each turn; lowest goes first."""

    __slots__ = ("_count", "_heap", "_now", "_parked", "members")

    def __init__(self) -> None:
        self.members: dict[str, T] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._parked: set[str] = set()
        self._now = 0.0
        self._count = 0

    def join(self, name: str, member: T) -> None:
        """It begins where the others are now: time without mail earns nothing."""
        self.members[name] = member
        self._push(self._now, name)

    def first(self) -> str | None:
        """Whose turn it is; None where nobody's is."""
        return self._heap[0][2] if self._heap else None

    def park(self) -> None:
        """The first one takes no turn until ``wake``."""
        self._now, _, name = heapq.heappop(self._heap)
        self._parked.add(name)

    def wake(self, name: str) -> None:
        """It takes its turns again, from where the others are now."""
        if name in self._parked:
            self._parked.discard(name)
            self._push(self._now, name)

    def turn(self, weight: float) -> None:
        """The first one has had its turn."""
        self._now, _, name = heapq.heappop(self._heap)
        self._push(self._now + 1.0 / max(1e-6, weight), name)

    def leave(self) -> None:
        """The first one has nothing left."""
        self._now, _, name = heapq.heappop(self._heap)
        del self.members[name]

    def _push(self, at: float, name: str) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, name))


class FairQueue:
    """The bulk mail of a feed. ``weight(mail)``: of its campaign, above 0."""

    def __init__(self, weight: Callable[[Mail], float] = lambda mail: 1.0) -> None:
        self._weight = weight
        self._tenants: _Turns[_Turns[_Flow]] = _Turns()
        self._parked: list[tuple[float, str, str]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Mail]:
        """All mail, campaign by campaign."""
        for flow in self.flows():
            yield from flow

    def flows(self) -> Iterator[deque[Mail]]:
        """The queues of each campaign, one a rank, oldest first. Take mail out with ``drop`` alone."""
        for campaigns in list(self._tenants.members.values()):
            for flow in list(campaigns.members.values()):
                yield from flow.values()

    def sort(self) -> None:
        """Take out what does not wait any more, and have each campaign in the order of the ranks as they are now."""
        for campaigns in self._tenants.members.values():
            for flow in campaigns.members.values():
                mails = [mail for line in flow.values() for mail in line]
                kept = sorted((mail for mail in mails if mail.stage == "waiting"), key=_order)
                self._length += len(kept) - len(mails)
                flow.clear()
                for mail in kept:
                    flow.setdefault(mail.rank, deque()).append(mail)

    def append(self, mail: Mail) -> None:
        """At the end of its campaign, or of those of its rank."""
        self._flow(mail).append(mail)
        self._length += 1

    def extend(self, mails: Iterable[Mail]) -> None:
        """Each at the end of its campaign."""
        for mail in mails:
            self.append(mail)

    def appendleft(self, mail: Mail) -> None:
        """It comes first in its campaign again."""
        self._flow(mail).appendleft(mail)
        self._length += 1

    def head(self) -> Mail | None:
        """Whose turn it is; stays until it is popped. None where none waits, or all are parked."""
        while (tenant := self._tenants.first()) is not None:
            campaigns = self._tenants.members[tenant]
            while (campaign := campaigns.first()) is not None:
                for line in campaigns.members[campaign].values():
                    while line and line[0].stage != "waiting":
                        self.drop(line)
                    if line:
                        return line[0]
                campaigns.leave()
            if campaigns.members:
                self._tenants.park()
            else:
                self._tenants.leave()
        return None

    def park(self, mail: Mail, until: float) -> None:
        """The head may not go for a limit of its own: its campaign lets the others pass until then."""
        if self.head() is mail:
            self._tenants.members[mail.tenant].park()
            heapq.heappush(self._parked, (until, mail.tenant, mail.campaign))

    def wake(self, now: float) -> None:
        """Those whose time has come take their turns again."""
        while self._parked and self._parked[0][0] <= now:
            _, tenant, campaign = heapq.heappop(self._parked)
            self._tenants.members[tenant].wake(campaign)
            self._tenants.wake(tenant)

    def wakes(self) -> float:
        """When the next parked campaign takes its turns again; infinite where none is."""
        return self._parked[0][0] if self._parked else math.inf

    def pop(self, mail: Mail, sent: bool = True) -> None:
        """Take the head off; ``sent``: its campaign and tenant have had their turn."""
        if self.head() is not mail:
            return
        campaigns = self._tenants.members[mail.tenant]
        self._length -= 1
        campaigns.members[mail.campaign][mail.rank].popleft()
        if sent:
            campaigns.turn(self._weight(mail))
            self._tenants.turn(1.0)

    def drop(self, flow: deque[Mail]) -> Mail:
        """Take a campaign's oldest mail out, without a turn."""
        self._length -= 1
        return flow.popleft()

    def _flow(self, mail: Mail) -> deque[Mail]:
        campaigns = self._tenants.members.get(mail.tenant)
        if campaigns is None:
            campaigns = _Turns()
            self._tenants.join(mail.tenant, campaigns)
        flow = campaigns.members.get(mail.campaign)
        if flow is None:
            flow = {}
            campaigns.join(mail.campaign, flow)
            self._tenants.wake(mail.tenant)  # all its others may be parked
        line = flow.get(mail.rank)
        if line is None:
            line = flow[mail.rank] = deque()
            if len(flow) > 1:
                ordered = sorted(flow.items())
                flow.clear()
                flow.update(ordered)
        return line


def _order(mail: Mail) -> tuple[int, float]:
    return mail.rank, mail.queued
