"""What the topics and the providers' ledgers say after a run, as the oracle's ``Books``."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.codec import Record
from schemas.identity import partition_of
from schemas.lanes import lane_names, lane_topic
from schemas.mail import NOW
from streams.admin import configuration
from streams.broker import make_reader, started
from streams.lab.ledger import Take
from streams.lab.ledger import read as read_ledgers
from streams.lab.providers import WorldSettings, chance
from streams.ops.audit import Audit, committed
from streams.ops.chaos.load import Load
from streams.ops.chaos.oracle import Books, Ended, Event, Took
from streams.ops.read import read_to_end
from streams.pipeline import STAGES
from streams.settings import Settings
from streams.topics import BY_NAME

TIMED = ("mail-outcomes", "mail-suppressions")
"""Topics whose records are stamped by the broker here: when it had them is what the oracle asks."""
OUTPUT: Mapping[str, tuple[str, ...]] = {
    "intake": ("mail-screened", "mail-screened" + NOW),
    "compose": tuple(lane_topic(lane) + end for lane in lane_names() for end in ("", NOW)),
    "deliver": ("mail-outcomes",),
    "hygiene": ("mail-events",),
    "edge": ("mail-engagement",),
    "control": ("mail-lane-policy",),
}
"""What a group writes while it works."""
COMPACTED = ("mail-screen-log", "mail-suppressions", "mail-consents", "mail-contacts")
"""State topics that the broker compacts here as it goes, not when a gigabyte is full."""


async def stamp(settings: Settings) -> None:
    """Let the broker stamp TIMED and compact COMPACTED every few seconds; to be called on empty topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await started(admin)
    try:
        for name in {*TIMED, *COMPACTED}:
            values = configuration(BY_NAME[name], settings)
            if name in TIMED:
                values["message.timestamp.type"] = "LogAppendTime"
            if name in COMPACTED:
                values |= {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
            resource = ConfigResource(ConfigResourceType.TOPIC, settings.topic(name), configs=values)
            for answer in await admin.alter_configs([resource]):
                for code, message, *_ in answer.resources:
                    if code:
                        raise RuntimeError(f"{name} could not be configured: {code} {message}")
    finally:
        await admin.close()


def _places(settings: Settings, *topics: str) -> list[tuple[str, int]]:
    return [(topic, p) for topic in topics for p in range(BY_NAME[topic].partitions or settings.partitions)]


async def read_books(
    settings: Settings, world: WorldSettings, ledger: Path, load: Load, found: Audit
) -> Books:
    """All but what the run itself knows (moments, cancellations)."""
    tallies = read_ledgers(ledger)
    takes = [take for tally in tallies.values() for take in tally.taken()]
    books = Books(received=found.received, ends=dict(found.counts), sent=load.wanted)
    books.took = [Took(_mail(t.id), t.rcpt, t.at, t.time, t.replied, t.source) for t in takes]
    books.missing = await _missing(settings, load)
    outcomes: list[Ended] = []
    async for record in read_to_end(settings, _places(settings, "mail-outcomes")):
        o = orjson.loads(record.value or b"")
        outcomes.append(Ended(o["id"], o["state"], record.timestamp / 1000, o.get("reason", "")))
    books.outcomes = outcomes
    events: list[Event] = []
    reported: set[str] = set()
    async for record in read_to_end(settings, _places(settings, "mail-events")):
        e = orjson.loads(record.value or b"")
        events.append(
            Event(e["kind"], e["mail"], e["time"], e.get("to", ""), e.get("reason", ""), e.get("attempt", 0))
        )
    books.events = events
    books.rows = load.rows
    refused = {t.rcpt for tally in tallies.values() for t in tally.tries() if t.code >= 500}
    for take in takes:
        if _fate(world, take.rcpt) == "late_bounce":
            reported.add(take.rcpt)
    books.refused = frozenset(refused | reported)
    books.causes = _causes(world, takes, books.refused, load.asked)
    books.acts = [
        *load.acts,
        *((act.what, _mail(act.id)) for tally in tallies.values() for act in tally.acted()),
    ]
    return books


def _mail(message: str) -> str:
    """The mail's id in the left part of its Message-ID: behind a point stands a hash of the campaign."""
    return message.partition(".")[0]


def _fate(world: WorldSettings, address: str) -> str:
    provider = world.provider_of(address)
    return provider.fate(world.seed, address) if provider else "ok"


def _causes(
    world: WorldSettings, takes: Iterable[Take], refused: frozenset[str], asked: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Address -> reasons for which it may be suppressed: what its provider and its reader did, or the run."""
    found: dict[str, set[str]] = defaultdict(set)
    for address in refused:
        found[address].add("hard_bounce")
    for address in asked:
        found[address].add("unsubscribe")
    for take in takes:
        provider = world.provider_of(take.rcpt)
        if provider is None or not take.marketing:
            continue
        if provider.fate(world.seed, take.rcpt) == "complaint":
            found[take.rcpt].add("complaint")
        if chance(world.seed, "unsubscribe", take.rcpt, take.message) < provider.readers.unsubscribe:
            found[take.rcpt].add("unsubscribe")
    return {address: frozenset(reasons) for address, reasons in found.items()}


async def _missing(settings: Settings, load: Load) -> list[str]:
    """Sends that were acknowledged and do not lie where the broker said."""
    there = set()
    async for record in read_to_end(settings, _places(settings, "mail-sends", "mail-sends" + NOW)):
        there.add((record.topic, record.partition, record.offset))
    return [f"{t}/{p}@{offset}" for t, p, offset in sorted(set(load.acked) - there)]


async def behind(settings: Settings) -> list[str]:
    """Partitions of which a group has not worked off all, with the number of records."""
    found = []
    reader = await started(make_reader(settings))
    try:
        for stage in STAGES:
            topics = list(stage.topics)
            counts = {topic: BY_NAME[topic].partitions or settings.partitions for topic in topics}
            offsets = await committed(settings, stage.name, topics, max(counts.values()))
            places = [TopicPartition(settings.topic(t), p) for t in topics for p in range(counts[t])]
            begins, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
            for (topic, partition), tp in zip(_places(settings, *topics), places, strict=True):
                lag = ends[tp] - max(begins[tp], offsets[topic].get(partition, 0))
                if lag > 0:
                    found.append(f"{stage.name} is {lag} records behind on {topic}/{partition}")
    finally:
        await reader.stop()
    return found


def probes(partitions: int, world: WorldSettings) -> list[str]:
    """An address in every partition whose mails have no other fate than to arrive."""
    found: dict[int, str] = {}
    for number in range(1000):
        address = f"probe-{number}@gmail.test"
        if _fate(world, address) == "ok":
            found.setdefault(partition_of(address, partitions), address)
    return list(found.values())


class Flow:
    """When each group wrote to each of its partitions, and so how soon it went on after a fault."""

    def __init__(self, times: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
        """``times``: group -> partition -> sorted Unix seconds."""
        self._times = times

    def recovery(
        self, group: str, struck: float, until: float, healed: float = 0.0, skip: float = 0.3
    ) -> float | None:
        """Seconds from ``healed`` (or ``struck``) until all partitions of the group that had flowed shortly
        before ``struck`` flow again.

        What was written within ``skip`` seconds was on its way already. A partition that stays silent up
        to ``until`` counts until then; None where nothing had flowed.
        """
        waits, start = [], healed or struck
        for times in self._times.get(group, {}).values():
            at = bisect_right(times, struck)
            if not at or times[at - 1] < struck - 5.0:
                continue
            after = bisect_right(times, start + skip)
            waits.append((times[after] if after < len(times) else until) - start)
        return max(waits) if waits else None


def _of_group(record: Record, group: str) -> bool:
    """Screen writes events too, of mails that were never tried; wait writes to the lanes again."""
    if group == "hygiene":
        return bool(orjson.loads(record.value or b"{}").get("attempt"))
    return group != "compose" or record.number("attempt", 1) == 1


async def read_flow(settings: Settings) -> Flow:
    """The times of all that the groups wrote."""
    found: dict[str, dict[int, list[float]]] = {}
    for group, topics in OUTPUT.items():
        times: dict[int, list[float]] = defaultdict(list)
        async for record in read_to_end(settings, _places(settings, *topics)):
            if _of_group(record, group):
                times[record.partition].append(record.timestamp / 1000)
        found[group] = {partition: sorted(each) for partition, each in times.items()}
    return Flow(found)


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Median and worst."""
    ordered = sorted(seconds)
    if not ordered:
        return {"median": 0.0, "worst": 0.0}
    return {"median": round(median(ordered), 2), "worst": round(ordered[-1], 2)}
