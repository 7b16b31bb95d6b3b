"""The oracle of states on a pipeline that was killed, and whether it sees what is made wrong behind its back."""

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import closing
from subprocess import PIPE

import pytest

from schemas.codec import encode, header_list, parse
from schemas.contact import Contact
from schemas.gate import GateRow
from schemas.suppression import Suppression
from streams.broker import make_producer, started
from streams.ops.kept import homes_in
from streams.ops.recompute import differences, recompute
from tests.support.stories import Story

GROUPS = {"control": 1, "edge": 1, "intake": 2, "compose": 1, "deliver": 2, "hygiene": 2}


def homes(story):
    return homes_in(story.scene.settings.state)


async def at_rest(story):
    """What is left when the workers have come to their end (files follow their topics up to 0.5 s later)."""
    for _ in range(40):
        found = await recompute(story.scene.settings, homes(story))
        if not found.differences:
            break
        await asyncio.sleep(0.5)
    return found


async def write(settings, topic, key, value, partition, type):
    producer = make_producer(settings)
    await started(producer)
    try:
        headers = header_list({"type": type, "version": b"1"})
        await producer.send_and_wait(settings.topic(topic), value, key, partition, headers=headers)
    finally:
        await producer.stop()


async def last(story, topic, kind, wanted):
    """The first (partition, key, value) of a topic whose value pleases ``wanted``."""
    for record in await story.records(topic):
        if record.value and wanted(found := parse(record.value, kind)):
            return record.partition, record.key, found
    raise AssertionError(f"nothing such on {topic}\n{story.logs()}")


async def command(story):
    """What ``mailsluice audit --states`` says."""
    arguments = ["-m", "streams.cli", "audit", "--json", "--states", str(story.scene.settings.state)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=os.environ | story.scene.settings.environment(), stdout=PIPE
    )
    out, _ = await process.communicate()
    return process.returncode, json.loads(out)


def tamper(story, name, statement, *values):
    """Changes the first file of that name that the statement changes anything in; its path."""
    for path in sorted(story.scene.settings.state.rglob(name)):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            if db.execute(statement, values).rowcount:
                return path
    raise AssertionError(f"no file {name} holds such a row")


@pytest.mark.timeout(240)
async def test_states_equal_their_recomputation_and_what_was_made_wrong_is_told(
    apache_broker, prefix, tmp_path
):
    async with Story(apache_broker, prefix, tmp_path, GROUPS) as story:
        settings = story.scene.settings
        await story.campaign()
        people = [f"person{n}@{'gmail' if n % 3 else 'small'}.test" for n in range(150)]
        await story.send(*people)
        await story.until("mail-outcomes", lambda r: len(r) > 30, 60)
        for name in ("intake", "deliver", "hygiene", "hygiene-1"):
            assert story.kill(name)
        await story.send(*people[:20], "nobody@nx.test", "user-unknown@gmail.test")
        await story.campaign("d")
        await story.send(*people[:50], campaign="d")
        found = await story.settled(90, 222)
        assert found.balanced, (found.as_dict(), story.logs())
        assert found.counts["suppressed"] == 20
        told = await at_rest(story)
        assert told.differences == [], "\n".join(told.differences) + "\n" + story.logs()
        assert told.files > 10
        assert told.rows > 800
        await story.scene.supervisor.stop()
        assert await differences(settings, homes(story)) == []
        code, printed = await command(story)
        assert code == 0
        assert printed["states"]["differences"] == []
        assert printed["states"]["rows"] > 800

        # Files.
        gone = tamper(
            story, "mail-outcomes-*.sqlite", "DELETE FROM rows WHERE k IN (SELECT k FROM rows LIMIT 1)"
        )
        other = tamper(story, "mail-screen-log-*.sqlite", "INSERT INTO rows VALUES (x'41', x'42', 0, 7)")
        ahead = tamper(
            story, "mail-contacts-*.sqlite", "UPDATE about SET v = '999999' WHERE k = 'at mail-contacts'"
        )
        # Topics.
        p, key, contact = await last(story, "mail-contacts", Contact, lambda c: c.version == 1)
        late = Contact(tenant="default", to=contact.to, version=0, seen=("x",))
        await write(settings, "mail-contacts", key, encode(late), p, b"contact")
        q, row_key, row = await last(story, "mail-screen-log", GateRow, lambda r: r.decision == "pass")
        stranger = GateRow(key="i|x", origin="nowhere", decision="pass", until=2e9)
        await write(settings, "mail-screen-log", b"i|x", encode(stranger), q, b"gate")
        await write(settings, "mail-screen-log", row_key, None, q, b"gate")
        unheard = Suppression(tenant="default", to="a@b.test", reason="complaint", origin="0" * 32)
        await write(settings, "mail-suppressions", unheard.key, encode(unheard), 0, b"suppression")

        lines = await differences(settings, homes(story))
        text = "\n".join(lines)
        assert "@" not in text.replace("mail-screened@", "").replace("mail-screened-now@", "")

        def line(*words):
            found = [one for one in lines if all(word in one for word in words)]
            assert len(found) == 1, (words, text)

        line(gone.name, "found no row")
        line(other.name, "expected no row, found B")
        line(ahead.name, "it stands at 999999, its log ends at")
        line(f"mail-contacts/{p}", "found an older one behind it: ", "version=0")
        line(f"mail-screen-log/{q}", "expected the row of no send, found that of nowhere")
        line(f"mail-screen-log/{q}", f"expected a row of {row.origin}, found none")
        line("mail-suppressions/0", "expected nothing, found", "reason=complaint")
        code, printed = await command(story)
        assert code == 1
        assert printed["states"]["differences"] == lines
