"""Fewer and larger requests under load, without making a lone record wait."""

import asyncio
import time

import pytest
from aiokafka.consumer.fetcher import Fetcher

from agents import Out
from schemas.identity import murmur2
from streams import follow, runner
from streams.broker import Outbox, fetch_wait_ms, make_group_consumer, make_producer, make_reader
from streams.follow import Follower
from tests.support.toys import Each, Station, make_topics, produce, read_all, settings_for, stage, until


def test_the_client_reads_wait_and_bytes_for_each_fetch() -> None:
    names = Fetcher._get_actions_per_node.__code__.co_names
    assert "_fetch_min_bytes" in names
    assert "_fetch_max_wait_ms" in names


async def test_a_lone_record_does_not_wait_for_others(broker, prefix) -> None:
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 4)
    arrived = asyncio.Event()

    def body(_record):
        arrived.set()
        return []

    waits = []
    async with Station(settings, Each(body), 4, stage()) as station:
        await station.runner.ready.wait()
        for _ in range(8):
            await asyncio.sleep(0.15)
            arrived.clear()
            begun = time.monotonic()
            station.outbox.put(Out("toy-in", b"x", {}, None, 1))
            await asyncio.wait_for(arrived.wait(), 10)
            waits.append(time.monotonic() - begun)
    assert sorted(waits)[2] < 0.2, waits


async def test_under_load_a_stage_fetches_less_often_and_then_quickly_again(embedded_broker, prefix) -> None:
    settings = settings_for(embedded_broker, prefix)
    await make_topics(embedded_broker, prefix, 2)
    async with Station(settings, Each(lambda _record: []), 2, stage()) as station:
        fetcher = station.runner._consumer._fetcher
        await station.runner.ready.wait()
        assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == (1, fetch_wait_ms(settings))
        await produce(settings, [b"x" * 100] * 3000, 2)
        await until(lambda: fetcher._fetch_min_bytes == runner.MUCH)
        assert fetcher._fetch_max_wait_ms == int(stage().patience * 1000)
        await until(lambda: fetcher._fetch_min_bytes == 1)


@pytest.mark.parametrize("large", [True, False])
async def test_a_follower_is_in_a_hurry_only_while_somebody_waits(embedded_broker, prefix, large) -> None:
    settings = settings_for(embedded_broker, prefix)
    await make_topics(embedded_broker, prefix, 1)
    await produce(settings, [b"1", b"2"], 1)
    seen: list[bytes] = []
    follower = Follower(settings, lambda code, why: None, make=make_reader, large=large)
    await follower.start()
    try:
        await follower.follow("toy-in", 0, lambda messages: seen.extend(m.value for m in messages), 0)
        assert seen == [b"1", b"2"]
        fetcher = follower._consumer._fetcher
        calm = follow.LARGE if large else (fetch_wait_ms(settings), 1)
        await until(lambda: (fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes) == calm)
        await produce(settings, [b"3"], 1)
        begun = time.monotonic()
        await follower.to_end("toy-in", 0)
        assert seen[-1] == b"3"
        assert time.monotonic() - begun < 3
    finally:
        await follower.stop()


async def test_records_keep_their_order_over_batches_and_each_learns_its_offset(broker, prefix) -> None:
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    outbox = Outbox(make_producer(settings), settings)
    await outbox.start()
    told: dict[tuple[int, int], int] = {}
    for n in range(200):
        # 200 x 5 kB: several batches of 256 KiB for each partition; some records come while one is on its way.
        for partition in (0, 1):
            out = Out("toy-in", b"%d " % n + b"x" * 5000, {"n": b"%d" % n}, None, partition)
            outbox.put(out, lambda offset, where=(partition, n): told.__setitem__(where, offset))
        if n % 50 == 0:
            await asyncio.sleep(0.02)
    assert await outbox.flush(30)
    await outbox.stop()
    assert (outbox.unacked, outbox.unacked_bytes) == (0, 0)
    found = await read_all(settings, "toy-in", 2, lambda records: len(records) == 400)
    for partition in (0, 1):
        mine = [record for record in found if record.partition == partition]
        assert [int(record.value.split()[0]) for record in mine] == list(range(200))
        assert [told[partition, n] for n in range(200)] == [record.offset for record in mine]


async def test_a_key_chooses_the_partition_where_none_is_named(embedded_broker, prefix) -> None:
    settings = settings_for(embedded_broker, prefix)
    await make_topics(embedded_broker, prefix, 3)
    outbox = Outbox(make_producer(settings), settings)
    await outbox.start()
    for n in range(30):
        outbox.put(Out("toy-in", b"v", {}, b"key-%d" % n, None))
    outbox.put(Out("toy-in", None, {}, b"gone", None))
    outbox.put(Out("toy-in", None, {}, None, 2))
    assert await outbox.flush(30)
    await outbox.stop()
    found = await read_all(settings, "toy-in", 3, lambda records: len(records) == 32)
    keyed = [record for record in found if record.key]
    assert len(keyed) == 31
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 3 for record in keyed)
    # A tombstone has a key; a record without a body and a key is an empty one.
    assert {record.value for record in found} == {b"v", None, b""}


async def test_the_consumer_is_made_with_the_brokers_wait(tmp_path) -> None:
    from streams.settings import Settings

    for idempotent, wait in ((True, 400), (False, 50)):
        consumer = make_group_consumer(Settings(broker_idempotent=idempotent), "x", 65_536, 1)
        assert consumer._fetch_max_wait_ms == wait
        consumer._closed = True  # never started
