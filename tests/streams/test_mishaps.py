"""Mishaps: each stops the stage with a clear error, or it carries on correctly; never silently.

Elsewhere: a topic made anew that is shorter than our position, records deleted below or under it
(test_runner_log.py); partitions added at run time and another P (test_admin.py, test_runner_rebalance.py);
records too large (test_runner_records.py); state files from elsewhere (test_state.py).
"""

import asyncio
import logging
import random
import signal
import threading

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from agents import Out
from streams import follow, incarnation
from streams import runner as runner_module
from streams.admin import add_partitions
from streams.broker import Outbox, make_producer
from streams.follow import Follower
from streams.incarnation import Mark, Marks, mark_of, read_marks, strangers, write_marks
from streams.notes import Notes
from streams.runner import EXIT_LOG_GONE
from streams.state import StateFiles
from tests.support.brokers import admin, create_topics
from tests.support.toys import (
    Each,
    Station,
    ToyProcess,
    committed,
    make_topics,
    numbers,
    produce,
    read_all,
    settings_for,
    until,
)


async def make_anew(broker, topic):
    """Delete a topic and create it again, behind our back."""
    async with admin(broker) as client:
        await client.delete_topics([topic])
    for _ in range(100):
        try:
            await create_topics(broker, topic)
            return
        except Exception:  # still being deleted
            await asyncio.sleep(0.1)
    raise AssertionError("the topic could not be created again")


def member(settings):
    return AIOKafkaConsumer(
        bootstrap_servers=settings.broker,
        group_id=f"{settings.prefix}mailsluice-toy",
        enable_auto_commit=False,
    )


async def noted(settings, topic="toy-in"):
    """(offset, metadata) as the group committed it, or None."""
    async with member(settings) as consumer:
        tp = TopicPartition(settings.topic(topic), 0)
        found = (await consumer._coordinator.fetch_committed_offsets([tp])).get(tp)
    return None if found is None or found.offset < 0 else (found.offset, found.metadata)


async def note(settings, offset, metadata, topic="toy-in"):
    async with member(settings) as consumer:
        tp = TopicPartition(settings.topic(topic), 0)
        consumer.assign([tp])
        await consumer.commit({tp: OffsetAndMetadata(offset, metadata)})


async def work_off(settings, values):
    """A first life: all of it read, worked on and committed."""
    await produce(settings, values, 1)
    agent = Each()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.seen) == len(values))
        await asyncio.sleep(0.3)
    assert await committed(settings, "toy", "toy-in", 0) == len(values)


async def test_a_topic_made_anew_and_longer_than_our_position_stops_the_stage(apache_broker, prefix):
    """The broker may keep the group's offsets (a restored one, a mirrored one, a late commit)."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await work_off(settings, [b"old %d" % n for n in range(20)])
    kept = await noted(settings)
    await make_anew(apache_broker, settings.topic("toy-in"))
    await produce(settings, [b"new %d" % n for n in range(50)], 1)
    await note(settings, *kept)
    agent = Each()
    async with Station(settings, agent, 1) as station:
        code, why = await station.dead()
    assert code == EXIT_LOG_GONE
    assert f"{settings.topic('toy-in')}/0@19 is another record than the one read there once" in why
    assert "made anew" in why
    assert "delete the group's offsets" in why
    assert agent.seen == []
    # What the text advises: an offset without metadata is taken as it is.
    await note(settings, 20, "")
    async with Station(settings, agent, 1) as station:
        await until(lambda: len(agent.seen) == 30)
    assert agent.seen[0] == (0, 20)


async def test_a_topic_deleted_and_made_anew_while_nobody_works_is_read_from_its_start(apache_broker, prefix):
    """Apache Kafka forgets the group's offsets with the topic."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await work_off(settings, [b"old"] * 20)
    await make_anew(apache_broker, settings.topic("toy-in"))
    await produce(settings, [b"new %d" % n for n in range(50)], 1)
    agent = Each()
    async with Station(settings, agent, 1):
        await until(lambda: len(agent.seen) == 50)
    assert agent.seen[0] == (0, 0)


async def test_a_topic_made_anew_under_a_stage_that_read_on_is_found_out(apache_broker, prefix, monkeypatch):
    monkeypatch.setattr(runner_module, "LOOK", 0.3)
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"%d" % n for n in range(20)], 1)
    agent = Each()
    async with Station(settings, agent, 1) as station:
        await until(lambda: len(agent.seen) == 20)
        [line] = [line for share in station.runner._shares.values() for line in share.lines.values()]
        await until(lambda: line.marks.anchor is not None and line.marks.anchor.offset == 19)
        await asyncio.sleep(1)  # looked at more than once
        await produce(settings, [b"more"] * 5, 1)
        await until(lambda: line.marks.anchor.offset == 24)
        assert not station.deaths
        # What the anchor would say if the records behind it were another topic's.
        line.marks.anchor = Mark(10, 1)
        code, why = await station.dead()
    assert code == EXIT_LOG_GONE
    assert "@10 is another record" in why


