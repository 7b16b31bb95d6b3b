"""How much more a second worker of a stage group brings: a backlog worked off by one, the next by two."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from schemas.codec import encode
from streams.broker import make_producer, started
from streams.lab.brokers import free_port
from streams.ops.bench_load import campaign
from streams.ops.bench_machine import BenchFailed, Clock, available_cores, conditions
from streams.ops.bench_pipeline import STALLED, Bench, Options, left, measured, metric

COUNTED = {
    "compose": ("mailsluice_records_in_total{", 'stage="sign"'),
    "deliver": ("mailsluice_outcomes_total{", 'state="delivered"'),
}
"""What tells how many mails a group has done."""
FIRST, LAST = 0.2, 0.8
"""The part of a backlog over which the rate is taken: before and after it workers start and run dry."""


@dataclass
class Scale:
    """One stage group. ``ratio``: the rate of two workers to that of one. ``allowed``: what the cores allow
    at most, by the CPU that a mail costs all processes together. ``one_more_core``: mails/s that a core only
    for this group would bring."""

    group: str
    messages: int
    one: float
    two: float
    ratio: float
    allowed: float
    cpu_us_per_message: dict[str, float]
    one_more_core: float
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(options: Options) -> list[Scale]:
    """Compose, then deliver, over two backlogs of ``options.messages`` each. Raises BenchFailed."""
    return await measured(options, lambda bench: _Climb(bench).run())


class _Climb:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def run(self) -> list[Scale]:
        bench, options = self.bench, self.bench.options
        found = campaign(options.size)
        producer = await started(make_producer(bench.settings))
        rates: dict[str, list[tuple[float, dict[str, float]]]] = {group: [] for group in COUNTED}
        try:
            await producer.send_and_wait(bench.settings.topic("mail-campaigns"), encode(found), key=found.key)
            async with aiohttp.ClientSession() as http:
                for round_ in range(2):
                    intake = await self._start(http, "intake", 1)
                    await bench.publish(producer, round_ * options.messages, options.messages)
                    await self._until_idle(http, intake)
                    await self._stop(intake)
                    rates["compose"].append(await self._rate(http, "compose", round_ + 1))
                control = await self._start(http, "control", 1)
                for round_ in range(2):
                    rates["deliver"].append(await self._rate(http, "deliver", round_ + 1))
                await self._stop(control)
        finally:
            await producer.stop()
        return [self._result(group, *both) for group, both in rates.items()]

    async def _start(self, http: aiohttp.ClientSession, group: str, count: int) -> dict[str, str]:
        """So many workers, ready: name -> address of the metrics."""
        made = {}
        for number in range(count):
            address = f"127.0.0.1:{free_port()}"
            worker = self.bench.team.add_group(group, number, MAILSLUICE_METRICS=address)
            made[worker.name] = address
        self.bench.metrics = {("control" if group == "control" else name): at for name, at in made.items()}
        await self.bench.ready(http)
        return made

    async def _stop(self, workers: dict[str, str]) -> None:
        await asyncio.gather(*(self.bench.team.remove(name) for name in workers))

    async def _until_idle(self, http: aiohttp.ClientSession, workers: dict[str, str]) -> None:
        quiet, moved, last = 0, time.monotonic(), -1.0
        while quiet < 2:
            self.bench.check()
            found = sum([await left(http, address) for address in workers.values()])
            quiet = quiet + 1 if not found else 0
            if found != last:
                last, moved = found, time.monotonic()
            elif time.monotonic() - moved > STALLED and found:
                raise BenchFailed(f"{found:.0f} records stay; logs are in {self.bench.home / 'logs'}")
            await asyncio.sleep(self.bench.settings.commit)

    async def _rate(
        self, http: aiohttp.ClientSession, group: str, count: int
    ) -> tuple[float, dict[str, float]]:
        """Mails/s of ``count`` workers over the next backlog, and the CPU microseconds that one cost."""
        bench, messages = self.bench, self.bench.options.messages
        workers = await self._start(http, group, count)
        begun: tuple[float, float] | None = None
        clock: Clock | None = None
        last, moved = -1.0, time.monotonic()
        while True:
            bench.check()
            done = sum([await metric(http, address, *COUNTED[group]) for address in workers.values()])
            now = time.monotonic()
            if begun is None and done >= FIRST * messages:
                begun = (now, done)
                clock = Clock(self._pids(workers))
            if begun is not None and done >= LAST * messages:
                break
            if done != last:
                last, moved = done, now
            elif now - moved > STALLED:
                raise BenchFailed(
                    f"{group} stands at {done:.0f} of {messages}; logs are in {bench.home / 'logs'}"
                )
            await asyncio.sleep(0.5)  # a look costs a worker 10 ms
        assert clock is not None
        counted = done - begun[1]
        used = {name: cpu / counted * 1e6 for name, cpu in clock.used().items()}
        if group == "compose":  # deliver leaves the rest of its lanes to the next
            await self._until_idle(http, workers)
        await self._stop(workers)
        return counted / (now - begun[0]), used

    def _pids(self, workers: dict[str, str]) -> dict[str, list[int]]:
        team, bench = self.bench.team, self.bench
        return {
            "workers": [team.workers[name].pid for name in workers],
            "broker": [bench.broker_pid],
            "sink": [bench.sink.pid],
        }

    def _result(
        self, group: str, one: tuple[float, dict[str, float]], two: tuple[float, dict[str, float]]
    ) -> Scale:
        around = conditions()
        around.update(broker=self.bench.options.broker, size=self.bench.options.size)
        everything = sum(two[1].values())
        return Scale(
            group=group,
            messages=self.bench.options.messages,
            one=round(one[0], 1),
            two=round(two[0], 1),
            ratio=round(two[0] / one[0], 2),
            allowed=round(min(2.0, available_cores() * 1e6 / everything / one[0]), 2),
            cpu_us_per_message={name: round(us, 1) for name, us in two[1].items()},
            one_more_core=round(1e6 / two[1]["workers"], 1),
            conditions=around,
        )
