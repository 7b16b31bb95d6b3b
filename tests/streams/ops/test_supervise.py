"""Workers of a supervisor that come and go at run time."""

import asyncio
import os
import signal
import time

import pytest

from streams.ops.supervise import Supervisor

OBEYS = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(0)); print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
FALLS = "import sys; sys.exit(3)"


@pytest.fixture
async def supervisor(tmp_path):
    found = Supervisor({}, tmp_path)
    yield found
    await found.stop(5.0)


async def up(supervisor, name, times=1):
    """Wait until it has set its handler (for the ``times``th time, by its log); its pid."""
    path, end = supervisor.workers[name].log_path, time.monotonic() + 30
    while not (path.exists() and path.read_text().count("up") >= times):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return supervisor.workers[name].pid


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_worker_that_is_removed_ends_and_stays_away(supervisor):
    supervisor.add("a", ["-c", OBEYS])
    pid = await up(supervisor, "a")
    assert await supervisor.remove("a") == 0
    assert gone(pid)
    await asyncio.sleep(0.3)
    assert supervisor.workers == {}


async def test_it_can_come_back(supervisor):
    supervisor.add("a", ["-c", OBEYS])
    first = await up(supervisor, "a")
    assert await supervisor.remove("a", signal.SIGKILL) == -signal.SIGKILL
    supervisor.add("a", ["-c", OBEYS])
    assert await up(supervisor, "a", 2) not in (0, first)


async def test_one_that_does_not_hear_is_killed(supervisor):
    supervisor.add("a", ["-c", DEAF])
    pid = await up(supervisor, "a")
    assert await supervisor.remove("a", seconds=0.3) == -signal.SIGKILL
    assert gone(pid)


async def test_one_that_is_being_started_just_now(supervisor):
    supervisor.add("a", ["-c", OBEYS])
    await asyncio.sleep(0)
    worker = supervisor.workers["a"]
    await supervisor.remove("a", signal.SIGKILL)
    assert worker.pid == 0
    assert worker.starts == 1


async def test_one_that_waits_for_its_next_start(supervisor):
    supervisor.add("a", ["-c", FALLS])
    worker = supervisor.workers["a"]
    while len(worker.ends) < 3:  # then it pauses for 0.4 s
        await asyncio.sleep(0.02)
    assert await supervisor.remove("a") == 3
    starts = worker.starts
    await asyncio.sleep(1.0)
    assert worker.starts == starts
