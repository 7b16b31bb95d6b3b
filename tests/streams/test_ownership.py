"""Is the partition still ours? Freshness against what aiokafka itself takes for success."""

import asyncio
import importlib.metadata

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import TopicPartitionState

from streams.broker import make_group_consumer
from streams.ownership import Ownership
from tests.support.toys import Each, Station, make_topics, settings_for, until


class Coordinator:
    """What Ownership sees of aiokafka's coordinator; ``answer`` is what the next heartbeat comes to."""

    def __init__(self):
        self.generation = 1
        self._rejoin_needed_fut = asyncio.get_running_loop().create_future()
        self.answer = "ok"
        self.takes = lambda: None

    async def _do_heartbeat(self):
        self.takes()
        if self.answer == "rebalance":  # as aiokafka does: a success that asks for a rejoin
            if not self._rejoin_needed_fut.done():
                self._rejoin_needed_fut.set_result(None)
            return True
        return self.answer == "ok"


class Consumer:
    def __init__(self):
        self._coordinator = Coordinator()


def watched(session=10.0):
    consumer, clock = Consumer(), [100.0]
    ownership = Ownership(session, lambda: clock[0])
    ownership.watch(consumer)
    return ownership, consumer._coordinator, clock


async def test_fresh_for_half_a_session_after_a_heartbeat_was_sent():
    ownership, coordinator, clock = watched()
    epoch = ownership.turn()
    assert not ownership.fresh(epoch)
    coordinator.takes = lambda: clock.__setitem__(0, 103.0)  # the answer took 3 s
    assert await coordinator._do_heartbeat()
    assert ownership.fresh(epoch)
    clock[0] = 104.9
    assert ownership.fresh(epoch)
    clock[0] = 105.0  # 5 s after it was sent, not after it was answered
    assert not ownership.fresh(epoch)


async def test_a_rebalance_in_progress_is_no_success():
    ownership, coordinator, clock = watched()
    epoch = ownership.turn()
    await coordinator._do_heartbeat()
    clock[0] += 1
    coordinator.answer = "rebalance"
    assert await coordinator._do_heartbeat()  # aiokafka takes it for one
    assert not ownership.fresh(epoch)


async def test_a_failed_heartbeat_makes_nothing_fresh():
    ownership, coordinator, _ = watched()
    epoch = ownership.turn()
    coordinator.answer = "error"
    assert not await coordinator._do_heartbeat()
    assert not ownership.fresh(epoch)


async def test_another_epoch_or_generation_is_not_fresh():
    ownership, coordinator, _ = watched()
    epoch = ownership.turn()
    await coordinator._do_heartbeat()
    coordinator.generation = 2
    assert not ownership.fresh(epoch)
    await coordinator._do_heartbeat()
    assert ownership.fresh(epoch)
    later = ownership.turn()
    assert not ownership.fresh(epoch)
    assert not ownership.fresh(later)  # not before a heartbeat of its own
    await coordinator._do_heartbeat()
    assert ownership.fresh(later)
    assert not ownership.fresh(epoch)


async def test_a_generation_that_changes_under_a_heartbeat_is_not_the_one_confirmed():
    ownership, coordinator, _ = watched()
    epoch = ownership.turn()
    coordinator.takes = lambda: setattr(coordinator, "generation", 2)
    await coordinator._do_heartbeat()
    assert not ownership.fresh(epoch)


async def test_a_process_that_was_frozen_is_not_fresh_when_it_wakes():
    ownership, coordinator, clock = watched()
    epoch = ownership.turn()
    await coordinator._do_heartbeat()
    clock[0] += 60
    assert not ownership.fresh(epoch)
    # Nor through an answer that lay in the socket meanwhile: what counts is when it was asked for.
    clock[0] = 100.0
    coordinator.takes = lambda: clock.__setitem__(0, 160.0)
    await coordinator._do_heartbeat()
    assert not ownership.fresh(epoch)


async def test_nobody_watched_is_not_fresh():
    assert not Ownership(10).fresh(0)


async def test_freshness_with_a_real_group(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, session=3.0)
    await make_topics(apache_broker, prefix, 2)
    async with Station(settings, Each(), 2) as first:
        await first.open()
        ownership = first.runner.ownership
        await until(lambda: ownership.fresh(ownership.epoch))
        epoch, stale = ownership.epoch, []
        async with Station(settings, Each(opening=0.2), 2) as second:
            await until(lambda: second.runner._shares)  # from here on a partition is the other's
            stale.append(ownership.fresh(epoch))
            await until(lambda: ownership.epoch != epoch and ownership.fresh(ownership.epoch))
            assert not ownership.fresh(epoch)
        assert stale == [False]


def test_the_private_names_of_aiokafka_that_we_hang_on_are_there():
    assert importlib.metadata.version("aiokafka") == "0.14.0", "read the code again, then change this"
    assert asyncio.iscoroutinefunction(GroupCoordinator._do_heartbeat)
    assert asyncio.iscoroutinefunction(GroupCoordinator.fetch_committed_offsets)
    assert isinstance(Fetcher.error_future, property)
    assert isinstance(TopicPartitionState.position, property)
    for name in ("generation", "_rejoin_needed_fut", "_do_heartbeat"):
        assert name in GroupCoordinator.__init__.__code__.co_names + tuple(vars(GroupCoordinator))
    assert "_coordinator" in AIOKafkaConsumer.start.__code__.co_names
    assert "_fetcher" in AIOKafkaConsumer.start.__code__.co_names


async def test_the_consumer_has_the_settings_that_the_guarantee_needs(tmp_path):
    from streams.settings import Settings

    consumer = make_group_consumer(Settings(session=12.0), "deliver", 65_536, 8)
    assert consumer._auto_offset_reset == "none"
    assert consumer._enable_auto_commit is False
    assert consumer._rebalance_timeout_ms == 60_000
    assert consumer._session_timeout_ms == 12_000
    assert consumer._group_instance_id is None
    assert consumer._fetch_max_wait_ms <= 500  # see tests/streams/test_pace.py
    assert consumer._max_partition_fetch_bytes == 65_536
    assert [a.name for a in consumer._partition_assignment_strategy] == ["range"]
    consumer._closed = True  # never started
