"""Reads chosen partitions of topics to their present end: the eyes of the operator's commands."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from schemas.codec import Record
from streams.admin import WrongTopology
from streams.broker import make_reader, raw_headers, started
from streams.settings import Settings

Place = tuple[str, int]
"""Logical topic and partition."""
QUIET = 30.0
"""Seconds without any answer of the broker after which reading is given up."""


class NoAnswer(OSError):
    """The broker went silent while we read."""


async def read_to_end(
    settings: Settings, places: Iterable[Place], starts: Mapping[Place, int] | None = None
) -> AsyncGenerator[Record, None]:
    """Every record of ``places`` from the start of each log, or from ``starts``, to its present end.

    In offset order within a place. Raises WrongTopology where a topic or partition is missing, NoAnswer.
    """
    wanted = list(places)
    if not wanted:
        return
    reader = make_reader(settings)
    await started(reader, 10.0)
    try:
        tps = {TopicPartition(settings.topic(topic), p): (topic, p) for topic, p in wanted}
        await _must_exist(settings, reader, tps)
        begins = await reader.beginning_offsets(list(tps))
        at = {tp: max(begins[tp], (starts or {}).get(place, 0)) for tp, place in tps.items()}
        async for record in _drain(reader, tps, at):
            yield record
    finally:
        await reader.stop()


async def _must_exist(
    settings: Settings, reader: AIOKafkaConsumer, tps: Mapping[TopicPartition, Place]
) -> None:
    known = await reader.topics()
    missing = sorted({tp.topic for tp in tps} - set(known))
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise WrongTopology(f"no topic {names} on {settings.broker}: run `mailsluice topics apply` first")


async def _drain(
    reader: AIOKafkaConsumer, tps: Mapping[TopicPartition, Place], at: dict[TopicPartition, int]
) -> AsyncGenerator[Record, None]:
    reader.assign(list(tps))
    for tp, offset in at.items():
        reader.seek(tp, offset)
    open_tps = set(tps)
    heard = time.monotonic()
    while open_tps:
        try:
            found = await reader.getmany(*open_tps, timeout_ms=100, max_records=5000)
        except OffsetOutOfRangeError as error:
            # Retention took the head of the log while we came: what is left begins later.
            gone = [tp for tp in error.args[0] if tp in at]
            for tp, first in (await reader.beginning_offsets(gone)).items():
                if at[tp] > first:  # not the head: we were told to begin behind the end
                    open_tps.discard(tp)
                    reader.pause(tp)
                else:
                    at[tp] = first
                reader.seek(tp, first)
            continue
        for tp, messages in found.items():
            topic, partition = tps[tp]
            at[tp] = messages[-1].offset + 1
            for m in messages:
                yield Record(topic, partition, m.offset, m.timestamp, m.key, m.value, raw_headers(m.headers))
        # The end is what a fetch answers: ListOffsets of the embedded broker is too low.
        done = {tp for tp in open_tps if (end := reader.highwater(tp)) is not None and at[tp] >= end}
        # A fetch without records answers too; aiokafka only stamps it.
        if done:
            open_tps -= done
            heard = time.monotonic()
            reader.pause(*done)
        elif found:
            heard = time.monotonic()
        elif time.monotonic() > heard + QUIET:
            silent = ", ".join(sorted(tp.topic for tp in open_tps)[:3])
            raise NoAnswer(f"no answer for {silent} within {QUIET:.0f} s")


async def read_one(settings: Settings, topic: str, partition: int, offset: int) -> Record | None:
    """The record at an offset, or None where it is not there (any more)."""
    reader = make_reader(settings)
    await started(reader, 10.0)
    tp = TopicPartition(settings.topic(topic), partition)
    try:
        if partition not in (await _partitions(reader, tp.topic)):
            return None
        if offset < (await reader.beginning_offsets([tp]))[tp]:
            return None
        reader.assign([tp])
        reader.seek(tp, offset)
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            try:
                found = await reader.getmany(timeout_ms=100, max_records=1)
            except OffsetOutOfRangeError:
                return None
            for m in found.get(tp, ()):
                if m.offset != offset:
                    return None
                return Record(topic, partition, offset, m.timestamp, m.key, m.value, raw_headers(m.headers))
            highwater = reader.highwater(tp)
            if highwater is not None and offset >= highwater:
                return None
        raise NoAnswer(f"no answer for {tp.topic} within 10 s")
    finally:
        await reader.stop()


async def _partitions(reader: AIOKafkaConsumer, topic: str) -> set[int]:
    if topic not in await reader.topics():
        return set()
    return set(reader.partitions_for_topic(topic) or ())
