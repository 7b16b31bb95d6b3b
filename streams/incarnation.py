"""Is a partition still the log that we read before? A topic made anew has the same name and other records.

The broker tells no topic ids to this client (Metadata v5), so what was read is remembered by its own
marks: offset and checksum of a record. With each commit go two of them as the offset's metadata: a record
just below the position, which tells a log that lost its end and grew again, and the *anchor*, an older one
that was confirmed to be there still, which tells a topic that was deleted and made anew under a running
worker and has been read on since. A worker looks for them when it opens a partition and once a minute.

A mark is a hint, never truth: where there is none (the embedded broker drops metadata), or its record has
gone by retention or compaction, nothing is compared.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError, OffsetOutOfRangeError

from streams.broker import let_go, make_reader, started, stopped
from streams.settings import Settings
from streams.topics import BY_NAME

AT_ONCE = 64
"""Partitions looked at in one go: each may answer with a batch of records."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One record as it was read."""

    offset: int
    checksum: int


def mark_of(message: Any) -> Mark:
    """The mark of an aiokafka ConsumerRecord: its time, size, key and the beginning of its value."""
    value = message.value or b""
    told = b"%d %d %b " % (message.timestamp, len(value), message.key or b"")
    return Mark(message.offset, zlib.crc32(value[:1024], zlib.crc32(told)))


def write_marks(marks: Sequence[Mark]) -> str:
    """Marks as text without spaces around, one word each."""
    return " ".join(f"{mark.offset}:{mark.checksum:x}" for mark in marks)


def read_marks(text: str) -> list[Mark]:
    """The marks among the words of a text; other words are passed over."""
    found = []
    for word in text.split():
        offset, colon, checksum = word.partition(":")
        if colon and offset.isascii() and offset.isdigit() and len(word) < 40:
            try:
                found.append(Mark(int(offset), int(checksum, 16)))
            except ValueError:
                continue
    return found


class Marks:
    """What is remembered of one partition. ``anchor``: the older mark, confirmed since it was taken."""

    def __init__(self, known: Sequence[Mark] = ()) -> None:
        self.anchor = known[0] if known else None
        self._recent = deque(known[-1:])

    def saw(self, message: Any) -> None:
        """Called with the last record of each batch."""
        self._recent.append(mark_of(message))

    def newest(self, position: int) -> Mark | None:
        """The newest mark below ``position``, which never falls."""
        recent = self._recent
        while len(recent) > 1 and recent[1].offset < position:
            recent.popleft()
        return recent[0] if recent and recent[0].offset < position else None

    def at(self, position: int) -> list[Mark]:
        """What goes with a commit of ``position``: the anchor, and the newest mark below it."""
        newest = self.newest(position)
        if newest is None:
            return [] if self.anchor is None else [self.anchor]
        self.anchor = self.anchor or newest
        return [newest] if newest == self.anchor else [self.anchor, newest]


def make_glance(settings: Settings) -> AIOKafkaConsumer:
    """A reader of single records: with a megabyte of each partition, all of them took deliver 50 MB a minute."""
    return make_reader(settings, 65_536)


async def strangers(
    settings: Settings,
    marks: Mapping[TopicPartition, Sequence[Mark]],
    make: Callable[[Settings], AIOKafkaConsumer] = make_glance,
    seconds: float = 30.0,
) -> list[str]:
    """Marks whose place in the log is taken by another record, or by none: one sentence each.

    Raises KafkaError where the broker does not answer within ``seconds``.
    """
    if not marks:
        return []
    reader = make(settings)
    try:
        await started(reader, seconds)
        starts = await reader.beginning_offsets(list(marks))
        end = time.monotonic() + seconds
        told: list[str] = []
        for turn in range(max(map(len, marks.values()), default=0)):
            # Below the log's start a mark tells nothing: its record has gone by retention.
            wanted = {
                tp: found[turn]
                for tp, found in marks.items()
                if turn < len(found) and found[turn].offset >= starts[tp]
            }
            tps = sorted(wanted)
            for begin in range(0, len(tps), AT_ONCE):
                some = {tp: wanted[tp] for tp in tps[begin : begin + AT_ONCE]}
                told += await _compare(reader, some, end, settings.prefix)
        return told
    finally:
        await stopped(reader)


async def _compare(
    reader: AIOKafkaConsumer, marks: dict[TopicPartition, Mark], end: float, prefix: str
) -> list[str]:
    told: list[str] = []
    waiting = dict(marks)
    reader.assign(list(waiting))
    for tp, mark in waiting.items():
        reader.seek(tp, mark.offset)
    while waiting:
        if time.monotonic() > end:
            raise KafkaTimeoutError(f"no answer about {', '.join(map(str, sorted(waiting)))}")
        found: dict[TopicPartition, list[Any]] = {}
        gone: set[TopicPartition] = set()
        try:
            found = await reader.getmany(*waiting, timeout_ms=200, max_records=1)
        except OffsetOutOfRangeError as error:
            gone = set(error.args[0])
        for tp in [tp for tp in waiting if tp not in found]:
            high = reader.highwater(tp)
            if tp in gone or (high is not None and waiting[tp].offset >= high):
                told.append(
                    f"{tp.topic}/{tp.partition} ends before {waiting[tp].offset}, which was read once"
                )
                del waiting[tp]
        for tp, messages in found.items():
            mark, first = waiting.pop(tp), messages[0]
            if not _same(mark, first, tp, prefix):
                told.append(
                    f"{tp.topic}/{tp.partition}@{mark.offset} is another record than the one read there once"
                )
            reader.pause(tp)
        let_go(reader, found)
    return told


def _same(mark: Mark, found: Any, tp: TopicPartition, prefix: str) -> bool:
    if found.offset == mark.offset:
        return mark_of(found) == mark
    topic = BY_NAME.get(tp.topic.removeprefix(prefix))
    # Where nothing is compacted, a record that was read stays until the log's start passes it.
    return topic is not None and topic.kept == "compact"


__all__ = ["Mark", "Marks", "mark_of", "read_marks", "strangers", "write_marks"]
