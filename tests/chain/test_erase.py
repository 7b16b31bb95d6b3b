"""A person with a history is exported, erased, and stays away: shown by reading every topic and every file."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from schemas.codec import encode
from schemas.contact import Contact
from schemas.event import MailEvent
from schemas.identity import event_id, partition_of
from schemas.suppression import Suppression
from streams.admin import configuration
from streams.broker import make_producer, started
from streams.cli import main
from streams.ops.kept import homes_in
from streams.ops.person import pattern
from streams.ops.recompute import differences
from streams.topic_settings import Difference, alter
from streams.topics import BY_NAME
from tests.support.brokers import ApacheBroker, admin
from tests.support.stories import Story

ANNA, BEN = "anna@gmail.test", "ben@gmail.test"
GROUPS = dict.fromkeys(("intake", "compose", "deliver", "hygiene", "control"), 1)
EVENT = [("type", b"event"), ("version", b"1")]
COMPACTED = ("mail-suppressions", "mail-consents", "mail-contacts", "mail-screen-log")


async def asked(story: Story, *arguments: str):
    environment = {**story.scene.settings.environment(), "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)


async def history(story: Story) -> None:
    """Anna gets a mail, complains, and is put on a list; Ben gets one too."""
    await story.campaign()
    await story.send(ANNA, BEN)
    await story.settled(60, wanted=2)
    done = await asked(story, "suppress", "add", ANNA, "--why", "telephone", "--wait", "40")
    assert done.exit_code == 0, done.output
    settings = story.scene.settings
    told = MailEvent(
        id=event_id(ANNA, "consented"),
        kind="consented",
        mail="",
        time=1.79e9,
        to=ANNA,
        basis="express",
        by="jane",
    )
    partition = partition_of(ANNA, settings.partitions)
    await story.publish([encode(told)], "mail-events", key=ANNA.encode(), partition=partition, headers=EVENT)
    key = Contact(tenant="default", to=ANNA).key
    await story.until("mail-contacts", lambda rows: key in {m.key for m in rows})
    await story.until(
        "mail-consents", lambda rows: any((m.key or b"").startswith(ANNA.encode()) for m in rows)
    )


def files_that_say(story: Story, address: str) -> list[str]:
    """State files with the address in them, free pages and logs beside them included."""
    home = story.scene.home
    return [
        path.relative_to(home).as_posix()
        for path in home.rglob("*.sqlite*")
        if pattern(address).search(path.read_bytes())
    ]


async def erased(story: Story) -> dict:
    done = await asked(
        story, "erase", ANNA, "--why", f"{ANNA} asked", "--by", "jane", "--wait", "40", "--json"
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_who_was_erased_is_nowhere_in_the_states_and_gets_no_mail(broker, prefix, tmp_path):
    async with Story(broker, prefix, tmp_path, GROUPS) as story:
        await history(story)
        before = await asked(story, "export", ANNA, "--out", str(tmp_path / "before.json"))
        assert before.exit_code == 0, before.output
        told = json.loads((tmp_path / "before.json").read_text())
        assert [row["reason"] for row in told["suppressions"]] == ["manual"]
        assert told["contacts"][0]["delivered"] == 1
        assert told["consents"][0]["basis"] == "express"
        assert told["campaigns_sent"][0]["decision"] == "pass"
        assert told["erased"] == []
        topics = {record["topic"] for record in told["records"]}
        assert {"mail-sends", "mail-enqueued", "mail-outcomes", "mail-events"} <= topics
        assert any(topic.startswith("mail-lane-") for topic in topics)
        assert BEN not in json.dumps(told)
        assert files_that_say(story, ANNA)

        dry = await asked(story, "erase", ANNA, "--dry-run")
        assert "rows that would be deleted: " in dry.output
        assert (await asked(story, "suppress", "show", ANNA)).exit_code == 1

        found = await erased(story)
        assert found["rows"].keys() == set(COMPACTED)
        assert found["not_deleted"] == {}
        assert all(each["until"] for each in found["left"].values()), found["left"]
        commands = [
            m for m in await story.records("mail-lane-policy", 1) if m.headers.get("type") == b"command"
        ]
        assert len(commands) == 2  # begun and done
        assert all(ANNA.encode() not in m.value and found["hash"].encode() in m.value for m in commands)
        async with asyncio.timeout(30):
            while files_that_say(story, ANNA):
                await asyncio.sleep(0.3)

        await story.send(ANNA, BEN, campaign="c2")
        await story.campaign("c2")
        await story.send(ANNA, campaign="c2", now=True)
        await story.settled(60, wanted=5)
        kinds = [
            (e["to"], e["kind"], e.get("reason", ""))
            for m in await story.records("mail-events")
            if (e := json.loads(m.value)).get("campaign") == "c2" and e.get("terminal")
        ]
        assert sorted(kinds) == [(ANNA, "suppressed", "erased")] * 2 + [(BEN, "delivered", "")]
        assert files_that_say(story, ANNA) == []  # nor did that bring it back
        after = await asked(story, "export", ANNA, "--out", str(tmp_path / "after.json"))
        assert after.exit_code == 0
        told = json.loads((tmp_path / "after.json").read_text())
        assert [row["to"] for row in told["erased"]] == [found["hash"]]
        assert [told[name] for name in ("suppressions", "contacts", "consents", "campaigns_sent")] == [[]] * 4
        homes = homes_in(story.scene.home)
        assert len(homes) >= 3
        assert await differences(story.scene.settings, homes) == []

        shown = await asked(story, "suppress", "show", ANNA)
        assert shown.exit_code == 1
        assert "erased" in shown.output
        tenant = await asked(story, "suppress", "release", ANNA, "--why", "writes again", "--wait", "3")
        assert tenant.exit_code == 1
        assert "--scope global" in tenant.output
        back = await asked(
            story, "suppress", "release", ANNA, "--scope", "global", "--why", "writes again", "--wait", "40"
        )
        assert back.exit_code == 0, back.output
        await asyncio.sleep(2)  # screen and deliver hear of it within that
        await story.campaign("c3")
        await story.send(ANNA, campaign="c3")
        await story.settled(60, wanted=6)
        ends = [
            e
            for m in await story.records("mail-events")
            if (e := json.loads(m.value)).get("campaign") == "c3"
        ]
        assert [(e["kind"], e.get("reason", "")) for e in ends if e.get("terminal")] == [("delivered", "")]


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_workers_erase_what_they_were_told_to(apache_broker, prefix, tmp_path):
    async with Story(apache_broker, prefix, tmp_path, GROUPS) as story:
        settings = story.scene.settings
        people = [f"p{n}@gmail.test" for n in range(40)]
        gone, here = people[::2], people[1::2]
        await story.campaign()
        await story.send(*people)
        await story.settled(60, wanted=40)
        now = time.time()
        for n, to in enumerate(gone):
            told = MailEvent(id=event_id(to, "erased"), kind="erased", mail="", time=now, to=to)
            place = {"key": to.encode(), "partition": partition_of(to, settings.partitions)}
            await story.publish([encode(told)], "mail-events", headers=EVENT, **place)
            if n in (3, 12):
                story.kill("hygiene")
            if n in (6, 15):
                story.kill("intake")
        async with asyncio.timeout(90):
            while said_of(gone, live := await newest(story)) or any(files_that_say(story, to) for to in gone):
                await asyncio.sleep(1)
        marks = [key for key, value in live.items() if value and key.startswith(b"#") and b"erased" in key]
        assert len(marks) == len(gone)
        await story.campaign("c2")
        await story.send(*people, campaign="c2")
        found = await story.settled(60, wanted=80)
        assert (found.counts["suppressed"], found.counts["lost"]) == (len(gone), 0)
        assert found.counts["delivered"] == len(people) + len(here)
        async with asyncio.timeout(30):
            while told := await differences(settings, homes_in(story.scene.home)):
                await asyncio.sleep(1)
        assert told == []


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nothing_says_the_address_when_the_time_is_over(apache_broker, prefix, tmp_path):
    """With the lag of compaction, and then the retention, of production cut to seconds."""
    hurried = {"log.retention.check.interval.ms": 1000, "log.initial.task.delay.ms": 1000}
    async with ApacheBroker(settings=hurried) as broker, Story(broker, prefix, tmp_path, GROUPS) as story:
        settings = story.scene.settings
        quick = replace(settings, compacted_within=1.0)
        lags = {n: configuration(BY_NAME[n], quick) | {"delete.retention.ms": "0"} for n in COMPACTED}
        await configure(broker, settings, lags)
        await history(story)
        await erased(story)
        there = await asked(story, "erase", ANNA, "--check", "--json")
        assert there.exit_code == 1
        assert json.loads(there.output)["rows"] == {}
        async with asyncio.timeout(120):
            # A segment is closed, and so cleaned, when the next one begins.
            while await others_write(settings) or {topic for topic in COMPACTED if await says(story, topic)}:
                await asyncio.sleep(2)
        found = json.loads((await asked(story, "erase", ANNA, "--check", "--json")).output)
        assert not set(COMPACTED) & found["left"].keys()
        assert {"mail-sends", "mail-outcomes", "mail-events"} <= found["left"].keys()
        assert all(each["until"] for each in found["left"].values())

        short = {"retention.ms": "1000", "segment.ms": "1000"}
        await configure(broker, settings, dict.fromkeys(found["left"], short))
        async with asyncio.timeout(90):
            while (check := await asked(story, "erase", ANNA, "--check")).exit_code:
                await asyncio.sleep(2)
        assert "the address occurs in no topic" in check.output
        assert files_that_say(story, ANNA) == []
        assert (await asked(story, "suppress", "show", ANNA)).exit_code == 1  # and still it gets no mail


async def newest(story: Story) -> dict[bytes, bytes]:
    """The last value of every key of the states' topics."""
    return {m.key: m.value for topic in COMPACTED for m in await story.records(topic)}


