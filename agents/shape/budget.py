"""What is counted: so many messages a day, so many in any hour, over any number of workers. Never above.

A worker may have started, since it came up, up to ``most`` messages of a limit: its lease says so, and
its reports say how many it has and which leases are over. What was granted counts as sent until a report
that no longer goes by the grant says otherwise; what a worker that died held stays counted. What a report
tells counts from when we hear of it, later than it was sent: the hour holds in every sliding window.

What is written down runs ahead of what is granted (``ahead``), so that the next leader, who starts from
what was written, can never grant it again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.lane_policy import Spent

BINS = 30
"""Parts of a window whose messages leave it together."""
AHEAD = 50
"""What is written ahead: this part of a day, or of a window where no day is counted."""
SILENT = 60.0
"""A worker unheard of for so many seconds after its last lease is written off."""


class Grant(NamedTuple):
    """The lease that answered report ``number`` allows ``most`` in all, until ``ends`` (monotonic)."""

    number: int
    most: int
    ends: float


@dataclass(slots=True)
class Bin:
    """Messages told of between two moments; they leave the window with the last."""

    first: float
    last: float
    count: int


@dataclass(slots=True)
class Account:
    """One worker's: what it told that it has started, and what it may start yet."""

    total: int
    heard: float
    grants: list[Grant] = field(default_factory=list)

    def held(self) -> int:
        """What it may have started beyond what it told."""
        return max(0, max((grant.most for grant in self.grants), default=0) - self.total)


class Budget:
    """Messages of one limit. ``per_day`` 0: no day is counted; ``per_span`` in any ``span`` seconds."""

    def __init__(self, per_day: int, per_span: int, span: float = 3600.0) -> None:
        self.per_day, self.per_span, self.span = per_day, per_span, span
        self.day_start = 0.0
        self.spent = 0
        """In the present day, as told."""
        self.fullest = 0
        """The most in any window of the present day."""
        self.written = 0
        """What the next leader will take for spent."""
        self._bins: deque[Bin] = deque()
        self._accounts: dict[str, Account] = {}

    def restore(self, spent: Spent, now: float) -> None:
        """Begin with what the last leader wrote; what it wrote ahead counts as sent now."""
        self.day_start, self.spent, self.fullest = spent.day_start, spent.used, spent.fullest
        self._bins = deque(Bin(at, at, count) for at, count in spent.lately)
        self._charge(spent.ahead, now)
        self.written = self.spent

    def record(self, now: float) -> Spent:
        """What to write down: as much is kept ahead as is granted, and some more."""
        held = self.held()
        more = max(1, (self.per_day or self.per_span) // AHEAD)
        self.written = self.spent + held + more
        return Spent(
            per_day=self.per_day,
            per_span=self.per_span,
            span=self.span,
            day_start=self.day_start,
            used=self.spent,
            ahead=held + more,
            fullest=self.fullest,
            lately=tuple(
                (math.ceil(bin.last), bin.count) for bin in self._bins if bin.last + self.span > now
            ),
        )

    def due(self) -> bool:
        """Whether what is granted has outrun what is written: write before the lease."""
        return self.spent + self.held() > self.written

    def held(self) -> int:
        """Granted and not told of yet."""
        return sum(account.held() for account in self._accounts.values())

    def free(self, now: float) -> int:
        """What may be granted now."""
        held = self.held()
        room = self.per_span - self._lately(now) - held
        return max(0, min(room, self.per_day - self.spent - held) if self.per_day else room)

    def left(self, now: float) -> int:
        """What may still be started, granted already or not."""
        room = self.per_span - self._lately(now)
        return max(0, min(room, self.per_day - self.spent) if self.per_day else room)

    def heard(self, worker: str, total: int, fresh: int, over: int, now: float, mono: float) -> None:
        """A report: ``total`` started so far, ``fresh`` since the last; leases up to number ``over`` are over."""
        account = self._accounts.get(worker)
        if account is None:
            # Before us it spent under a leader who wrote that down; but its last second may be nobody's.
            self._accounts[worker] = Account(total, mono)
            self._charge(max(0, min(fresh, total)), now)
            return
        account.heard = mono
        if total > account.total:
            self._charge(total - account.total, now)
            account.total = total
        account.grants = [grant for grant in account.grants if grant.number > over]

    def grant(self, worker: str, number: int, wanted: int, ends: float, now: float) -> int:
        """``most`` for the lease that answers report ``number``: ``wanted`` more, if there are so many."""
        account = self._accounts.get(worker)
        if account is None:
            return 0  # it has not told yet how many it has started
        mine = account.held()
        more = max(0, min(wanted, self.free(now) + mine))
        account.grants.append(Grant(number, account.total + more, ends))
        return account.total + more

    def new_day(self, begins: float, mono: float) -> None:
        """Another day began: what can still be started counts in it."""
        self.day_start, self.spent, self.fullest = begins, 0, 0
        for account in self._accounts.values():
            account.grants = [grant for grant in account.grants if grant.ends > mono]
        self.written = 0

    def idle(self, now: float) -> bool:
        """Whether nothing was sent within the span, and nobody may send anything."""
        return not self._accounts and not self._lately(now)

    def settle(self, now: float, mono: float) -> None:
        """Write off workers that nothing is heard of; call it now and then."""
        for worker, account in list(self._accounts.items()):
            ends = max((grant.ends for grant in account.grants), default=account.heard)
            if mono > max(ends, account.heard) + SILENT:
                self._charge(account.held(), now)
                del self._accounts[worker]

    def _charge(self, count: int, now: float) -> None:
        if count <= 0:
            return
        self.spent += count
        last = self._bins[-1] if self._bins else None
        if last is not None and now - last.first < self.span / BINS:
            last.last, last.count = max(now, last.last), last.count + count
        else:
            self._bins.append(Bin(now, now, count))
        self.fullest = max(self.fullest, self._lately(now))

    def _lately(self, now: float) -> int:
        while self._bins and self._bins[0].last + self.span <= now:
            self._bins.popleft()
        return sum(kept.count for kept in self._bins)
