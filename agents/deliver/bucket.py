"""A pace: never more than so many messages a second, nor many at once. Pure."""

from __future__ import annotations

MOST_WAIT = 1.0
"""Seconds after which whoever waits asks again: a limit may have changed."""


class TokenBucket:
    """Paces one limit: never more than ``max(1, burst x rate)`` messages at once, then ``rate`` a second.

    ``burst``, in seconds, is what a process that was kept waiting may catch up with: a provider's own
    bucket has filled meanwhile. Up to half a message is kept beside: a late timer costs nothing. Starts
    empty. ``seed`` above 0 spreads the moments (later, never earlier), so that workers of one rate
    do not fall in step and hit a provider in the same millisecond.
    """

    __slots__ = ("_burst", "_last", "_need", "_rate", "_seed", "_tokens")

    def __init__(self, rate: float, now: float, burst: float = 0.5, seed: int = 0) -> None:
        self._rate = rate
        self._burst = burst
        self._seed = seed
        self._need = 1.0
        self._tokens = -seed / 2**32
        self._last = now

    @property
    def asked(self) -> float:
        """When somebody asked last."""
        return self._last

    def set_rate(self, rate: float, now: float) -> None:
        """From ``now`` on, ``rate`` messages/s; what was earned before stays, within the new burst."""
        if rate != self._rate:
            self.wait(now)
            self._rate = rate

    def wait(self, now: float) -> float:
        """Seconds until a message may go, 0.0 = now; at most MOST_WAIT, then ask again."""
        most = max(self._need + 0.5, self._rate * self._burst)
        self._tokens = min(most, self._tokens + max(0.0, now - self._last) * self._rate)
        self._last = max(self._last, now)
        # Adding 0.1 ten times gives a little less than 1.
        missing = self._need - self._tokens
        if missing <= 1e-9:
            return 0.0
        return min(MOST_WAIT, missing / self._rate) if self._rate > 0 else MOST_WAIT

    def spend(self) -> None:
        """Take one message's worth, after ``wait`` said 0.0."""
        self._tokens -= 1.0
        if self._seed:
            self._seed = (self._seed * 1664525 + 1013904223) % 2**32 or 1
            self._need = 1.0 + self._seed / 2**34

    def take(self, now: float) -> float:
        """0.0: a message may go and is counted. Else the seconds to wait."""
        wait = self.wait(now)
        if wait == 0.0:
            self.spend()
        return wait
