"""Dead letters on a broker: found by filter, replayed by gate two's word, marked as such; no worker runs here."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agents import Out
from schemas.codec import Record
from schemas.outcome import Outcome
from streams.cli import main
from streams.ops.audit import read_topic
from streams.ops.letters import Letter, Wanted
from streams.ops.letters_scan import Plan, past_of, replay
from streams.settings import Settings
from streams.work import dead_letter
from tests.support.brokers import Broker
from tests.support.published import PARTITIONS, applied, fact, published

NOW = 1_800_000_000.0
WHY = ("--why", "mended", "--who", "ops")
SECRET = "s" * 32


def name(n: int) -> str:
    return f"{n:032x}"


def mail(n: int, tenant: str = "acme", **headers: bytes) -> Out:
    """The dead letter of a mail that died in render."""
    found = {"type": b"accepted", "id": name(n).encode(), "origin": b"mail-sends/0/%d/1/0" % n, "attempt": b"2",
             "tenant": tenant.encode(), "campaign": b"c", "to": b"anna@example.org", "received": b"%d" % (time.time() - 10)}  # fmt: skip
    record = Record("mail-screened", n % PARTITIONS, n, 0, b"k", b"body \x1b[2J %d" % n, found | headers)
    return dead_letter(record, "render", "bug", "ZeroDivisionError: eh", NOW + n)


def row(n: int, state: Any, attempt: int, final: bool = False) -> Out:
    return fact(
        "mail-outcomes",
        Outcome(id=name(n), state=state, attempt=attempt, final=final),
        name(n).encode(),
        n % PARTITIONS,
    )


@pytest.fixture
async def settings(broker: Broker, prefix: str) -> Settings:
    return await applied(broker, prefix)


async def call(settings: Settings, *arguments: str, code: int = 0) -> str:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "0", "MAILSLUICE_SECRET": SECRET}  # fmt: skip
    found: Result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
    assert found.exit_code == code, (found.output, found.exception)
    return found.output


async def read(settings: Settings, topic: str, partitions: int = PARTITIONS) -> list[Record]:
    return [record async for record in read_topic(settings, topic, partitions)]


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


async def test_only_what_gate_two_has_no_end_or_doubt_of_comes_again(settings: Settings) -> None:
    rows = [
        row(1, "deferred", 1),
        row(2, "unknown", 1),
        row(3, "intent", 1),
        row(4, "delivered", 3),
        row(5, "unknown", 1, final=True),
        row(6, "deferred", 2),
        row(7, "deferred", 1),
        row(7, "bounced", 2),
    ]
    await published(settings, [*rows, *(mail(n) for n in range(9))])
    told = lines(await call(settings, "dlq", "replay", "--stage", "render", "--json", *WHY, code=1))
    assert {line["letter"]: line.get("refused", "") for line in told[:-1]} == {
        f"mail-dlq@{n}": code
        for n, code in enumerate(["", "", "unknown", "intent", "ended", "ended", "gone_on", "ended", ""])
    }
    assert told[-1]["counts"] == {
        "selected": 9, "replayed": 3, "already": 0, "refused": 6, "unknown": 1, "intent": 1, "ended": 3, "gone_on": 1
    }  # fmt: skip
    copies = await read(settings, "mail-screened")
    assert [
        (r.text("id"), r.partition, r.text("attempt")) for r in sorted(copies, key=lambda r: r.text("id"))
    ] == [(name(n), n % PARTITIONS, "3") for n in (0, 1, 8)]
    assert not [header for r in copies for header in r.headers if header.startswith("dlq_")]

    listed = lines(await call(settings, "dlq", "list", "--json"))
    assert [row["letter"] for row in listed if row.get("replayed_by") == "ops"] == [
        f"mail-dlq@{n}" for n in (0, 1, 8)
    ]
    assert len(lines(await call(settings, "dlq", "list", "--waiting", "--limit", "0", "--json"))) == 6
    [command] = json.loads(await call(settings, "queue", "log", "--json"))
    assert (command["what"], command["who"], command["why"]) == ("dlq replay", "ops", "mended")
    assert (command["done"], command["on"]) == (True, {"stage": "render"})
    assert (command["counts"]["replayed"], command["counts"]["refused"]) == (3, 6)


async def test_the_oldest_go_first_up_to_the_limit_and_a_dry_run_writes_nothing(settings: Settings) -> None:
    await published(settings, [mail(n, "acme" if n % 2 else "other") for n in range(10)])
    chosen = ("dlq", "replay", "--tenant", "acme", "--limit", "2", "--json")
    dry = lines(await call(settings, *chosen, "--dry-run"))
    assert [line["letter"] for line in dry[:-1]] == ["mail-dlq@1", "mail-dlq@3"]
    assert await read(settings, "mail-screened") == []
    assert json.loads(await call(settings, "queue", "log", "--json")) == []
    for offsets in ((1, 3), (5, 7), (9,)):
        told = lines(await call(settings, *chosen, *WHY))
        assert [line["letter"] for line in told[:-1]] == [f"mail-dlq@{n}" for n in offsets]
    last = lines(await call(settings, *chosen, *WHY, code=1))
    assert last == [{"counts": {"selected": 0, "replayed": 0, "already": 5, "refused": 0}, "dry_run": False}]
    assert len(await read(settings, "mail-screened")) == 5
    named = lines(
        await call(settings, "dlq", "replay", "mail-dlq@3", "mail-dlq@4", "--again", "--json", *WHY)
    )
    assert [line["letter"] for line in named[:-1]] == ["mail-dlq@3", "mail-dlq@4"]


async def test_what_was_written_when_it_was_broken_off_is_marked(settings: Settings) -> None:
    await published(settings, [mail(n) for n in range(50)])
    seen: list[str] = []
    fifth = asyncio.Event()

    def told(letter: Any, what: str, why: str) -> None:
        seen.append(letter.name)
        if len(seen) == 5:
            fifth.set()

    work = asyncio.create_task(
        replay(
            settings, Wanted(stage="render"), limit=0, rate=20.0, repeat=False, dry=False, who="ops",
            why="x", told=told,
        )
    )  # fmt: skip
    await asyncio.wait_for(fifth.wait(), 30)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    copies = await read(settings, "mail-screened")
    past = await past_of(settings)
    marked = [letter for letter in await read(settings, "mail-dlq", 1) if past.of(letter)]
    assert 4 <= len(copies) == len(marked) < 50
    assert {copy.text("id") for copy in copies} == {letter.text("id") for letter in marked}
    [command] = json.loads(await call(settings, "queue", "log", "--json"))
    assert command.get("done", False) is False


async def test_people_see_a_table_and_the_letter_whole_but_nothing_that_moves_their_terminal(
    settings: Settings, tmp_path: Any
) -> None:
    campaign = dead_letter(
        Record("mail-campaigns", 0, 0, 0, b"k", b"\x00\xff", {}), "campaigns", "bad_json", "eh", NOW
    )
    await published(settings, [mail(3), mail(4, note=b"\x1b]0;evil\x07"), campaign])
    table = await call(settings, "dlq", "list")
    assert "3 dead letters: render bug 2, campaigns bad_json 1" in table
    assert "mail-screened/1@3" in table
    assert "2027-01-15 08:00:03Z" in table
    assert "the 1 newest are shown" in await call(settings, "dlq", "list", "--limit", "1")
    text = await call(settings, "dlq", "show", "mail-dlq@1")
    assert "| body \\x1b[2J 4" in text
    assert "header note: \\x1b]0;evil\\x07" in text
    assert "\x1b" not in text
    assert text.startswith("mail-dlq@1: render could not work on mail-screened/0@4 at 2027-01-15 08:00:04Z\n")
    assert (
        json.loads(await call(settings, "dlq", "show", "mail-dlq@1", "--json"))["headers"]["attempt"] == "2"
    )
    await call(settings, "dlq", "show", "mail-campaigns-dlq@0", "--raw", str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"\x00\xff"
    assert "more than one" in await call(settings, "dlq", "show", "--stage", "render", "--raw", "-", code=1)
    assert "no such letter" in await call(settings, "dlq", "show", "mail-dlq@99", code=1)
    assert "no such letter" in await call(settings, "dlq", "show", "mail-inbound-dlq@7", code=1)
    refused = await call(settings, "dlq", "replay", "--topic", "mail-campaigns", *WHY, code=1)
    assert refused == (
        "mail-campaigns-dlq@0 is not replayed: its newest record counts: whoever owns it publishes it again\n"
        "0 letters replayed; 1 refused\n"
    )
    assert "no letter fits" in await call(settings, "dlq", "replay", "--reason", "nope", *WHY, code=1)


@pytest.mark.parametrize("received", [b"1e300", b"inf", b"nan", b"x", b"99999999999"])
def test_a_letter_that_says_it_was_received_late_hides_no_outcome(received: bytes) -> None:
    """1e300 was no time that a broker can be asked for; the year 5138 left the whole journal out."""
    mail = Record("mail-screened", 0, 3, 1_000_000, None, b"", {"id": b"0" * 32, "received": received})
    dead = dead_letter(mail, "render", "bug", "", 2000.0)
    plan = Plan()
    plan.take(Letter(Record("mail-dlq", 0, 0, 2_000_000, None, dead.value, dead.headers)))
    assert 0.0 <= plan.earliest <= 2000.0