async def test_a_topic_made_anew_and_filled_while_a_worker_was_frozen_ends_it(
    apache_broker, prefix, monkeypatch
):
    """Nothing tells the client: it fetches on in another log, and commits there."""
    monkeypatch.setenv("TOY_LOOK", "1.5")
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"old %d" % n for n in range(20)], 1)
    worker = ToyProcess(settings, 1, "double", session=30.0)
    try:
        await worker.ready()
        await read_all(settings, "toy-mid", 1, lambda found: len(found) == 40, 15)
        await asyncio.sleep(2)
        assert worker.process.poll() is None
        worker.signal(signal.SIGSTOP)
        await make_anew(apache_broker, settings.topic("toy-in"))
        await produce(settings, [b"new %d" % n for n in range(50)], 1)
        worker.signal(signal.SIGCONT)
        code = await worker.exited(20)
    finally:
        log = worker.end()
    assert code == EXIT_LOG_GONE, log
    assert "is another record than the one read there once" in log


async def test_expired_offsets_start_at_the_logs_start_and_say_so(apache_broker, prefix, caplog):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await work_off(settings, [b"%d" % n for n in range(20)])
    async with admin(apache_broker) as client:
        await client.delete_records(
            {TopicPartition(settings.topic("toy-in"), 0): RecordsToDelete(before_offset=5)}
        )
    agent = Each()
    with caplog.at_level(logging.WARNING, "mailsluice.runner"):
        async with Station(settings, agent, 1, group="forgotten"):
            await until(lambda: len(agent.seen) == 15)
    assert agent.seen[0] == (0, 5)  # done again, all that is there
    [text] = [
        record.getMessage() for record in caplog.records if "no committed offset" in record.getMessage()
    ]
    assert "it reads from the log's start, 5" in text
    assert settings.topic("toy-in") in text


@pytest.mark.parametrize("count", [49, 50, 200])
async def test_a_state_file_of_a_changelog_that_was_made_anew_is_filled_again(
    apache_broker, prefix, tmp_path, caplog, count
):
    """Shorter, just as long, longer: rows of the old one are gone, and none of the new one is missing."""
    settings = settings_for(apache_broker, prefix)
    await create_topics(apache_broker, prefix + "log", cleanup_policy="compact")

    async def write(values):
        outbox = Outbox(make_producer(settings), settings)
        await outbox.start()
        for n, value in enumerate(values):
            outbox.put(Out("log", value, {}, b"%s-%d" % (value[:3], n), 0))
        assert await outbox.flush(10)
        await outbox.stop()

    async def opened():
        follower = Follower(settings, lambda code, why: None)
        await follower.start()
        files = StateFiles("log", tmp_path, follower, 1)
        state = await files.open(0)
        found = dict(state.scan(b""))
        await files.close(0)
        await follower.stop()
        return found

    await write([b"old %d" % n for n in range(50)])
    assert len(await opened()) == 50
    assert len(await opened()) == 50
    assert caplog.records == []
    await make_anew(apache_broker, settings.topic("log"))
    await write([b"new %d" % n for n in range(count)])
    found = await opened()
    assert found == {b"new-%d" % n: b"new %d" % n for n in range(count)}
    assert "filled again from the log's start" in caplog.text
    assert await opened() == found


async def test_a_followed_topic_made_anew_and_filled_behind_our_back_ends_the_process(
    apache_broker, prefix, monkeypatch
):
    monkeypatch.setattr(follow, "LOOK", 1.0)
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"old %d" % n for n in range(20)], 1)
    deaths, seen = [], []
    follower = Follower(settings, lambda code, why: deaths.append((code, why)))
    await follower.start()
    await follower.follow("toy-in", 0, seen.extend, 0)
    await asyncio.sleep(2.5)
    assert len(seen) == 20
    assert deaths == []

    async def elsewhere():
        await make_anew(apache_broker, settings.topic("toy-in"))
        await produce(settings, [b"new %d" % n for n in range(50)], 1)

    other = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    other.start()
    other.join()  # our own loop stands still meanwhile
    await until(lambda: deaths)
    assert deaths[0][0] == 78
    assert "is another record than the one read there once: made anew" in deaths[0][1]
    await follower.stop()


