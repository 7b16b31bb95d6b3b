"""Kafka clients with the settings that the guarantee needs, and the outbox in front of the producer."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from agents import Out
from schemas.codec import Headers, header_list
from streams.settings import Settings

log = logging.getLogger("mailsluice.broker")
Acked = Callable[[int], None]
"""Called with the record's offset once the broker has acknowledged it."""

EXIT_SEND_FAILED = 75
"""EX_TEMPFAIL: the supervisor starts the process again."""


def die(code: int, why: str) -> NoReturn:
    """End the process at once: no flush, no commit, nothing after the failure gets out."""
    log.critical("%s; the process ends and its work is done again by the next one", why)
    logging.shutdown()
    os._exit(code)


def make_producer(settings: Settings) -> AIOKafkaProducer:
    """The producer of a process: acks=all, zstd, idempotent where the broker can."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.broker.split(","),
        client_id="mailsluice",
        acks="all",
        compression_type="zstd",
        linger_ms=int(settings.linger * 1000),
        max_batch_size=262_144,
        max_request_size=settings.largest + 65_536,
        enable_idempotence=settings.broker_idempotent,
        request_timeout_ms=30_000,
        metadata_max_age_ms=60_000,
    )


class _First:
    """A cluster of which only the first ``partitions`` of each topic are seen."""

    def __init__(self, cluster: Any, partitions: int) -> None:
        self._cluster = cluster
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        found = self._cluster.partitions_for_topic(topic)
        return None if found is None else {number for number in found if number < self._partitions}


def range_over(partitions: int) -> type[RangePartitionAssignor]:
    """The range assignor over the partitions below P: partition p of every topic lands on one worker.

    The plain one divides each topic by what the broker shows: partitions added to one topic would
    separate it from the others, and two workers would own the same partition number.
    """

    class FirstRange(RangePartitionAssignor):
        @classmethod
        def assign(cls, cluster: Any, members: Any) -> Any:
            return super().assign(cast(Any, _First(cluster, partitions)), members)

    return FirstRange


def make_group_consumer(settings: Settings, group: str, fetch: int, partitions: int) -> AIOKafkaConsumer:
    """A member of a consumer group. ``fetch``: bytes fetched per partition and request.

    Resets are "none": a position outside the log is an error to be told, not a reason to skip.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=settings.broker.split(","),
        client_id="mailsluice",
        group_id=settings.prefix + "mailsluice-" + group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        partition_assignment_strategy=(range_over(partitions),),
        session_timeout_ms=int(settings.session * 1000),
        heartbeat_interval_ms=max(100, int(settings.session * 1000 / 6)),
        rebalance_timeout_ms=60_000,
        max_poll_interval_ms=300_000,
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=fetch,
        fetch_max_bytes=16 * 1024 * 1024,
        metadata_max_age_ms=60_000,
    )


def make_reader(settings: Settings) -> AIOKafkaConsumer:
    """A consumer without a group: reads what it is assigned by hand, from where it is told."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.broker.split(","),
        client_id="mailsluice-reader",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=1024 * 1024,
        metadata_max_age_ms=60_000,
    )


class Outbox:
    """Writes records in the order given, without an await a record. One per process.

    ``put`` never blocks; ``full`` tells the runners to stop reading. A record that the broker does not
    take ends the process (``die``) from its future's callback, before anything after it is flushed.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        settings: Settings,
        die: Callable[[int, str], Any] = die,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = producer
        self._settings = settings
        self._die = die
        self._clock = clock
        self._queue: deque[tuple[Out, Acked | None]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._dead = False
        self.unacked = 0
        self.unacked_bytes = 0
        self.trial: object | None = None
        """What the one runner of this process has in work that tries a record alone (it crashed before)."""
        self.limit = 20_000
        self.limit_bytes = 64_000_000

    async def start(self) -> None:
        """Connect and start writing."""
        await self._producer.start()
        self._task = asyncio.create_task(self._pump(), name="outbox")

    async def stop(self) -> None:
        """Wait for what was put (30 s at most), then disconnect."""
        await self.flush(30)
        if self._task:
            self._task.cancel()
        await self._producer.stop()

    @property
    def full(self) -> bool:
        """Whether readers should wait until acknowledgements come."""
        return self.unacked >= self.limit or self.unacked_bytes >= self.limit_bytes

    def put(self, out: Out, acked: Acked | None = None) -> None:
        """Queue a record; ``acked`` is called with its offset when the broker has it."""
        if self._dead:
            return
        self.unacked += 1
        self.unacked_bytes += len(out.value or b"")
        self._idle.clear()
        self._queue.append((out, acked))
        self._wake.set()

    async def flush(self, seconds: float) -> bool:
        """Wait until everything put is acknowledged; False after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _pump(self) -> None:
        queue, producer, prefix = self._queue, self._producer, self._settings.prefix
        while True:
            await self._wake.wait()
            self._wake.clear()
            while queue:
                out, acked = queue.popleft()
                value = out.value
                if value is None and out.key is None:
                    value = b""  # aiokafka asserts one of the two; a bodiless record has an empty value
                try:
                    future = await producer.send(
                        prefix + out.topic,
                        value,
                        key=out.key,
                        # Without a key aiokafka would choose at random: such topics have one partition.
                        partition=0 if out.partition is None and out.key is None else out.partition,
                        headers=header_list(out.headers),
                    )
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # whatever it is, the record is not written
                    self._fail(out, error)
                    return
                future.add_done_callback(partial(self._written, out, acked))

    def _written(self, out: Out, acked: Acked | None, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._fail(out, error)
            return
        self.unacked -= 1
        self.unacked_bytes -= len(out.value or b"")
        if acked is not None and not self._dead:
            try:
                acked(future.result().offset)
            except Exception as raised:  # asyncio would only log it, and what it was to do would be missing
                self.end(70, f"the answer to a record of {out.topic} could not be worked on", raised)
        if self.unacked == 0:
            self._idle.set()

    def _fail(self, out: Out, error: BaseException) -> None:
        self.end(EXIT_SEND_FAILED, f"could not write to {out.topic}", error)

    def end(self, code: int, why: str, error: BaseException) -> None:
        """End the process: nothing more is written or acknowledged."""
        self._dead = True
        self._queue.clear()
        self._die(code, f"{why}: {type(error).__name__}: {error}")


async def started(consumer: AIOKafkaConsumer, seconds: float = 30.0) -> AIOKafkaConsumer:
    """Start a client, trying again while the broker is not there. Raises the last error after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            await consumer.start()
            return consumer
        except KafkaError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2 + random.random() * 0.3)


def raw_headers(pairs: Any) -> Headers:
    """Headers as they came, for the dead letters: repeated names keep the last value."""
    return {name: value or b"" for name, value in pairs}
