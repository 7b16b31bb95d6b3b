"""The outbox: order, acknowledgements, and the end of the process when anything cannot be written."""

import asyncio

import pytest

from agents import Out
from streams.broker import AT_ONCE, BULK, EXIT_SEND_FAILED, Outbox, stopped
from streams.settings import Settings
from tests.support.brokers import EmbeddedBroker
from tests.support.toys import Each, Station, committed, make_topics, produce, read_all, settings_for, until


class Batch:
    def __init__(self, largest):
        self.records, self.largest, self.closed = [], largest, False

    def append(self, *, timestamp, key, value, headers):
        assert not self.closed
        assert key is not None or value is not None  # aiokafka asserts so
        if len(self.records) >= self.largest:
            return None
        self.records.append((key, value, headers))
        return object()

    def close(self):
        self.closed = True


class Producer:
    """Takes batches and leaves their futures to the test."""

    def __init__(self, largest=3):
        self.sent, self.largest, self.error = [], largest, None

    async def start(self):
        pass

    async def stop(self):
        pass

    async def partitions_for(self, topic):
        if topic == "missing":
            raise OSError("no such topic")
        return set(range(8))

    def create_batch(self):
        return Batch(self.largest)

    async def send_batch(self, batch, topic, *, partition):
        if self.error:
            raise self.error
        future = asyncio.get_running_loop().create_future()
        self.sent.append((topic, partition, [value for _, value, _ in batch.records], future))
        return future


class Sent:
    def __init__(self, offset):
        self.offset = offset


@pytest.fixture
async def desk():
    producer, deaths = Producer(), []
    outbox = Outbox(
        producer, Settings(prefix="p-", linger=0.001), lambda code, why: deaths.append((code, why))
    )
    await outbox.start()
    yield outbox, producer, deaths
    outbox._idle.set()
    await outbox.stop()


def put(outbox, *values, partition=0, acked=None):
    for value in values:
        outbox.put(Out("t", value, {}, None, partition), acked)


async def test_a_partition_keeps_its_order_and_offsets_are_told(desk):
    outbox, producer, _ = desk
    told = []
    put(outbox, *(b"%d" % n for n in range(8)), acked=told.append)
    put(outbox, b"other", partition=1)
    got = []
    for base in (10, 13, 16):
        await until(lambda: [s for s in producer.sent if s[1] == 0 and not s[3].done()])
        topic, _, values, future = next(s for s in producer.sent if s[1] == 0 and not s[3].done())
        assert topic == "p-t"
        assert len([s for s in producer.sent if s[1] == 0 and not s[3].done()]) == 1  # one on its way
        got += values
        future.set_result(Sent(base))
        await asyncio.sleep(0.02)
    assert got == [b"%d" % n for n in range(8)]
    assert told == list(range(10, 18))
    assert outbox.unacked == 1
    assert not await outbox.flush(0.05)
    next(s for s in producer.sent if s[1] == 1)[3].set_result(Sent(0))
    assert await outbox.flush(1)
    assert outbox.unacked_bytes == 0


async def test_a_failed_batch_ends_the_process_at_once_and_nothing_after_it_gets_out(desk):
    outbox, producer, deaths = desk
    acked = []
    put(outbox, b"1", b"2", b"3", b"4", b"5", acked=acked.append)
    put(outbox, b"other", partition=1, acked=acked.append)
    await until(lambda: len(producer.sent) == 2)
    producer.sent[0][3].set_exception(OSError("the leader is gone"))
    producer.sent[1][3].set_result(Sent(0))  # answered in the same moment: it must not count any more
    await asyncio.sleep(0.05)
    put(outbox, b"6", acked=acked.append)
    await asyncio.sleep(0.05)
    assert deaths == [(EXIT_SEND_FAILED, "could not write to t: OSError: the leader is gone")]
    assert acked == []
    assert len(producer.sent) == 2


async def test_a_send_that_raises_ends_the_process(desk):
    outbox, producer, deaths = desk
    producer.error = ValueError("no leader")
    put(outbox, b"1", b"2")
    await until(lambda: deaths)
    assert deaths[0][0] == EXIT_SEND_FAILED
    assert "no leader" in deaths[0][1]


async def test_a_keyed_record_for_a_topic_that_is_not_there_ends_the_process(desk):
    outbox, _, deaths = desk
    outbox._settings = Settings()
    outbox.put(Out("missing", b"v", {}, b"key"))
    await until(lambda: deaths)
    assert "no such topic" in deaths[0][1]


async def test_a_key_chooses_the_partition_as_a_java_producer_would(desk):
    outbox, producer, _ = desk
    outbox.put(Out("t", b"v", {}, b"21"))
    outbox.put(Out("t", b"w", {}, b"foobar"))
    outbox.put(Out("t", b"x", {}, None))
    await until(lambda: len(producer.sent) == 3)
    # murmur2 of Kafka's own test vectors: 21 -> -973932308, foobar -> -790332482
    expected = {b"v": (-973932308 & 0x7FFFFFFF) % 8, b"w": (-790332482 & 0x7FFFFFFF) % 8, b"x": 0}
    assert {values[0]: partition for _, partition, values, _ in producer.sent} == expected


