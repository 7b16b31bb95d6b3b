"""What is measured while a simulation runs, and the figures at its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.ops.simulate.provider import DAY, HOUR, Answer, Provider
from streams.ops.simulate.providers_file import Model
from streams.ops.simulate.senders import Allowed

FULL = 0.9
"""Full rate: this part of what a sender that knows everything could send at that moment."""
PERMITTED = 1.4
"""Permitted day-on-day growth while a source is warmed up (providers.md: 1.3 to 1.4)."""
AT_LEAST = 1000
"""Messages of a day below which its rates are chance."""
COMPLAINTS = 0.001
BUCKET = 600.0


class Point(NamedTuple):
    """Ten minutes of the picture: rates in messages/s; ``stopped`` the part of them in which it was suspended.

    ``wanted``: what the sender that knows everything had taken, ``plan``: what plan or gate permit in an hour.
    """

    hour: float
    sent: float
    throttled: float
    limit: float
    capacity: float
    wanted: float
    stopped: float
    plan: float
    reputation: float


@dataclass(slots=True)
class Measures:
    """Sums and moments of one run."""

    model: Model
    first: int = 0
    """Messages of the first day of a warm-up plan: where growth begins."""
    attempts: int = 0
    throttled: int = 0
    late_attempts: int = 0
    late_throttled: int = 0
    taken: int = 0
    best: int = 0
    delivered: int = 0
    full_at: float = -1.0
    longest: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    days: list[list[float]] = field(default_factory=list)
    """By day: taken, delivered, complaints caused, best."""
    _hour: deque[tuple[float, float, float]] = field(default_factory=deque)
    _hour_taken: float = 0.0
    _hour_best: float = 0.0
    _waits: float = -1.0
    _hurt: bool = False
    _stopped: float = 0.0
    _bucket: list[float] = field(default_factory=lambda: [0.0] * 6)
    _began: float = 0.0

    def step(
        self, now: float, seconds: float, attempts: int, answer: Answer, delivered: int, allowed: Allowed,
        best: int, provider: Provider, permitted: float, backlog: float, stopped: bool,
    ) -> None:  # fmt: skip
        """One step from ``now`` (seconds from the start)."""
        self.attempts += attempts
        self.throttled += answer.throttled
        if now >= HOUR:
            self.late_attempts += attempts
            self.late_throttled += answer.throttled
        self.taken += answer.taken
        self.best += best
        self.delivered += delivered
        day = int(now // DAY)
        while len(self.days) <= day:
            self.days.append([0.0, 0.0, 0.0, 0.0])
        for n, amount in enumerate((answer.taken, delivered, delivered * provider.complained(now), best)):
            self.days[day][n] += amount
        self._stopped = self._stopped + seconds if stopped else 0.0
        self.longest = max(self.longest, self._stopped)
        pace = provider.pace(now)
        self._full(now + seconds, seconds, answer.taken, best)
        self._recovery(now, seconds, answer, allowed, min(pace, permitted), provider, backlog)
        self._draw(now, seconds, answer, allowed, pace, provider, best, permitted, stopped)

    def _full(self, now: float, seconds: float, taken: int, best: int) -> None:
        """The first hour in which it sent what could be sent."""
        if self.full_at >= 0:
            return
        self._hour.append((now, taken, best))
        self._hour_taken += taken
        self._hour_best += best
        while self._hour[0][0] <= now - HOUR:
            _, gone, ideal = self._hour.popleft()
            self._hour_taken -= gone
            self._hour_best -= ideal
        if now >= HOUR and self._hour_best > 0 and self._hour_taken >= FULL * self._hour_best:
            self.full_at = now

    def _recovery(
        self, now: float, seconds: float, answer: Answer, allowed: Allowed, pace: float,
        provider: Provider, backlog: float,
    ) -> None:  # fmt: skip
        """From the later of a drop's end and an ordered suspension's end to full rate."""
        dropped = any(d.day * DAY <= now < d.day * DAY + d.hours * HOUR for d in self.model.drops)
        hurt = dropped or provider.ordered(now)
        if hurt:
            self._hurt, self._waits = True, -1.0
            return
        if self._hurt:
            self._hurt, self._waits = False, now
        if self._waits < 0:
            return
        # Where less is to be sent than may be, or the plan's day or hour is used up, all of it is full rate.
        idle = (backlog < 1 or allowed.most < 1) and not answer.throttled
        full = answer.taken >= FULL * pace * seconds or idle
        if full or provider.room(now, 1.0) < 1e-9:
            self.recoveries.append((now - self._waits) / HOUR)
            self._waits = -1.0

    def _draw(
        self, now: float, seconds: float, answer: Answer, allowed: Allowed, pace: float, provider: Provider,
        best: int, permitted: float, stopped: bool,
    ) -> None:  # fmt: skip
        capacity = 0.0 if provider.ordered(now) else pace
        limit = 0.0 if stopped else allowed.rate * seconds
        amounts = (answer.taken, answer.throttled, limit, capacity * seconds, best, stopped * seconds)
        self._bucket = [old + amount for old, amount in zip(self._bucket, amounts, strict=True)]
        if now + seconds - self._began >= BUCKET:
            span = now + seconds - self._began
            sent, throttled, limit, room, wanted, stop = (amount / span for amount in self._bucket)
            began = self._began / HOUR
            self.points.append(
                Point(began, sent, throttled, limit, room, wanted, stop, permitted, provider.reputation)
            )
            self._bucket, self._began = [0.0] * 6, now + seconds

    def finish(self, end: float) -> None:
        """The end: what had not recovered by then counts as it stands."""
        if self._waits >= 0:
            self.recoveries.append((end - self._waits) / HOUR)

    def growth(self) -> float | None:
        """The worst day's volume as a multiple of the largest before; None: a warm source may send any."""
        if not self.model.established:
            return None
        largest, worst = max(self.model.established, self.first), 0.0
        for taken, *_ in self.days:
            worst = max(worst, taken / largest)
            largest = max(largest, taken)
        return worst

    def figures(self) -> dict[str, Any]:
        """The figures that are printed, rounded."""
        rates = [complained / sent for _, sent, complained, _ in self.days if sent >= AT_LEAST]
        growth = self.growth()
        return {
            "used": round(self.taken / self.best, 4) if self.best else 1.0,
            "deferred": _share(self.throttled, self.attempts),
            "deferred_after_first_hour": _share(self.late_throttled, self.late_attempts),
            "longest_suspension_hours": round(self.longest / HOUR, 3),
            "days_to_full_volume": round(self.full_at / DAY, 3) if self.full_at >= 0 else None,
            "complaint_overshoot": round(max(0.0, max(rates, default=0.0) - COMPLAINTS), 5),
            "hours_to_full_rate_after_drop": round(max(self.recoveries), 3) if self.recoveries else None,
            "worst_growth": round(growth, 3) if growth is not None else None,
            "permitted_growth": PERMITTED if growth is not None else None,
            "attempts": self.attempts,
            "delivered": self.delivered,
            "capacity": self.best,
        }


def _share(part: int, of: int) -> float:
    return round(part / of, 5) if of else 0.0
