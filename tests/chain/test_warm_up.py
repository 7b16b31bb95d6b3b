"""A domain's first days: the most engaged first, the rest on the ladder; nothing is lost when deliver is killed."""

from __future__ import annotations

import asyncio
import time

import pytest
from click.testing import CliRunner

from schemas.codec import encode, parse
from schemas.contact import Contact
from schemas.identity import partition_of
from schemas.outcome import Outcome
from streams.cli import main
from streams.ops.scene import SENDER
from tests.support.stories import POLICY, Story

SIGNER = SENDER.rpartition("@")[2].rstrip(">")
YOUNG = f"""
[plan.small]
day = [8]
hour = 1.0
[dkim."{SIGNER}".provider.google]
warm_up = "small"
"""


@pytest.mark.long
@pytest.mark.timeout(150)
async def test_the_engaged_are_kept_the_rest_waits_and_all_of_it_survives_a_kill(
    embedded_broker, prefix, tmp_path
):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text("utf-8") + YOUNG, "utf-8")
    async with Story(embedded_broker, prefix, tmp_path, policy=policy) as story:
        settings = story.scene.settings
        readers = [f"reader{n}@gmail.test" for n in range(12)]
        others = [f"other{n}@gmail.test" for n in range(60)]
        for to in readers:
            contact = Contact(tenant="default", to=to, delivered=3, last_click=time.time() - 86400.0)
            partition = partition_of(to, settings.partitions)
            await story.publish([encode(contact)], "mail-contacts", key=contact.key, partition=partition)
        await story.campaign()
        await story.send(*others, *readers)
        kept, away, sent = await _seen(story)
        while len(kept | away | sent) < 72:
            await asyncio.sleep(0.5)
            kept, away, sent = await _seen(story)
        # A day has eight; each of the two partitions keeps its part and a little more.
        assert 8 <= len([to for to in readers if to not in away]) <= 12
        assert len([to for to in others if to in away]) >= 55
        story.kill("deliver")
        await asyncio.sleep(3.0)
        await _call(settings, "warmup", "set", SIGNER, "google", "warm", "--why", "a test has no days")
        audit = await story.settled(90, 72)
        assert audit.balanced
        assert audit.counts["delivered"] == 72, story.logs()
        theirs = await story.theirs()
        assert theirs["distinct"] == 72
        assert theirs["duplicates"] <= 1
        assert [name for name, _ in story.restarts] == ["deliver"]


async def _seen(story: Story) -> tuple[set[str], set[str], set[str]]:
    """Recipients of mail that is kept (a copy lies on the ladder), that waits for its turn, and that was sent."""
    kept, away = set(), set()
    for rung in ("1m", "10m", "1h", "6h"):
        for record in await story.records(f"mail-wait-{rung}"):
            headers = dict(record.headers)
            (away if headers.get("held") == b"warmup" else kept).add(headers["to"].decode())
    sent = {parse(record.value, Outcome).to for record in await story.records("mail-outcomes")}
    return kept, away, sent


async def _call(settings, *arguments: str) -> None:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "0"}  # fmt: skip
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
    assert result.exit_code == 0, result.output
