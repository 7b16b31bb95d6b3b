"""The oracle: reads the topics and says what became of every send received (design, "Nothing lost", 9).

    received = delivered + bounced + expired + cancelled + suppressed + rejected
             + dead-lettered + unknown + pending          and what is missing is *lost*

Each origin counts once: its terminal outcome; else pending, if a copy of it lies uncommitted in a flow
topic (counted, never the remainder); else dead-lettered or unknown; else lost. Gate two overrules the
stages before it, and a DSN overrules a 250. A dead letter that is replayed has the origin that it had: it
is not received a second time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from agents.deliver.row import newer, read_row, reduce_outcome
from schemas.codec import Record
from schemas.mail import NOW, base_topic
from schemas.outcome import TERMINAL
from schemas.replay import Replays
from streams.admin import check
from streams.broker import started
from streams.ops.origins import origin_of_letter, origin_of_send
from streams.ops.read import read_to_end
from streams.pipeline import STAGES
from streams.settings import Settings

ENDS = (
    "delivered",
    "bounced",
    "expired",
    "cancelled",
    "suppressed",
    "rejected",
    "dead_lettered",
    "unknown",
    "pending",
    "lost",
)
LOOKS = 3
"""Times that mail which seems lost is looked for: it may go round, from the ladder to its lane and back."""
COORDINATOR_TRIES = 30
"""Questions for a group's coordinator, half a second apart."""
FLOW = ("enqueue", "screen", "render", "sign", "deliver", "wait")


@dataclass
class Story:
    """What is known of one origin."""

    row: bytes = b""
    """Gate two's word, as its rows keep it."""
    event: str = ""
    """The kind of a terminal event of a stage before gate two."""
    dsn: bool = False
    pending: bool = False
    dead: bool = False

    def end(self) -> str:
        """How it ended."""
        if self.row:
            state = reduced_state(self.row)
            if state in TERMINAL or self.row[:1] == b"U":
                return "bounced" if self.dsn and state == "delivered" else state
        elif self.event:
            return self.event
        if self.pending:
            return "pending"
        if self.dead:
            return "dead_lettered"
        if self.row and reduced_state(self.row) == "unknown":
            return "unknown"
        return "lost"


