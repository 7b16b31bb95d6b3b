"""A whole pipeline for a test: ``Story`` sets the scene on a given broker, sends, waits and asks both sides."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.campaign import Campaign
from schemas.codec import encode
from schemas.send import Send
from streams.broker import make_producer, started
from streams.ops.audit import Audit, audit, read_topic
from streams.ops.scene import SENDER, Scene
from tests.support.brokers import Broker

FAST = Path(__file__).with_name("fast_providers.toml")
POLICY = Path(__file__).with_name("fast_policy.toml")


class Story:
    """``async with Story(broker, prefix, tmp_path) as story``. Everything ends with it."""

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        home: Path,
        groups: dict[str, int] | None = None,
        providers: Path = FAST,
        **settings: Any,
    ) -> None:
        self.groups = groups
        self.broker = broker
        self.restarts: list[tuple[str, int]] = []
        values = {"policy": POLICY, "lifetime": 600.0, **settings}
        self.scene = Scene(
            home, broker.bootstrap, providers=providers, port=0, prefix=prefix,
            idempotent=broker.name == "apache", on_fault=self._fault, on_restart=lambda name, code: self.restarts.append((name, code)), **values,
        )  # fmt: skip
        self.faults: list[str] = []
        self._producer: Any = None

    def _fault(self, text: str) -> None:
        self.faults.append(text)

    async def __aenter__(self) -> Story:
        try:
            await self.scene.start(self.groups)
            self._producer = make_producer(self.scene.settings)
            await started(self._producer)
        except BaseException:
            await self.scene.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.stop()
        await self.scene.stop()

    # -- doing

    async def campaign(self, id: str = "c", **fields: Any) -> Campaign:
        """Publish a campaign."""
        values = {"sender": SENDER, "subject": "Hello {{ name }}", "html": "<p>Dear {{ name }}</p>" * 3,
                  "list_id": "<news.mailsluice.test>", **fields}  # fmt: skip
        campaign = Campaign(id=id, **values)
        await self._producer.send_and_wait(self._topic("mail-campaigns"), encode(campaign), key=campaign.key)
        return campaign

    async def send(self, *addresses: str, campaign: str = "c", now: bool = False, **fields: Any) -> None:
        """Publish a send for each address."""
        sends = (Send(campaign=campaign, to=to, **{"name": "Anna", **fields}) for to in addresses)
        await self.publish((encode(send) for send in sends), "mail-sends-now" if now else "mail-sends")

    async def publish(self, values: Iterable[bytes], topic: str = "mail-sends", **more: Any) -> None:
        """Publish raw records; returns when all are acknowledged."""
        futures = [await self._producer.send(self._topic(topic), value, **more) for value in values]
        await asyncio.gather(*futures)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a worker a signal; its pid. The supervisor starts it again."""
        pid = self.scene.supervisor.workers[name].pid
        if pid:
            os.kill(pid, number)
        return pid

    # -- asking

    async def settled(self, seconds: float = 60.0, wanted: int = 0) -> Audit:
        """The audit once nothing is pending, or after ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            found = await audit(self.scene.settings)
            assert not self.faults, self.faults
            done = not found.counts["pending"] and not found.counts["lost"] and found.received >= wanted
            if done or time.monotonic() > end:
                return found
            # A look reads everything: the workers need the processor more.
            await asyncio.sleep(max(0.5, 2 * (time.monotonic() - began)))

    async def records(self, topic: str, partitions: int = 0) -> list[Any]:
        """Every record of a topic now."""
        count = partitions or self.scene.settings.partitions
        return [m async for m in read_topic(self.scene.settings, topic, count)]

    async def until(self, topic: str, wanted: Any, seconds: float = 30.0, partitions: int = 0) -> list[Any]:
        """The records of a topic once ``wanted(records)`` holds; fails after ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            found = await self.records(topic, partitions)
            if wanted(found):
                return found
            assert time.monotonic() < end, (
                f"{topic} never came to it: {len(found)} records; logs:\n{self.logs()}"
            )
            await asyncio.sleep(0.3)

    async def theirs(self) -> dict[str, Any]:
        """What the providers say they saw."""
        return await asyncio.to_thread(self.scene.report)

    def logs(self) -> str:
        """What the workers complained about."""
        lines = []
        for path in sorted((self.scene.home / "logs").glob("*.log")):
            text = path.read_text("utf-8", "replace").splitlines()
            lines += [f"{path.stem}: {line}" for line in text if " INFO " not in line][-15:]
        return "\n".join(lines)

    def _topic(self, name: str) -> str:
        return self.scene.settings.topic(name)
