"""A log that no longer holds what the stage has to read: told, never skipped (Apache Kafka only)."""

import asyncio
import struct

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.record.util import calc_crc32c

from streams.runner import EXIT_LOG_GONE
from tests.support.brokers import admin, create_topics
from tests.support.toys import (
    Each,
    Keeps,
    Station,
    committed,
    make_topics,
    produce,
    settings_for,
    stage,
    until,
)


async def delete_records(broker, topic, before):
    async with admin(broker) as client:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})


async def test_a_committed_position_below_the_logs_start_stops_the_stage(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 20, 1)
    agent = Keeps()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.kept) == 20)
        for offset in range(5):
            agent.let_go(offset)
    assert await committed(settings, "toy", "toy-in", 0) == 5
    await delete_records(apache_broker, settings.topic("toy-in"), 12)
    unseen = Each()
    async with Station(settings, unseen, 1) as station:
        code, why = await station.dead()
    assert code == EXIT_LOG_GONE
    assert "starts at 12 but was read only to 5: 7 records were deleted unread" in why
    assert "retention" in why
    assert not unseen.seen
    assert await committed(settings, "toy", "toy-in", 0) == 5


async def test_records_deleted_under_a_slow_stage_stop_it(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x" * 1000] * 600, 1)
    agent = Keeps()
    async with Station(settings, agent, 1, stage(window=10, slice=5), fetch=2000) as station:
        await until(lambda: len(agent.kept) >= 10)
        await delete_records(apache_broker, settings.topic("toy-in"), 590)
        while not station.deaths:
            for offset in list(agent.kept):
                agent.let_go(offset)
            await asyncio.sleep(0.02)
        code, why = await station.dead()
    assert code == EXIT_LOG_GONE
    assert "its position lies outside the log" in why


async def test_a_topic_made_anew_under_a_stage_stops_it(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 30, 1)
    agent = Each()
    async with Station(settings, agent, 1) as station:
        await until(lambda: len(agent.seen) == 30)
        async with admin(apache_broker) as client:
            await client.delete_topics([settings.topic("toy-in")])
        for _ in range(50):
            try:
                await create_topics(apache_broker, settings.topic("toy-in"))
                break
            except Exception:  # still being deleted
                await asyncio.sleep(0.1)
        code, why = await station.dead(30)
    assert code == EXIT_LOG_GONE
    assert "made anew" in why


async def test_a_header_name_that_is_no_text_stops_the_stage_and_names_the_place(apache_broker, prefix):
    """aiokafka cannot take such a batch apart; a C client can write one."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"good"] * 3, 1)
    producer = AIOKafkaProducer(bootstrap_servers=apache_broker.bootstrap)
    await producer.start()
    batch = producer.create_batch()
    batch.append(timestamp=1, key=None, value=b"v", headers=[("name", b"1")])
    batch.close()
    raw = bytearray(batch._build()).replace(b"name", b"\xff\xfe\xfd\xfc")
    raw[17:21] = struct.pack(">I", calc_crc32c(bytes(raw[21:])))
    batch._buffer = raw
    await (await producer.send_batch(batch, settings.topic("toy-in"), partition=0))
    await producer.stop()
    async with Station(settings, Each(), 1) as station:
        code, why = await station.dead()
    assert code == EXIT_LOG_GONE
    assert f"{settings.topic('toy-in')}/0@3" in why
    assert "header name that is not UTF-8" in why
    assert "move the group's offset" in why
