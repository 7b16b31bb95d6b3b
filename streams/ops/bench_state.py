"""What the benchmarks of state share: a broker, tables full of people, single workers over them."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from schemas.codec import encode
from schemas.contact import Contact
from schemas.identity import partition_of
from schemas.send import Consent
from schemas.suppression import Suppression
from streams.broker import make_producer, started
from streams.lab.brokers import BROKERS, ApacheBroker, Broker, answers, free_port
from streams.lab.dns import DnsServer, Zone
from streams.ops.bench_load import DOMAINS
from streams.ops.bench_machine import BenchFailed
from streams.ops.supervise import Supervisor, tail
from streams.settings import Settings

CONTACTS, STRANGERS = 1 << 28, 1 << 29
"""Numbers of the first contact and of the first person in no table; the suppressed begin at 0."""
PATIENCE = 300.0
"""Seconds for a worker to be ready or at rest: a hundred times what it takes."""
Row = tuple[str, bytes, bytes]
"""Recipient, key, value."""


def person(number: int) -> str:
    """The address of a person: any two neighbours by number lie far apart by name, as in life."""
    # Knuth's multiplicative hash: a bijection of 32 bits.
    return f"{number * 2654435761 & 0xFFFFFFFF:08x}@{DOMAINS[number % len(DOMAINS)][0]}"


def suppressions(number: int) -> Iterable[Row]:
    """``number`` people whose addresses proved bad."""
    for n in range(number):
        row = Suppression(
            tenant="default", to=person(n), reason="hard_bounce", scope="global", time=1.7e9, version=1
        )
        yield row.to, row.key, encode(row)


def contacts(number: int) -> Iterable[Row]:
    """``number`` people who read, and let us know it."""
    for n in range(number):
        row = Contact(
            tenant="default", to=person(CONTACTS + n), delivered=12, opens=5, clicks=n % 3,
            first_seen=1.6e9, last_delivered=1.7e9, last_open=1.7e9, consent=Consent(opens=True, clicks=True),
            score=0.4, version=17, seen=("0123456789ab", "ba9876543210"),
        )  # fmt: skip
        yield row.to, row.key, encode(row)


async def fill(settings: Settings, topic: str, kind: str, rows: Iterable[Row]) -> None:
    """Write rows to a table's topic, each to its partition."""
    producer = await started(make_producer(settings))
    headers = [("type", kind.encode()), ("version", b"1")]
    name, now = settings.topic(topic), int(time.time() * 1000)
    open_batches: dict[int, Any] = {}
    sent: list[asyncio.Future[Any]] = []
    try:
        for to, key, value in rows:
            partition = partition_of(to, settings.partitions)
            batch = open_batches.get(partition)
            while batch is None or batch.append(key=key, value=value, timestamp=now, headers=headers) is None:
                if batch is not None:
                    sent.append(await producer.send_batch(batch, name, partition=partition))
                batch = open_batches[partition] = producer.create_batch()
            if len(sent) > 50:
                await asyncio.gather(*sent)
                sent.clear()
        for partition, batch in open_batches.items():
            sent.append(await producer.send_batch(batch, name, partition=partition))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


@asynccontextmanager
async def a_broker(name: str) -> AsyncIterator[tuple[str, Path]]:
    """Bootstrap address of ``apache``, ``embedded`` or HOST:PORT, and a directory that lives as long.

    Raises BenchFailed.
    """
    home = Path(tempfile.mkdtemp(prefix="mailsluice-bench-"))
    broker: Broker | None = None
    try:
        if name in BROKERS:
            more: dict[str, Any] = {"jvm": ApacheBroker.LONG_RUN} if name == "apache" else {}
            broker = BROKERS[name](home=home / "broker", **more)
            try:
                await broker.start()
            except RuntimeError as error:
                raise BenchFailed(f"the {name} broker did not start: {error}") from None
            yield broker.bootstrap, home
        elif await answers(name):
            yield name, home
        else:
            raise BenchFailed(f"no Kafka answers at {name}")
    finally:
        if broker is not None:
            await broker.stop()
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def a_dns() -> AsyncIterator[str]:
    """HOST:PORT of a resolver that knows the benchmark's domains."""
    zone = Zone({}, apexes=[domain for domain, _, _ in DOMAINS])
    for domain, mx, _ in DOMAINS:
        zone.add(domain, "MX", f"10 {mx}.")
    async with DnsServer(zone) as dns:
        yield "{}:{}".format(*dns.address)


class Crew:
    """Workers of single stages over one set of topics."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings = settings
        self.home = home
        self._faults: list[str] = []
        self._metrics: dict[str, str] = {}
        self.team = Supervisor(
            settings.environment(),
            home / "logs",
            self._faults.append,
            lambda name, code: self._faults.append(f"{name} ended with {code}: {self.tail(name)}"),
        )

    def tail(self, name: str) -> str:
        """A worker's last words."""
        return tail(self.home / "logs" / f"{name}.log")

    def start(self, name: str, stages: Sequence[str]) -> None:
        """A process of these stages; its state lies in ``home/state``."""
        self._metrics[name] = f"127.0.0.1:{free_port()}"
        arguments = ["-m", "streams.worker", "--stages", ",".join(stages), "--die-with-parent"]
        self.team.add(name, arguments, MAILSLUICE_METRICS=self._metrics[name])

    def pid(self, name: str) -> int:
        """Its process id, 0 while it is being started."""
        return self.team.workers[name].pid

    def peak_mb(self, name: str) -> float:
        """Its largest resident memory so far, in MB."""
        status = Path(f"/proc/{self.pid(name)}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return round(int(found[1]) * 1024 / 1e6, 1) if found else 0.0

    async def _text(self, http: aiohttp.ClientSession, name: str, path: str) -> str | None:
        if self._faults:
            raise BenchFailed("; ".join(self._faults))
        try:
            async with http.get(f"http://{self._metrics[name]}/{path}") as answer:
                return await answer.text() if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def ready(self, names: Iterable[str], patience: float = PATIENCE) -> None:
        """Return when the workers have read their tables and own their partitions. Raises BenchFailed."""
        end = time.monotonic() + patience
        async with aiohttp.ClientSession() as http:
            for name in names:
                while await self._text(http, name, "readyz") is None:
                    if time.monotonic() > end:
                        raise BenchFailed(f"{name} was not ready in {patience:.0f} s: {self.tail(name)}")
                    await asyncio.sleep(0.05)

    async def at_rest(self, name: str, taken: int, patience: float = PATIENCE) -> None:
        """Return when the worker has taken ``taken`` records in all and nothing is left. Raises BenchFailed."""
        end = time.monotonic() + patience
        async with aiohttp.ClientSession() as http:
            while True:
                text = await self._text(http, name, "metrics") or ""
                left = total(text, "mailsluice_lag_records{") + total(text, "mailsluice_records_in_work{")
                if not left and total(text, "mailsluice_records_in_total{") >= taken:
                    return
                if time.monotonic() > end:
                    raise BenchFailed(f"{name} is not at rest: {left:.0f} records left; {self.tail(name)}")
                await asyncio.sleep(0.5)  # a look at the metrics costs the worker some milliseconds


def total(text: str, start: str) -> float:
    """The sum of the metrics whose lines begin so."""
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))
