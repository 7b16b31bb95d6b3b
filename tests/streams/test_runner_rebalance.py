"""What aiokafka does at a rebalance, and what the runner makes of it."""

import asyncio
import random
import time

import pytest

from agents import Out
from streams import metrics
from streams.admin import add_partitions
from streams.lab.brokers import answers
from tests.support.toys import (
    Each,
    Keeps,
    Station,
    committed,
    make_topics,
    numbers,
    produce,
    read_all,
    settings_for,
    stage,
    until,
)

P = 4


async def test_partitions_that_open_longer_than_a_session_are_kept(apache_broker, prefix):
    """aiokafka sends no heartbeat while on_partitions_assigned runs; a state may take minutes to read."""
    settings = settings_for(apache_broker, prefix, session=1.2)
    await make_topics(apache_broker, prefix, 2)
    await produce(settings, [b"x"] * 20, 2)
    agent = Each(opening=2.5)
    async with Station(settings, agent, 2) as station:
        await station.open()
        await until(lambda: len(agent.seen) >= 20)
        await asyncio.sleep(0.5)
        assert [await committed(settings, "toy", "toy-in", p) for p in (0, 1)] == [10, 10]
    assert agent.assignments == [0, 1]
    assert len(agent.seen) == 20


async def test_no_record_of_an_assignment_comes_before_it_is_open(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"x"] * 200, P)
    early = []

    class Strict(Each):
        async def batch(self, tickets, partition):
            if partition not in self.assignments:
                early.append(partition)
            await super().batch(tickets, partition)

        async def revoked(self, partition):
            self.assignments.remove(partition)

    first, second = Strict(opening=0.7), Strict(opening=0.7)
    async with Station(settings, first, P) as one:
        await one.open()
        async with Station(settings, second, P) as two:
            await two.open()
            await produce(settings, [b"y"] * 200, P)
            await until(lambda: len(set(first.seen) | set(second.seen)) == 400)
    assert not early
    assert not one.deaths
    assert not two.deaths


@pytest.mark.parametrize("when", ["full", "spare"])
async def test_a_consumer_that_takes_nothing_for_long_keeps_its_membership(apache_broker, prefix, when):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)

    def impatient(consumer):
        consumer._max_poll_interval_ms = 600

    if when == "full":
        await produce(settings, [b"x"] * 1000, 1)
        agent = Keeps()
        async with Station(settings, agent, 1, stage(window=50, slice=10), tweak=impatient) as station:
            await until(lambda: len(agent.kept) >= 50)
            epoch = station.runner.ownership.epoch
            await asyncio.sleep(2.5)
            assert station.runner.ownership.epoch == epoch
            assert station.owned == {0}
        return
    one, two = Each(), Each()
    async with Station(settings, one, 1, tweak=impatient) as first:
        await first.open()
        async with Station(settings, two, 1, tweak=impatient) as second:
            await until(lambda: second.runner.ready.is_set() and first.runner.ready.is_set())
            await asyncio.sleep(2.0)  # one of them owns nothing for longer than the interval
            owner, spare, theirs = (first, second, two) if first.owned else (second, first, one)
            assert not spare.owned
            await owner.runner.stop()
            await until(lambda: spare.owned == {0}, 6)
            await produce(settings, [b"x"], 1)
            await until(lambda: theirs.seen)


async def test_workers_join_and_leave_under_load(apache_broker, prefix):
    """Nothing lost, nothing twice: every stop is in order. getmany waits through each rebalance unharmed."""
    settings, count = settings_for(apache_broker, prefix), 6000
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"x" * 200] * count, P)
    chance = random.Random(3)

    class Works(Each):
        async def batch(self, tickets, partition):
            await asyncio.sleep(0.01)
            await super().batch(tickets, partition)

    stations = []
    async with Station(settings, Works(), P, stage(slice=20)) as always:
        await always.open()
        for _ in range(4):
            async with Station(settings, Works(), P, stage(slice=20)) as guest:
                stations.append(guest)
                await guest.open()
                await asyncio.sleep(chance.uniform(0.05, 0.4))
            await asyncio.sleep(chance.uniform(0.05, 0.3))
        found = await read_all(settings, "toy-out", P, lambda r: len({n for n, _ in numbers(r)}) >= count, 40)
    assert not [s.deaths for s in (always, *stations) if s.deaths]
    assert {n for n, _ in numbers(found)} == set(range(count))
    assert len(found) == count