@dataclass
class Audit:
    """The balance. ``duplicates``: more than one delivered outcome journaled for an origin."""

    received: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    by_campaign: dict[str, Counter[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    strangers: int = 0
    """Outcomes of mails that are not among the received: of another window or campaign."""
    bounced_late: int = 0
    """Taken with a 250, then bounced by a DSN."""
    seconds: float = 0.0

    @property
    def balanced(self) -> bool:
        """Whether nothing is lost."""
        return self.counts["lost"] == 0 and self.received == sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For ``--json`` and reports."""
        found: dict[str, Any] = {"received": self.received}
        found |= {end: self.counts[end] for end in ENDS}
        found |= {
            "balanced": self.balanced,
            "bounced_late": self.bounced_late,
            "strangers": self.strangers,
            "seconds": round(self.seconds, 2),
        }
        if self.lost:
            found["lost_origins"] = self.lost[:20]
        return found


def reduced_state(row: bytes) -> str:
    """The state in a row."""
    return read_row(row).state


async def read_topic(
    settings: Settings, topic: str, partitions: int, start: dict[int, int] | None = None
) -> AsyncIterator[Record]:
    """Every record of a topic from its start (or ``start`` by partition) to its present end. Raises NoAnswer."""
    places = [(topic, p) for p in range(partitions)]
    starts = {(topic, p): offset for p, offset in (start or {}).items()}
    async for record in read_to_end(settings, places, starts):
        yield record


async def committed(
    settings: Settings, stage: str, topics: list[str], partitions: int
) -> dict[str, dict[int, int]]:
    """Committed offsets of a stage's group: topic -> partition -> offset."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await started(admin)
    try:
        tps = [TopicPartition(settings.topic(t), p) for t in topics for p in range(partitions)]
        group = settings.prefix + "mailsluice-" + stage
        for patience in range(COORDINATOR_TRIES, -1, -1):
            try:
                offsets = await admin.list_consumer_group_offsets(group, partitions=tps)
                break
            except GroupCoordinatorNotAvailableError:
                # A broker whose first group this is makes its offsets topic now.
                if not patience:
                    raise
                await asyncio.sleep(0.5)
    finally:
        await admin.close()
    found: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    for tp, meta in offsets.items():
        found[tp.topic.removeprefix(settings.prefix)][tp.partition] = max(0, meta.offset)
    return found


async def audit(
    settings: Settings, since: float = 0.0, until: float = float("inf"), campaign: str = ""
) -> Audit:
    """Balance all sends received in [since, until) (Unix seconds), or only one campaign's. Raises NoSecret."""
    begun = time.monotonic()
    topology = await check(settings)
    count = topology.partitions
    replays = Replays.of(settings.secret)
    result = Audit()
    stories: dict[str, Story] = {}
    names: dict[str, str] = {}
    for topic in ("mail-sends", "mail-sends" + NOW):
        async for m in read_topic(settings, topic, count):
            if not since <= m.timestamp / 1000 < until:
                continue
            name = _campaign_of(m.value) if campaign else ""
            if campaign and name != campaign:
                continue
            origin, again = origin_of_send(m, replays)
            if again:
                continue
            stories[origin] = Story()
            names[origin] = name
    result.received = len(stories)
    at: dict[str, dict[int, int]] = defaultdict(dict)
    await _read_ends(settings, count, stories, result, replays, at)
    for _ in range(LOOKS):
        if all((s.row and reduced_state(s.row) in TERMINAL) or s.event for s in stories.values()):
            break
        await _read_pending(settings, count, stories, replays)
        # What ended in between was pending no more, and had not ended before: its end is in what has come since.
        await _read_ends(settings, count, stories, result, replays, at)
        # What left the ladder for its lane after the lanes were looked at, and before the ladder, was in neither.
        if not any(story.end() == "lost" for story in stories.values()):
            break
    for origin, story in stories.items():
        end = story.end()
        result.counts[end] += 1
        result.bounced_late += story.dsn and end == "bounced"
        if end == "lost":
            result.lost.append(origin)
    result.seconds = time.monotonic() - begun
    return result


def _campaign_of(value: bytes | None) -> str:
    try:
        found = orjson.loads(value or b"{}").get("campaign")
    except (orjson.JSONDecodeError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


async def _read_ends(
    settings: Settings,
    count: int,
    stories: dict[str, Story],
    result: Audit,
    replays: Replays | None,
    at: dict[str, dict[int, int]],
) -> None:
    """Ends from ``at`` on (topic -> partition -> offset), which then says how far they were read."""

    async def read(topic: str, partitions: int) -> AsyncIterator[Record]:
        async for record in read_topic(settings, topic, partitions, dict(at[topic])):
            at[topic][record.partition] = record.offset + 1
            yield record

    async for m in read("mail-outcomes", count):
        outcome = orjson.loads(m.value or b"")
        story = stories.get(outcome.get("origin", ""))
        if story is None:
            result.strangers += 1
            continue
        row, _ = reduce_outcome(m.value or b"")
        if not story.row or newer(story.row, row):
            story.row = row
    async for m in read("mail-events", count):
        event = orjson.loads(m.value or b"")
        story = stories.get(event.get("origin", ""))
        if story is None:
            continue
        if event["kind"] == "bounced" and event.get("reason") == "late_dsn":
            story.dsn = True
        elif event.get("terminal") and not event.get("attempt"):
            story.event = event["kind"]
    for topic in ("mail-dlq", "mail-sends-dlq"):
        async for m in read(topic, 1):
            story = stories.get(origin_of_letter(m, replays))
            if story is not None:
                story.dead = True


async def _read_pending(
    settings: Settings, count: int, stories: dict[str, Story], replays: Replays | None
) -> None:
    """Origins that have an uncommitted copy in a flow topic."""
    for stage in STAGES:
        if stage.name not in FLOW:
            continue
        offsets = await committed(settings, stage.name, list(stage.topics), count)
        for topic, starts in offsets.items():
            async for m in read_topic(settings, topic, count, starts):
                if base_topic(topic) == "mail-sends":
                    origin, _ = origin_of_send(m, replays)
                else:
                    origin = dict(m.headers).get("origin", b"").decode("utf-8", "replace")
                story = stories.get(origin)
                if story is not None:
                    story.pending = True


async def wait_until_done(settings: Settings, seconds: float, every: float = 1.0) -> Audit:
    """Audit again and again until nothing is pending, or the time is over."""
    end = time.monotonic() + seconds
    while True:
        found = await audit(settings)
        if (not found.counts["pending"] and not found.counts["lost"]) or time.monotonic() > end:
            return found
        await asyncio.sleep(every)
