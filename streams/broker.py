"""Kafka clients with the settings that the guarantee needs, and the outbox in front of the producer."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaConnectionError, KafkaError

from agents import Out
from schemas.codec import Headers, header_list
from schemas.identity import murmur2
from streams.settings import Settings

log = logging.getLogger("mailsluice.broker")
_send = AIOKafkaConnection.send


def _send_or_fail(self: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
    """uvloop answers a write to a connection that has just broken with RuntimeError where asyncio says nothing.
    aiokafka takes that for a bug of its own, and its coordinator ends for good: the process with it."""
    try:
        return _send(self, request, expect_response)
    except RuntimeError as error:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"connection to the broker broken: {error}") from error


AIOKafkaConnection.send = _send_or_fail  # pinned; tests/streams/test_connection.py
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


def fetch_wait_ms(settings: Settings) -> int:
    """How long a fetch waits for its first record. Apache Kafka answers the moment it comes; the embedded
    broker looks only now and then, the more rarely the longer the wait is."""
    return 400 if settings.broker_idempotent else 50


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
        fetch_max_wait_ms=fetch_wait_ms(settings),
        max_partition_fetch_bytes=fetch,
        fetch_max_bytes=16 * 1024 * 1024,
        metadata_max_age_ms=60_000,
    )


def make_reader(settings: Settings, fetch: int = 1024 * 1024) -> AIOKafkaConsumer:
    """A consumer without a group: reads what it is assigned by hand, from where it is told. ``fetch``: bytes of
    each partition and request; of the first one a whole batch comes, however large."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.broker.split(","),
        client_id="mailsluice-reader",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=fetch,
        metadata_max_age_ms=60_000,
    )


