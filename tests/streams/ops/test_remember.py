"""Who was erased is known on a cluster with another P too, though nobody knows the partition of their address."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace

import pytest
from click.testing import CliRunner

from schemas.codec import encode, parse
from schemas.contact import Contact
from schemas.erasure import Pseudonyms
from schemas.identity import partition_of
from schemas.suppression import Suppression
from streams.admin import apply
from streams.cli import main
from streams.ops.read import read_to_end
from streams.ops.suppressions import producing, rows_of
from tests.support.toys import settings_for

SECRET, ANNA, BEN = "s" * 32, "anna@example.org", "ben@example.org"
NAMES = Pseudonyms([SECRET.encode()]).of


def call(settings, *arguments, text=None):
    environment = settings.environment() | {"MAILSLUICE_SECRET": SECRET}
    return asyncio.to_thread(CliRunner().invoke, main, ["suppress", *arguments], input=text, env=environment)


async def test_the_hashes_go_from_one_p_to_another(embedded_broker, prefix):
    old = settings_for(embedded_broker, prefix + "old-", partitions=3)
    new = settings_for(embedded_broker, prefix + "new-", partitions=2)
    await apply(old)
    await apply(new)
    marks = [
        Suppression(
            tenant="", to=NAMES(to)[0], scope="global", reason="erased", origin="e" * 32, time=5.0, version=2
        )
        for to in (ANNA, BEN)
    ]
    async with producing(old) as (producer, partitions):
        for to, row in zip((ANNA, BEN), marks, strict=True):
            place = partition_of(to, partitions)
            await producer.send_and_wait(old.topic("mail-suppressions"), encode(row), row.key, place)
    listed = await call(old, "list", "--reason", "erased", "--json", "--limit", "1000000000")
    assert len(listed.output.splitlines()) == 2
    done = await call(new, "remember", "-", text=listed.output + "\n" + listed.output)
    assert done.output == "2 people who were erased are on record in each of 2 partitions\n"
    for to in (ANNA, BEN):
        [row] = await rows_of(replace(new, secret=SECRET), to)
        assert (row.reason, row.active, row.time, row.version, row.origin) == ("erased", True, 5.0, 2, "")
    places = [("mail-contacts", p) for p in range(2)]
    async with aclosing(read_to_end(new, places)) as records:
        told = [(r.partition, parse(r.value, Contact)) async for r in records]
    assert {(p, c.to, c.erased) for p, c in told} == {(p, m.to, 5.0) for p in range(2) for m in marks}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"to": "anna@example.org", "reason": "erased"}', "tenant"),
        ('{"tenant": "", "to": "anna@example.org", "reason": "erased"}', "is not the hash of somebody"),
        (json.dumps({"tenant": "", "to": NAMES(ANNA)[0], "reason": "manual"}), "is not the hash of somebody"),
        ("to,tenant", "line 2"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_written(line, why):
    good = json.dumps({"tenant": "", "to": NAMES(ANNA)[0], "scope": "global", "reason": "erased"})
    found = CliRunner().invoke(
        main,
        ["suppress", "remember", "-"],
        input=f"{good}\n{line}\n",
        env={"MAILSLUICE_BROKER": "127.0.0.1:1"},
    )
    assert found.exit_code == 2
    assert "line 2" in found.output
    assert why in found.output
