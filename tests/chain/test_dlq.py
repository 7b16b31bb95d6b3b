"""Records die of a bug, the bug is mended, and they are replayed: delivered once, and the books balance throughout."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from click.testing import CliRunner

from schemas.codec import encode
from schemas.replay import HEADER
from schemas.send import Send
from streams.cli import main
from streams.ops.kept import homes_in
from streams.ops.recompute import differences
from tests.support.stories import Story

BROKEN = ("enqueue", "screen", "render", "sign", "deliver")
WHY = ("--why", "mended", "--who", "ops")
GROUPS = {"intake": "enqueue,screen", "compose": "render,sign", "deliver": "deliver"}


@pytest.fixture
async def buggy(broker, prefix, tmp_path):
    """A story whose stages all raise on some addresses, until ``mend``."""
    groups = {"control": 1, "edge": 1, "hygiene": 1}
    async with Story(broker, prefix, tmp_path, groups, module="tests.support.broken_worker") as story:
        for group, stages in GROUPS.items():
            story.scene.add(group, BROKEN_STAGES=stages)
        yield story


async def mend(story):
    """Every worker again, without its bug."""
    for group in GROUPS:
        await story.scene.supervisor.remove(group)
        story.scene.add(group)


async def dead(story, count):
    """Both topics of dead letters once they hold so many."""
    end = time.monotonic() + 40
    while True:
        found = [m for topic in ("mail-sends-dlq", "mail-dlq") for m in await story.records(topic, 1)]
        if len(found) >= count or time.monotonic() > end:
            assert len(found) == count, story.logs()
            return found
        await asyncio.sleep(0.3)


async def call(story, *arguments, secret=True, code=0, command="dlq"):
    settings = story.scene.settings
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "01"[settings.broker_idempotent],
                   "MAILSLUICE_SECRET": settings.secret if secret else ""}  # fmt: skip
    found = await asyncio.to_thread(CliRunner().invoke, main, [command, *arguments], env=environment)
    assert found.exit_code == code, (found.output, found.exception)
    return found.output


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.timeout(240)
async def test_what_died_in_every_stage_is_replayed_and_delivered_once(buggy):
    story = buggy
    await story.campaign()
    bad = [f"bad-{stage}@gmail.test" for stage in BROKEN]
    await story.send(*bad, "good@gmail.test")
    await story.send("bad-enqueue-now@gmail.test", now=True)
    await dead(story, 6)
    before = await story.settled(30, 7)
    assert before.balanced
    assert (before.counts["dead_lettered"], before.counts["delivered"]) == (6, 1)

    rows = lines(await call(story, "list", "--json"))
    assert {row["stage"] for row in rows} == set(BROKEN)
    assert all("replayed_at" not in row and row["reason"] == "bug" for row in rows)
    [sign] = [row for row in rows if row["stage"] == "sign"]
    assert (sign["topic"], sign["to"], sign["campaign"]) == ("mail-rendered", "bad-sign@gmail.test", "c")
    text = await call(story, "show", sign["letter"])
    assert "ZeroDivisionError: on purpose" in text
    assert "| Subject: Hello Anna" in text

    await mend(story)
    dry = lines(await call(story, "replay", "--all", "--dry-run", "--json"))
    assert dry[-1]["counts"]["selected"] == dry[-1]["counts"]["replayed"] == 6
    assert "set MAILSLUICE_SECRET" in await call(story, "replay", "--all", *WHY, secret=False, code=1)
    told = await call(story, "replay", "--reason", "bug", "--rate", "100/s", *WHY)
    assert told == "6 letters replayed\n"
    after = await story.settled(60, 7)
    assert after.as_dict() | {"seconds": 0} == before.as_dict() | {
        "seconds": 0, "dead_lettered": 0, "delivered": 7
    }, (after.as_dict(), story.logs())  # fmt: skip

    assert "says that it is a dead letter" in await call(story, command="audit", secret=False, code=1)
    assert "the books balance" in await call(story, command="audit")
    rows = lines(await call(story, "list", "--json"))
    assert all(row["replayed_by"] == "ops" for row in rows)
    nothing = await call(story, "replay", "--all", *WHY, code=1)
    assert nothing == "0 letters replayed; 6 were replayed before (--again)\n"
    # By force: what is behind gate two's word is refused, sends are repeats there.
    told = lines(await call(story, "replay", "--all", "--again", "--json", *WHY, code=1))
    assert told[-1]["counts"] == {"selected": 6, "replayed": 2, "already": 0, "refused": 4, "ended": 4}
    assert all("delivered at attempt" in line["why"] for line in told if "refused" in line)
    again = await story.settled(30, 7)
    assert again.as_dict() | {"seconds": 0} == after.as_dict() | {"seconds": 0}
    await asyncio.sleep(2.0)
    theirs = await story.theirs()
    assert (theirs["distinct"], theirs["duplicates"]) == (7, 0)
    assert await differences(story.scene.settings, homes_in(story.scene.settings.state)) == []
    attempts = {
        o["to"].partition("@")[0]: o["attempt"]
        for o in (json.loads(m.value) for m in await story.records("mail-outcomes"))
    }
    assert attempts == {
        "good": 1, "bad-enqueue": 1, "bad-enqueue-now": 1,
        "bad-screen": 2, "bad-render": 2, "bad-sign": 2, "bad-deliver": 2,
    }  # fmt: skip


@pytest.mark.timeout(120)
async def test_a_forged_replay_is_rejected_and_takes_nothing_from_another(embedded_broker, prefix, tmp_path):
    async with Story(embedded_broker, prefix, tmp_path) as story:
        await story.campaign()
        await story.send("first@gmail.test")
        await story.settled(30, 1)
        [outcome] = [json.loads(m.value) for m in await story.records("mail-outcomes")]
        forged = [
            (HEADER, b"0" * 32 + b":" + outcome["origin"].encode()),
            ("origin", outcome["origin"].encode()),
        ]
        await story.publish([encode(Send(campaign="c", to="second@gmail.test", name="Bo"))], headers=forged)
        await story.publish([b"no json"], headers=forged)
        found = await story.settled(30, 3)
        assert found.balanced
        assert (found.received, found.counts["delivered"], found.counts["dead_lettered"]) == (3, 1, 2)
        rows = {row["reason"]: row for row in lines(await call(story, "list", "--json"))}
        assert rows.keys() == {"bad_json", "replay_unverified"}
        row = rows["bad_json"]
        assert row["topic"] == "mail-sends"
        assert outcome["origin"] not in {each["origin"] for each in rows.values()}
        # It dies again, of the same fault: of the same origin, under a name of its own.
        await call(story, "replay", row["letter"], *WHY)
        await dead(story, 3)
        # Whoever looks at the other one and lets it go makes it a send of its own.
        await call(story, "replay", rows["replay_unverified"]["letter"], *WHY)
        found = await story.settled(30, 3)
        assert (found.received, found.counts["delivered"], found.counts["dead_lettered"]) == (3, 2, 1)
        again = [r for r in lines(await call(story, "list", "--json")) if r["reason"] == "bad_json"]
        assert {r["origin"] for r in again} == {row["origin"]}
        assert ["replayed_at" in r for r in again] == [True, False]
