"""What was freed goes back to the system, also from between what is still in use."""

import gc
import subprocess
import sys

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords

from streams.broker import make_reader, started, stopped
from streams.incarnation import Mark, mark_of, strangers
from streams.memory import give_back
from streams.work import Work
from tests.support.toys import Keeps, Station, make_topics, produce, settings_for, until

CHURN = """
import os, random
from streams.memory import give_back

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

dice, held = random.Random(1), []
for _ in range(6):
    held += [(os.urandom(11_000 + dice.randrange(1_500)), {f"k{n}": n for n in range(20)}) for _ in range(6_000)]
    dice.shuffle(held)
    held = held[:2_000]
before = resident()
assert give_back()
print(before - resident())
"""


@pytest.mark.skipif(not give_back(), reason="this C library gives nothing back by itself")
def test_freed_mails_between_held_ones_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHURN], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 20_000  # KB, of some 90 that were freed


@pytest.fixture
def no_collection():
    """Whatever is freed is freed by nobody's holding it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(kind: type) -> int:
    return sum(isinstance(one, kind) for one in gc.get_objects())


async def test_a_partition_that_goes_takes_its_records_with_it(broker, prefix, no_collection):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    await produce(settings, [b"x" * 1000] * 400, 2)
    before = living(Work), living(PartitionRecords)
    agent = Keeps()
    async with Station(settings, agent, 2):
        await until(lambda: len(agent.kept) >= 200)
        assert living(Work) >= before[0] + 200
    agent.kept.clear()
    assert (living(Work), living(PartitionRecords)) == before


async def test_a_look_at_single_records_leaves_nothing_behind_and_finds_large_ones(
    broker, prefix, no_collection
):
    settings = settings_for(broker, prefix)
    await make_topics(broker, prefix, 2)
    await produce(settings, [bytes([65 + n]) * 400_000 for n in range(6)], 2)
    tps = [TopicPartition(settings.topic("toy-in"), number) for number in range(2)]
    reader = await started(make_reader(settings))
    marks: dict[TopicPartition, list[Mark]] = {tp: [] for tp in tps}
    reader.assign(tps)
    await reader.seek_to_beginning(*tps)
    while not all(len(found) >= 2 for found in marks.values()):
        for tp, messages in (await reader.getmany(timeout_ms=200)).items():
            marks[tp] += map(mark_of, messages)
    await stopped(reader)
    del reader
    gc.collect()
    before = living(PartitionRecords)
    wanted = {tp: [found[0], found[1]] for tp, found in marks.items()}
    assert await strangers(settings, wanted) == []
    assert living(PartitionRecords) == before
    other = {tp: [Mark(found[1].offset, found[1].checksum ^ 1)] for tp, found in marks.items()}
    assert len(await strangers(settings, other)) == 2