async def test_a_stop_while_partitions_open_is_no_accident(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 2)
    revoked = []

    class Slow(Each):
        async def revoked(self, partition):
            revoked.append(partition)

    agent = Slow(opening=10)
    async with Station(settings, agent, 2) as station:
        await until(lambda: len(station.runner._shares) == 2)
        begun = time.monotonic()
        await station.runner.stop()
        assert time.monotonic() - begun < 3
    assert not station.deaths
    assert sorted(revoked) == [0, 1]
    assert not agent.assignments


async def test_partition_p_of_every_topic_is_with_one_worker_also_when_one_topic_has_grown(
    apache_broker, prefix
):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, P)
    await make_topics(apache_broker, prefix, P, "toy-in-now")
    await add_partitions(settings, "toy-in", P + 5)
    while not await answers(apache_broker.bootstrap, {settings.topic("toy-in"): P + 5}):
        await asyncio.sleep(0.05)
    one, two, both = Each(), Each(), stage(twins=True)
    async with Station(settings, one, P, both) as first, Station(settings, two, P, both) as second:
        await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
        assert not first.owned & second.owned
        for station in (first, second):
            for share in station.runner._shares.values():
                assert len(share.lines) == 2
        await until(lambda: metrics.STRAY_PARTITIONS.labels("toy")._value.get() == 5)
        first.outbox.put(Out("toy-in", b"stray", {}, None, P + 1))
        await produce(settings, [b"x"] * 8, P)
        await until(lambda: len(one.seen) + len(two.seen) >= 8)
    assert {p for p, _ in one.seen + two.seen} == set(range(P))
    assert not first.deaths
    assert not second.deaths


async def test_only_a_start_that_took_a_record_is_noted(apache_broker, prefix):
    """An idle partition whose worker is killed again and again holds nothing against its next record."""
    from aiokafka import TopicPartition

    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    tp = TopicPartition(settings.topic("toy-in"), 0)
    agent = Keeps()

    async def note(station):
        found = await station.runner._consumer._coordinator.fetch_committed_offsets([tp])
        words = found[tp].metadata.split() if tp in found else ()
        return "".join(word for word in words if word.startswith("c"))

    async with Station(settings, agent, 1) as station:
        await station.open()
        await asyncio.sleep(0.5)
        assert await note(station) == ""
        await produce(settings, [b"1", b"2"], 1)
        await until(lambda: len(agent.kept) == 2)
        assert await note(station) == "c1a0"  # before the agent saw it
        agent.let_go(0)
        await asyncio.sleep(0.6)
        assert await note(station) == ""
    async with Station(settings, Keeps(), 1) as station:
        await until(lambda: len(station.agent.kept) == 1)
    async with Station(settings, Each(), 1) as station:
        await station.open()
        assert await note(station) == ""  # the stop before this one was in order


async def test_a_frozen_opening_of_one_worker_is_given_up_when_the_group_moves_on(apache_broker, prefix):
    """A rebalance while partitions are still being opened: the opening is cancelled and begun anew."""
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 2)
    await produce(settings, [b"x"] * 20, 2)
    slow, quick = Each(opening=2.0), Each()
    async with Station(settings, slow, 2) as first:
        await until(lambda: len(first.runner._shares) == 2)
        async with Station(settings, quick, 2) as second:
            await until(lambda: len(slow.seen) + len(quick.seen) == 20)
            assert slow.assignments in ([0], [1])
            assert quick.assignments in ([0], [1])
    assert not first.deaths
    assert not second.deaths
