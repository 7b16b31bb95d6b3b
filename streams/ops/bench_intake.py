"""What enqueue and screen cost for one recipient, over small tables and over large ones.

Two sets of topics on one broker, each with its own workers: one with few suppressions and contacts, one
with many. Rounds of sends go to the one and the other in turns, so that a busy machine is busy for both.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from schemas.codec import encode
from schemas.send import Send
from streams import admin
from streams.broker import make_producer, started
from streams.ops.bench_load import campaign
from streams.ops.bench_machine import conditions, cpu_seconds, sign_for
from streams.ops.bench_state import (
    CONTACTS,
    STRANGERS,
    Crew,
    Row,
    a_broker,
    a_dns,
    contacts,
    fill,
    person,
    suppressions,
)
from streams.settings import Settings

STAGES = {"enqueue": ("campaigns", "enqueue"), "screen": ("screen",)}
SUPPRESSED, KNOWN = 50, 4
"""One of so many recipients is suppressed, has a contact."""


@dataclass(frozen=True)
class Options:
    """What was asked for. ``messages`` are those of each state in all, over ``rounds``."""

    suppressions: int = 100_000
    contacts: int = 100_000
    messages: int = 20_000
    few: int = 10_000
    rounds: int = 4
    broker: str = "apache"
    partitions: int = 4


@dataclass
class Intake:
    """One run. CPU of the stages' own processes, all threads, the broker's not; ``ratio``: many to few rows.

    ``recipients_per_second_per_core``: what one core of CPU does of enqueue and screen together.
    """

    recipients_per_second_per_core: float
    ratio: float
    cpu_us_per_recipient: dict[str, float]
    cpu_us_per_recipient_few: dict[str, float]
    rounds: dict[str, list[float]]
    """CPU microseconds of both stages, round by round."""
    memory_mb: dict[str, float]
    """Peak of each process, filling its tables included."""
    rsa_cpu_us: float
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(options: Options) -> Intake:
    """Fill the tables, then measure. Raises BenchFailed."""
    around = conditions()
    async with a_broker(options.broker) as (address, home), a_dns() as dns:
        sides = [
            _Side(options, name, address, home / name, dns, rows, known)
            for name, rows, known in (
                ("few", options.few, options.few),
                ("many", options.suppressions, options.contacts),
            )
        ]
        try:
            for side in sides:
                await side.start()
            for side in sides:
                await side.round(-1, min(2000, options.messages))
            used: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
            for number in range(options.rounds):
                for side in sides:
                    used[side.name].append(await side.round(number, options.messages // options.rounds))
            memory = {f"{stage}, {side.name}": side.crew.peak_mb(stage) for side in sides for stage in STAGES}
        finally:
            for side in sides:
                await side.crew.team.stop()
    return _result(options, used, memory, around)


class _Side:
    """One set of topics with its workers."""

    def __init__(
        self, options: Options, name: str, address: str, home: Path, dns: str, rows: int, known: int
    ) -> None:
        self.name, self._rows, self._known = name, rows, known
        self.settings = Settings(
            broker=address,
            broker_idempotent=options.broker != "embedded",
            prefix=f"bench{os.getpid()}-{name}-",
            partitions=options.partitions,
            session=6.0,
            state=home / "state",
            dns=dns,
            secret=secrets.token_hex(24),
            log="WARNING",
        )
        self.crew = Crew(self.settings, home)
        self._sent = 0

    async def start(self) -> None:
        """Topics, tables, workers."""
        await admin.apply(self.settings)
        await fill(self.settings, "mail-suppressions", "suppression", suppressions(self._rows))
        await fill(self.settings, "mail-contacts", "contact", contacts(self._known))
        for stage, stages in STAGES.items():
            self.crew.start(stage, stages)
        await self.crew.ready(STAGES)

    async def round(self, number: int, count: int) -> dict[str, float]:
        """``count`` sends of a campaign of their own; CPU microseconds of each stage for one."""
        found = msgspec.structs.replace(campaign(4_000), id=f"bench-{number + 1}")
        producer = await started(make_producer(self.settings))
        try:
            await producer.send_and_wait(self.settings.topic("mail-campaigns"), encode(found), key=found.key)
        finally:
            await producer.stop()
        await asyncio.sleep(0.5)  # the campaign is read, and idle stages sleep long
        begin = {stage: cpu_seconds([self.crew.pid(stage)]) for stage in STAGES}
        await fill(self.settings, "mail-sends", "send", self._sends(found.id, count))
        self._sent += count
        await self.crew.at_rest("enqueue", self._sent)
        await self.crew.at_rest("screen", self._sent)
        return {stage: (cpu_seconds([self.crew.pid(stage)]) - begin[stage]) / count * 1e6 for stage in STAGES}

    def _sends(self, campaign_id: str, count: int) -> Iterator[Row]:
        # Steps over the tables that meet every row before one twice: 7919 is prime.
        for n in range(self._sent, self._sent + count):
            if n % SUPPRESSED == 0:
                number = n // SUPPRESSED * 7919 % max(1, self._rows)
            elif n % KNOWN == 1:
                number = CONTACTS + n // KNOWN * 7919 % max(1, self._known)
            else:
                number = STRANGERS + n
            send = Send(
                campaign=campaign_id,
                to=person(number),
                name="Ada Lindqvist",
                variables={"city": "Graz", "points": n % 5000, "products": [{"id": 7, "title": "Lamp"}]},
            )
            yield send.to, send.to.encode(), encode(send)


def _result(
    options: Options,
    used: dict[str, list[dict[str, float]]],
    memory: dict[str, float],
    around: dict[str, Any],
) -> Intake:
    def mean(name: str) -> dict[str, float]:
        per = {stage: sum(one[stage] for one in used[name]) / len(used[name]) for stage in STAGES}
        per["both"] = sum(per.values())
        return {stage: round(value, 1) for stage, value in per.items()}

    many, few = mean("many"), mean("few")
    around.update(
        broker=options.broker, partitions=options.partitions, suppressions=options.suppressions,
        contacts=options.contacts, few=options.few, messages=options.messages, rounds=options.rounds,
        suppressed=f"1 in {SUPPRESSED}", with_contact=f"1 in {KNOWN}", time=round(time.time()),
    )  # fmt: skip
    return Intake(
        recipients_per_second_per_core=round(1e6 / many["both"], 1),
        ratio=round(many["both"] / few["both"], 3),
        cpu_us_per_recipient=many,
        cpu_us_per_recipient_few=few,
        rounds={name: [round(sum(one.values()), 1) for one in rounds] for name, rounds in used.items()},
        memory_mb=memory,
        rsa_cpu_us=round(sign_for(0.5).cpu_us, 1),
        conditions=around,
    )
