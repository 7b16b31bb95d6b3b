"""Every worker is killed once while 3,000 mails are on their way over Apache Kafka; then a rolling restart."""

import asyncio
import signal

import pytest

from tests.support.stories import Story

COUNT = 3000
KILLED = ("intake", "compose", "deliver", "hygiene", "deliver-1", "edge", "control")
GROUPS = {"control": 1, "edge": 1, "intake": 1, "compose": 1, "deliver": 2, "hygiene": 1}
BULKY = "<p>Dear {{ name }}, the water is fine.</p>" * 60


def addresses(count, first=0):
    return [f"person{n}@{'gmail' if n % 3 else 'small'}.test" for n in range(first, first + count)]


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_kill_9_of_each_worker_loses_nothing(apache_broker, prefix, tmp_path):
    async with Story(apache_broker, prefix, tmp_path, GROUPS) as story:
        await story.campaign(html=BULKY)
        await story.send(*addresses(1000))
        await story.until("mail-outcomes", lambda r: len(r) > 100, 60)
        for n, name in enumerate(KILLED):
            assert story.kill(name), f"{name} was not running\n{story.logs()}"
            await story.send(*addresses((COUNT - 1000) // len(KILLED) + 1, 1000 + n * 1000))
            await asyncio.sleep(1.5)
        sent = 1000 + len(KILLED) * ((COUNT - 1000) // len(KILLED) + 1)
        found = await story.settled(120, sent)
        theirs = await story.theirs()
        assert found.received == sent
        assert found.balanced, (found.as_dict(), story.logs())
        assert found.counts["lost"] == 0
        assert found.counts["pending"] == 0, (found.as_dict(), story.logs())
        assert found.counts["delivered"] == sent == theirs["distinct"], (found.as_dict(), theirs["distinct"])
        # The promise: at most what was between its final dot and the journal's acknowledgement at the two
        # kills of a deliver worker; at most 200 each, in practice a handful.
        assert theirs["duplicates"] <= 400, theirs["duplicates"]
        assert {name for name, code in story.restarts if code == -signal.SIGKILL} >= set(KILLED)
        print(f"duplicates {theirs['duplicates']} of {sent} after {len(KILLED)} kills")


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_rolling_restart_repeats_nothing(apache_broker, prefix, tmp_path):
    async with Story(apache_broker, prefix, tmp_path, GROUPS) as story:
        await story.campaign(html=BULKY)
        await story.send(*addresses(500))
        await story.until("mail-outcomes", lambda r: len(r) > 50, 60)
        names = ("intake", "compose", "deliver", "deliver-1", "hygiene")
        for n, name in enumerate(names):
            await story.send(*addresses(400, 1000 + n * 1000))
            story.kill(name, signal.SIGTERM)
            await asyncio.sleep(2.0)
        sent = 500 + 400 * len(names)
        found = await story.settled(90, sent)
        theirs = await story.theirs()
        assert found.counts["delivered"] == sent, (found.as_dict(), story.logs())
        assert theirs["distinct"] == sent
        assert theirs["duplicates"] == 0
        assert [code for _, code in story.restarts] == [0] * len(names), story.restarts
