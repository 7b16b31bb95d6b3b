"""Following partitions by hand: to the end and no further, fresh only when it is known."""

import asyncio
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from agents import Out
from streams.broker import Outbox, make_producer, make_reader
from streams.follow import PIECE, Follower, OutsideLog
from tests.support.brokers import EmbeddedBroker, create_topics
from tests.support.toys import make_topics, produce, settings_for, until


class Reading:
    """A started follower, what it handed over by partition, and its deaths."""

    def __init__(self, settings, **more):
        self.deaths = []
        self.follower = Follower(settings, lambda code, why: self.deaths.append((code, why)), **more)
        self.found = {}

    async def __aenter__(self):
        await self.follower.start()
        return self

    async def __aexit__(self, *_error):
        await self.follower.stop()

    async def follow(self, topic, partition=0, start=0):
        offsets = self.found.setdefault((topic, partition), [])
        await self.follower.follow(
            topic, partition, lambda batch: offsets.extend(m.offset for m in batch), start
        )
        return offsets


async def test_it_reads_to_the_real_end_and_follows(broker, prefix):
    """Batches of several records: the embedded broker's ListOffsets answers too low an end for them."""
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    await produce(settings, [b"x"] * 5000, 2)
    async with Reading(settings) as reading:
        offsets = await reading.follow("toy-in", 0)
        assert offsets == list(range(2500))
        empty = await asyncio.wait_for(reading.follow("toy-mid", 1), 5)
        assert empty == []
        written = asyncio.Event()
        outbox = Outbox(make_producer(settings), settings)
        await outbox.start()
        for n in range(50):
            outbox.put(Out("toy-in", b"%d" % n, {}, None, 0), lambda o: written.set() if o == 2549 else None)
        await written.wait()
        await reading.follower.to_end("toy-in", 0)
        assert offsets == list(range(2550))
        await outbox.stop()
        assert await reading.follower.first("toy-in", 1) == 0
    assert not reading.deaths


async def test_positions_survive_that_more_is_followed(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    await produce(settings, [b"x"] * 100, 2)
    async with Reading(settings) as reading:
        first = await reading.follow("toy-in", 0)
        await produce(settings, [b"x"] * 100, 2)
        await asyncio.gather(
            *(reading.follow(topic, p) for topic in ("toy-mid", "toy-out") for p in (0, 1)),
            reading.follow("toy-in", 1),
        )
        reading.follower.forget("toy-mid", 0)
        await produce(settings, [b"x"] * 100, 2)
        await until(lambda: len(first) >= 150)
        await asyncio.sleep(0.2)
        assert first == list(range(150))
        assert reading.found["toy-in", 1] == list(range(150))
        assert reading.found["toy-mid", 0] == []


async def test_what_was_fetched_for_one_sink_is_not_handed_to_the_next(broker, prefix):
    """A partition lost and won again while its records are handed over piece by piece."""
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 1)
    async with Reading(settings) as reading:
        first, second = [], []
        again = []

        async def follow_again():
            reading.follower.forget("toy-in", 0)
            await reading.follower.follow(
                "toy-in", 0, lambda batch: second.extend(m.offset for m in batch), 0
            )

        def sink(batch):
            first.extend(m.offset for m in batch)
            if not again:
                again.append(asyncio.get_running_loop().create_task(follow_again()))

        await reading.follower.follow("toy-in", 0, sink, 0)
        await produce(settings, [b"x"] * 4 * PIECE, 1)
        await until(lambda: again)
        await again[0]
        assert first == list(range(len(first)))
        assert second == list(range(4 * PIECE))
    assert not reading.deaths


async def test_a_quiet_topic_is_fresh_until_the_broker_is_gone(prefix):
    async with EmbeddedBroker() as broker:
        settings = settings_for(broker, prefix)
        await make_topics(broker, prefix, 1)
        async with Reading(settings) as reading:
            assert not reading.follower.fresh("toy-in", 0, 2.0)
            await reading.follow("toy-in")
            for _ in range(5):
                await asyncio.sleep(0.3)
                assert reading.follower.fresh("toy-in", 0, 1.2)
            assert not reading.follower.fresh("toy-in", 0, 0.0)
            assert not reading.follower.fresh("toy-mid", 0, 2.0)
            broker.kill()
            await asyncio.sleep(1.3)
            assert not reading.follower.fresh("toy-in", 0, 1.2)


