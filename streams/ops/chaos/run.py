"""A chaos run from its first process to its last line."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from streams.lab.providers import load as load_world
from streams.ops.audit import ENDS, Audit, audit
from streams.ops.chaos.faults import Faults
from streams.ops.chaos.fleet import Fleet
from streams.ops.chaos.load import Load
from streams.ops.chaos.oracle import Books, Judgement, judge
from streams.ops.chaos.plan import BY_NAME, GROUPS, ROOMY, SHORT, Fault, plan, seconds
from streams.ops.chaos.records import Flow, behind, probes, read_books, read_flow, spread, stamp
from streams.ops.recompute import differences
from streams.ops.scene import Scene, SceneFailed

WORLD = Path(__file__).with_name("world.toml")
POLICY = Path(__file__).with_name("policy.toml")
PARTITIONS = 4
BACKLOG = 800
"""Sends on their way at most (half of it in a short run): enough that no stage is idle."""


@dataclass(frozen=True)
class Options:
    """What was asked for. ``messages`` 0: as many as ``rate`` makes of the run's length."""

    kills: int = 20
    seed: int = 1
    messages: int = 0
    home: Path | None = None
    only: tuple[str, ...] = ()

    @property
    def short(self) -> bool:
        """Whether this is the form for every change: a minute, not ten."""
        return self.kills < ROOMY

    @property
    def groups(self) -> Mapping[str, int]:
        """Workers of each group."""
        return SHORT if self.short else GROUPS

    @property
    def rate(self) -> float:
        """Sends a second, unless ``messages`` says otherwise."""
        return 40.0 if self.short else 60.0

    @property
    def backlog(self) -> int:
        """See BACKLOG."""
        return BACKLOG // 2 if self.short else BACKLOG

    @property
    def gap(self) -> float:
        """Mean seconds between two faults."""
        return 2.0 if self.short else 3.5


