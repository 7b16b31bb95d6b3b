"""Topics as the table says: applied by an operator's command, checked by every worker at its start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas.codec import Malformed, encode, parse
from schemas.lanes import lane_names
from schemas.topology import Topology
from streams.broker import make_producer, make_reader, started
from streams.settings import Settings
from streams.topic_settings import alter, differences
from streams.topics import TOPICS, Topic

log = logging.getLogger("mailsluice.admin")
DAY_MS = 86_400_000
KEPT_TOMBSTONES = 2 * DAY_MS
"""Milliseconds for which a deletion stays on a compacted topic: who follows it and was away for longer must read
it from its start (``streams.state.UNATTENDED``)."""
LOOK = 60.0
"""Seconds between looks at the topology record."""


class WrongTopology(Exception):
    """The topics are not what this version works on. The text says what to do."""


@dataclass(slots=True)
class Applied:
    """What ``apply`` found and did: topic names; settings that were changed, that an operator had raised, and
    that the broker did not take."""

    created: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)


def configuration(topic: Topic, settings: Settings) -> dict[str, str]:
    """The broker's settings of a topic. Flow topics keep twice the longest lifetime and are never compacted.

    A broker deletes and compacts whole segments, never the one that is being written: a new one each day bounds
    how long after its time anything stays.
    """
    found = {
        "max.message.bytes": str(settings.largest + 262_144),
        "compression.type": "producer",
        "message.timestamp.type": "LogAppendTime" if topic.append_time else "CreateTime",
        "segment.ms": str(DAY_MS),
    }
    if settings.replication >= 3:
        found["min.insync.replicas"] = "2"
    if topic.kept == "compact":
        found["cleanup.policy"] = "compact"
    else:
        days = 30 * DAY_MS if topic.kept == "events" else int(settings.lifetime * 2000) + 7 * DAY_MS
        found |= {"cleanup.policy": "delete", "retention.ms": str(max(days, DAY_MS))}
    if topic.name == "mail-screen-log":
        # Compacted, and rows beyond gate one's horizon go by time: no tombstones to write.
        found |= {
            "cleanup.policy": "compact,delete",
            "retention.ms": str(int(settings.screen_horizon * 2000)),
        }
    if "compact" in found["cleanup.policy"]:
        lag = int(settings.compacted_within * 1000)
        found |= {
            "max.compaction.lag.ms": str(lag),
            "segment.ms": str(min(lag, DAY_MS)),
            "delete.retention.ms": str(KEPT_TOMBSTONES),
        }
    return found


async def apply(settings: Settings, seconds: float = 60.0) -> Applied:
    """Create what is missing, write the topology record, wait until every partition has a leader; then set what
    the settings of topics lack that were there.

    Never deletes or shrinks: what an operator raised stays. Raises WrongTopology where an existing topic has another partition count.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","), client_id="mailsluice-admin")
    await started(admin, seconds)
    applied = Applied()
    try:
        old = await read_topology(settings, missing_ok=True)
        if old is not None and old.lanes != lane_names():  # before a topic of other lanes is made
            raise WrongTopology(_LANES.format(theirs=", ".join(old.lanes), ours=", ".join(lane_names())))
        partitions = old.partitions if old else settings.partitions
        present = set(await admin.list_topics())
        wanted = {settings.topic(topic.name): topic for topic in TOPICS}
        new = [
            NewTopic(
                name=name,
                num_partitions=topic.partitions or partitions,
                replication_factor=settings.replication,
                topic_configs=configuration(topic, settings),
            )
            for name, topic in wanted.items()
            if name not in present
        ]
        applied.present = sorted(set(wanted) & present)
        if applied.present:  # refused before anything is made beside them
            there = {name: wanted[name] for name in applied.present}
            await _wait_for_leaders(admin, there, partitions, seconds, exact=old is None)
        # In groups: a broker with hundreds of partitions to make answers late, not wrong.
        for start in range(0, len(new), 20):
            group = new[start : start + 20]
            response = await admin.create_topics(group, timeout_ms=30_000)
            for name, code, *_ in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    applied.faults.append(f"{name}: {error.__name__}")
                else:
                    applied.created.append(name)
        if applied.faults:
            raise WrongTopology("could not create: " + "; ".join(applied.faults))
        await _wait_for_leaders(admin, wanted, partitions, seconds, exact=old is None)
        tables = {name: configuration(wanted[name], settings) for name in applied.present}
        await _put_right(admin, tables, applied)
    finally:
        await admin.close()
    if old is None:
        await _write_topology(settings, Topology(partitions=partitions, lanes=lane_names()))
    return applied


async def _put_right(
    admin: AIOKafkaAdminClient, tables: dict[str, dict[str, str]], applied: Applied, seconds: float = 10.0
) -> None:
    found = await differences(admin, tables)
    applied.raised = [str(each) for each in found if each.raised]
    wrong = [each for each in found if not each.raised]
    applied.faults = await alter(admin, wrong)
    left, end = wrong, time.monotonic() + (0.0 if applied.faults else seconds)
    while left:  # a broker learns from its controller what another one was told
        left = [each for each in await differences(admin, tables) if not each.raised]
        if time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    applied.differ = [str(each) for each in left]
    applied.changed = [str(each) for each in wrong if each not in left]


