"""Too many complaints: only who clicked lately gets mail, the rest waits, and goes out when the gate is lifted."""

from __future__ import annotations

import asyncio
import time

import pytest
from click.testing import CliRunner

from schemas.codec import encode
from schemas.contact import Contact
from schemas.identity import partition_of
from streams.cli import main
from streams.ops.scene import SENDER
from tests.support.stories import Story

SIGNER = SENDER.rpartition("@")[2].rstrip(">")


@pytest.mark.timeout(120)
async def test_a_gate_lets_those_pass_who_clicked_and_the_rest_when_it_is_lifted(
    embedded_broker, prefix, tmp_path
):
    async with Story(embedded_broker, prefix, tmp_path) as story:
        settings = story.scene.settings
        readers = [f"reader{n}@gmail.test" for n in range(15)]
        others = [f"other{n}@gmail.test" for n in range(45)]
        for to in readers:
            contact = Contact(tenant="default", to=to, delivered=3, last_click=time.time() - 86400.0)
            partition = partition_of(to, settings.partitions)
            await story.publish([encode(contact)], "mail-contacts", key=contact.key, partition=partition)
        ordered = ("--per-day", "100000", "--why", "complaints")
        await _call(settings, "warmup", "set", SIGNER, "google", "engaged-only", *ordered)
        await story.campaign()
        await story.send(*others[:1])  # so that the limit is known to everybody before the others come
        held = await _held(story, 1)
        assert held == others[:1]
        await story.send(*readers, *others[1:])
        held = await _held(story, len(others))
        assert sorted(held) == sorted(others)
        found = await story.until("mail-outcomes", lambda r: len(r) >= len(readers))
        assert len(found) == len(readers)
        assert (await story.theirs())["distinct"] == len(readers)
        status = await _call(settings, "warmup", "status")
        assert "engaged only" in status

        await _call(settings, "warmup", "set", SIGNER, "google", "lift", "--why", "seven good days")
        audit = await story.settled(60, len(readers) + len(others))
        assert audit.balanced
        assert audit.counts["delivered"] == len(readers) + len(others), story.logs()
        theirs = await story.theirs()
        assert (theirs["distinct"], theirs["duplicates"]) == (len(readers) + len(others), 0)


async def _held(story: Story, count: int) -> list[str]:
    """Whose mail waits for the gate, once it is so many."""
    end = time.monotonic() + 40
    while True:
        found = set()
        for rung in ("1m", "10m", "1h", "6h"):
            for record in await story.records(f"mail-wait-{rung}"):
                headers = dict(record.headers)
                if headers.get("held") == b"engaged":
                    found.add(headers["to"].decode())
        if len(found) >= count:
            return list(found)
        assert time.monotonic() < end, f"{len(found)} of {count} wait\n{story.logs()}"
        await asyncio.sleep(0.3)


async def _call(settings, *arguments: str) -> str:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "0"}  # fmt: skip
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.output
