"""Running the toy pipeline in tests: its topics, its processes, what came out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agents import Agent, Out, Stage, Steps
from streams.broker import Outbox, make_group_consumer, make_producer, make_reader
from streams.ownership import Ownership
from streams.runner import Runner
from streams.settings import Settings
from tests.support.brokers import Broker, create_topics

TOY = Path(__file__).with_name("toy.py")


def settings_for(broker: Broker, prefix: str, **more) -> Settings:
    """Settings with short intervals."""
    values = {"session": 3.0, "commit": 0.2, **more}
    return Settings(
        broker=broker.bootstrap, prefix=prefix, broker_idempotent=broker.name == "apache", **values
    )


async def make_topics(broker: Broker, prefix: str, partitions: int, *names: str) -> None:
    """The toy's topics and the dead letters; or those named."""
    if names:
        await create_topics(broker, *(prefix + name for name in names), partitions=partitions)
        return
    toys = (prefix + name for name in ("toy-in", "toy-mid", "toy-out"))
    await create_topics(broker, *toys, partitions=partitions, max_message_bytes="8000000")
    await create_topics(broker, prefix + "mail-dlq", max_message_bytes="8000000")


async def produce(settings: Settings, values, partitions: int, topic: str = "toy-in") -> None:
    """Write values; record n carries n in its header and goes to partition n mod P."""
    outbox = Outbox(make_producer(settings), settings)
    await outbox.start()
    for n, value in enumerate(values):
        outbox.put(Out(topic, value, {"n": b"%d" % n}, None, n % partitions))
    assert await outbox.flush(30)
    await outbox.stop()


async def read_all(settings: Settings, topic: str, partitions: int, enough, seconds: float = 60.0):
    """Records of a topic from its start, until ``enough(records)`` or the time is over."""
    from aiokafka import TopicPartition

    reader = make_reader(settings)
    await reader.start()
    tps = [TopicPartition(settings.topic(topic), p) for p in range(partitions)]
    reader.assign(tps)
    for tp in tps:
        reader.seek(tp, 0)
    found = []
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and not enough(found):
            for batch in (await reader.getmany(timeout_ms=200)).values():
                found.extend(batch)
    finally:
        await reader.stop()
    return found


def stage(name: str = "toy", twins: bool = False, **more) -> Stage:
    """toy-in -> toy-out."""
    return Stage(name, "what is it?", ("toy-in",), ("toy-out",), twins=twins, **more)


class Each(Steps):
    """One record in, what ``body(record)`` returns out; by default the record itself on toy-out."""

    def __init__(self, body: Callable | None = None, opening: float = 0.0) -> None:
        self.body = body or copy
        self.opening = opening
        self.assignments: list[int] = []
        self.seen: list[tuple[int, int]] = []

    async def assigned(self, partition: int) -> None:
        await asyncio.sleep(self.opening)
        self.assignments.append(partition)

    def step(self, record):
        self.seen.append((record.partition, record.offset))
        return self.body(record)


def copy(record) -> list[Out]:
    """The record as it is, on toy-out."""
    return [Out("toy-out", record.value, record.headers, record.key, record.partition)]


class Keeps(Steps):
    """Holds every record until the test lets it go. ``kept``: tickets by offset."""

    def __init__(self) -> None:
        self.kept = {}
        self.max_kept = 0
        self.bytes = 0

    async def batch(self, tickets, partition) -> None:
        for ticket in tickets:
            ticket.keep()
            self.kept[ticket.record.offset] = ticket
            self.bytes += len(ticket.record.value)
        self.max_kept = max(self.max_kept, len(self.kept))

    def let_go(self, offset: int) -> None:
        """The record goes on to toy-out."""
        ticket = self.kept.pop(offset)
        ticket.emit(copy(ticket.record)[0])
        ticket.done()


class Station:
    """One runner with an outbox of its own, in this process. ``deaths``: what would have ended it."""

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        partitions: int,
        stage_: Stage | None = None,
        producer=None,
        tweak: Callable | None = None,
        outbox: Outbox | None = None,
        **options,
    ) -> None:
        self.deaths: list[tuple[int, str]] = []
        self.died = asyncio.Event()
        self.agent = agent
        self.own_outbox = outbox is None
        self.outbox = outbox or Outbox(producer or make_producer(settings), settings, self.fatal)

        def make(*arguments):
            consumer = make_group_consumer(*arguments)
            if tweak:
                tweak(consumer)
            return consumer

        self.runner = Runner(
            stage_ or stage(),
            agent,
            settings,
            self.outbox,
            partitions,
            self.fatal,
            make=make,
            ownership=Ownership(settings.session),
            **options,
        )

    def fatal(self, code: int, why: str) -> None:
        self.deaths.append((code, why))
        self.died.set()

    async def __aenter__(self) -> Station:
        if self.own_outbox:
            await self.outbox.start()
        await self.runner.start()
        return self

    async def __aexit__(self, *_error) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                await self.runner.stop()
        if self.own_outbox:
            self.outbox._dead = True  # a test that ends is not interested in late sends
            self.outbox.unacked = 0
            self.outbox._idle.set()
            await self.outbox.stop()

    async def open(self, seconds: float = 15.0) -> Station:
        """Wait for the first assignment."""
        await asyncio.wait_for(self.runner.ready.wait(), seconds)
        return self

    async def dead(self, seconds: float = 15.0) -> tuple[int, str]:
        """Wait for the end and say how."""
        await asyncio.wait_for(self.died.wait(), seconds)
        return self.deaths[0]

    @property
    def owned(self) -> set[int]:
        """Partitions that are open."""
        return {
            n for n, share in self.runner._shares.items() if share.task is not None and not share.stopping
        }


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until ``condition()`` holds; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        await asyncio.sleep(0.01)


async def committed(settings: Settings, group: str, topic: str, partition: int) -> int:
    """The committed offset of a group; -1 without one."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker,
        group_id=f"{settings.prefix}mailsluice-{group}",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        found = await consumer.committed(TopicPartition(settings.topic(topic), partition))
    finally:
        await consumer.stop()
    return -1 if found is None else found


class ToyProcess:
    """A worker process of the toy."""

    def __init__(
        self, settings: Settings, partitions: int, stages: str, *more: str, session: float = 3.0
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        root = str(TOY.parents[2])
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.toy",
                settings.broker,
                settings.prefix,
                str(partitions),
                stages,
                *more,
            ],
            env={
                "TOY_SESSION": str(session),
                **os.environ,
                "PYTHONPATH": root,
                "TOY_IDEMPOTENT": "1" if settings.broker_idempotent else "0",
            },
            cwd=root,
            stdout=self.log,
            stderr=self.log,
        )

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    async def ready(self, seconds: float = 30.0) -> None:
        """Wait until it works and hears signals."""
        end = time.monotonic() + seconds
        while b"ready" not in os.pread(self.log.fileno(), 1000, 0):
            assert time.monotonic() < end, "the toy did not start"
            await asyncio.sleep(0.05)

    def end(self) -> str:
        """Kill it if it still runs, and read its log."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait(10)
        self.log.seek(0)
        return self.log.read().decode()

    async def exited(self, seconds: float = 30.0) -> int:
        """Wait for its end."""
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), seconds)


def numbers(records) -> list[tuple[int, str]]:
    """(n, half) of every record."""
    found = []
    for record in records:
        headers = dict(record.headers)
        found.append((int(headers["n"]), headers.get("half", b"").decode()))
    return found
