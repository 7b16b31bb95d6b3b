"""Running the toy pipeline in tests: its topics, its processes, what came out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agents import Out
from streams.broker import Outbox, make_producer, make_reader
from streams.settings import Settings
from tests.support.brokers import Broker, create_topics

TOY = Path(__file__).with_name("toy.py")


def settings_for(broker: Broker, prefix: str, **more) -> Settings:
    """Settings with short intervals."""
    values = {"session": 6.0 if broker.name == "embedded" else 3.0, "commit": 0.2, **more}
    return Settings(broker=broker.bootstrap, prefix=prefix, broker_idempotent=broker.name == "apache", **values)


async def make_topics(broker: Broker, prefix: str, partitions: int) -> None:
    """The toy's topics and the dead letters."""
    await create_topics(broker, *(prefix + n for n in ("toy-in", "toy-mid", "toy-out")), partitions=partitions)
    await create_topics(broker, prefix + "mail-dlq")


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


class ToyProcess:
    """A worker process of the toy."""

    def __init__(self, settings: Settings, partitions: int, stages: str, *more: str) -> None:
        self.log = tempfile.TemporaryFile()
        root = str(TOY.parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.toy", settings.broker, settings.prefix, str(partitions), stages, *more],
            env={**os.environ, "PYTHONPATH": root, "TOY_IDEMPOTENT": "1" if settings.broker_idempotent else "0"},
            cwd=root,
            stdout=self.log,
            stderr=self.log,
        )

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

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
