"""``mailsluice up``: the workers on this machine, against a broker or with one of their own."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import click

from streams import admin
from streams.lab.brokers import BROKERS, Broker, BrokerFailed, BrokerUnavailable, free_port
from streams.ops.ask import asked, clean, reach, run
from streams.ops.supervise import EXIT_CONFIG, Supervisor
from streams.pipeline import BY_NAME, GROUPS
from streams.settings import Settings

PROCESSES = (*GROUPS, "control", "edge")
READY_EVERY = 0.3


class BadChoice(ValueError):
    """A stage, group or number of workers that cannot be."""


@dataclass(frozen=True)
class Plan:
    """What runs: group -> its stages (none for control and edge), and how many processes of each."""

    groups: Mapping[str, tuple[str, ...]]
    workers: Mapping[str, int] = field(default_factory=dict)
    chain: bool = True

    def processes(self) -> list[tuple[str, str]]:
        """(name, group) of every process."""
        found = []
        for group in self.groups:
            count = self.workers.get(group, 1)
            found += [(group if count == 1 else f"{group}-{number}", group) for number in range(1, count + 1)]
        return found

    def arguments(self, group: str) -> list[str]:
        """How Python is called for a process of the group."""
        if group == "control":
            return ["-m", "streams.control"]
        if group == "edge":
            return ["-m", "streams.edge.process", "--die-with-parent"]
        stages = ["--stages", ",".join(self.groups[group])]
        return ["-m", "streams.worker", *stages, "--die-with-parent", *([] if self.chain else ["--no-chain"])]


def plan(stages: str, workers: Sequence[str], chain: bool) -> Plan:
    """From the command's options. ``stages``: groups or single stages, empty for all. Raises BadChoice."""
    names = [name.strip() for name in stages.split(",") if name.strip()] or list(PROCESSES)
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name in PROCESSES and not (name in GROUPS and GROUPS[name] == (name,)):
            groups[name] = GROUPS.get(name, ())
        elif name in BY_NAME:
            # Single stages of a group share its process, in its order.
            group = next(group for group, members in GROUPS.items() if name in members)
            wanted = {*groups.get(group, ()), name}
            groups[group] = tuple(stage for stage in GROUPS[group] if stage in wanted)
        else:
            raise BadChoice(
                f"no stage or group {name!r}; groups: {', '.join(PROCESSES)}; stages: {', '.join(BY_NAME)}"
            )
    return Plan(groups, _counts(workers, groups), chain)


