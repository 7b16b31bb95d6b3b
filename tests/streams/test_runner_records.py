"""What becomes of single records: dead letters, bugs, Retry, expiry of patience, order, windows, twins."""

import asyncio
import os
import time

from agents import Out, Reject, Retry, Steps
from schemas.codec import Malformed
from streams.broker import Outbox, make_producer
from streams.runner import EXIT_BUGS
from tests.support.toys import (
    Each,
    Keeps,
    Station,
    committed,
    copy,
    make_topics,
    produce,
    read_all,
    settings_for,
    stage,
    until,
)


def odd(record):
    """What the records of the first test ask for."""
    if record.value == b"reject":
        raise Reject("bad_toy", "the value says so")
    if record.value == b"malformed":
        raise Malformed("bad_json", "no JSON")
    if record.value == b"raise":
        raise ZeroDivisionError("on purpose ☃ \ud800")
    if record.value is None:
        raise Reject("empty", "there is nothing in it")
    return copy(record)


async def put(settings, *outs: Out) -> None:
    """Write records as an outsider would."""
    outbox = Outbox(make_producer(settings), settings)
    await outbox.start()
    for out in outs:
        outbox.put(out)
    assert await outbox.flush(30)
    await outbox.stop()


async def test_bad_records_go_to_the_dead_letters_as_they_came_and_the_others_go_on(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 1)
    long = b"h" * 9000
    await put(
        settings,
        Out("toy-in", b"good 1", {}, None, 0),
        Out("toy-in", b"reject", {"a": b"1", "dlq_reason": b"an old one", "dlq_cut": b"5"}, b"key", 0),
        Out("toy-in", b"raise", {}, None, 0),
        Out("toy-in", None, {"b": b""}, b"key only", 0),
        Out("toy-in", b"header", {"long": long, "a": b"1"}, None, 0),
        Out("toy-in", b"malformed", {}, None, 0),
        Out("toy-in", b"good 2", {"c": b"2"}, b"k", 0),
    )
    async with Station(settings, Each(odd), 1) as station:
        out = await read_all(settings, "toy-out", 1, lambda r: len(r) >= 2, 20)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) >= 5, 20)
        await until(lambda: station.outbox.unacked == 0)
        await asyncio.sleep(0.4)
    assert not station.deaths
    assert [r.value for r in out] == [b"good 1", b"good 2"]
    found = {int(dict(d.headers)["dlq_offset"]): (d, dict(d.headers)) for d in dead}
    assert {at: headers["dlq_reason"] for at, (_, headers) in found.items()} == {
        1: b"bad_toy",
        2: b"bug",
        3: b"empty",
        4: b"header_too_large",
        5: b"bad_json",
    }
    record, headers = found[1]
    assert (record.value, record.key, headers["a"]) == (b"reject", b"key", b"1")
    assert (headers["dlq_topic"], headers["dlq_partition"]) == (b"toy-in", b"0")
    assert headers["dlq_stage"] == b"toy"
    assert abs(int(headers["dlq_timestamp"]) / 1000 - time.time()) < 60
    assert abs(float(headers["dlq_time"]) - time.time()) < 60
    assert b"ZeroDivisionError: on purpose" in found[2][1]["dlq_detail"]
    assert found[3][0].value is None
    assert found[3][0].key == b"key only"
    assert found[4][1]["long"] == long
    assert await committed(settings, "toy", "toy-in", 0) == 7


async def test_what_says_nothing_to_a_stage_is_passed_over_unread_and_committed(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 1)
    put_in = [Out("toy-in", b"not JSON", {"kind": b"queued"}, None, 0) for _ in range(3)]
    await put(
        settings,
        *put_in,
        Out("toy-in", b"told", {"kind": b"opened"}, None, 0),
        Out("toy-in", b"of no kind", {}, None, 0),
        *put_in,
    )
    agent = Each()
    async with Station(settings, agent, 1, stage(skips=frozenset((b"queued", b"expired")))) as station:
        out = await read_all(settings, "toy-out", 1, lambda r: len(r) >= 2, 20)
        await until(lambda: station.outbox.unacked == 0)
        await asyncio.sleep(0.4)
    assert not station.deaths
    assert [r.value for r in out] == [b"told", b"of no kind"]
    assert len(agent.seen) == 2
    assert await committed(settings, "toy", "toy-in", 0) == 8


