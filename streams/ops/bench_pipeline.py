"""The pipeline from the first send to the sink's last 250, beside what the machine's RSA allows."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient

from agents.sign.keys import new_keys
from schemas.codec import encode
from schemas.identity import partition_of
from streams import admin
from streams.broker import make_producer, started
from streams.lab.brokers import BROKERS, ApacheBroker, Broker, answers, free_port
from streams.lab.control import tell
from streams.lab.dns import DnsServer, Zone
from streams.ops.bench_load import BASE_URL, DOMAIN, DOMAINS, RETURN_DOMAIN, campaign, sends
from streams.ops.bench_machine import BenchFailed, Clock, Signed, conditions, memory_mb, rsa_limit
from streams.ops.bench_sink import OWN, NoSink, Sink, make_sink
from streams.ops.bench_state import fill
from streams.ops.bench_state import suppressions as suppressed
from streams.ops.supervise import Supervisor, tail
from streams.settings import Settings

T = TypeVar("T")
GROUPS = ("intake", "compose", "deliver", "hygiene", "control")
"""All agents; each group is one process."""
STALLED = 30.0
"""Seconds without a new mail at the sink after which the run has failed."""
UNLIMITED = 100_000.0
"""Mails/s of a lane when no lane's limit is what is measured; connections stay as few as a polite sender's."""


def policy(rate: float) -> str:
    """The lanes' policy: ``rate`` mails/s each, which does not move."""
    return f"""
[default]
connections = 4
max_connections = 4
per_connection = 100
start = {rate}
minimum = {rate}
maximum = {rate}
"""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    size: int = 10_240
    messages: int = 20_000
    broker: str = "apache"
    sink: str = OWN
    warm_up: int = 2_000
    partitions: int = 4
    groups: Sequence[str] = GROUPS
    lane_rate: float = UNLIMITED
    suppressions: int = 0
    """Rows of mail-suppressions that screen and deliver have read before."""


@dataclass
class Result:
    """One run. ``ratio``: messages per second to RSA signatures per second of all cores.

    ``cpu_in_signatures``: CPU of all processes for one mail, in RSA signatures: nothing but us changes it
    much, while the ratio falls when others take the machine during the run and not during the signing.
    ``duplicates``: None where the sink does not tell one mail from another.
    ``settled_seconds``: from the first send until every stage had worked off everything, hygiene too;
    the CPU per message covers all of that. ``load`` is the benchmark itself: publishing and DNS.
    """

    messages: int
    seconds: float
    messages_per_second: float
    rsa_limit_per_second: float
    rsa_cpu_us: float
    ratio: float
    cpu_in_signatures: float
    settled_seconds: float
    bytes_per_message: int
    lost: int
    duplicates: int | None
    cpu_us_per_message: dict[str, float]
    memory_mb: dict[str, float]
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(options: Options) -> Result:
    """One benchmark of the whole pipeline. Raises BenchFailed."""
    return await measured(options, lambda bench: bench.all())


async def measured(options: Options, work: Callable[[Bench], Awaitable[T]]) -> T:
    """A broker, a sink and workers to come, and what ``work`` makes of them. Raises BenchFailed."""
    home = Path(tempfile.mkdtemp(prefix="mailsluice-bench-"))
    try:
        async with _broker(options, home) as (address, broker), make_sink(options.sink) as sink:
            result = await _measured(options, home, address, broker, sink, work)
    except NoSink as error:
        shutil.rmtree(home, ignore_errors=True)
        raise BenchFailed(str(error)) from None
    except BenchFailed:
        raise  # its home stays: the text names the logs in it
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    shutil.rmtree(home, ignore_errors=True)
    return result


@asynccontextmanager
async def _broker(options: Options, home: Path) -> AsyncIterator[tuple[str, Broker | None]]:
    if options.broker not in BROKERS:
        if not await answers(options.broker):
            raise BenchFailed(f"no Kafka answers at {options.broker}")
        yield options.broker, None
        return
    long_run = options.broker == "apache" and options.messages >= 60_000
    more: dict[str, Any] = {"jvm": ApacheBroker.LONG_RUN} if long_run else {}
    broker = BROKERS[options.broker](home=home / "broker", **more)
    try:
        await broker.start()
    except RuntimeError as error:
        raise BenchFailed(f"the {options.broker} broker did not start: {error}") from None
    try:
        yield broker.bootstrap, broker
    finally:
        await broker.stop()