_LANES = (
    "mail-topology lists the lanes {theirs}; this version works on {ours}. "
    "Drain the pipeline, then migrate (see deploy/README.md, 'Changing P or the lanes')"
)


async def _wait_for_leaders(
    admin: AIOKafkaAdminClient, wanted: dict[str, Topic], partitions: int, seconds: float, exact: bool
) -> None:
    """``exact``: the topology is about to be written, so P must be what producers see, not less."""
    end = time.monotonic() + seconds
    while True:
        found = await admin.describe_topics(list(wanted))
        waiting, wrong = [], []
        for topic in found:
            expected = wanted[topic["topic"]].partitions or partitions
            count = len(topic["partitions"])
            if topic["error_code"] or any(p["error_code"] or p["leader"] < 0 for p in topic["partitions"]):
                waiting.append(topic["topic"])
            elif count < expected or (exact and count != expected):
                wrong.append(f"{topic['topic']} has {count} partitions instead of {expected}")
        if wrong:
            raise WrongTopology("; ".join(wrong) + ". Changing P is a migration: see deploy/README.md")
        if not waiting and len(found) == len(wanted):
            return
        if time.monotonic() > end:
            raise WrongTopology(f"no leader after {seconds:.0f} s for: {', '.join(sorted(waiting)[:10])}")
        await asyncio.sleep(0.2)


async def _write_topology(settings: Settings, topology: Topology) -> None:
    producer = make_producer(settings)
    await started(producer)
    try:
        await producer.send_and_wait(
            settings.topic("mail-topology"),
            encode(topology),
            key=b"topology",
            partition=0,
            headers=[("type", b"topology"), ("version", b"1")],
        )
    finally:
        await producer.stop()


async def read_topology(
    settings: Settings, missing_ok: bool = False, seconds: float = 30.0
) -> Topology | None:
    """The topology record. Raises WrongTopology where there is none, unless ``missing_ok``; KafkaError where
    no broker answers within ``seconds``."""
    reader = make_reader(settings)
    await started(reader, seconds)
    tp = TopicPartition(settings.topic("mail-topology"), 0)
    found: Topology | None = None
    try:
        known = await reader.topics()
        if tp.topic in known:
            reader.assign([tp])
            end = (await reader.end_offsets([tp]))[tp]
            begin = (await reader.beginning_offsets([tp]))[tp]
            reader.seek(tp, begin)
            position = begin
            while position < end:
                for batch in (await reader.getmany(timeout_ms=500)).values():
                    for message in batch:
                        position = message.offset + 1
                        if message.value:
                            found = parse(message.value, Topology)
    finally:
        await reader.stop()
    if found is None and not missing_ok:
        raise WrongTopology(
            f"{tp.topic} holds no topology record on {settings.broker}: run `mailsluice topics apply` first"
        )
    return found


async def check(settings: Settings, seconds: float = 30.0) -> Topology:
    """The topology that this worker may run on. Raises WrongTopology otherwise; KafkaError where no broker
    answers within ``seconds``: a person at a terminal waits less patiently than a worker."""
    found = await read_topology(settings, seconds=seconds)
    assert found is not None
    if found.lanes != lane_names():
        raise WrongTopology(_LANES.format(theirs=", ".join(found.lanes), ours=", ".join(lane_names())))
    return found


async def watch(settings: Settings, mine: Topology, fatal: Callable[[int, str], Any]) -> None:
    """Look at the topology record again and again; ``fatal`` where it is not the one that we started on.

    Workers of two counts in one group would divide recipients in two ways at once.
    """
    while True:
        await asyncio.sleep(LOOK)
        try:
            found = await read_topology(settings, missing_ok=True)
        except (KafkaError, Malformed) as error:
            log.warning("could not read the topology record: %r", error)
            continue
        if found is None:
            log.error("%s holds no topology record any more", settings.topic("mail-topology"))
        elif found != mine:
            fatal(
                78,
                f"mail-topology says P={found.partitions} and {len(found.lanes)} lanes now; this worker runs on "
                f"P={mine.partitions} and {len(mine.lanes)}: stop all workers, drain, then start them anew",
            )
            return


async def add_partitions(settings: Settings, topic: str, total: int) -> None:
    """Grow a topic (tests and operators' accidents; P does not follow)."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await started(admin)
    try:
        await admin.create_partitions({settings.topic(topic): NewPartitions(total)})
    finally:
        await admin.close()


def describe(settings: Settings) -> bytes:
    """The table as JSON lines, for ``topics list --json``."""
    return b"\n".join(
        orjson.dumps(
            {
                "topic": settings.topic(topic.name),
                "event": topic.event,
                "what": topic.what,
                "partitions": topic.partitions or "P",
                "kept": topic.kept,
                "outside": topic.outside,
                "dlq": topic.dlq,
            }
        )
        for topic in TOPICS
    )


__all__ = [
    "Applied",
    "KafkaError",
    "WrongTopology",
    "apply",
    "check",
    "configuration",
    "describe",
    "read_topology",
    "watch",
]