async def test_a_dead_letter_too_large_to_be_written_is_cut_and_ends_nothing(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, largest=200_000)
    wide = settings_for(apache_broker, prefix, largest=4_000_000)
    await make_topics(apache_broker, prefix, 1)
    # 3 MB of one byte: small on the wire, so the broker took it from an outsider.
    await put(wide, Out("toy-in", b"x" * 3_000_000, {"h": b"y" * 8000}, b"k" * 300_000, 0))
    await put(wide, Out("toy-in", b"", {f"h{n}": b"y" * 50_000 for n in range(40)}, None, 0))
    await produce(settings, [b"after"], 1)

    def reject_large(record):
        if record.size > 100_000:
            raise Reject("too_large", "for a toy")
        return copy(record)

    async with Station(settings, Each(reject_large), 1) as station:
        out = await read_all(settings, "toy-out", 1, bool, 20)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) >= 2, 20)
    assert not station.deaths
    assert [r.value for r in out] == [b"after"]
    by_offset = {int(dict(d.headers)["dlq_offset"]): d for d in dead}
    first, second = dict(by_offset[0].headers), dict(by_offset[1].headers)
    assert int(first["dlq_cut"]) > 3_300_000
    assert first["dlq_reason"] == b"too_large"
    assert set(by_offset[0].value) == {ord("x")}
    assert int(second["dlq_cut"]) > 2_000_000
    assert second["dlq_reason"] == b"header_too_large"


async def test_an_output_too_large_dead_letters_its_input_headers_and_key_counted(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, largest=100_000)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"value", b"headers", b"fine"], 1)

    def grow(record):
        value = b"x" * 100_001 if record.value == b"value" else b"x" * 60_000
        headers = {"h": b"y" * 50_000} if record.value == b"headers" else {}
        return [Out("toy-out", value, headers, None, 0)]

    async with Station(settings, Each(grow), 1) as station:
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) >= 2, 20)
        out = await read_all(settings, "toy-out", 1, bool, 20)
    assert not station.deaths
    assert [(d.value, dict(d.headers)["dlq_reason"]) for d in dead] == [
        (b"value", b"too_large"),
        (b"headers", b"too_large"),
    ]
    assert len(out) == 1


async def test_too_many_bugs_stop_the_stage_and_say_so(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"raise"] * 60, 1)
    async with Station(settings, Each(odd), 1) as station:
        code, why = await station.dead()
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) > 20, 2)
    assert code == EXIT_BUGS
    assert "21 records raised within a minute" in why
    assert "ZeroDivisionError" in why
    assert len(dead) <= 20
    assert await committed(settings, "toy", "toy-in", 0) <= 20


async def test_an_agent_that_forgets_a_record_is_told_so(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"1", b"2", b"3"], 1)

    class Forgets(Steps):
        async def batch(self, tickets, partition):
            for ticket in tickets:
                if ticket.record.value != b"2":
                    ticket.done()

    async with Station(settings, Forgets(), 1):
        dead = await read_all(settings, "mail-dlq", 1, bool, 20)
    assert [(d.value, dict(d.headers)["dlq_reason"]) for d in dead] == [(b"2", b"bug")]
    assert b"neither finished nor kept" in dict(dead[0].headers)["dlq_detail"]


async def test_retry_of_one_partition_does_not_hold_the_others(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 3)
    await produce(settings, [b"x"] * 90, 3)
    unwell = True

    def body(record):
        if record.partition == 1 and unwell:
            raise Retry(0.2, "the resolver is down")
        return copy(record)

    async with Station(settings, Each(body), 3) as station:
        out = await read_all(settings, "toy-out", 3, lambda r: len(r) >= 60, 20)
        assert {r.partition for r in out} == {0, 2}
        assert await committed(settings, "toy", "toy-in", 1) <= 0
        unwell = False
        out = await read_all(settings, "toy-out", 3, lambda r: len(r) >= 90, 20)
        assert not await read_all(settings, "mail-dlq", 1, bool, 0.3)
    assert len(out) == 90
    assert not station.deaths


async def test_commits_are_contiguous_and_what_is_open_comes_back_after_a_restart(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"%d" % n for n in range(20)], 1)
    agent = Keeps()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.kept) == 20)
        for offset in (19, 5, 0, 1, 7, 2):
            agent.let_go(offset)
        await read_all(settings, "toy-out", 1, lambda r: len(r) == 6, 10)
        await asyncio.sleep(0.5)
        assert await committed(settings, "toy", "toy-in", 0) == 3
    second = Keeps()
    async with Station(settings, second, 1):
        await until(lambda: len(second.kept) == 17)
        await asyncio.sleep(0.2)
        assert sorted(second.kept) == list(range(3, 20))
        for offset in sorted(second.kept, reverse=True):
            second.let_go(offset)
        await asyncio.sleep(0.5)
        assert await committed(settings, "toy", "toy-in", 0) == 20


async def test_an_orderly_stop_waits_for_the_acknowledgements_of_kept_work_too(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 50, 1)

    class SettlesAtTheEnd(Keeps):
        async def revoked(self, partition):
            for offset in list(self.kept):
                self.let_go(offset)

    agent = SettlesAtTheEnd()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.kept) == 50)
    assert await committed(settings, "toy", "toy-in", 0) == 50


