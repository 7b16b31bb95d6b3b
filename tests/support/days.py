"""A whole pipeline in one process, whose time of day is the test's: a month of bounces passes in seconds.

The composition root of the workers with every stage, the SMTP edge and the simulated providers, on real sockets and
a real broker; only the clock is another. What is measured in seconds (leases, heartbeats, freshness) stays real.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiosmtplib
import orjson
from aiokafka import TopicPartition

from agents.sign.keys import new_keys
from schemas.campaign import Campaign
from schemas.codec import encode, parse
from schemas.send import Send
from schemas.suppression import Suppression
from schemas.token import Tokens
from streams import admin
from streams.app import App
from streams.broker import Outbox, make_producer, make_reader, started
from streams.edge.process import publishing
from streams.edge.smtp import SmtpEdge, SmtpSettings
from streams.lab.ledger import Take
from streams.lab.providers import load
from streams.lab.world import World
from streams.ops.scene import DOMAIN, RETURN_DOMAIN, SENDER
from streams.pipeline import BY_NAME
from streams.settings import Settings
from tests.support.brokers import Broker

DAY = 86400.0
MORNING = 10 * 3600.0
"""When the first day begins, in seconds after midnight UTC: some hours later it is still the same day."""
KNOWN = 2.0
"""Real seconds within which deliver knows what stands on ``mail-suppressions``: it starts no MAIL without."""


class _World(World):
    """Keeps what the providers took."""

    letters: list[tuple[Take, bytes]]

    def _taken(self, take: Take, content: bytes) -> None:
        self.letters.append((take, content))
        super()._taken(take, content)


class Days:
    """``async with Days(broker, prefix, home, providers) as days``; ``providers``: TOML of the world; ``more``: settings.

    ``events`` and ``rows`` (the suppressions, by key) hold what the topics said when ``until`` last looked.
    """

    def __init__(self, broker: Broker, prefix: str, home: Path, providers: str, **more: Any) -> None:
        self._ahead = DAY - time.time() % DAY + MORNING
        self.events: list[dict[str, Any]] = []
        self.rows: dict[bytes, Suppression] = {}
        self.world = _World(load(providers), port=0, clock=self.clock)
        self.world.letters = []
        self.settings = Settings(
            broker=broker.bootstrap,
            broker_idempotent=broker.name == "apache",
            prefix=prefix,
            state=home / "state",
            keys=home / "keys",
            secret=secrets.token_hex(24),
            partitions=2,
            session=4.0,
            commit=0.3,
            return_domain=RETURN_DOMAIN,
            deliver_rate=1000.0,
            deliver_networks="127.0.0.0/8",
            deliver_sources=("127.0.0.1",),
            deliver_hostname="mx.mailsluice.test",
            deliver_cooldown=1.0,
            deliver_drain=1.0,
            **more,
        )
        self._faults: list[str] = []
        self._stack = AsyncExitStack()
        self.smtp = ("127.0.0.1", 0)
        """Where the SMTP edge listens."""

    def clock(self) -> float:
        """Unix seconds, here."""
        return time.time() + self._ahead

    def pass_time(self, seconds: float) -> None:
        """It is so much later now."""
        self._ahead += seconds

    async def __aenter__(self) -> Days:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        assert not self._faults, self._faults

    async def _start(self) -> None:
        self._make_keys()
        await self._stack.enter_async_context(self.world)
        host, port = self.world.dns.address
        self.settings = replace(self.settings, dns=f"{host}:{port}", deliver_port=self.world.port)
        await admin.apply(self.settings)
        app = App(
            self.settings,
            await admin.check(self.settings),
            list(BY_NAME),
            fatal=self._fatal,
            clock=self.clock,
        )
        self._stack.push_async_callback(app.stop)
        await app.start()
        outbox = Outbox(make_producer(self.settings), self.settings, self._fatal, self.clock)
        await outbox.start()
        self._stack.push_async_callback(outbox.stop)
        edge = SmtpEdge(
            publishing(outbox),
            Tokens(self.settings.secrets()),
            SmtpSettings(RETURN_DOMAIN, self.settings.partitions),
            self.clock,
        )
        self.smtp = ("127.0.0.1", await edge.start("127.0.0.1", 0))
        self._stack.push_async_callback(edge.stop)
        self.world.edge("", "{}:{}".format(*self.smtp))
        self._producer = make_producer(self.settings)
        await started(self._producer)
        self._stack.push_async_callback(self._producer.stop)
        self._reader = make_reader(self.settings)
        await started(self._reader, 10.0)
        self._stack.push_async_callback(self._reader.stop)
        self._places = {
            TopicPartition(self.settings.topic(topic), partition): topic
            for topic in ("mail-events", "mail-suppressions")
            for partition in range(self.settings.partitions)
        }
        self._reader.assign(list(self._places))
        await self._reader.seek_to_beginning()

    def _fatal(self, code: int, why: str) -> None:
        self._faults.append(f"{code}: {why}")

    def _make_keys(self) -> None:
        directory = self.settings.keys / DOMAIN
        directory.mkdir(parents=True)
        for key in new_keys(DOMAIN, "r2048", "e25519"):
            (directory / f"{key.selector}.pem").write_bytes(key.pem())

    # -- doing

    async def campaign(self, id: str, **fields: Any) -> None:
        """Publish a campaign."""
        values = {"sender": SENDER, "subject": "Hello", "html": "<p>Dear {{ name }}</p>", **fields}
        campaign = Campaign(id=id, **values)
        await self._publish("mail-campaigns", encode(campaign), campaign.key)

    async def send(self, campaign: str, *addresses: str, now: bool = False) -> None:
        """Publish a send for each address; ``now``: on the topic of transactional mail."""
        for to in addresses:
            send = Send(campaign=campaign, to=to, variables={"name": "Anna"})
            await self._publish("mail-sends-now" if now else "mail-sends", encode(send))

    async def _publish(self, topic: str, value: bytes, key: bytes | None = None) -> None:
        stamp = int(self.clock() * 1000)
        await self._producer.send_and_wait(self.settings.topic(topic), value, key=key, timestamp_ms=stamp)

    async def mail_in(self, sender: str, to: str, raw: bytes) -> int:
        """Send a mail to the SMTP edge; the code of its answer."""
        host, port = self.smtp
        try:
            async with aiosmtplib.SMTP(hostname=host, port=port, timeout=15, start_tls=False) as client:
                await client.sendmail(sender, [to], raw)
        except aiosmtplib.SMTPRecipientsRefused as error:
            return error.recipients[0].code
        except aiosmtplib.SMTPResponseException as error:
            return error.code
        return 250

    # -- asking

    async def until(self, wanted: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Read on until ``wanted()`` says something, and return that; fails after ``seconds``, which are real."""
        end = time.monotonic() + seconds
        while not (found := wanted()):
            assert time.monotonic() < end, f"it never came to it; {self._faults}; last: {self.events[-5:]}"
            await self.look()
        return found

    async def look(self) -> None:
        """Take in what the topics said since the last time."""
        assert not self._faults, self._faults
        for place, records in (await self._reader.getmany(timeout_ms=50)).items():
            for record in records:
                if self._places[place] == "mail-events":
                    self.events.append(orjson.loads(record.value))
                elif record.value:
                    self.rows[record.key] = parse(record.value, Suppression)
                else:
                    self.rows.pop(record.key, None)

    def told(self, to: str, campaign: str = "") -> list[tuple[str, str]]:
        """(kind, reason) of each different event about somebody, oldest first, but for what was only queued."""
        found = {
            e["id"]: (e["kind"], e.get("reason", ""))
            for e in self.events
            if e.get("to", "") == to and campaign in ("", e.get("campaign")) and e["kind"] != "queued"
        }
        return list(found.values())

    async def ends(self, campaign: str, *addresses: str) -> list[tuple[str, str]]:
        """How a campaign ended for each address: (kind, reason), once all of them did."""
        return await self.until(lambda: self._ends(campaign, addresses))

    def _ends(self, campaign: str, addresses: tuple[str, ...]) -> list[tuple[str, str]]:
        found = {
            e["to"]: (e["kind"], e.get("reason", ""))
            for e in self.events
            if e.get("campaign") == campaign and e.get("terminal")
        }
        return [found[to] for to in addresses] if found.keys() >= set(addresses) else []

    async def known(self, reason: str, *people: str) -> None:
        """Return when these are suppressed for this reason alone, and every stage must know it."""
        await self.until(lambda: all(self.suppressed(to) == [reason] for to in people))
        await asyncio.sleep(KNOWN)

    def suppressed(self, to: str) -> list[str]:
        """The reasons for which somebody gets no mail now."""
        now = self.clock()
        return sorted(row.reason for row in self.rows.values() if row.to == to and row.in_force(now))

    def letters(self, to: str) -> list[tuple[Take, bytes]]:
        """What a provider took for somebody."""
        return [letter for letter in self.world.letters if letter[0].rcpt == to]