def said_of(people: list[str], rows: dict[bytes, bytes]) -> list[bytes]:
    """The rows in force that name anybody of these."""
    return [key for key, value in rows.items() if value and any(to.encode() in key for to in people)]


async def configure(broker, settings, wanted) -> None:
    async with admin(broker) as client:
        changes = [
            Difference(settings.topic(topic), name, "", value)
            for topic, values in wanted.items()
            for name, value in values.items()
        ]
        assert await alter(client, changes) == []


async def says(story: Story, topic: str) -> bool:
    wanted = pattern(ANNA)
    return any(
        wanted.search(part)
        for m in await story.records(topic)
        for part in (m.key, m.value)
        if part is not None
    )


async def others_write(settings) -> None:
    """Rows of somebody else in the person's partition of every compacted topic."""
    producer = await started(make_producer(settings))
    partition = partition_of(ANNA, settings.partitions)
    row = Suppression(tenant="x", to=BEN, reason="manual", active=False)
    try:
        for topic in COMPACTED:
            for _ in range(2):
                key, value = (
                    (b"someone|x", encode(row)) if topic == "mail-suppressions" else (b"someone|x", b"")
                )
                await producer.send_and_wait(
                    settings.topic(topic), value or None, key=key, partition=partition
                )
                await asyncio.sleep(0.01)
    finally:
        await producer.stop()
