"""A partition's state: truth in the changelog, a file that may be lost, own writes seen at once."""

import asyncio
import shutil
import sqlite3
import time

import pytest

from agents import Out
from schemas.codec import Record
from streams import state as state_module
from streams.broker import Outbox, make_producer
from streams.follow import Follower
from streams.state import PartitionState, StateFiles
from streams.store import Store, first_word
from tests.support.agents import FakeTicket
from tests.support.brokers import create_topics
from tests.support.toys import settings_for, until


class Died(Exception):
    pass


@pytest.fixture
def deaths(monkeypatch):
    """``die`` raises, so that nothing after it runs."""
    found = []

    def die(code, why):
        found.append((code, why))
        raise Died(why)

    monkeypatch.setattr(state_module, "die", die)
    return found


class Message:
    timestamp = 0

    def __init__(self, offset, key, value):
        self.offset, self.key, self.value = offset, key, value


def offline(tmp_path, **options):
    """A state whose follower is not needed: the test applies the tail itself."""
    return PartitionState("log", 0, Store(tmp_path / "s.sqlite", "log"), follower=None, **options)


def ticket():
    return FakeTicket(Record("in", 0, 0, 0, None, b"", {}), hold=True)


def newer(old, new):
    return int(new) >= int(old)


def test_own_writes_are_seen_at_once_and_reach_the_file_from_the_tail_only(tmp_path):
    state = offline(tmp_path)
    held = ticket()
    state.put(held, b"a/1", b"x")
    state.put(held, b"a/2", b"y")
    assert state.get(b"a/1") == b"x"
    assert state.scan(b"a/") == [(b"a/1", b"x"), (b"a/2", b"y")]
    assert state._store.count() == 0
    state._apply([Message(0, b"a/1", b"x"), Message(1, b"b", b"foreign")])
    assert state._store.get(b"a/1") == b"x"
    state.put(held, b"a/1", None)
    assert state.get(b"a/1") is None
    assert state.scan(b"a/") == [(b"a/2", b"y")]
    state._apply([Message(2, b"a/2", b"y"), Message(3, b"a/1", None)])
    assert state._own == {}
    assert state.get(b"a/1") is None
    assert state.scan(b"") == [(b"a/2", b"y"), (b"b", b"foreign")]
    assert [(o.topic, o.partition, o.key, o.value) for o in held.outs] == [
        ("log", 0, b"a/1", b"x"),
        ("log", 0, b"a/2", b"y"),
        ("log", 0, b"a/1", None),
    ]


def test_a_late_writer_of_an_older_version_is_overwritten(tmp_path):
    rewritten = []
    state = offline(tmp_path, newer=newer, rewrite=rewritten.append, headers={"type": b"t"})
    state._apply([Message(0, b"k", b"5")])
    state._apply([Message(1, b"k", b"3"), Message(2, b"other", b"1")])
    assert state.get(b"k") == b"5"
    assert rewritten == [Out("log", b"5", {"type": b"t"}, b"k", 0)]
    state._apply([Message(3, b"k", b"5")])  # our own again: no loop
    state._apply([Message(4, b"k", b"9"), Message(5, b"k", b"8")])  # within one batch too
    assert state.get(b"k") == b"9"
    assert [out.value for out in rewritten] == [b"5", b"9"]


def test_a_reader_keeps_the_newer_version_and_writes_nothing(tmp_path):
    state = offline(tmp_path, newer=newer)
    state._apply([Message(0, b"k", b"5"), Message(1, b"k", b"3")])
    assert state.get(b"k") == b"5"
    state._apply([Message(2, b"k", b""), Message(3, b"k", b"1")])
    assert state.get(b"k") == b"1"  # deleted in between: nothing to compare with


def test_the_order_of_the_log_decides_where_there_is_no_version(tmp_path):
    state = offline(tmp_path)
    state._apply([Message(0, b"k", b"2"), Message(1, b"k", b"1"), Message(2, b"gone", b"x")])
    state._apply([Message(3, b"gone", None), Message(4, None, b"no key")])
    assert state.scan(b"") == [(b"k", b"1")]
    assert state._store.position("log") == 5