@dataclass
class Report:
    """What a run found; ``line`` is its last line."""

    options: Options
    faults: tuple[Fault, ...] = ()
    books: Books = field(default_factory=Books)
    judgement: Judgement = field(default_factory=Judgement)
    flow: Flow = field(default_factory=lambda: Flow({}))
    struck: list[tuple[Fault, float]] = field(default_factory=list)
    """Each fault and when it began, Unix seconds."""
    until: float = 0.0
    """When the load ended."""
    deaths: list[dict[str, Any]] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    """Fault point -> how often a worker fell there; 0: it was not passed in time."""
    conditions: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the promise was kept."""
        return not self.judgement.failed

    def recovered(self) -> dict[str, list[float]]:
        """Group (or ``broker``) -> seconds from each fault until all that it stopped flowed again."""
        found: dict[str, list[float]] = {}
        for fault, at in self.struck:
            kind = BY_NAME[fault.kind]
            broker = fault.kind in ("outage", "kill-broker")
            if not (kind.kills or fault.kind in ("freeze", "term", "disk-full")) or kind.points:
                continue
            # Nothing can flow while there is no broker or no room.
            healed = at + fault.seconds if broker or fault.kind == "disk-full" else at
            group = "deliver" if broker else fault.target.partition("-")[0]
            waited = self.flow.recovery(group, at, self.until, healed)
            if waited is None or healed + waited >= self.until:
                continue  # nothing was to be done, or the load ended
            if broker or not any(
                m.start < at + waited and m.end > at for m in self.books.moments if not m.source
            ):
                found.setdefault("broker" if broker else group, []).append(waited)
        return found

    def line(self) -> dict[str, Any]:
        """The one JSON object."""
        ends, judged, recovered = self.books.ends, self.judgement, self.recovered()
        return {
            "seed": self.options.seed,
            "kills": sum(BY_NAME[fault.kind].kills for fault, _ in self.struck),
            "received": self.books.received,
            "outcomes": {end: ends.get(end, 0) for end in ENDS if end != "lost"},
            "lost": judged.lost,
            "duplicates": judged.duplicates,
            "in_flight_at_kills": judged.in_flight_at_kills,
            "recover_seconds": spread(second for each in recovered.values() for second in each),
            "ok": self.ok,
            "failed": {check: lines[:5] for check, lines in judged.failed.items()},
            "duplicates_explained": judged.explained,
            "unreplied": judged.unreplied,
            "recover_by_group": {group: spread(each) for group, each in sorted(recovered.items())},
            "faults": dict(Counter(fault.kind for fault, _ in self.struck)),
            "points": self.points,
            "ended_by_themselves": Counter(f"{d['name']} {d['code']}" for d in self.deaths),
            "conditions": self.conditions,
            "seconds": round(self.seconds, 1),
        }


def lifetime(faults: Sequence[Fault]) -> float:
    """Seconds that a mail lives: longer than the longest time without a broker, whose start may take a minute
    where all workers want to start too; the run waits for the last mail that long."""
    away = [fault.seconds for fault in faults if fault.kind in ("outage", "kill-broker")]
    return 60.0 + (60.0 + max(away) if away else 0.0)


class Chaos:
    """One run. ``say`` tells people what happens."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self._options = options
        self._begun = time.monotonic()
        self._told = say
        self.home = options.home or Path(tempfile.mkdtemp(prefix="mailsluice-chaos-"))
        self._world = load_world(WORLD)
        faults = plan(options.seed, options.kills, options.gap, options.groups, options.only)
        self._lifetime = lifetime(faults)
        self._scene = Scene(
            self.home, "apache", PARTITIONS, WORLD, 0,
            on_fault=lambda text: self._say(f"FAULT {text}"), on_restart=lambda name, code: self._fleet.ended(name, code),
            policy=POLICY, lifetime=self._lifetime, deliver_rate=200.0, module="streams.ops.chaos.stumble",
            screen_rules=self.home / "rules.toml",
        )  # fmt: skip
        self._fleet = Fleet(self._scene, options.groups, self._say)
        self.report = Report(options, faults)
        self._load: Load | None = None
        self._faults: Faults | None = None

    def _say(self, text: str) -> None:
        self._told(f"{time.monotonic() - self._begun:6.1f} s  {text}")

    async def run(self) -> Report:
        """All of it. Raises SceneFailed where the scene could not be set."""
        self.home.mkdir(parents=True, exist_ok=True)
        # The load is one campaign after the other to the same people: no ceiling may end it.
        (self.home / "rules.toml").write_text('[default]\nfrequency = "off"\n')
        (self.home / "plan.json").write_bytes(orjson.dumps([asdict(f) for f in self.report.faults]))
        try:
            async with asyncio.timeout(300 + 3 * seconds(self.report.faults) + 2 * self._lifetime):
                await self._set()
                await self._load_and_strike()
                await self._settle()
        except (TimeoutError, SceneFailed) as error:
            self.report.judgement.note("the run itself", [str(error) or "it took too long"])
        finally:
            try:
                with suppress(Exception):
                    await self._end()
            finally:
                self._fleet.unmount()
            self.report.seconds = time.monotonic() - self._begun
        if self.report.ok and self._options.home is None:
            shutil.rmtree(self.home, ignore_errors=True)
        return self.report

    async def _set(self) -> None:
        self._say(
            f"home {self.home}; starting Apache Kafka, {len(self._world.providers)} providers, the workers"
        )
        await self._scene.start({})
        await stamp(self._scene.settings)
        disk = "tmpfs" if self._fleet.mount() else "RLIMIT_FSIZE"
        await self._fleet.start()
        lasts = seconds(self.report.faults)
        most = self._options.messages or int(self._options.rate * (lasts + 20))
        rate = most / (lasts + 20)
        self.report.conditions |= {
            "broker": "Apache Kafka, one node", "partitions": PARTITIONS, "workers": dict(self._options.groups), "rate": round(rate, 1),
            "backlog": self._options.backlog, "lifetime": self._lifetime, "session": self._scene.settings.session, "disk": disk,
        }  # fmt: skip
        self._load = Load(self._scene.settings, self._world, rate, self._options.backlog, most, self._say)
        await self._load.start()
        self._say(f"all are ready; {most} sends at {rate:.0f} a second")

    async def _load_and_strike(self) -> None:
        assert self._load is not None
        load, fleet = self._load, self._fleet
        await self._until(lambda: load.ended > 50, 60, "no mail ends")
        start = time.time()
        self._say("a rolling restart, and nothing else")
        await fleet.roll(*(("intake", "deliver") if self._options.short else ()))
        self.report.books.rolling = [(start, time.time())]
        await self._strike(Faults(self._scene, fleet, load))

    async def _strike(self, faults: Faults) -> None:
        assert self._load is not None
        self._faults, load = faults, self._load
        begun, count = time.monotonic(), len(self.report.faults)
        striking: list[asyncio.Task[None]] = []
        for fault in self.report.faults:
            await asyncio.sleep(max(0.0, begun + fault.at - time.monotonic()))
            self._say(f"{fault.number:3} of {count}: {fault}   ({load.ended} ended, {load.open} open)")
            self.report.struck.append((fault, time.time()))
            striking.append(asyncio.create_task(faults.strike(fault), name=str(fault)))
            if BY_NAME[fault.kind].alone:
                await asyncio.wait([striking[-1]])
                begun = max(begun, time.monotonic() - fault.at - fault.seconds)
        ends = await asyncio.gather(*striking, return_exceptions=True)
        for fault, end in zip(self.report.faults, ends, strict=True):
            if isinstance(end, BaseException):
                self.report.judgement.note("the run itself", [f"{fault}: {end!r}"])

    async def _until(self, done: Callable[[], bool], bound: float, why: str) -> None:
        end = time.monotonic() + bound
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{why} within {bound:.0f} s")
            await asyncio.sleep(0.1)

    async def _settle(self) -> None:
        assert self._load is not None
        self._fleet.heal()
        if self._faults is not None:
            await self._faults.heal()
        await self._fleet.ready()
        self.report.until = time.time()
        self._say("the load ends; everything is healed")
        await self._load.finish(120)
        await self._sound()
        found = await self._settled()
        self._say(f"settled: {dict(found.counts)}; reading the books")
        await self._scene.supervisor.stop()
        await self._judge(found)
        self._say("judged")

    async def _sound(self) -> None:
        """One mail of either kind through every partition: none may be stuck."""
        assert self._load is not None
        load, bound = self._load, self._lifetime
        await load.campaign("probe")
        waiting: dict[str, str] = {}
        for to in probes(PARTITIONS, self._world):
            for stream, campaign in (("marketing", "probe"), ("transactional", "receipts")):
                waiting[load.send(to, campaign, f"probe-{stream}-{to}", stream)] = f"{stream} to {to}"
        await load.finish(60)
        with suppress(TimeoutError):
            await self._until(lambda: all(load.has_ended(mail) for mail in waiting), bound, "")
        late = [what for mail, what in waiting.items() if not load.has_ended(mail)]
        self.report.judgement.note(
            "nothing is stuck", [f"no end within {bound:.0f} s: {what}" for what in late]
        )

    async def _settled(self) -> Audit:
        assert self._load is not None
        load, end = self._load, time.monotonic() + self._lifetime + 60
        with suppress(TimeoutError):
            await self._until(lambda: load.open == 0, self._lifetime, "")
        while True:
            found = await audit(self._scene.settings)
            theirs = await asyncio.to_thread(self._scene.report)
            waiting = theirs["reports_waiting"] + theirs["readers_waiting"]
            lags = await behind(self._scene.settings)
            settled = not (lags or found.counts["pending"] or found.counts["lost"] or waiting)
            if settled or time.monotonic() > end:
                self.report.judgement.note("nothing is stuck", lags)
                return found
            await asyncio.sleep(1.0)

    async def _judge(self, found: Audit) -> None:
        assert self._load is not None
        report, settings = self.report, self._scene.settings
        books = await read_books(settings, self._world, self.home / "ledger", self._load, found)
        books.moments, books.rolling = self._fleet.moments, report.books.rolling
        if self._faults is not None:
            books.cancelled, books.broken = self._faults.cancelled, frozenset(self._faults.broken)
        report.books, report.flow = books, await read_flow(settings)
        earlier, report.judgement = report.judgement, judge(books)
        for check, lines in earlier.failed.items():
            report.judgement.note(check, lines)
        report.judgement.note("every worker could run", self._scene.supervisor.faults)
        homes = {path.name: path for path in sorted(settings.state.iterdir())}
        report.judgement.note("every state is what the topics say", await differences(settings, homes))
        report.points = dict(sorted(self._fleet.fallen.items()))
        report.deaths = [asdict(death) for death in self._fleet.deaths]

    async def _end(self) -> None:
        self._fleet.heal()
        if self._load is not None:
            await self._load.stop()
        await self._scene.stop()
