"""Finds mail that waits, in lanes and on the ladder, and copies what an operator wants elsewhere.

Why a copy is safe (design, "Nothing lost", 6): it has the id and the attempt of its original, in the same
partition. Whichever of the two deliver takes second is a repeat, or meets the first one's reservation and
waits. So a scan that is killed, or run twice, loses nothing and sends nothing twice. What ends goes down
the lane as a verdict: deliver alone ends a mail.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer

from agents import Out
from agents.wait.policy import MAY_GO_TO
from schemas.codec import Malformed, Record, decode, encode, header_list, name_of
from schemas.hold import Command
from schemas.ladder import off_ladder
from schemas.lanes import lane_topic
from schemas.mail import NOW, base_topic, is_verdict, verdict
from streams.broker import make_producer, started
from streams.ops.audit import committed
from streams.ops.read import Place, read_to_end
from streams.pipeline import BY_NAME
from streams.settings import Settings

SETTLE = 2.0
"""Seconds after which every worker has seen what was published: what it wrote before is found by the scan."""
IN_FLIGHT, IN_FLIGHT_BYTES = 5_000, 32_000_000
"""Copies that may wait for their acknowledgement."""
POLICY = "mail-lane-policy"
T = TypeVar("T")
Act = Callable[[Record], Out | None]
"""What follows from a record that was selected; None: nothing."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which mail is meant: every field that is not empty must fit."""

    campaign: str = ""
    tenant: str = ""
    domain: str = ""
    provider: str = ""
    source: str = ""

    def matches(self, record: Record) -> bool:
        """Whether the mail of a flow record is meant. ``provider``: its name, or its lane's; ``source``: of
        the last attempt, so that mail which was never tried has none."""
        return (
            (not self.campaign or record.text("campaign") == self.campaign)
            and (not self.tenant or record.text("tenant", "default") == self.tenant)
            and (not self.domain or record.text("to").rpartition("@")[2] == self.domain)
            and (not self.provider or self.provider in (record.text("provider"), record.text("lane")))
            and (not self.source or record.text("tried") == self.source)
        )

    def as_dict(self) -> dict[str, str]:
        """What was given, for the audit."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name))}


# -- what is done with a record; pure


def aim(record: Record) -> str:
    """The topic where a waiting mail goes on: that of its ladder slip, or the lane it lies on; "" for a slip
    that no stage of ours wrote."""
    if not on_ladder(record):
        return record.topic
    found = record.text("next")
    return found if found in MAY_GO_TO else ""


def on_ladder(record: Record) -> bool:
    """Whether the record lies on a rung."""
    return record.topic.startswith("mail-wait-")


def resume(record: Record) -> Out | None:
    """What waits for somebody's pause goes on: should another one hold it too, it comes back."""
    return _copy(record) if on_ladder(record) and "held" in record.headers else None


def release(record: Record) -> Out | None:
    """What waits for its campaign's canary goes on, held already or still on its way to the first look."""
    return _copy(record) if on_ladder(record) and record.headers.get("canary") == b"rest" else None


def retry_now(scheduled: bool = False) -> Act:
    """What waits for its time goes on; what was not due for the first time (next: gate one's output) only if
    ``scheduled``."""

    def act(record: Record) -> Out | None:
        first = base_topic(aim(record)) == "mail-screened"
        return _copy(record) if on_ladder(record) and (scheduled or not first) else None

    return act


def end(outcome: str, reason: str, detail: str) -> Act:
    """A verdict with the mail's id and attempt. It takes the transactional twin, which is read first: the
    mail itself may lie in a long lane, and must not go out before its end is known."""

    def act(record: Record) -> Out | None:
        topic = base_topic(aim(record))
        if not topic or is_verdict(record):
            return None
        headers = verdict(off_ladder(record.headers), outcome, reason, detail)
        return Out(topic + NOW, None, headers, record.key, record.partition)

    return act


def move(lane: str = "", sources: str = "") -> Act:
    """The mail goes on in another lane's topic, or from other sources (names, separated by commas).

    The partition stays: all lanes are partitioned by recipient, so that it is the same worker's."""

    def act(record: Record) -> Out | None:
        topic = aim(record)
        if not topic.startswith("mail-lane-"):
            return None
        headers = off_ladder(record.headers)
        if sources:
            headers["sources"] = sources.encode()
        if lane:
            headers["lane"] = lane.encode()
            topic = lane_topic(lane) + (NOW if topic.endswith(NOW) else "")
        if topic == record.topic and headers == record.headers:
            return None
        return Out(topic, record.value, headers, record.key, record.partition)

    return act


