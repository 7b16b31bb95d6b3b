"""Everything of a demo or an end-to-end test on this machine: broker, outside world, workers, keys.

All on loopback, in a directory of its own; ``stop`` ends every process that was started here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.sign.keys import SigningKey, new_keys
from streams import admin
from streams.lab.brokers import BROKERS, Broker, answers_tcp, free_port
from streams.lab.control import tell
from streams.ops.supervise import Supervisor, Worker
from streams.settings import Settings, variable

DOMAIN = "news.mailsluice.test"
RETURN_DOMAIN = "bounces.mailsluice.test"
SENDER = f"Mailsluice News <hello@{DOMAIN}>"
DEMO = {
    "rungs": (1.0, 3.0, 10.0, 30.0),
    "lifetime": 60.0,
    "profile": "demo",
    "deliver_networks": "127.0.0.0/8",
    "deliver_hostname": "mx.mailsluice.test",
    "return_domain": RETURN_DOMAIN,
    "commit": 0.3,
    "deliver_cooldown": 2.0,
    "enqueue_hold": 5.0,
    "log": "INFO",
}
"""The demo profile: short rungs, mails that live a minute, nothing but loopback."""


class SceneFailed(Exception):
    """The scene could not be set; the text says what and where to look."""


class Scene:
    """One scene. ``settings`` are those of the workers; ``world`` is the lab's first line."""

    def __init__(
        self,
        home: Path,
        broker: str = "embedded",
        partitions: int = 2,
        providers: Path | None = None,
        port: int = 2525,
        prefix: str = "",
        sources: Sequence[str] = ("127.0.0.1",),
        on_fault: Callable[[str], None] = lambda text: None,
        on_restart: Callable[[str, int], None] = lambda name, code: None,
        idempotent: bool = True,
        module: str = "streams.worker",
        **more: Any,
    ) -> None:
        """``broker``: embedded, apache, or HOST:PORT of one that runs already (``idempotent``: whether that
        one knows idempotent producers). ``module``: what is run as a worker of stages. ``more``: settings."""
        self._idempotent = idempotent
        self.home = home
        self._wanted = broker
        self._providers = providers
        self._port = port
        self.broker: Broker | None = None
        self.lab: asyncio.subprocess.Process | None = None
        self.world: dict[str, Any] = {}
        self.keys: tuple[SigningKey, ...] = ()
        self._on = (on_fault, on_restart)
        self._module = module
        self.supervisor: Supervisor
        values: dict[str, Any] = {
            **DEMO,
            "partitions": partitions,
            "prefix": prefix,
            "deliver_sources": tuple(sources),
        }
        self.settings = Settings(
            **{
                **values,
                "state": home / "state",
                "keys": home / "keys",
                "secret": secrets.token_hex(24),
                "base_url": f"http://127.0.0.1:{(http := free_port())}",
                "edge_http": f"127.0.0.1:{http}",
                "edge_smtp": f"127.0.0.1:{free_port()}",
                **more,
            }
        )

    async def start(self, groups: Mapping[str, int] | None = None) -> None:
        """Start all of it; ``groups``: how many workers of each stage group. Raises SceneFailed."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SceneFailed(f"no directory to work in: {error}") from None
        await self._start_broker()
        self._make_keys()
        await self._start_world()
        try:
            await admin.apply(self.settings)
        except admin.WrongTopology as error:
            raise SceneFailed(f"the topics could not be made: {error}") from None
        self.supervisor = Supervisor(self.settings.environment(), self.home / "logs", *self._on, self._module)
        wanted = {"control": 1, "edge": 1, "intake": 1, "compose": 1, "deliver": 1, "hygiene": 1}
        for group, count in (groups if groups is not None else wanted).items():
            for number in range(count):
                self.add(group, number)

    def add(self, group: str, number: int = 0, **extra: str) -> Worker:
        """Start one more worker of a stage group, with a state directory of its own; ``extra`` variables."""
        return self.supervisor.add_group(
            group, number, MAILSLUICE_METRICS=f"127.0.0.1:{free_port()}", **extra
        )

    def tell(self, do: str, **more: Any) -> dict[str, Any]:
        """Steer the outside world (see ``streams.lab.process.handlers``). Blocks."""
        host, _, port = str(self.world["control"]).rpartition(":")
        return tell((host, int(port)), do, timeout=30, **more)

    async def stop(self) -> None:
        """End everything that was started here."""
        if hasattr(self, "supervisor"):
            await self.supervisor.stop()
        if self.lab is not None and self.lab.returncode is None:
            self.lab.terminate()
            try:
                await asyncio.wait_for(self.lab.wait(), 10)
            except TimeoutError:
                self.lab.kill()
        if self.broker is not None:
            await self.broker.stop()

    def report(self) -> dict[str, Any]:
        """What the providers say they saw."""
        return self.tell("report")

    async def _start_broker(self) -> None:
        idempotent = self._idempotent
        if self._wanted in BROKERS:
            self.broker = BROKERS[self._wanted](home=self.home / "broker")
            try:
                await self.broker.start()
            except RuntimeError as error:
                raise SceneFailed(f"the {self._wanted} broker did not start: {error}") from None
            address, idempotent = self.broker.bootstrap, self._wanted == "apache"
        elif not await _reachable(self._wanted):
            raise SceneFailed(f"no Kafka answers at {self._wanted} (HOST:PORT, or embedded or apache)")
        else:
            address = self._wanted
        session = 4.0  # a first join of the embedded broker waits half of it
        self.settings = replace(self.settings, broker=address, broker_idempotent=idempotent, session=session)

    def _make_keys(self) -> None:
        directory = self.settings.keys / DOMAIN
        directory.mkdir(parents=True, exist_ok=True)
        self.keys = new_keys(DOMAIN, "r2048", "e25519")
        for key in self.keys:
            path = directory / f"{key.selector}.pem"
            path.touch(mode=0o600)
            path.write_bytes(key.pem())

    async def _start_world(self) -> None:
        records = self.home / "records.toml"
        lines = []
        for key in self.keys:
            lines.append(f'[records."{key.dns_name}"]\nTXT = {json.dumps(key.dns_record)}\n')
        lines.append(f'[records."{DOMAIN}"]\nTXT = "v=spf1 ip4:127.0.0.0/8 -all"\nA = "127.0.0.1"\n')
        lines.append(f'[records."_dmarc.{DOMAIN}"]\nTXT = "v=DMARC1; p=reject"\n')
        lines.append(f'[records."{RETURN_DOMAIN}"]\nMX = "10 edge.mailsluice.test."\n')
        records.write_text("\n".join(lines), "utf-8")
        arguments = [
            "-m", "streams.lab.world", "--port", str(self._port), "--ledger", str(self.home / "ledger"),
            "--edge-http", self.settings.base_url, "--edge-smtp", self.settings.edge_smtp, "--records", str(records),
        ]  # fmt: skip
        if self._providers is not None:
            arguments += ["--providers", str(self._providers)]
        (self.home / "logs").mkdir(exist_ok=True)
        with (self.home / "logs" / "world.log").open("wb") as sink:
            self.lab = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=subprocess.PIPE, stderr=sink
            )
        assert self.lab.stdout is not None
        line = await asyncio.wait_for(self.lab.stdout.readline(), 30)
        if not line:
            text = (self.home / "logs" / "world.log").read_text("utf-8", "replace").strip()
            raise SceneFailed(
                f"the simulated providers did not start: {text.splitlines()[-1] if text else 'no message'}"
            )
        self.world = json.loads(line)
        self.settings = replace(self.settings, dns=self.world["dns"], deliver_port=int(self.world["port"]))


async def _reachable(brokers: str) -> bool:
    """Whether anything listens at one of HOST:PORT,HOST:PORT ...: the client would try for a minute."""
    for each in brokers.split(","):
        host, _, port = each.strip().rpartition(":")
        if host and port.isdigit() and await answers_tcp(host.strip("[]"), int(port)):
            return True
    return False


__all__ = ["DOMAIN", "RETURN_DOMAIN", "SENDER", "Scene", "SceneFailed", "free_port", "variable"]
