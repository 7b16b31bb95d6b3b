"""Workers are killed, frozen and restarted while a two-stage pipeline runs on Apache Kafka: nothing is lost."""

import asyncio
import random
import signal

from tests.support.toys import ToyProcess, make_topics, numbers, produce, read_all, settings_for

P = 4


def expected(count):
    return {(n, half) for n in range(count) for half in "ab"}


async def test_kill_9_of_either_stage_loses_nothing(apache_broker, prefix):
    settings, count = settings_for(apache_broker, prefix), 6_000
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"x" * 500] * count, P)
    chance = random.Random(7)
    workers = [ToyProcess(settings, P, stage, session=1.5) for stage in ("double", "double", "mark", "mark")]
    names = ["double", "double", "mark", "mark"]
    try:
        for _ in range(4):
            await asyncio.sleep(chance.uniform(1.0, 1.6))
            victim = chance.randrange(4)
            workers[victim].signal(signal.SIGKILL)
            workers[victim].process.wait(10)
            workers[victim] = ToyProcess(settings, P, names[victim], session=1.5)
        found = await read_all(settings, "toy-out", P, lambda r: set(numbers(r)) >= expected(count), 60)
    finally:
        logs = [worker.end() for worker in workers]
    missing = expected(count) - set(numbers(found))
    assert not missing, f"lost {len(missing)}: {sorted(missing)[:5]}\n{logs}"
    # At least once: repeats are allowed here, where no gate is; they must be a small part.
    assert len(found) < 2 * count * 1.5


async def test_a_paused_owner_that_wakes_up_loses_nothing(apache_broker, prefix):
    settings, count = settings_for(apache_broker, prefix), 6_000
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"x" * 500] * count, P)
    workers = [ToyProcess(settings, P, "double,mark", session=1.5) for _ in range(2)]
    try:
        await asyncio.sleep(2.0)
        workers[0].signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)  # longer than the session of 1.5 s: its partitions move
        workers[0].signal(signal.SIGCONT)
        found = await read_all(settings, "toy-out", P, lambda r: set(numbers(r)) >= expected(count), 60)
        await produce(settings, [b"y"] * 8, P)
        await asyncio.sleep(1)
    finally:
        logs = [worker.end() for worker in workers]
    missing = expected(count) - set(numbers(found))
    assert not missing, f"lost {len(missing)}\n{logs}"


async def test_a_rolling_restart_by_sigterm_repeats_nothing(apache_broker, prefix):
    settings, count = settings_for(apache_broker, prefix), 8_000
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"x" * 500] * count, P)
    workers = [ToyProcess(settings, P, "double,mark") for _ in range(2)]
    try:
        for n in (0, 1):
            await workers[n].ready()
            await asyncio.sleep(0.7)
            workers[n].signal(signal.SIGTERM)
            assert await workers[n].exited() == 0
            workers[n].end()
            workers[n] = ToyProcess(settings, P, "double,mark")
        found = await read_all(settings, "toy-out", P, lambda r: set(numbers(r)) >= expected(count), 60)
    finally:
        logs = [worker.end() for worker in workers]
    assert set(numbers(found)) == expected(count), logs
    assert len(found) == 2 * count, f"{len(found) - 2 * count} repeats after orderly stops\n{logs}"


async def test_a_record_that_kills_the_process_is_dead_lettered_and_no_innocent_with_it(
    apache_broker, prefix
):
    """Every partition has mail; each start ends within milliseconds, so that none gets on by itself."""
    settings, count = settings_for(apache_broker, prefix), 240
    await make_topics(apache_broker, prefix, P)
    await produce(settings, [b"poison" if n == 5 else b"%d" % n for n in range(count)], P)
    starts, worker, ended = 0, None, True
    try:
        while ended and starts < 12:
            worker = ToyProcess(settings, P, "double,mark", session=1.0)
            starts += 1
            try:
                await worker.exited(4)
                log = worker.end()
            except TimeoutError:
                ended = False
        found = await read_all(settings, "toy-out", P, lambda r: len(set(numbers(r))) >= 2 * count - 2, 20)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: bool(r), 10)
        dead = await read_all(settings, "mail-dlq", 1, lambda r: len(r) > 1, 0.5)
    finally:
        log = worker.end()
    assert [(d.value, dict(d.headers)["dlq_reason"]) for d in dead] == [(b"poison", b"crash")], log
    assert set(numbers(found)) == {(n, half) for n in range(count) if n != 5 for half in "ab"}, log
    assert 4 <= starts <= 9