def _settings(options: Options, home: Path, address: str, sink: Sink, dns: str) -> Settings:
    (home / "policy.toml").write_text(policy(options.lane_rate))
    # The sink speaks no TLS: what is measured is our work, not its handshakes.
    (home / "delivery.toml").write_text('[tls]\ndefault = "opportunistic"\n')
    foreign = options.broker not in BROKERS
    return Settings(
        broker=address,
        broker_idempotent=options.broker != "embedded",
        prefix=f"bench{os.getpid()}-" if foreign else "",
        partitions=options.partitions,
        session=6.0,
        state=home / "state",
        keys=home / "keys",
        dns=dns,
        deliver_port=sink.port,
        deliver_sources=("127.0.0.1",),
        deliver_networks="127.0.0.0/8",
        deliver_hostname="out.bench.test",
        deliver_rate=options.lane_rate,
        secret=secrets.token_hex(24),
        base_url=BASE_URL,
        return_domain=RETURN_DOMAIN,
        policy=home / "policy.toml",
        delivery=home / "delivery.toml",
        log="WARNING",
    )


def _keys(directory: Path) -> None:
    (directory / DOMAIN).mkdir(parents=True)
    for key in new_keys(DOMAIN, "r2048", "e25519"):
        path = directory / DOMAIN / f"{key.selector}.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.pem())


def _zone(host: str) -> Zone:
    zone = Zone({}, apexes=[domain for domain, _, _ in DOMAINS])
    for domain, mx, _ in DOMAINS:
        zone.add(domain, "MX", f"10 {mx}.")
        zone.add(mx, "A", host)
    return zone


async def _measured(
    options: Options,
    home: Path,
    address: str,
    broker: Broker | None,
    sink: Sink,
    work: Callable[[Bench], Awaitable[T]],
) -> T:
    async with DnsServer(_zone(sink.host)) as dns:
        settings = _settings(options, home, address, sink, "{}:{}".format(*dns.address))
        _keys(settings.keys)
        await admin.apply(settings)
        faults: list[str] = []
        team = Supervisor(
            settings.environment(),
            home / "logs",
            faults.append,
            lambda name, code: faults.append(f"{name} ended with {code}"),
        )
        try:
            pid = broker.pid or 0 if broker is not None else 0
            return await work(Bench(options, settings, team, faults, sink, home, pid))
        finally:
            await team.stop()
            if broker is None:
                await _forget(settings)


