"""Brokers for tests: the launchers of ``streams.lab.brokers``, shared over a session and tidied up.

A test may kill and restart a shared broker; ``heal`` starts what was left dead. A test that needs other
server settings, or a broker to itself, uses the launchers directly: ``async with ApacheBroker() as b``.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.new_topic import NewTopic

from streams.lab.brokers import (
    BROKERS,
    ApacheBroker,
    Broker,
    BrokerFailed,
    BrokerUnavailable,
    EmbeddedBroker,
    answers,
)

__all__ = [
    "BROKERS",
    "ApacheBroker",
    "Broker",
    "BrokerFailed",
    "BrokerUnavailable",
    "EmbeddedBroker",
    "SessionBrokers",
    "admin",
    "create_topics",
]


@contextlib.asynccontextmanager
async def admin(broker: Broker):
    """A connected admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create_topics(broker: Broker, *names: str, partitions: int = 1, **configs: str) -> None:
    """Create topics and return when their partitions have leaders: a new topic refuses a moment long.

    Keyword arguments are topic settings, with _ for each dot: ``cleanup_policy="compact"``.
    """
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    async with admin(broker) as client:
        await client.create_topics([NewTopic(n, partitions, 1, topic_configs=settings) for n in names])
    while not await answers(broker.bootstrap, dict.fromkeys(names, partitions)):
        await asyncio.sleep(0.05)


class SessionBrokers:
    """The brokers of one test session, each started when first asked for. Methods block."""

    def __init__(self) -> None:
        self._started: dict[str, Broker] = {}

    def get(self, name: str) -> Broker:
        """``embedded`` or ``apache``, running. Raises BrokerUnavailable, BrokerFailed."""
        if name not in self._started:
            broker = BROKERS[name]()
            asyncio.run(broker.start())
            self._started[name] = broker
        return self._started[name]

    def heal(self) -> None:
        """Start again what a test killed and left dead."""
        for broker in self._started.values():
            if not broker.running:
                asyncio.run(broker.start())

    def drop_topics(self, prefix: str) -> None:
        """Delete a test's topics, so that the broker stays as quick to restart as at the beginning."""
        asyncio.run(self._drop_topics(prefix))

    async def _drop_topics(self, prefix: str) -> None:
        for broker in self._started.values():
            async with admin(broker) as client:
                if names := [topic for topic in await client.list_topics() if topic.startswith(prefix)]:
                    await client.delete_topics(names)

    def stop(self) -> None:
        for broker in self._started.values():
            asyncio.run(broker.stop())