async def test_nothing_is_an_empty_value_but_with_a_key_a_tombstone(desk):
    outbox, producer, _ = desk
    producer.largest = 1
    outbox.put(Out("t", None, {}, None, 0))
    outbox.put(Out("t", None, {}, b"k", 1))
    await until(lambda: len(producer.sent) == 2)
    assert sorted((p, values) for _, p, values, _ in producer.sent) == [(0, [b""]), (1, [None])]


async def test_an_answer_that_cannot_be_worked_on_ends_the_process(desk):
    """asyncio would log it and go on, and what was to follow the acknowledgement would be missing."""
    outbox, producer, deaths = desk

    def acked(_offset):
        raise KeyError("the mail")

    put(outbox, b"1", acked=acked)
    await until(lambda: producer.sent)
    producer.sent[0][3].set_result(Sent(0))
    await until(lambda: deaths)
    assert deaths[0][0] == 70
    assert "KeyError" in deaths[0][1]


async def test_full_by_records_and_by_bytes(desk):
    outbox, _, _ = desk
    outbox.limit, outbox.limit_bytes = 5, 1000
    put(outbox, b"1", b"2", b"3", b"4")
    assert not outbox.full
    put(outbox, b"5")
    assert outbox.full
    outbox.limit = 100
    assert not outbox.full
    put(outbox, b"x" * 1000)
    assert outbox.full


async def test_what_is_urgent_goes_first_by_a_producer_of_its_own_and_in_its_partitions_order():
    bulk, swift = Producer(), Producer()
    outbox = Outbox(bulk, Settings(prefix="p-", linger=0.001), lambda code, why: None, swift=swift)
    await outbox.start()
    try:
        outbox.put(Out("t", b"bulk 0", {}, None, 0), haste=BULK)
        await until(lambda: bulk.sent)
        outbox.put(Out("t", b"bulk 1", {}, None, 1), haste=BULK)
        outbox.put(Out("t", b"urgent 2", {}, None, 2), haste=AT_ONCE)
        outbox.put(Out("t", b"urgent 0", {}, None, 0), haste=AT_ONCE)
        await until(lambda: swift.sent and len(bulk.sent) == 2)
        assert [values for _, _, values, _ in swift.sent] == [[b"urgent 2"]]
        await asyncio.sleep(0.02)
        # Partition 0 has a batch of bulk on its way: what is urgent waits for that.
        assert len(swift.sent) == 1
        bulk.sent[0][3].set_result(Sent(0))
        await until(lambda: len(swift.sent) == 2)
        assert swift.sent[1][1:3] == (0, [b"urgent 0"])
        swift.sent[1][3].set_result(Sent(1))
        outbox.put(Out("t", b"bulk 2", {}, None, 0), haste=BULK)
        await until(lambda: len(bulk.sent) == 3)  # and once it is written the partition is bulk's again
    finally:
        outbox._idle.set()
        await outbox.stop()


async def test_bulk_that_fills_the_outbox_leaves_room_for_what_is_urgent(desk):
    outbox, _, _ = desk
    outbox.limit = 3
    put(outbox, b"1", b"2", b"3")
    assert outbox.full
    assert not outbox.full_now
    put(outbox, b"4", b"5", b"6")
    assert outbox.full_now


async def test_after_a_failed_send_nothing_is_committed(apache_broker, prefix):
    """An output topic that disappears: the runner's own producer, a real broker."""
    settings = settings_for(apache_broker, prefix, drain=0.5)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 500, 1)

    def body(record):
        partition = 7 if record.offset == 250 else 0  # there is none
        return [Out("toy-out", record.value, record.headers, None, partition)]

    async with Station(settings, Each(body), 1) as station:
        code, why = await station.dead()
        await asyncio.sleep(0.6)
        assert await committed(settings, "toy", "toy-in", 0) <= 250
    out = await read_all(settings, "toy-out", 1, lambda r: len(r) >= 500, 0.5)
    assert code == EXIT_SEND_FAILED
    assert "toy-out" in why
    assert {int(dict(r.headers)["n"]) for r in out} <= set(range(500)) - {250}


async def test_a_broker_that_stays_away_ends_the_process_and_a_stop_does_not_hang(prefix):
    async with EmbeddedBroker() as broker:
        settings = settings_for(broker, prefix, drain=0.5)
        await make_topics(broker, prefix, 1)
        from streams.broker import make_producer

        producer = make_producer(settings)
        producer._request_timeout_ms = 1500
        producer._message_accumulator._batch_ttl = 1.5
        async with Station(settings, Each(), 1, producer=producer) as station:
            await station.open()
            broker.kill()
            station.outbox.put(Out("toy-out", b"lost?", {}, None, 0))
            code, _why = await station.dead(30)
            assert code == EXIT_SEND_FAILED
            await asyncio.wait_for(station.runner.stop(), 14)


async def test_stopping_takes_what_a_client_throws():
    class Client:
        def __init__(self, error=None, seconds=0.0):
            self.error, self.seconds = error, seconds

        async def stop(self):
            await asyncio.sleep(self.seconds)
            if self.error:
                raise self.error

    await stopped(Client())
    await stopped(Client(asyncio.CancelledError()))
    await stopped(Client(OSError("away")))
    await asyncio.wait_for(stopped(Client(seconds=60), 0.1), 1)
