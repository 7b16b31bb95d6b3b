"""Is a partition still ours? Freshness of the group membership, by the heartbeats that *succeeded*.

aiokafka counts REBALANCE_IN_PROGRESS as a successful heartbeat: an old owner's heartbeat "succeeded" one
second before the new owner had its partitions. So the coordinator's private ``_do_heartbeat`` is wrapped
(the version is pinned; tests/streams/test_ownership.py fails when it changes).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer


class Ownership:
    """Freshness of one consumer's membership.

    ``epoch`` grows with every assignment and every revocation. A thing started under one epoch must
    not go on under another one.
    """

    def __init__(self, session: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._half = session / 2
        self._monotonic = monotonic
        self._last_sent = float("-inf")
        self._generation = -1
        self._coordinator: Any = None
        self.epoch = 0

    def watch(self, consumer: AIOKafkaConsumer) -> None:
        """Wrap the heartbeats of a started group consumer."""
        coordinator = consumer._coordinator
        inner = coordinator._do_heartbeat
        self._coordinator = coordinator

        async def beat() -> bool:
            sent = self._monotonic()
            generation = coordinator.generation
            ok = bool(await inner())
            if ok and not coordinator._rejoin_needed_fut.done() and coordinator.generation == generation:
                self._last_sent = sent
                self._generation = generation
            return ok

        coordinator._do_heartbeat = beat

    def turn(self) -> int:
        """A new epoch: nothing of the old one is fresh any more."""
        self.epoch += 1
        self._last_sent = float("-inf")
        return self.epoch

    def fresh(self, epoch: int) -> bool:
        """Whether what ``epoch`` gave us is still ours for certain: a heartbeat sent less than half a
        session ago succeeded, in the same generation, with no rebalance announced."""
        return (
            epoch == self.epoch
            and self._monotonic() - self._last_sent < self._half
            and self._coordinator is not None
            and self._coordinator.generation == self._generation
            and not self._coordinator._rejoin_needed_fut.done()
        )