async def _forget(settings: Settings) -> None:
    """Take our topics off somebody else's broker."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await client.start()
    try:
        mine = [name for name in await client.list_topics() if name.startswith(settings.prefix)]
        await client.delete_topics(mine)
    finally:
        await client.close()


class Bench:
    """The measurement itself: workers up, warm-up, the sends, the end."""

    def __init__(
        self,
        options: Options,
        settings: Settings,
        team: Supervisor,
        faults: list[str],
        sink: Sink,
        home: Path,
        broker_pid: int,
    ) -> None:
        self.options, self.settings, self.team, self.faults, self.sink, self.home = (
            options, settings, team, faults, sink, home,
        )  # fmt: skip
        self.broker_pid = broker_pid
        self.metrics: dict[str, str] = {}

    async def all(self) -> Result:
        """Everything. The RSA limit is taken just before and just after, while all agents are at rest."""
        options = self.options
        found = campaign(options.size)
        producer = await started(make_producer(self.settings))
        try:
            await producer.send_and_wait(self.settings.topic("mail-campaigns"), encode(found), key=found.key)
            await fill(self.settings, "mail-suppressions", "suppression", suppressed(options.suppressions))
            await self.start()
            async with aiohttp.ClientSession() as http:
                await self.ready(http)
                await self.publish(producer, 0, options.warm_up)
                await self.wait_for(http, options.warm_up, options.warm_up)
                await self.settled(http)
                warm = await self.report(http)
                around = conditions()
                limits = [await rsa_limit()]
                clock = Clock(self._pids(self.broker_pid))
                begun = time.time()
                await self.publish(producer, options.warm_up, options.messages)
                report = await self.wait_for(http, options.warm_up + options.messages, options.messages)
                used = await self._used(http, clock)
                settled = time.time() - begun
                limits.append(await rsa_limit())
        finally:
            await producer.stop()
        return self._result(warm, report, begun, settled, used, clock, around, limits)

    def _result(
        self, warm: dict[str, Any], report: dict[str, Any], begun: float, settled: float,
        used: dict[str, float], clock: Clock, around: dict[str, Any], limits: list[Signed],
    ) -> Result:  # fmt: skip
        messages = self.options.messages
        seconds = report["last"] - begun
        limit = sum(signed.per_second for signed in limits) / len(limits)
        signature = sum(signed.cpu_us for signed in limits) / len(limits)
        per = {name: round(cpu * 1e6 / messages, 1) for name, cpu in used.items()}
        per["all"] = round(sum(per.values()), 1)
        around.update(
            broker=self.options.broker, partitions=self.options.partitions, size=self.options.size,
            sink=self.sink.name, warm_up=self.options.warm_up, suppressions=self.options.suppressions, groups=list(self.options.groups), tls=False,
            rsa_before_after=[round(signed.per_second) for signed in limits],
        )  # fmt: skip
        return Result(
            messages=messages,
            seconds=round(seconds, 3),
            messages_per_second=round(messages / seconds, 1),
            rsa_limit_per_second=round(limit, 1),
            rsa_cpu_us=round(signature, 1),
            ratio=round(messages / seconds / limit, 3),
            cpu_in_signatures=round(per["all"] / signature, 2),
            settled_seconds=round(settled, 3),
            bytes_per_message=round((report["bytes"] - warm["bytes"]) / messages),
            lost=self.options.warm_up + messages - report["distinct"],
            duplicates=report["count"] - report["distinct"] if self.sink.control is not None else None,
            cpu_us_per_message=per,
            memory_mb={name: memory_mb(pids) for name, pids in clock.groups.items()},
            conditions=around,
        )

    async def start(self) -> None:
        """All workers, a process each."""
        for group in self.options.groups:
            self.metrics[group] = f"127.0.0.1:{free_port()}"
            self.team.add_group(group, MAILSLUICE_METRICS=self.metrics[group])

    def _pids(self, broker_pid: int) -> dict[str, list[int]]:
        found = {group: [self.team.workers[group].pid] for group in self.options.groups}
        return {**found, "broker": [broker_pid], "sink": [self.sink.pid], "load": [os.getpid()]}

    def check(self) -> None:
        """Raises BenchFailed when a worker has ended."""
        if self.faults:
            raise BenchFailed(f"{'; '.join(self.faults)}; logs are in {self.home / 'logs'}")

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Return when every worker works. Raises BenchFailed after a minute."""
        end = time.monotonic() + 60
        for group, address in self.metrics.items():
            path = "metrics" if group == "control" else "readyz"
            while True:
                self.check()
                try:
                    async with http.get(f"http://{address}/{path}") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                if time.monotonic() > end:
                    raise BenchFailed(
                        f"{group} was not ready in 60 s: {tail(self.home / 'logs' / f'{group}.log')}"
                    )
                await asyncio.sleep(0.1)

    async def publish(self, producer: Any, first: int, number: int) -> None:
        """Write ``number`` sends."""
        topic, partitions = self.settings.topic("mail-sends"), self.options.partitions
        futures = [
            await producer.send(topic, encode(send), partition=partition_of(send.to, partitions))
            for send in sends(number, first)
        ]
        await asyncio.gather(*futures)

    async def report(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        """The sink's count, distinct, bytes and time of the last 250. Of another sink than ours we know the 250s
        that deliver saw, to a tenth of a second, and nothing of duplicates."""
        if self.sink.control is not None:
            return await asyncio.to_thread(tell, self.sink.control, "report")
        count = await metric(http, self.metrics["deliver"], "mailsluice_outcomes_total{", 'state="delivered"')
        return {"count": count, "distinct": count, "bytes": 0, "last": time.time()}

    async def wait_for(self, http: aiohttp.ClientSession, count: int, new: int) -> dict[str, Any]:
        """The sink's report once it has ``count`` mails. Raises BenchFailed when none comes for a while."""
        last, moved, begun = -1, time.monotonic(), time.monotonic()
        while True:
            self.check()
            report = await self.report(http)
            if report["count"] >= count:
                return report
            if report["count"] != last:
                last, moved = report["count"], time.monotonic()
            elif time.monotonic() - moved > STALLED:
                raise BenchFailed(
                    f"{count - last} of {new} mails did not arrive; logs are in {self.home / 'logs'}"
                )
            # A look at the metrics costs the worker 10 ms or more: a hundred of them were 5 % of deliver.
            done, rest = report["count"] - (count - new), count - report["count"]
            left = rest * (time.monotonic() - begun) / done if done > 0 else 1.0
            await asyncio.sleep(max(0.1, min(1.0, left / 2)))

    async def settled(self, http: aiohttp.ClientSession) -> None:
        """Return when no stage has anything left: two looks in a row, since gauges are written twice a second."""
        quiet = 0
        end = time.monotonic() + 120
        while quiet < 2:
            self.check()
            rest = 0.0
            for group, address in self.metrics.items():
                if group != "control":
                    rest += await left(http, address)
            quiet = quiet + 1 if rest == 0 else 0
            if time.monotonic() > end:
                raise BenchFailed(f"{rest:.0f} records are still waiting; logs are in {self.home / 'logs'}")
            await asyncio.sleep(self.settings.commit)

    async def _used(self, http: aiohttp.ClientSession, clock: Clock) -> dict[str, float]:
        await self.settled(http)
        self.check()
        return clock.used()


async def left(http: aiohttp.ClientSession, address: str) -> float:
    """Records that a worker has in work or has not taken yet."""
    return sum(
        [await metric(http, address, f"mailsluice_{name}{{") for name in ("lag_records", "records_in_work")]
    )


async def metric(http: aiohttp.ClientSession, address: str, start: str, part: str = "") -> float:
    """The sum of a metric's lines that begin so and have ``part`` in them."""
    async with http.get(f"http://{address}/metrics") as answer:
        text = await answer.text()
    lines = (line for line in text.splitlines() if line.startswith(start) and part in line)
    return sum(float(line.rpartition(" ")[2]) for line in lines)
