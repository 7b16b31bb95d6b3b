"""Records put into topics of a test's own, with all topics applied first."""

from __future__ import annotations

from collections.abc import Iterable

from agents import Out
from schemas.codec import encode, header_list, name_of
from streams import admin
from streams.broker import make_producer
from streams.settings import Settings
from tests.support.brokers import Broker

PARTITIONS = 2


async def applied(broker: Broker, prefix: str) -> Settings:
    """Settings of a broker that has all topics of this prefix now."""
    settings = Settings(
        broker=broker.bootstrap, broker_idempotent=False, prefix=prefix, partitions=PARTITIONS, session=6.0
    )
    await admin.apply(settings)
    return settings


def fact(topic: str, event: object, key: bytes | None = None, partition: int = 0) -> Out:
    """An event as the agents write it."""
    name, version = name_of(type(event))
    headers = {"type": name.encode(), "version": str(version).encode()}
    return Out(topic, encode(event), headers, key, partition)


async def published(settings: Settings, outs: Iterable[Out]) -> list[tuple[int, int]]:
    """Write them one after the other; (offset, timestamp) of each."""
    producer = make_producer(settings)
    await producer.start()
    try:
        found = []
        for out in outs:
            done = await producer.send_and_wait(
                settings.topic(out.topic),
                out.value,
                key=out.key,
                partition=out.partition,
                headers=header_list(out.headers),
            )
            found.append((done.offset, done.timestamp))
        return found
    finally:
        await producer.stop()