def test_reduced_rows_expire(tmp_path):
    state = offline(tmp_path, reduce=lambda value: (value[:1], float(value[1:])))
    held = ticket()
    state.put(held, b"k", b"a10")
    assert state.get(b"k") == b"a"
    assert held.outs[0].value == b"a10"
    state._apply([Message(0, b"k", b"a10"), Message(1, b"l", b"b20"), Message(2, b"m", b"c0")])
    assert state._own == {}
    assert state.expire(15) == 1
    assert state.scan(b"") == [(b"l", b"b"), (b"m", b"c")]


def test_a_full_disk_ends_the_process_and_says_so(tmp_path, deaths):
    state = offline(tmp_path)
    state._store._db.execute("PRAGMA max_page_count=20")
    with pytest.raises(Died):
        state._apply([Message(n, b"%d" % n, b"x" * 4000) for n in range(100)])
    assert deaths[0][0] == 74
    assert "s.sqlite" in deaths[0][1]
    assert "is the disk full?" in deaths[0][1]
    assert (tmp_path / "s.sqlite").exists()


def test_a_damaged_file_ends_the_process_and_no_record_is_blamed(tmp_path, deaths):
    """A page of rubbish in the middle: found when read, deleted, filled again at the next start."""
    path = tmp_path / "s.sqlite"
    state = offline(tmp_path)
    state._apply([Message(n, b"%05d" % n, b"x" * 300) for n in range(2000)])
    state._store.close()
    whole = bytearray(path.read_bytes())
    for page in range(40, len(whole) // 4096 - 1):
        whole[page * 4096 : page * 4096 + 4096] = b"\xff" * 4096
    path.write_bytes(whole)
    state = offline(tmp_path)
    with pytest.raises(Died):
        _ = [state.get(b"%05d" % n) for n in range(2000)]
    assert deaths[0][0] == 74
    assert "damaged" in deaths[0][1]
    assert not path.exists()
    assert offline(tmp_path).get(b"00001") is None


def test_a_file_that_another_process_has_taken_over_ends_this_one(tmp_path, deaths):
    state, successor = offline(tmp_path), offline(tmp_path)
    for one in (state, successor):
        one._store.position("log")
    successor._apply([Message(0, b"k", b"2")])
    with pytest.raises(Died):
        state._apply([Message(0, b"k", b"1")])
    assert deaths[0][0] == 75
    assert successor.get(b"k") == b"2"


@pytest.fixture
async def world(broker, prefix):
    """A changelog of two partitions, a follower and an outbox on it."""
    settings = settings_for(broker, prefix)
    await create_topics(broker, prefix + "log", partitions=2)
    died = []
    follower = Follower(settings, lambda code, why: died.append(why))
    outbox = Outbox(make_producer(settings), settings)
    await follower.start()
    await outbox.start()
    yield follower, outbox
    await outbox.stop()
    await follower.stop()
    assert not died


async def write(outbox, *pairs):
    for key, value in pairs:
        outbox.put(Out("log", value, {}, key, 0))
    assert await outbox.flush(10)


async def test_lost_and_stale_files_are_filled_from_the_log(world, tmp_path):
    follower, outbox = world
    await write(outbox, *((b"%d" % n, b"v%d" % n) for n in range(300)))
    files = StateFiles("log", tmp_path, follower, 2)
    state = await files.open(0)
    assert len(state.scan(b"")) == 300
    assert state.fresh(5)
    assert files(0) is state
    await files.close(0)
    with pytest.raises(KeyError):
        files(0)
    await write(outbox, (b"7", None), (b"8", b"new"))
    state = await files.open(0)  # on from its position
    assert (state.get(b"7"), state.get(b"8"), state.get(b"9")) == (None, b"new", b"v9")
    await files.close(0)
    shutil.rmtree(tmp_path)
    state = await files.open(0)  # from nothing
    assert len(state.scan(b"")) == 299
    await files.close(0)
    (tmp_path / "log-0.sqlite").write_bytes(b"rubbish" * 1000)
    state = await files.open(0)
    assert state.get(b"8") == b"new"
    await files.close(0)
    store = Store(tmp_path / "log-0.sqlite", "log/0 of 2")  # as if the topic had been longer, once
    store.position("log")
    store.apply("log", 100_000, [(b"from another world", b"x", 0.0)])
    store.close()
    state = await files.open(0)
    assert state.get(b"from another world") is None
    assert len(state.scan(b"")) == 299
    other = StateFiles("log", tmp_path, follower, 4)  # another P
    await files.close(0)
    assert (await other.open(0)).get(b"8") == b"new"
    await other.close(0)


async def test_an_opening_that_is_cancelled_leaves_nothing_open(world, tmp_path):
    follower, outbox = world
    await write(outbox, (b"a", b"1"))
    files = StateFiles("log", tmp_path, follower, 2)
    task = asyncio.create_task(files.open(0))
    while not follower._followed:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not follower._followed
    assert files.opened() == []
    first = await files.open(0)
    second = await files.open(0)  # a close that timed out: the old one is closed first
    assert files.opened() == [second]
    with pytest.raises(sqlite3.ProgrammingError):
        first._store.count()
    await write(outbox, (b"b", b"2"))
    await until(lambda: second.get(b"b") == b"2")
    await files.close(0)


class Log:
    """A follower over a list: always read to its end."""

    def __init__(self, *messages):
        self.messages = list(messages)

    async def first(self, topic, partition):
        return 0

    async def follow(self, topic, partition, sink, start):
        found = [m for m in self.messages if m.offset >= start]
        if found:
            sink(found)

    def forget(self, topic, partition):
        pass

    def fresh(self, topic, partition, seconds):
        return True


async def test_a_file_that_was_left_alone_does_not_keep_who_was_erased_meanwhile(tmp_path):
    log, now = Log(Message(0, b"ada|a", b"1"), Message(1, b"eve|a", b"1")), [1_790_000_000.0]
    options = {"head": first_word, "unattended": 86_400.0, "clock": lambda: now[0]}
    files = StateFiles("log", tmp_path, log, 1, **options)
    state = await files.open(0)
    assert {key for key, _ in state.scan(b"")} == {b"ada|a", b"eve|a"}
    await files.close(0)
    # Ada is erased while this worker is away, and compaction takes the deletion too.
    log.messages = [Message(1, b"eve|a", b"1"), Message(5, b"#0.f|", b"1")]
    now[0] += 3600.0
    soon = await files.open(0)  # Kafka keeps deletions for longer than that: it would have been seen
    assert {key for key, _ in soon.scan(b"")} == {b"ada|a", b"eve|a", b"#0.f|"}
    now[0] += 100_000.0
    files.attend()
    await files.close(0)
    now[0] += 80_000.0
    assert len((await files.open(0)).scan(b"")) == 3  # attended for as long as it was open
    await files.close(0)
    now[0] += 90_000.0
    late = await files.open(0)
    assert {key for key, _ in late.scan(b"")} == {b"eve|a", b"#0.f|"}
    assert late.hashed
    await files.close(0)


async def test_files_of_former_assignments_go(tmp_path):
    log, now = Log(Message(0, b"ada|a", b"1")), [time.time()]
    files = StateFiles("log", tmp_path, log, 3, unattended=86_400.0, clock=lambda: now[0])
    for partition in (0, 1):
        await files.open(partition)
    await files.close(1)
    (tmp_path / "other-1.sqlite").write_bytes(b"")
    files.attend()
    assert (tmp_path / "log-1.sqlite").exists()
    now[0] += 90_000.0
    files.attend()
    assert sorted(path.name for path in tmp_path.glob("*.sqlite")) == ["log-0.sqlite", "other-1.sqlite"]
    await files.close(0)


async def test_people_erased_under_a_secret_that_is_gone_are_told(tmp_path, caplog):
    log = Log(
        Message(0, b"#01234567.ff||global||erased", b"1"), Message(1, b"#89abcdef.ff||global||erased", b"1")
    )
    files = StateFiles("log", tmp_path, log, 1, head=first_word, hash_keys={"89abcdef"})
    await files.open(0)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "log/0: people were erased under secrets that are not set any more (01234567)" in told
    assert "MAILSLUICE_RETIRED_SECRETS" in told
    assert files.lost_people() == 1
    await files.close(0)
    assert files.lost_people() == 0
