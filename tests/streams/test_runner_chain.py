"""Neighbours in one process that skip the topic between them: the same results, the same guarantee."""

import asyncio
import signal

import pytest

from agents import Out
from streams.runner import CHAIN_SLICES
from tests.support.toy import DOUBLE as DOUBLE_STAGE
from tests.support.toy import MARK, Double, Mark
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


class Chain:
    """The two toy stages in this process, chained."""

    def __init__(self, settings, partitions, first=None, second=None):
        self.first = Station(settings, first or Double(), partitions, DOUBLE_STAGE)
        self.second = Station(settings, second or Mark(), partitions, MARK, outbox=self.first.outbox)
        self.agent = second

    async def __aenter__(self):
        await self.first.outbox.start()
        self.first.own_outbox = False
        self.second.runner.chain_behind(self.first.runner, "toy-mid")
        await self.second.__aenter__()
        await self.first.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.first.__aexit__(*error)
        await self.second.__aexit__(*error)
        self.first.outbox._idle.set()
        await self.first.outbox.stop()

    @property
    def deaths(self):
        return self.first.deaths + self.second.deaths


async def test_chained_is_the_same_as_unchained_and_the_skipped_topic_is_drained(broker, prefix):
    settings, count = settings_for(broker, prefix), 300
    await make_topics(broker, prefix, 2)
    await produce(settings, [b"x"] * count, 2)
    await produce(settings, [b"from unchained days"] * 2, 2, "toy-mid")
    async with Chain(settings, 2) as chain:
        out = await read_all(settings, "toy-out", 2, lambda r: len(r) >= 2 * count + 2, 20)
        await until(lambda: chain.first.outbox.unacked == 0)
    mid = await read_all(settings, "toy-mid", 2, lambda r: len(r) > 2, 0.5)
    assert not chain.deaths
    assert len(mid) == 2
    chained = [r for r in out if r.value == b"x"]
    assert len(chained) == 2 * count
    assert set(numbers(chained)) == {(n, half) for n in range(count) for half in "ab"}
    assert all(n % 2 == r.partition for r in chained for n, _ in numbers([r]))
    assert len(out) == 2 * count + 2
    assert sum([await committed(settings, "toy-double", "toy-in", p) for p in (0, 1)]) == count


async def test_the_second_stage_gets_one_partition_at_a_time_and_its_dead_letters_its_place(
    apache_broker, prefix
):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 3)
    await produce(settings, [b"x"] * 290 + [b"bad mark"], 3)
    mixed = []

    class Strict(Mark):
        async def batch(self, tickets, partition):
            mixed.extend(t for t in tickets if t.record.partition != partition)
            await super().batch(tickets, partition)

        def step(self, record):
            if record.value == b"bad mark":
                raise ZeroDivisionError("the second stage")
            return super().step(record)

    async with Chain(settings, 3, second=Strict()) as chain:
        out = await read_all(settings, "toy-out", 3, lambda r: len(r) >= 580, 20)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) >= 2, 10)
        await asyncio.sleep(0.5)
    assert not chain.deaths
    assert not mixed
    assert len(out) == 580
    assert {dict(d.headers)["dlq_stage"] for d in dead} == {b"toy-mark"}
    assert {dict(d.headers)["dlq_topic"] for d in dead} == {b"toy-mid"}
    assert sum([await committed(settings, "toy-double", "toy-in", p) for p in range(3)]) == 291


async def test_input_is_committed_only_when_the_second_stages_output_is_acknowledged(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 1)
    await produce(settings, [b"x"] * 10, 1)

    class Holds(Each):
        held = ()

        async def batch(self, tickets, partition):
            for ticket in tickets:
                ticket.keep()
            self.held = (*self.held, *tickets)

    holds = Holds()
    async with Chain(settings, 1, second=holds):
        await until(lambda: len(holds.held) == 20)
        await asyncio.sleep(0.5)
        assert await committed(settings, "toy-double", "toy-in", 0) <= 0
        for ticket in holds.held[:7]:  # three and a half of the inputs
            ticket.emit(Out("toy-out", b"", {}, None, 0))
            ticket.done()
        await asyncio.sleep(0.5)
        assert await committed(settings, "toy-double", "toy-in", 0) == 3
        for ticket in holds.held[7:]:
            ticket.done()
        await asyncio.sleep(0.5)
        assert await committed(settings, "toy-double", "toy-in", 0) == 10


async def test_what_waits_between_the_stages_is_bounded(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix)
    await make_topics(apache_broker, prefix, 4)
    await produce(settings, [b"x"] * 4000, 4)
    longest = 0

    class Slow(Each):
        async def batch(self, tickets, partition):
            nonlocal longest
            await asyncio.sleep(0.02)
            longest = max(longest, len(chain.first.runner._behind[0]))
            for ticket in tickets:
                ticket.done()

    async with Chain(settings, 4, second=Slow()) as chain:
        await asyncio.sleep(2.0)
    # A slice of each partition, two outputs each, may come on top.
    assert 0 < longest <= DOUBLE_STAGE.slice * CHAIN_SLICES + 4 * 2 * DOUBLE_STAGE.slice


@pytest.mark.slow
async def test_kill_9_of_a_chained_process_loses_nothing(apache_broker, prefix):
    settings, count = settings_for(apache_broker, prefix), 4000
    await make_topics(apache_broker, prefix, 4)
    await produce(settings, [b"x" * 300] * count, 4)
    worker = ToyProcess(settings, 4, "double,mark", "chain", session=1.5)
    try:
        for pause in (1.2, 2.6):
            await asyncio.sleep(pause)
            worker.signal(signal.SIGKILL)
            worker.end()
            worker = ToyProcess(settings, 4, "double,mark", "chain", session=1.5)
        everything = {(n, half) for n in range(count) for half in "ab"}
        found = await read_all(settings, "toy-out", 4, lambda r: set(numbers(r)) >= everything, 40)
    finally:
        log = worker.end()
    assert set(numbers(found)) == everything, log
