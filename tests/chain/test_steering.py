"""An operator steers mail that is on its way: nothing leaves what is paused, and nothing is lost or sent twice.

The rungs are long where a story shows that a scan brought the mail back, not the ladder.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest
from click.testing import CliRunner

from streams.cli import main
from streams.lab.control import tell
from streams.ops.campaign import change_campaign, change_hold
from tests.support.stories import Story

SLOW = """
[default]
connections = 4
max_connections = 4
per_connection = 1000
start = 40.0
minimum = 20.0
maximum = 40.0
"""
LONG = (20.0, 300.0, 600.0, 900.0)
SHORT = (2.0, 4.0, 8.0, 16.0)
WHY = ("test", "the test says so")


def world(broker, prefix, tmp_path, **settings):
    (tmp_path / "slow.toml").write_text(SLOW)
    return Story(broker, prefix, tmp_path, policy=tmp_path / "slow.toml", **settings)


async def distinct(story):
    return (await story.theirs())["distinct"]


async def leaves_nothing(story):
    """2 s from now on nothing more arrives; how much had."""
    await asyncio.sleep(2.0)
    before = await distinct(story)
    await asyncio.sleep(2.5)
    assert await distinct(story) == before
    return before


def people(count, domain="gmail.test"):
    return [f"p{n}@{domain}" for n in range(count)]


@pytest.mark.timeout(120)
async def test_a_campaign_is_paused_resumed_and_cancelled(embedded_broker, prefix, tmp_path):
    async with world(embedded_broker, prefix, tmp_path, rungs=LONG) as story:
        settings = story.scene.settings
        await story.campaign("a")
        await story.campaign("b")
        await story.send(*people(400), campaign="a")
        await story.until("mail-outcomes", lambda r: len(r) > 20)
        await change_campaign(settings, "pause", "a", "default", *WHY)
        before = await leaves_nothing(story)
        assert 20 < before < 400
        await story.send("free@gmail.test", campaign="b")  # nobody else is held
        await story.until("mail-outcomes", lambda r: any(b"free@" in m.value for m in r), 15)

        counts = await change_campaign(settings, "resume", "a", "default", *WHY)
        assert counts["copied"] > 0
        await story.until("mail-outcomes", lambda r: len(r) >= before + 60, 20)
        await change_campaign(settings, "cancel", "a", "default", *WHY)
        found = await story.settled(30, 401)
        theirs = await story.theirs()
        assert found.balanced
        assert found.counts["pending"] == 0, (found.as_dict(), story.logs())
        assert found.counts["cancelled"] > 0
        assert found.counts["delivered"] == theirs["distinct"] == 401 - found.counts["cancelled"]
        assert theirs["duplicates"] == 0

        again = await asyncio.to_thread(_call, settings, "campaign", "resume", "a", "--why", "x")
        assert again.exit_code == 1
        assert "was cancelled" in again.output
        listed = await asyncio.to_thread(_call, settings, "campaign", "list", "--json")
        assert {c["id"]: c["state"] for c in json.loads(listed.output)} == {"a": "cancelled", "b": "active"}


@pytest.mark.timeout(120)
async def test_a_tenant_a_lane_and_a_source_are_held(embedded_broker, prefix, tmp_path):
    async with world(embedded_broker, prefix, tmp_path, rungs=LONG) as story:
        settings = story.scene.settings
        await story.campaign()
        await story.send(*people(150), *people(150, "small.test"))
        await story.until("mail-outcomes", lambda r: len(r) > 10)
        await change_hold(settings, "tenant", "pause", "default", *WHY)
        await leaves_nothing(story)
        await change_hold(settings, "lane", "pause", "google", *WHY)
        await change_hold(settings, "tenant", "resume", "default", *WHY)
        small = lambda r: sum(b"@small.test" in m.value and b'"delivered"' in m.value for m in r) == 150  # noqa: E731
        await story.until("mail-outcomes", small, 30)  # the other lane goes on
        before = await leaves_nothing(story)
        assert before < 300
        await change_hold(settings, "source", "pause", "127.0.0.1", *WHY)
        await change_hold(settings, "lane", "resume", "google", *WHY)
        assert await leaves_nothing(story) == before
        listed = await asyncio.to_thread(_call, settings, "source", "list", "--json")
        assert [(h["name"], h["state"], h["who"]) for h in json.loads(listed.output)] == [
            ("127.0.0.1", "paused", "test")
        ]
        await change_hold(settings, "source", "resume", "127.0.0.1", *WHY)
        found = await story.settled(30, 300)
        theirs = await story.theirs()
        assert found.counts["delivered"] == 300, (found.as_dict(), story.logs())
        assert (theirs["distinct"], theirs["duplicates"]) == (300, 0)


@pytest.mark.timeout(120)
async def test_workers_killed_while_mail_is_paused_and_brought_back_lose_and_repeat_nothing(
    embedded_broker, prefix, tmp_path
):
    async with world(embedded_broker, prefix, tmp_path, rungs=SHORT) as story:
        settings = story.scene.settings
        await story.campaign()
        await story.send(*people(300))
        await story.until("mail-outcomes", lambda r: len(r) > 20)
        await change_campaign(settings, "pause", "c", "default", *WHY)
        await asyncio.sleep(3.0)
        coming = asyncio.create_task(change_campaign(settings, "resume", "c", "default", *WHY))
        await asyncio.sleep(2.2)  # about when the scan begins
        assert story.kill("hygiene", signal.SIGKILL)
        counts = await coming
        found = await story.settled(45, 300)
        await asyncio.sleep(SHORT[1] + 2)  # the originals wake
        theirs = await story.theirs()
        assert found.counts["delivered"] == 300, (found.as_dict(), counts, story.logs())
        assert (theirs["distinct"], theirs["duplicates"]) == (300, 0)


@pytest.mark.timeout(120)
async def test_mail_on_the_ladder_is_brought_forward_moved_and_ended(embedded_broker, prefix, tmp_path):
    async with world(embedded_broker, prefix, tmp_path, rungs=(25.0, 40.0, 60.0, 120.0)) as story:
        settings = story.scene.settings
        host, _, port = story.scene.world["control"].rpartition(":")
        tell(
            (host, int(port)),
            "fault",
            provider="small",
            phase="rcpt",
            act="reply",
            text="451 4.3.0 later",
            count=-1,
            kept=False,
        )
        await story.campaign("a")
        await story.campaign("b")
        await story.send(*people(20, "small.test"), campaign="a")
        await story.send(*people(10, "tiny.test"), campaign="b")
        deferred = await story.until(
            "mail-outcomes", lambda r: sum(b'"deferred"' in m.value for m in r) == 30
        )
        tell((host, int(port)), "clear", provider="small")
        # Until its lane is committed a mail is counted there; commits follow within moments.
        expected, ladder = {"default/a": 20, "default/b": 10}, {}
        until = time.monotonic() + 10
        while ladder != expected and time.monotonic() < until:
            listed = json.loads((await asyncio.to_thread(_call, settings, "queue", "list", "--json")).output)
            ladder = {row["name"]: row["ladder"] for row in listed["rows"]}
        assert ladder == expected

        why = ("--why", "they are up again", "--who", "ops")
        told = await asyncio.to_thread(_call, settings, "queue", "expire", "--campaign", "b", "--json", *why)
        assert json.loads(told.output)["copied"] == 10, told.output
        told = await asyncio.to_thread(
            _call, settings, "queue", "move", "--domain", "small.test", "--to-lane", "gmx", "--json", *why
        )
        assert json.loads(told.output)["copied"] == 20, told.output
        told = await asyncio.to_thread(_call, settings, "queue", "retry-now", "--domain", "small.test", *why)
        assert "20 mails go on now" in told.output
        found = await story.settled(30, 30)
        outcomes = [json.loads(m.value) for m in await story.records("mail-outcomes")]
        ends = {o["id"]: o for o in outcomes if o["state"] in ("delivered", "expired")}
        assert len(ends) == 30
        due = {
            o["id"]: o["next_at"] for o in (json.loads(m.value) for m in deferred) if o["state"] == "deferred"
        }
        assert all(o["time"] < due[id] for id, o in ends.items()), "the ladder brought it, not the command"
        assert {o["lane"].removesuffix("-now") for o in ends.values() if o["state"] == "delivered"} == {
            "mail-lane-gmx"
        }
        await asyncio.sleep(max(0.0, max(due.values()) - time.time()) + 2)  # the originals wake
        theirs = await story.theirs()
        assert (found.counts["delivered"], found.counts["expired"]) == (20, 10), (
            found.as_dict(),
            story.logs(),
        )
        assert (theirs["distinct"], theirs["duplicates"]) == (20, 0)
        log = json.loads((await asyncio.to_thread(_call, settings, "queue", "log", "--json")).output)
        assert [(c["what"], c["who"], c["done"]) for c in log] == [
            (f"queue {what}", "ops", True) for what in ("expire", "move", "retry-now")
        ]


def _call(settings, *arguments):
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "0"}  # fmt: skip
    return CliRunner().invoke(main, arguments, env=environment)
