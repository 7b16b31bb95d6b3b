"""mail-wait-* -> where the record says: an alarm clock over the heads of the rungs."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence

from agents import Out, Reject, Stage, Ticket
from agents.wait.policy import MAY_GO_TO, Settings, Slip, onward, read, wakes_at
from schemas.campaign import Campaign
from schemas.codec import Malformed
from schemas.ladder import RUNGS

STAGE = Stage(
    name="wait",
    question="is it time?",
    consumes=tuple(rung.topic for rung in RUNGS),
    emits=(*sorted(MAY_GO_TO), *(rung.topic for rung in RUNGS)),
    twins=False,
    # The head of a rung is due first: what lies beyond the window waits in Kafka and misses nothing.
    window=1000,
)
LONGEST_NAP = 1.0
"""Seconds until the clock is looked at again at the latest: it may have been set."""


class Wait:
    """Keeps tickets until they wake. ``campaigns``: tenant/id -> campaign, kept up to date by somebody."""

    def __init__(
        self, settings: Settings, campaigns: Mapping[str, Campaign], clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._campaigns = campaigns
        self._clock = clock
        self._heap: list[tuple[float, int, Ticket, Slip]] = []
        self._kept = 0
        self._timer: asyncio.TimerHandle | None = None

    async def assigned(self, partition: int) -> None:
        """Nothing to restore."""

    async def revoked(self, partition: int) -> None:
        """What waits is not committed: the next owner reads it again."""
        self._heap = [entry for entry in self._heap if entry[2].record.partition != partition]
        heapq.heapify(self._heap)
        self._set_timer()

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Keep each record until it wakes; those that are late go on at once."""
        for ticket in tickets:
            try:
                slip = read(ticket.record)
            except Reject as error:
                ticket.reject(error.reason, error.detail)
                continue
            except Malformed as error:
                ticket.reject(error.code, error.detail)
                continue
            ticket.keep()
            self._kept += 1
            at = wakes_at(ticket.record, slip, self._settings.rungs, self._clock())
            heapq.heappush(self._heap, (at, self._kept, ticket, slip))
        self._ring()

    def _ring(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            _, _, ticket, slip = heapq.heappop(self._heap)
            try:
                self._wake(ticket, slip, now)
            except Exception as error:  # one record must not stop the clock for all
                ticket.reject("bug", f"{type(error).__name__}: {error}")
        self._set_timer()

    def _wake(self, ticket: Ticket, slip: Slip, now: float) -> None:
        record = ticket.record
        campaign = self._campaigns.get(slip.campaign)
        state: str = campaign.state if campaign else "active"
        if campaign is not None and campaign.rest_waits and state == "active" and "canary" in record.headers:
            state = "canary"
        topic, headers = onward(record, slip, state, self._settings, now)
        value = None if headers.get("type") == b"verdict" else record.value
        ticket.emit(Out(topic, value, headers, record.key, record.partition))
        ticket.done()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            nap = min(max(0.0, self._heap[0][0] - self._clock()), LONGEST_NAP)
            self._timer = asyncio.get_running_loop().call_later(nap, self._ring)
