"""What the workers hold while a large backlog waits, and what deliver fetches for nothing while it is paced."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import TopicPartition

from agents.deliver.agent import STAGE as DELIVER
from schemas.codec import encode
from streams.broker import make_producer, make_reader, started
from streams.ops.audit import committed
from streams.ops.bench_load import campaign
from streams.ops.bench_machine import conditions, memory_mb
from streams.ops.bench_pipeline import Bench, Options, measured

CHUNK = 5_000
"""Sends written at once."""
FOLLOWED = ("mail-outcomes", "mail-suppressions", "mail-campaigns")
"""Topics that deliver reads beside its lanes, whole."""
SLOPE_SECONDS = 150.0
"""Seconds from which on a slope says something."""
RATE = 50.0
"""Mails/s that each lane is given here: far less than what comes, so that the backlog waits."""


@dataclass
class Memory:
    """One run. All in MB of resident memory by process; ``slope``: MB an hour over the last half of the
    run, left out where that is shorter than SLOPE_SECONDS: a worker's buffers fill first.

    ``backlog``: sends that no 250 had answered at the end. ``fetched_to_used``: bytes that deliver got from
    the broker to the bytes that it was done with or has to know; None where that cannot be told.
    """

    messages: int
    backlog: int
    seconds: float
    peak: dict[str, float]
    at_end: dict[str, float]
    slope: dict[str, float]
    fetched_to_used: float | None
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(options: Options, seconds: float) -> Memory:
    """``options.messages`` sends, more than the lanes let out, and ``seconds`` of watching. Raises BenchFailed."""
    return await measured(options, lambda bench: _Soak(bench, seconds).run())


class _Soak:
    def __init__(self, bench: Bench, seconds: float) -> None:
        self.bench, self.seconds = bench, seconds
        self.samples: dict[str, list[tuple[float, float]]] = {}

    async def run(self) -> Memory:
        bench, options = self.bench, self.bench.options
        found = campaign(options.size)
        producer = await started(make_producer(bench.settings))
        try:
            await producer.send_and_wait(bench.settings.topic("mail-campaigns"), encode(found), key=found.key)
            await bench.start()
            async with aiohttp.ClientSession() as http:
                await bench.ready(http)
                around = conditions()
                begun = time.monotonic()
                watching = asyncio.create_task(self._watch())
                try:
                    for first in range(0, options.messages, CHUNK):
                        bench.check()
                        await bench.publish(producer, first, min(CHUNK, options.messages - first))
                    end = time.monotonic() + self.seconds
                    while time.monotonic() < end:
                        bench.check()
                        await asyncio.sleep(1)
                    done = await bench.report(http)
                finally:
                    watching.cancel()
                spent = time.monotonic() - begun
                ratio = await self._fetched_to_used()
        finally:
            await producer.stop()
        around.update(
            broker=options.broker, size=options.size, partitions=options.partitions,
            lane_rate=options.lane_rate, watched_seconds=self.seconds,
        )  # fmt: skip
        return Memory(
            messages=options.messages,
            backlog=options.messages - int(done["count"]),
            seconds=round(spent, 1),
            peak={name: max(mb for _, mb in points) for name, points in self.samples.items()},
            at_end={name: points[-1][1] for name, points in self.samples.items()},
            slope={
                name: slope(half)
                for name, points in self.samples.items()
                if (half := points[len(points) // 2 :])[-1][0] - half[0][0] >= SLOPE_SECONDS
            },
            fetched_to_used=ratio,
            conditions=around,
        )

    async def _watch(self) -> None:
        while True:
            now = time.monotonic()
            for name in self.bench.options.groups:
                mb = memory_mb([self.bench.team.workers[name].pid])
                self.samples.setdefault(name, []).append((now, mb))
            await asyncio.sleep(1)

    async def _fetched_to_used(self) -> float | None:
        bench = self.bench
        logs = bench.home / "broker" / "data"
        fetched = await asyncio.to_thread(
            received, bench.team.workers["deliver"].pid, int(bench.settings.broker.rpartition(":")[2])
        )
        if fetched is None or not logs.is_dir():
            return None
        topics, count = list(DELIVER.topics), bench.settings.partitions
        places = await committed(bench.settings, DELIVER.name, topics, count)
        reader = await started(make_reader(bench.settings))
        try:
            names = {bench.settings.topic(topic): topic for topic in topics}
            ends = await reader.end_offsets(
                [TopicPartition(name, number) for name in names for number in range(count)]
            )
        finally:
            await reader.stop()
        used = 0.0
        for tp, end in ends.items():
            if end:
                done = places[names[tp.topic]].get(tp.partition, 0)
                used += _log_bytes(logs, tp.topic, tp.partition) * done / end
        for topic in FOLLOWED:
            used += sum(_log_bytes(logs, bench.settings.topic(topic), number) for number in range(count))
        return round(fetched / used, 2) if used else None


def received(pid: int, port: int) -> int | None:
    """Bytes that a process has got over its open TCP connections to a local port; None without ``ss``."""
    try:
        said = subprocess.run(
            ["ss", "-tinHpO", "dst", f"127.0.0.1:{port}"], capture_output=True, text=True, check=True, timeout=10
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    mine = [line for line in said.splitlines() if f"pid={pid}," in line]
    return sum(int(found[1]) for line in mine if (found := re.search(r"bytes_received:(\d+)", line)))


def slope(points: list[tuple[float, float]]) -> float:
    """MB an hour: the line of least squares through (seconds, MB)."""
    if len(points) < 2:
        return 0.0
    at = sum(x for x, _ in points) / len(points)
    mean = sum(y for _, y in points) / len(points)
    spread = sum((x - at) ** 2 for x, _ in points)
    return round(3600 * sum((x - at) * (y - mean) for x, y in points) / spread, 1) if spread else 0.0


def _log_bytes(logs: Path, topic: str, partition: int) -> int:
    return sum(path.stat().st_size for path in (logs / f"{topic}-{partition}").glob("*.log"))