async def test_a_stop_does_not_wait_for_what_cannot_end(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, drain=3.0)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 5, 1)
    started = asyncio.Event()

    def body(record):
        started.set()
        raise Retry(60, "a dependency is away")

    async with Station(settings, Each(body), 1) as station:
        await asyncio.wait_for(started.wait(), 15)
        begun = time.monotonic()
        await station.runner.stop()
        assert time.monotonic() - begun < 2.5  # half the drain time for the batch, none for its records


async def test_the_window_bounds_records_and_bytes(apache_broker, prefix):
    await make_topics(apache_broker, prefix, 1)
    settings = settings_for(apache_broker, prefix, window_bytes=300_000)
    await produce(settings, [os.urandom(100_000) for _ in range(30)], 1)  # not to be compressed
    large = Keeps()
    async with Station(settings, large, 1, stage("bytes", slice=50, window=100_000), fetch=200_000):
        await until(lambda: large.bytes >= 300_000)
        await asyncio.sleep(0.4)
        assert large.bytes <= 300_000 + 300_000  # what one fetch brought may reach beyond
    settings = settings_for(apache_broker, prefix, window_bytes=10_000_000)
    await produce(settings, [b"x"] * 3000, 1)
    small = Keeps()
    async with Station(settings, small, 1, stage("records", slice=50, window=300)):
        await until(lambda: len(small.kept) >= 300)
        await asyncio.sleep(0.4)
        assert small.max_kept <= 300 + 100  # the batch that was read last may reach beyond


async def test_partitions_share_the_window_and_none_is_starved_by_the_others(apache_broker, prefix):
    """A stage that keeps all: what it holds of eight partitions together is bounded, and each gets its part."""
    await make_topics(apache_broker, prefix, 8)
    settings = settings_for(apache_broker, prefix, window_bytes=1_600_000)
    await produce(settings, [os.urandom(10_000) for _ in range(8 * 100)], 8)
    keeps = Keeps()
    async with Station(settings, keeps, 8, stage(slice=1, window=100_000), fetch=20_000) as station:
        lines = {}

        def each_has_its_part():
            lines.update(
                (share.partition, line)
                for share in station.runner._shares.values()
                for line in share.lines.values()
            )
            return len(lines) == 8 and min(line.in_work_bytes for line in lines.values()) >= 200_000

        await until(each_has_its_part)
        await asyncio.sleep(0.4)
        beyond = 8 * 2 * 17_000  # what the last poll of each brought
        assert sum(line.in_work_bytes for line in lines.values()) <= 2 * 1_600_000 + beyond


async def test_twins_are_polled_first(apache_broker, prefix):
    """A transactional mail behind 5,000 bulk ones, each of which takes a millisecond."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await make_topics(apache_broker, prefix, 1, "toy-in-now")
    await produce(settings, [b"bulk"] * 5000, 1)
    arrived = asyncio.Event()
    behind = 0

    def body(record):
        nonlocal behind
        if record.topic == "toy-in-now":
            arrived.set()
        else:
            time.sleep(0 if arrived.is_set() else 0.001)
            behind += not arrived.is_set()
        return []

    async with Station(settings, Each(body), 1, stage(twins=True)) as station:
        await until(lambda: behind >= 100)
        written = asyncio.Event()
        station.outbox.put(Out("toy-in-now", b"now", {}, None, 0), lambda _offset: written.set())
        await written.wait()
        before = behind
        await asyncio.wait_for(arrived.wait(), 10)
        overtaken = behind - before
    assert overtaken < 1000, f"{overtaken} bulk records went before it"


async def test_a_new_group_reads_from_the_start(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"old"] * 10, 1)
    agent = Each()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.seen) == 10)
    assert [offset for _, offset in agent.seen] == list(range(10))


async def test_the_marks_of_transactional_producers_hold_nothing_up(apache_broker, prefix, caplog):
    from aiokafka import AIOKafkaProducer

    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    producer = AIOKafkaProducer(bootstrap_servers=apache_broker.bootstrap, transactional_id=prefix)
    await producer.start()
    for n in range(3):
        async with producer.transaction():
            await producer.send_and_wait(settings.topic("toy-in"), b"%d" % n, partition=0)
    await producer.stop()
    agent = Each()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.seen) >= 3)
        await asyncio.sleep(0.5)
    assert [offset for _, offset in agent.seen] == [0, 2, 4]
    assert await committed(settings, "toy", "toy-in", 0) == 5
    assert not [r for r in caplog.records if r.levelname == "ERROR" and r.name.startswith("mailsluice")]