async def test_marks_tell_a_shorter_another_and_the_same_log(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    await produce(settings, [b"%d" % n for n in range(200)], 2)
    first, second = (TopicPartition(settings.topic("toy-in"), n) for n in (0, 1))
    records = await read_all(settings, "toy-in", 2, lambda found: len(found) == 200)
    marks = {(record.partition, record.offset): mark_of(record) for record in records}
    assert await strangers(settings, {first: [marks[0, 3], marks[0, 99]], second: [marks[1, 50]]}) == []
    assert await strangers(settings, {}) == []
    told = await strangers(settings, {first: [marks[0, 3], Mark(50, 1)], second: [Mark(100, 1)]})
    assert sorted(told) == [
        f"{first.topic}/0@50 is another record than the one read there once",
        f"{first.topic}/1 ends before 100, which was read once",
    ]
    assert await strangers(settings, {first: [Mark(5000, 1)]}) == [
        f"{first.topic}/0 ends before 5000, which was read once"
    ]


async def test_marks_below_the_logs_start_tell_nothing(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 20, 1)
    tp = TopicPartition(settings.topic("toy-in"), 0)
    async with admin(apache_broker) as client:
        await client.delete_records({tp: RecordsToDelete(before_offset=10)})
    assert await strangers(settings, {tp: [Mark(9, 1)]}) == []


def test_marks_travel_as_text_beside_other_words():
    marks = [Mark(7, 0xDEADBEEF), Mark(123456789012, 0)]
    assert read_marks("c3a0 " + write_marks(marks)) == marks
    assert read_marks("") == read_marks("c1a2 :: 5: x:1 ²:3 -4:2") == []


def test_the_newest_mark_below_the_position_goes_along():
    class Message:
        timestamp, key, value = 1, None, b""

        def __init__(self, offset):
            self.offset = offset

    marks = Marks()
    assert marks.at(0) == []
    for offset in (4, 9, 14):
        marks.saw(Message(offset))
    assert marks.at(4) == []
    assert [mark.offset for mark in marks.at(5)] == [4]
    assert [mark.offset for mark in marks.at(12)] == [4, 9]
    assert [mark.offset for mark in marks.at(100)] == [4, 14]
    assert [mark.offset for mark in Marks(marks.at(100)).at(100)] == [4, 14]


async def test_a_record_that_kills_the_process_is_dead_lettered_where_metadata_is_dropped(
    embedded_broker, prefix, tmp_path, monkeypatch
):
    """By notes in files (test_runner_kills.py has Apache Kafka, where they go with the commits)."""
    monkeypatch.setenv("TOY_NOTES", str(tmp_path))
    settings = settings_for(embedded_broker, prefix)
    await make_topics(embedded_broker, prefix, 1)
    await produce(settings, [b"poison" if n == 5 else b"%d" % n for n in range(60)], 1)
    starts, ended, log = 0, True, ""
    worker = None
    try:
        while ended and starts < 12:
            worker = ToyProcess(settings, 1, "double,mark", session=1.0)
            starts += 1
            try:
                await worker.exited(4)
                log += worker.end()
            except TimeoutError:
                ended = False
        found = await read_all(settings, "toy-out", 1, lambda r: len(set(numbers(r))) >= 118, 10)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: bool(r), 10)
    finally:
        log += worker.end()
    assert [(d.value, dict(d.headers)["dlq_reason"]) for d in dead] == [(b"poison", b"crash")], log
    assert set(numbers(found)) == {(n, half) for n in range(60) if n != 5 for half in "ab"}, log
    assert 4 <= starts <= 9


def test_a_note_counts_for_its_offset_only(tmp_path):
    notes = Notes(tmp_path / "starts")
    assert notes.read("t", 0, 5) == ""
    notes.write("t", 0, 5, "c1a0 3:ff")
    assert notes.read("t", 0, 5) == "c1a0 3:ff"
    assert notes.read("t", 0, 6) == notes.read("t", 1, 5) == ""
    notes.write("t", 0, 6, "")
    assert notes.read("t", 0, 5) == notes.read("t", 0, 6) == ""
    (tmp_path / "starts" / "t-0.begun").write_bytes(b"\xff\x00")
    assert notes.read("t", 0, 6) == ""


async def test_partitions_added_at_run_time_are_told_and_left_alone(apache_broker, prefix, caplog):
    """P is not what the broker shows: the work on the partitions below P goes on."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 2)
    agent = Each()
    async with Station(settings, agent, 2) as station:
        await produce(settings, [b"before"] * 4, 2)
        await until(lambda: len(agent.seen) == 4)
        await add_partitions(settings, "toy-in", 4)
        await station.runner._consumer._client.force_metadata_update()
        await until(lambda: "the broker shows 2 partitions beyond P=2; nobody reads them" in caplog.text)
        await produce(settings, [b"after"] * 8, 4)
        await until(lambda: len(agent.seen) == 8)
        await asyncio.sleep(0.5)
        assert {partition for partition, _ in agent.seen} == {0, 1}
        assert not station.deaths
    assert [await committed(settings, "toy", "toy-in", n) for n in range(4)] == [4, 4, -1, -1]


async def test_a_record_larger_than_a_fetch_goes_through_and_what_is_behind_it_too(broker, prefix):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 1)
    large = random.Random(1).randbytes(7_000_000)
    await produce(settings, [b"before", large, b"after"], 1)
    async with Station(settings, Each(), 1, fetch=65_536):
        found = await read_all(settings, "toy-out", 1, lambda records: len(records) == 3, 20)
    assert [record.value for record in found] == [b"before", large, b"after"]


def test_only_compaction_may_take_a_record_from_above_the_logs_start():
    class Behind:
        offset, timestamp, key, value = 8, 1, None, b""

    def same(topic):
        return incarnation._same(Mark(7, 1), Behind, TopicPartition(topic, 0), "pre-")

    assert same("pre-mail-campaigns")
    assert not same("pre-mail-sends")
