"""How long a transactional mail takes while bulk waits in every stage: from its send to the sink's 250."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import msgspec

from schemas.codec import decode, encode
from schemas.identity import partition_of
from schemas.lanes import lane_names, lane_topic
from schemas.send import Send
from streams.broker import make_producer, started
from streams.lab.control import tell
from streams.lab.site import URGENT
from streams.ops.bench_load import DOMAINS, campaign
from streams.ops.bench_machine import BenchFailed, conditions
from streams.ops.bench_pipeline import Bench, Options, measured
from streams.ops.bench_sink import OWN
from streams.ops.read import read_to_end

CAMPAIGN = "bench-now"
LEAD = 5.0
"""Seconds of bulk before the first transactional send."""
CHUNK = 5_000
"""Bulk sends written at once."""
PATIENCE = 30.0
"""Seconds after the last transactional send for what has not arrived."""


@dataclass
class Priority:
    """One run. All times in milliseconds, from just before the publish to the sink's 250.

    ``waiting``: bulk sends that no 250 had answered when the last transactional one was sent.
    """

    sent: int
    missing: int
    p50: float
    p90: float
    p99: float
    worst: float
    waiting: int
    stages: dict[str, list[float]] = field(default_factory=dict)
    """p50 and p99 until each topic had it, and until the sink had it."""
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(options: Options, sends: int = 300, gap: float = 0.1) -> Priority:
    """``options.messages`` bulk mails, ``sends`` transactional ones, ``gap`` seconds apart on average.

    Raises BenchFailed.
    """
    if options.sink != OWN:
        raise BenchFailed("only our own sink tells when a single mail arrived: leave --sink away")
    return await measured(options, lambda bench: _Race(bench, sends, gap).run())


class _Race:
    def __init__(self, bench: Bench, sends: int, gap: float) -> None:
        self.bench, self.sends, self.gap = bench, sends, gap
        assert bench.sink.control is not None
        self.control = bench.sink.control

    async def run(self) -> Priority:
        bench, options = self.bench, self.bench.options
        bulk = campaign(options.size)
        urgent = msgspec.structs.replace(bulk, id=CAMPAIGN, stream="transactional", list_id="")
        producer = await started(make_producer(bench.settings))
        try:
            for found in (bulk, urgent):
                await producer.send_and_wait(
                    bench.settings.topic("mail-campaigns"), encode(found), key=found.key
                )
            await bench.start()
            async with aiohttp.ClientSession() as http:
                await bench.ready(http)
                await bench.publish(producer, 0, options.warm_up)
                await bench.wait_for(http, options.warm_up, options.warm_up)
                around = conditions()
                for first in range(0, options.messages, CHUNK):
                    await bench.publish(
                        producer, options.warm_up + first, min(CHUNK, options.messages - first)
                    )
                await asyncio.sleep(LEAD)
                sent = await self._urgent(producer)
                at_end = await asyncio.to_thread(tell, self.control, "report")
                arrived = await self._arrivals(len(sent))
                stages = await self._stages(sent, arrived)
        finally:
            await producer.stop()
        waiting = round(options.messages + options.warm_up + len(sent) - at_end["count"])
        return _result(options, sent, arrived, waiting, stages, around)

    async def _urgent(self, producer: Any) -> dict[str, float]:
        """The Unix time of each transactional send, by address."""
        settings, partitions = self.bench.settings, self.bench.options.partitions
        topic, dice = settings.topic("mail-sends-now"), random.Random(1)
        sent = {}
        for n in range(self.sends):
            self.bench.check()
            await asyncio.sleep(dice.uniform(0, 2 * self.gap))
            to = f"{URGENT}{n}@{DOMAINS[n % len(DOMAINS)][0]}"
            send = Send(
                campaign=CAMPAIGN, to=to, name="Ada", variables={"city": "Graz", "points": n, "products": []}
            )
            sent[to] = time.time()
            await producer.send(topic, encode(send), partition=partition_of(to, partitions))
        return sent

    async def _arrivals(self, count: int) -> dict[str, float]:
        end = time.monotonic() + PATIENCE
        while True:
            self.bench.check()
            arrived: dict[str, float] = await asyncio.to_thread(tell, self.control, "urgent")
            if len(arrived) >= count or time.monotonic() > end:
                return arrived
            await asyncio.sleep(0.2)

    async def _stages(self, sent: dict[str, float], arrived: dict[str, float]) -> dict[str, list[float]]:
        """Milliseconds from the publish to the broker's taking it, by topic; and to the 250."""
        settings = self.bench.settings
        kinds = {"mail-sends-now": "sends", "mail-enqueued-now": "enqueued", "mail-screened-now": "screened"}
        kinds |= {f"{lane_topic(lane)}-now": "lane" for lane in lane_names()}
        places = [(topic, p) for topic in kinds for p in range(self.bench.options.partitions)]
        took: dict[str, list[float]] = {}
        async for record in read_to_end(settings, places):
            to = record.text("to") or decode(record, "send").to
            if to in sent:
                took.setdefault(kinds[record.topic], []).append(record.timestamp / 1000 - sent[to])
        took["sink"] = [arrived[to] - at for to, at in sent.items() if to in arrived]
        order = [name for name in ("sends", "enqueued", "screened", "lane", "sink") if name in took]
        return {name: [_part(took[name], 0.5), _part(took[name], 0.99)] for name in order}


def _result(
    options: Options,
    sent: dict[str, float],
    arrived: dict[str, float],
    waiting: int,
    stages: dict[str, list[float]],
    around: dict[str, Any],
) -> Priority:
    took = [arrived[to] - at for to, at in sent.items() if to in arrived]
    if not took:
        raise BenchFailed(f"none of {len(sent)} transactional mails arrived")
    around.update(
        broker=options.broker, partitions=options.partitions, size=options.size, bulk=options.messages,
        lane_rate=options.lane_rate,
    )  # fmt: skip

    return Priority(
        sent=len(sent), missing=len(sent) - len(took), p50=_part(took, 0.5), p90=_part(took, 0.9),
        p99=_part(took, 0.99), worst=_part(took, 1.0), waiting=waiting, stages=stages, conditions=around,
    )  # fmt: skip


def _part(seconds: list[float], share: float) -> float:
    """A quantile, in milliseconds."""
    return round(sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1000, 1)