def make_swift_reader(settings: Settings) -> AIOKafkaConsumer:
    """A reader of the twins beside a group's consumer: what comes is answered at once, also under load."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.broker.split(","),
        client_id="mailsluice-now",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=fetch_wait_ms(settings),
        max_partition_fetch_bytes=262_144,
        metadata_max_age_ms=60_000,
    )


BULK, PROMPT, AT_ONCE = 4.0, 1.0, 0.2
"""How long a batch waits for more, in lingers after the one before: a produce request costs client and broker as
much as 20 records. AT_ONCE is for what somebody waits for at each stage; what hurries, hurries all that waits."""


class _Line:
    """What waits for one partition of a topic, and whether a batch of it is on its way."""

    __slots__ = ("flying", "haste", "partition", "topic", "waiting")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[tuple[Out, Acked | None]] = deque()
        self.flying = False
        self.haste = BULK
        """Of the most urgent that waits in it. AT_ONCE is written first, and not behind bulk."""


class Outbox:
    """Writes records in the order given, partition by partition, without an await a record. One per process.

    ``put`` never blocks; ``full`` tells the runners to stop reading. A partition has one batch on its way;
    what is put meanwhile goes into the next, so that batches grow with the load. The first record after a
    quiet moment goes at once. A batch that the broker does not take ends the process (``die``) from its
    future's callback, before anything after it is written.

    aiokafka has one produce request at a time on its way to a broker, and under load that is a megabyte of
    bulk: what is urgent has a producer of its own (``swift``). The order within a partition stays, because a
    partition's next batch waits for the one before, whoever took it.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        settings: Settings,
        die: Callable[[int, str], Any] = die,
        clock: Callable[[], float] = time.time,
        swift: AIOKafkaProducer | None = None,
    ) -> None:
        """``clock``: Unix seconds, for the records' timestamps. Without ``swift``, ``producer`` takes all."""
        self._producer = producer
        self._swift = swift or producer
        self._producers = tuple(dict.fromkeys((self._producer, self._swift)))
        self._settings = settings
        self._die = die
        self._clock = clock
        self._lines: dict[tuple[str, int | None], _Line] = {}
        self._ready: list[_Line] = []
        self._keyed: deque[tuple[Out, Acked | None]] = deque()
        self._haste = BULK
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._dead = False
        self.unacked = 0
        self.unacked_bytes = 0
        self.trial: object | None = None
        """What the one runner of this process has in work that tries a record alone (it crashed before)."""
        self.limit = 20_000
        self.limit_bytes = 32_000_000

    async def start(self) -> None:
        """Connect and start writing."""
        try:
            for producer in self._producers:
                await asyncio.wait_for(producer.start(), 40)
        except TimeoutError:
            raise ValueError(
                f"the producer could not start on {self._settings.broker} within 40 s. A broker that does not know "
                "idempotent producers (the embedded one) needs MAILSLUICE_BROKER_IDEMPOTENT=0"
            ) from None
        self._task = asyncio.create_task(self._pump(), name="outbox")
        self._task.add_done_callback(self._pump_ended)

    async def know(self, topics: Iterable[str]) -> None:
        """Ask once for the partitions of logical ``topics``: else the first record of each waits for that, and
        all that is to be written behind it."""
        names = [self._settings.topic(topic) for topic in topics]
        for producer in self._producers:
            for name in names:
                producer.client.add_topic(name)
            await asyncio.gather(*(producer.partitions_for(name) for name in names))

    async def stop(self) -> None:
        """Wait for what was put (30 s at most), then disconnect."""
        await self.flush(30)
        if self._task:
            self._task.cancel()
        for producer in self._producers:
            await stopped(producer)

    @property
    def full(self) -> bool:
        """Whether readers should wait until acknowledgements come."""
        return self._beyond(1)

    @property
    def full_now(self) -> bool:
        """The same for readers of transactional mail: what bulk fills leaves them as much again."""
        return self._beyond(2)

    def _beyond(self, times: int) -> bool:
        return self.unacked >= times * self.limit or self.unacked_bytes >= times * self.limit_bytes

    def put(self, out: Out, acked: Acked | None = None, haste: float = PROMPT) -> None:
        """Queue a record; ``acked`` is called with its offset when the broker has it.

        ``haste``: BULK, PROMPT or AT_ONCE.
        """
        if self._dead:
            return
        self.unacked += 1
        self.unacked_bytes += len(out.value or b"")
        self._idle.clear()
        self._hasten(haste)
        if out.partition is None and out.key is not None:
            self._keyed.append((out, acked))
            self._wake.set()
        else:
            self._enter(out.partition or 0, out, acked, haste)

    def _hasten(self, haste: float) -> None:
        if haste < self._haste:
            self._haste = haste
            self._hurry.set()

    def _enter(self, partition: int, out: Out, acked: Acked | None, haste: float) -> None:
        line = self._lines.get((out.topic, partition))
        if line is None:
            line = self._lines[out.topic, partition] = _Line(out.topic, partition)
        line.waiting.append((out, acked))
        line.haste = min(line.haste, haste)
        if len(line.waiting) == 1 and not line.flying:
            self._ready.append(line)
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
        last = float("-inf")
        while True:
            await self._wake.wait()
            await self._linger(last)
            last = asyncio.get_running_loop().time()
            self._wake.clear()
            self._haste = BULK
            while self._keyed:
                out, acked = self._keyed.popleft()
                count = len(await self._producer.partitions_for(self._settings.topic(out.topic)))
                self._enter((murmur2(out.key or b"") & 0x7FFFFFFF) % count, out, acked, PROMPT)
            ready, self._ready = self._ready, []
            ready.sort(key=lambda line: line.haste)
            for number, line in enumerate(ready):
                if self._dead:
                    return
                if line.haste > self._haste == AT_ONCE:
                    self._ready = ready[number:] + self._ready
                    self._wake.set()
                    break
                try:
                    await self._write(line)
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # whatever it is, the records are not written
                    self._fail(line, error)
                    return

    async def _linger(self, last: float) -> None:
        """Until the batches may be closed; what comes meanwhile may bring that forward."""
        loop = asyncio.get_running_loop()
        while (left := last + self._haste * self._settings.linger - loop.time()) > 0:
            self._hurry.clear()
            timer = loop.call_later(left, self._hurry.set)
            await self._hurry.wait()
            timer.cancel()

    async def _write(self, line: _Line) -> None:
        batch = self._producer.create_batch()  # of either: they have the same settings
        now, waiting = int(self._clock() * 1000), line.waiting
        taken: list[tuple[int, Acked | None]] = []
        while waiting:
            out, acked = waiting[0]
            # A record without a body is an empty one; only with a key does None mean "delete it".
            value = b"" if out.value is None and out.key is None else out.value
            headers = header_list(out.headers)
            if batch.append(timestamp=now, key=out.key, value=value, headers=headers) is None:
                break  # full; a batch takes its first record whatever its size
            waiting.popleft()
            taken.append((len(out.value or b""), acked))
        batch.close()  # nothing is added any more: it does not linger
        producer = self._swift if line.haste == AT_ONCE else self._producer
        line.flying, line.haste = True, line.haste if waiting else BULK
        future = await producer.send_batch(batch, self._settings.topic(line.topic), partition=line.partition)
        future.add_done_callback(partial(self._written, line, taken))

    def _written(
        self, line: _Line, taken: list[tuple[int, Acked | None]], future: asyncio.Future[Any]
    ) -> None:
        if future.cancelled() or self._dead:
            return
        error = future.exception()
        if error is not None:
            self._fail(line, error)
            return
        offset = future.result().offset
        line.flying = False
        if line.waiting:
            self._ready.append(line)
            self._hasten(line.haste)
            self._wake.set()
        for size, acked in taken:
            self.unacked -= 1
            self.unacked_bytes -= size
            if acked is not None:
                try:
                    acked(offset)
                except Exception as raised:  # asyncio would only log it; what should follow would be missing
                    self.end(70, f"the answer to a record of {line.topic} could not be worked on", raised)
                    return
            offset += 1
        if self.unacked == 0:
            self._idle.set()

    def _pump_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(EXIT_SEND_FAILED, "the outbox ended", error)

    def _fail(self, line: _Line, error: BaseException) -> None:
        self.end(EXIT_SEND_FAILED, f"could not write to {line.topic}", error)

    def end(self, code: int, why: str, error: BaseException) -> None:
        """End the process: nothing more is written or acknowledged."""
        self._dead = True
        self._ready.clear()
        self._lines.clear()
        self._keyed.clear()
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


def let_go(reader: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
    """Drop what the client has fetched of partitions that nobody reads on.

    It drops it itself, but its records and their iterator hold each other, and so up to a megabyte each, unpacked
    ten, until a collection of the oldest objects comes by: hours in a quiet worker. Its own names (the version is
    pinned; tests/streams/test_memory.py looks that they still are)."""
    for tp in tps:
        fetched = reader._fetcher._records.pop(tp, None)
        records = getattr(fetched, "_partition_records", None)
        if records is not None:
            records._records_iterator = None


async def stopped(client: Any, seconds: float = 10.0) -> None:
    """Stop a client. Without a broker aiokafka lets out the CancelledError of its own tasks, or waits on."""
    task = asyncio.ensure_future(client.stop())
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
    elif not task.cancelled() and task.exception() is not None:
        log.warning("a Kafka client did not stop in order: %r", task.exception())


def raw_headers(pairs: Any) -> Headers:
    """Headers as they came, for the dead letters: repeated names keep the last value."""
    return {name: value or b"" for name, value in pairs}