def _copy(record: Record) -> Out | None:
    topic = aim(record)
    if not topic:
        return None
    return Out(topic, record.value, off_ladder(record.headers), record.key, record.partition)


# -- reading and writing


@dataclass(slots=True)
class Found:
    """What a scan did. ``seen``: records read; ``matched``: distinct mails selected."""

    seen: int = 0
    matched: int = 0
    copied: int = 0
    by_topic: Counter[str] = field(default_factory=Counter)

    def as_counts(self) -> dict[str, int]:
        """For the audit."""
        return {"seen": self.seen, "matched": self.matched, "copied": self.copied}


async def waiting_from(settings: Settings, partitions: int, stages: Iterable[str]) -> dict[Place, int]:
    """Where what these stages have not done yet begins: their committed offsets."""
    found: dict[Place, int] = {}
    for stage in stages:
        offsets = await committed(settings, stage, list(BY_NAME[stage].topics), partitions)
        found |= {(topic, p): at for topic, by in offsets.items() for p, at in by.items()}
    return found


async def scan(
    settings: Settings,
    producer: AIOKafkaProducer,
    starts: dict[Place, int],
    selection: Selection,
    act: Act,
    again: float = SETTLE,
) -> Found:
    """Read from ``starts`` to the end, write what ``act`` makes of each selected record; wait ``again``
    seconds and read what has come since. Returns when all is acknowledged. Raises KafkaError, NoAnswer.

    Of copies of one attempt one is enough. Bodies are let go record by record.
    """
    found, done, at = Found(), set[int](), dict(starts)
    writer = _Writer(settings, producer)
    for wait in (0.0, again):
        await asyncio.sleep(wait)
        async for record in read_to_end(settings, list(at), at):
            at[(record.topic, record.partition)] = record.offset + 1
            found.seen += 1
            if not selection.matches(record):
                continue
            out = act(record)
            name = hash((record.text("id"), record.text("attempt", "1")))
            if out is None or name in done:
                continue
            done.add(name)
            found.matched += 1
            found.by_topic[record.topic] += 1
            await writer.write(out)
    await writer.flush()
    found.copied = writer.written
    return found


class _Writer:
    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._settings, self._producer = settings, producer
        self._flying: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._bytes = 0
        self.written = 0

    async def write(self, out: Out) -> None:
        size = len(out.value or b"") + 1000
        self._flying.append((await put(self._settings, self._producer, out), size))
        self._bytes += size
        while len(self._flying) > IN_FLIGHT or self._bytes > IN_FLIGHT_BYTES:
            await self._landed()

    async def flush(self) -> None:
        while self._flying:
            await self._landed()

    async def _landed(self) -> None:
        future, size = self._flying.popleft()
        await future
        self._bytes -= size
        self.written += 1


async def put(settings: Settings, producer: AIOKafkaProducer, out: Out) -> asyncio.Future[Any]:
    """Hand a record to the producer; the future ends with its acknowledgement."""
    # As the workers' outbox writes it: a record without a body is an empty one.
    value = b"" if out.value is None and out.key is None else out.value
    sent: asyncio.Future[Any] = await producer.send(
        settings.topic(out.topic),
        value,
        key=out.key,
        partition=out.partition,
        headers=header_list(out.headers),
    )
    return sent


async def facts(settings: Settings, cls: type[T]) -> AsyncIterator[T]:
    """The events of one class on the policy topic, oldest first; what cannot be read is left out."""
    kind, _ = name_of(cls)
    async for record in read_to_end(settings, [(POLICY, 0)]):
        if not record.value or record.headers.get("type") != kind.encode():
            continue
        try:
            found = decode(record, kind)
        except Malformed:
            continue
        if isinstance(found, cls):
            yield found


def fact(event: Any) -> Out:
    """A hold or command as a record of the policy topic."""
    name, version = name_of(type(event))
    headers = {"type": name.encode(), "version": b"%d" % version}
    return Out(POLICY, encode(event), headers, event.key, 0)


@asynccontextmanager
async def audited(
    settings: Settings, command: Command
) -> AsyncIterator[tuple[AIOKafkaProducer, dict[str, int]]]:
    """(producer, counts to fill): the command is on record before its body runs, and once more with its
    counts when that has ended well."""
    producer = make_producer(settings)
    await started(producer)
    counts: dict[str, int] = {}
    try:
        await (await put(settings, producer, fact(command)))
        yield producer, counts
        await (
            await put(
                settings,
                producer,
                fact(
                    Command(
                        what=command.what,
                        on=command.on,
                        who=command.who,
                        why=command.why,
                        time=command.time,
                        done=True,
                        counts=counts,
                    )
                ),
            )
        )
    finally:
        await producer.stop()