def _counts(workers: Sequence[str], groups: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for text in workers:
        group, _, number = text.partition("=")
        if group not in groups or not number.isdigit() or not 1 <= int(number) <= 64:
            raise BadChoice(f"{text!r} is not GROUP=1..64 of a group that runs: {', '.join(groups)}")
        if group == "edge" and int(number) > 1:
            raise BadChoice(
                "one edge a machine: its ports are settings; start others with ports of their own"
            )
        counts[group] = int(number)
    return counts


class Up:
    """One run of the command; ``run`` returns its exit code."""

    def __init__(self, settings: Settings, plan: Plan, own_broker: str, home: Path | None) -> None:
        """``own_broker``: embedded or apache for one of our own, empty for the one of the settings."""
        self._settings = settings
        self._plan = plan
        self._own = own_broker
        self._temporary = own_broker != "" and home is None
        self._home = home or (
            Path(tempfile.mkdtemp(prefix="mailsluice-up-")) if own_broker else settings.state
        )
        self._broker: Broker | None = None
        self._ended = asyncio.Event()
        self._faulty = False

    async def run(self) -> int:
        """Until SIGINT, SIGTERM, or no worker can run. Raises BrokerAbsent, WrongTopology, KafkaError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        try:
            await self._prepare()
            return await self._work()
        finally:
            if self._broker is not None:
                await self._broker.stop()
            if self._temporary and not self._faulty:
                shutil.rmtree(self._home, ignore_errors=True)

    async def _prepare(self) -> None:
        if not self._own:
            await reach(self._settings.broker)
            await admin.check(self._settings)
            return
        self._broker = BROKERS[self._own](home=self._home / "broker")
        await self._broker.start()
        self._settings = replace(
            self._settings,
            broker=self._broker.bootstrap,
            broker_idempotent=self._own != "embedded",
            session=min(self._settings.session, 6.0) if self._own == "embedded" else self._settings.session,
            # A new broker knows nothing of older local state.
            state=self._home / "state",
            secret=self._settings.secret or secrets.token_hex(24),
        )
        await admin.apply(self._settings)
        click.echo(
            f"{self._own} broker at {self._settings.broker} with all topics; it ends with this command"
        )

    async def _work(self) -> int:
        logs = self._home / "logs"
        supervisor = Supervisor(self._settings.environment(), logs, self._fault, self._restarted)
        probes: dict[str, str] = {}
        for name, group in self._plan.processes():
            probes[name] = self._probe(len(probes))
            supervisor.add(
                name,
                self._plan.arguments(group),
                MAILSLUICE_STATE=str(self._settings.state / name),
                MAILSLUICE_METRICS=probes[name],
            )
        click.echo(f"starting {', '.join(probes)}; logs: {logs}")
        watching = [
            asyncio.create_task(self._ready(probes, supervisor)),
            asyncio.create_task(self._alone(supervisor)),
        ]
        await self._ended.wait()
        click.echo("stopping: what is past its final dot is finished first")
        await supervisor.stop(self._settings.deliver_drain + self._settings.drain + 10)
        for task in watching:
            task.cancel()
        click.echo("stopped")
        return EXIT_CONFIG if supervisor.faults else 0

    def _probe(self, number: int) -> str:
        """Where a process serves /metrics: ports from the setting's on, or free ones of this machine."""
        host, _, port = self._settings.metrics.rpartition(":")
        return f"{host}:{int(port) + number}" if self._settings.metrics else f"127.0.0.1:{free_port()}"

    async def _ready(self, probes: Mapping[str, str], supervisor: Supervisor) -> None:
        """Say it once when all that can run are ready."""
        waiting = dict(probes)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            while waiting:
                await asyncio.sleep(READY_EVERY)
                for name, address in list(waiting.items()):
                    if supervisor.workers[name].faulty:
                        del waiting[name]
                        continue
                    with suppress(aiohttp.ClientError, TimeoutError, OSError):
                        async with client.get(
                            f"http://{address.replace('0.0.0.0', '127.0.0.1')}/readyz"
                        ) as answer:
                            if answer.status == 200:
                                del waiting[name]
        listed = ", ".join(f"{n} {a}" for n, a in probes.items() if not supervisor.workers[n].faulty)
        if listed:
            click.echo(f"ready. Metrics: {listed}. Ctrl-C stops all")

    async def _alone(self, supervisor: Supervisor) -> None:
        """End when no worker is left that could run."""
        while len(supervisor.faults) < len(supervisor.workers):
            await asyncio.sleep(READY_EVERY)
        click.echo("no worker can run", err=True)
        self._ended.set()

    def _fault(self, text: str) -> None:
        self._faulty = True  # its logs are kept
        click.secho("fault: " + clean(text, 2000), fg="red", bold=True, err=True)

    def _restarted(self, name: str, code: int) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        click.secho(f"{name} {how} and is started again; see its log", fg="yellow", err=True)


@click.command()
@click.option("--stages", default="", metavar="A,B", help="Only these stages or groups; default all.")
@click.option(
    "--chain/--no-chain", default=True, show_default=True, help="Let neighbours (render, sign) skip a topic."
)
@click.option("--workers", multiple=True, metavar="GROUP=N", help="Processes of a group; may be repeated.")
@click.option("-b", "--broker", metavar="embedded|apache|HOST:PORT", help="Default MAILSLUICE_BROKER.")
@click.option("--prefix", help="Before every topic's name; default MAILSLUICE_PREFIX.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where logs go; default MAILSLUICE_STATE.",
)
def up(
    stages: str,
    chain: bool,
    workers: tuple[str, ...],
    broker: str | None,
    prefix: str | None,
    home: Path | None,
) -> None:
    """Run the workers on this machine until Ctrl-C or SIGTERM, and start again those that end.

    Groups: intake (campaigns, enqueue, screen), compose (render, sign), deliver, hygiene (wait, classify,
    suppress, score), control (shape) and edge (HTTP and SMTP in). With --broker embedded or apache a
    broker of its own is started and its topics are made; the embedded one keeps nothing. A worker whose
    settings or topics are wrong is shown as a fault and not started again; the others go on.

    \b
    Example: mailsluice up --broker embedded
             MAILSLUICE_BROKER=kafka:9092 mailsluice up --stages deliver --workers deliver=4
    Exit code: 0 stopped as asked; 1 no broker or no topics; 2 wrong usage or settings;
    78 a worker could not run.
    """
    own = broker if broker in BROKERS else ""
    settings = asked(None if own else broker, prefix)
    try:
        wanted = plan(stages, workers, chain)
    except BadChoice as error:
        raise click.UsageError(str(error)) from None
    logging.basicConfig(level="ERROR")

    async def work() -> int:
        return await Up(settings, wanted, own or "", home).run()

    try:
        raise SystemExit(run(settings, work(), reached=False))
    except (BrokerUnavailable, BrokerFailed) as error:
        raise click.ClickException(str(error)) from None
