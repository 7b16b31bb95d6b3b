"""The load of a chaos run: sends at a steady rate, each with an idempotency key, until acknowledged.

A send whose acknowledgement did not come is sent again under the same key, as a careful producer does:
gate one has to see to it that the recipient gets one mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
from aiokafka.errors import KafkaError

from schemas.address import normalise
from schemas.campaign import Campaign
from schemas.codec import encode, parse
from schemas.identity import mail_id, partition_of
from schemas.mail import NOW
from schemas.send import Consent, Send
from schemas.suppression import Suppression
from schemas.token import Tokens
from streams.broker import make_producer, started, stopped
from streams.follow import Follower
from streams.lab.audience import recipients
from streams.lab.providers import WorldSettings
from streams.ops.chaos.oracle import Row, Sent
from streams.ops.scene import SENDER
from streams.settings import Settings

POOL = 1200
"""Recipients of a campaign; each campaign of the load goes to all of them."""
TICK = 0.1
RECEIPTS = 10
"""Every so many sends one is transactional."""
HTML = (
    "<p>Dear {{ name }}, the water is fine.</p>" * 20
    + '<p><a href="https://shop.mailsluice.test/boats?n={{ n }}">Boats</a></p>'
)
Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Load:
    """``rate`` sends a second, but none while ``backlog`` of them have no end yet; ``most`` in all."""

    def __init__(
        self,
        settings: Settings,
        world: WorldSettings,
        rate: float,
        backlog: int,
        most: int,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._rate, self._backlog, self._most = settings, rate, backlog, most
        self._say = say
        self._producer: Any = None
        self._renewing = asyncio.Lock()
        self._follower = Follower(settings, self._fatal)
        self._pool = [person.to for person in recipients(world, POOL)]
        self._task: asyncio.Task[None] | None = None
        self._flying: set[asyncio.Task[None]] = set()
        self._ended: set[str] = set()
        self._begun: set[str] = set()
        self._tokens = Tokens([part.encode() for part in settings.secret.split(",")])
        self._http: aiohttp.ClientSession | None = None
        self.delivered: deque[tuple[str, str, str]] = deque(maxlen=200)
        """The latest: mail id, recipient, campaign."""
        self.wanted: dict[str, Sent] = {}
        """What was asked for, by mail id."""
        self.acked: dict[Place, str] = {}
        """Where each acknowledged send lies -> its mail id."""
        self.rows: list[Row] = []
        """Every write to the suppressions, as it came: compaction leaves only the last of each key."""
        self.number = 0
        self.error = ""
        self.asked: set[str] = set()
        """Addresses that we asked to unsubscribe, answered or not."""
        self.acts: list[tuple[str, str]] = []
        """(what, mail id) of our own requests that the edge answered with success."""

    @property
    def open(self) -> int:
        """Sends on their way."""
        return max(0, self.number - len(self._ended))

    @property
    def ended(self) -> int:
        """Sends that have ended."""
        return len(self._ended)

    def has_ended(self, mail: str) -> bool:
        """Whether a mail has ended, whether well or not."""
        return mail in self._ended

    async def start(self) -> None:
        """Publish the receipts' campaign, follow what ends, begin to send."""
        self._producer = await started(make_producer(self._settings))
        await self._follower.start()
        for partition in range(self._settings.partitions):
            await self._follower.follow("mail-outcomes", partition, self._outcomes, 0)
            await self._follower.follow("mail-events", partition, self._events, 0)
            await self._follower.follow("mail-suppressions", partition, self._suppressions, 0)
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        await self.campaign("receipts", stream="transactional")
        self._task = asyncio.create_task(self._run(), name="load")

    async def finish(self, seconds: float) -> None:
        """Send nothing new; return when all is acknowledged. Raises TimeoutError after ``seconds``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with asyncio.timeout(seconds):
            while self._flying:
                await asyncio.wait(set(self._flying))

    async def stop(self) -> None:
        """End everything; what is not acknowledged stays so."""
        for task in (*self._flying, *([self._task] if self._task else [])):
            task.cancel()
        if self._http is not None:
            await self._http.close()
        await self._follower.stop()
        if self._producer is not None:
            await stopped(self._producer)

    # -- sending

    async def campaign(self, id: str, **fields: Any) -> None:
        """Publish a campaign; returns when acknowledged, however long that takes."""
        values = {"sender": SENDER, "subject": "The water is fine, {{ name }}", "html": HTML,
                  "list_id": "<news.mailsluice.test>", **fields}  # fmt: skip
        campaign = Campaign(id=id, **values)
        await self._acked("mail-campaigns", encode(campaign), campaign.key)

    def send(self, to: str, campaign: str, key: str, stream: str = "marketing") -> str:
        """Send until acknowledged, in the background; the mail's id."""
        to = normalise(to).key
        mail = mail_id("default", key, to, "")
        self.wanted[mail] = Sent(to, campaign, "default", stream)
        self.number += 1
        consent = Consent(opens=True, clicks=True)
        send = Send(campaign=campaign, to=to, key=key, name="Anna", variables={"n": key}, consent=consent)
        topic = "mail-sends" + (NOW if stream == "transactional" else "")
        task = asyncio.create_task(self._deposit(topic, encode(send), to.encode(), mail))
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        return mail

    async def _deposit(self, topic: str, value: bytes, key: bytes, mail: str) -> None:
        self.acked[await self._acked(topic, value, key)] = mail

    async def _acked(self, topic: str, value: bytes, key: bytes) -> Place:
        while True:
            producer = self._producer
            try:
                future = await producer.send(self._settings.topic(topic), value, key=key)
                found = await future
                return topic, found.partition, found.offset
            except KafkaError as error:
                await self._renew(producer, error)

    async def _renew(self, producer: Any, error: KafkaError) -> None:
        """A producer that failed once may fail for ever: all go on with a new one."""
        async with self._renewing:
            if producer is not self._producer:
                return
            self._say(f"the load's producer failed ({type(error).__name__}): a new one")
            self._producer = await started(make_producer(self._settings), 300)
        await stopped(producer, 2.0)

    async def _run(self) -> None:
        begun, given = time.monotonic(), 0.0
        while self.number < self._most:
            due = (time.monotonic() - begun) * self._rate
            room = self._backlog - self.open
            for _ in range(min(int(due - given), room, self._most - self.number)):
                await self._next()
            given = float(int(due))
            await asyncio.sleep(TICK)

    async def _next(self) -> None:
        n = self.number
        round_, place = divmod(n, POOL)
        to, key = self._pool[place], f"load-{n}"
        if n % RECEIPTS == 0:
            self.send(to, "receipts", key, "transactional")
            return
        campaign = f"load-{round_}"
        if campaign not in self._begun:
            self._begun.add(campaign)
            await self.campaign(campaign)
        self.send(to, campaign, key)

    # -- readers' acts

    def token(self, mail: str, to: str, campaign: str) -> str:
        """The token in the links of a mail."""
        partition = partition_of(to, self._settings.partitions)
        return self._tokens.mail_token(mail, "default", campaign, "marketing", to, partition)

    async def open_mail(self, mail: str, to: str, campaign: str) -> bool:
        """Load the pixel once; whether the edge answered with success."""
        url = self._tokens.open_url(self._settings.base_url, self.token(mail, to, campaign))
        return await self._request("GET", url, "open", mail)

    async def leave(self, mail: str, to: str, campaign: str, seconds: float = 60.0) -> bool:
        """Unsubscribe with one click; asked again until the edge says yes."""
        self.asked.add(to)
        url = self._tokens.unsubscribe_url(self._settings.base_url, self.token(mail, to, campaign))
        end = time.monotonic() + seconds
        while not await self._request("POST", url, "unsubscribe", mail):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.3)
        return True

    async def _request(self, method: str, url: str, what: str, mail: str) -> bool:
        assert self._http is not None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http.request(method, url) as answer:
                if answer.status < 300:
                    self.acts.append((what, mail))
                    return True
        return False

    # -- following

    def _fatal(self, _code: int, why: str) -> None:
        self.error = why

    def _outcomes(self, messages: Any) -> None:
        for message in messages:
            found = orjson.loads(message.value)
            if found["state"] in ("deferred", "intent") or (
                found["state"] == "unknown" and not found.get("final")
            ):
                continue
            self._ended.add(found["id"])
            if found["state"] == "delivered" and found.get("stream", "marketing") == "marketing":
                self.delivered.append((found["id"], found["to"], found["campaign"]))

    def _suppressions(self, messages: Any) -> None:
        for message in messages:
            if message.value:
                self.rows.append(Row(message.timestamp / 1000, parse(message.value, Suppression)))

    def _events(self, messages: Any) -> None:
        for message in messages:
            found = orjson.loads(message.value)
            if found.get("terminal") and not found.get("attempt") and found.get("reason") != "duplicate":
                self._ended.add(found["mail"])