async def test_what_lay_in_the_socket_while_the_process_was_frozen_is_not_fresh(apache_broker, prefix):
    """An answer is as old as its request: the clock jumps while one is on its way."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    ahead = 0.0
    async with Reading(settings, monotonic=lambda: time.monotonic() + ahead) as reading:
        await reading.follow("toy-in")
        follower, fresh_after = reading.follower, []
        assert follower.fresh("toy-in", 0, 1.0)
        state = follower._consumer._subscription.subscription.assignment.state_value(
            TopicPartition(settings.topic("toy-in"), 0)
        )
        ahead = 3600.0  # frozen for an hour
        assert not follower.fresh("toy-in", 0, 1.0)
        first = state.timestamp
        while state.timestamp == first:  # the answer that was on its way arrives
            await asyncio.sleep(0)
        for _ in range(20):  # and the follower looks at it
            await asyncio.sleep(0)
            if state.timestamp == first:
                fresh_after.append(follower.fresh("toy-in", 0, 1.0))
        assert not any(fresh_after)
        await until(lambda: follower.fresh("toy-in", 0, 1.0), 3)  # the next one was asked for after waking


async def test_a_start_beyond_the_log_is_told_to_who_asked(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 1)
    await produce(settings, [b"x"] * 10, 1)
    async with Reading(settings) as reading:
        other = await reading.follow("toy-mid")
        with pytest.raises(OutsideLog, match="500"):
            await asyncio.wait_for(reading.follow("toy-in", 0, 500), 10)
        assert await reading.follow("toy-in", 0, 0) == list(range(10))
        assert other == []
    assert not reading.deaths


async def test_a_log_that_ends_in_a_transaction_mark_is_read_to_its_end(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    producer = AIOKafkaProducer(bootstrap_servers=apache_broker.bootstrap, transactional_id=prefix)
    await producer.start()
    for n in range(2):
        async with producer.transaction():
            await producer.send_and_wait(settings.topic("toy-in"), b"%d" % n, partition=0)
    await producer.stop()
    async with Reading(settings) as reading:
        assert await asyncio.wait_for(reading.follow("toy-in"), 10) == [0, 2]
        await asyncio.wait_for(reading.follower.to_end("toy-in", 0), 5)
        assert reading.follower.fresh("toy-in", 0, 1.0)


async def test_records_deleted_under_a_running_follower_end_it_with_a_clear_text(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    name = prefix + "toy-in"
    await create_topics(apache_broker, name)
    async with Reading(settings) as reading:
        await reading.follow("toy-in")
        consumer: AIOKafkaConsumer = reading.follower._consumer
        tp = TopicPartition(name, 0)
        reading.follower._followed[tp].next = 700  # as if the topic had been longer before it was made anew
        consumer.seek(tp, 700)
        await until(lambda: reading.deaths)
    assert reading.deaths[0][0] == 78
    assert "position 700" in reading.deaths[0][1]
    assert "made anew" in reading.deaths[0][1]


async def test_a_sink_that_raises_names_the_place(embedded_broker, prefix):
    settings = settings_for(embedded_broker, prefix)
    await make_topics(embedded_broker, prefix, 1)
    await produce(settings, [b"x"], 1)
    deaths = []
    follower = Follower(settings, lambda code, why: deaths.append((code, why)), make=make_reader)
    await follower.start()

    def sink(batch):
        raise ValueError("what is this?")

    task = asyncio.create_task(follower.follow("toy-in", 0, sink, 0))
    await until(lambda: deaths)
    task.cancel()
    await follower.stop()
    assert "toy-in/0@0 to 0 could not be applied; ValueError('what is this?')" in deaths[0][1]
