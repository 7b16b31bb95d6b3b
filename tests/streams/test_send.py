"""``mailsluice send``: campaign files, CSV files of every kind, and what arrives at the broker."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaTimeoutError
from click.testing import CliRunner, Result

from schemas.campaign import Campaign
from schemas.codec import parse
from schemas.send import Send
from streams.broker import make_producer
from streams.ops.campaign_file import EXAMPLE, BadCampaign, read_campaign
from streams.ops.recipients import BadFile, Row, read_rows
from streams.ops.send import IN_FLIGHT, Interrupted, publish, send
from streams.settings import Settings
from tests.support.brokers import Broker, create_topics

CAMPAIGN = Campaign(id="c1", sender="Shop <shop@shop.test>", subject="Hi", text="Hello")
TOML = 'id = "c1"\nfrom = "Shop <shop@shop.test>"\nsubject = "Hi"\ntext = "Hello {{ city }}"\n'


def rows(text: str) -> list[Row]:
    return list(read_rows(io.StringIO(text, newline=""), CAMPAIGN))


# --- recipients


def test_every_column_finds_its_place() -> None:
    (row,) = rows(
        "E-Mail Greeting,Email,NAME,key,time_zone,consent_opens,consent_clicks,city\r\n"
        'Dear, Anna@example.com ,"Muster, Anna",k1,Europe/Zurich,yes,0, Bern\r\n'
    )
    assert row.line == 2
    assert row.send
    assert (row.send.to, row.send.name, row.send.key) == ("Anna@example.com", "Muster, Anna", "k1")
    assert (row.send.campaign, row.send.time_zone) == ("c1", "Europe/Zurich")
    assert (row.send.consent.opens, row.send.consent.clicks) == (True, False)
    assert row.send.variables == {"E-Mail Greeting": "Dear", "city": " Bern"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_the_headers(separator: str) -> None:
    (row,) = rows(f"\ufeffto{separator}city\na@example.com{separator}Bern\n")
    assert row.send
    assert row.send.variables == {"city": "Bern"}


def test_bad_rows_are_named_and_the_others_go_on() -> None:
    found = rows(
        "to,note,time_zone,consent_opens\n"
        'a@example.com,"two\nlines",,\n'  # lines 2 and 3
        "not-an-address,,,\n"  # 4
        "\n"
        "b@example.com,x\n"  # 6
        "c@example.com,,Mars/Olympus,\n"  # 7
        "d@example.com,,,perhaps\n"  # 8
        "e@example.com,\udcff,,\n"  # 9
        f"f@example.com,{'x' * 200_000},,\n"  # 10
        "g@example.com\x00,,,\n"  # 11
        "h@example.com,,UTC,1\n"  # 12
    )
    assert [row.line for row in found if row.send] == [2, 12]
    assert {row.line: row.why.split(":")[0][:28] for row in found if not row.send} == {
        4: "an address is local-part@dom",
        6: "2 columns, the header line h",
        7: "time_zone is no name of the ",
        8: "consent_opens must be yes or",
        9: "not UTF-8",
        10: "field larger than field limi",
        11: "spaces, line breaks and cont",
    }
    assert found[0].send
    assert found[0].send.variables["note"] == "two\nlines"


def test_an_unclosed_quote_costs_its_row_only() -> None:
    for number in (3, 20_000):  # within the longest field, and beyond
        body = "".join(f"u{n}@example.com,x\n" for n in range(number))
        found = rows('to,note\na@example.com,"never closed\n' + body)
        [bad] = [row for row in found if not row.send]
        assert bad.line == 2
        assert "a quote may be open: the" in bad.why
        assert [(row.line, row.send.to) for row in found if row.send] == [
            (n + 3, f"u{n}@example.com") for n in range(number)
        ]


@pytest.mark.parametrize(
    "text",
    [
        'a@x.test,"open\nb@x.test,fine\nc@x.test,"closed"\nd@x.test,\n',
        'a@x.test,"open\nb@x.test,fine\nc@x.test,"open\nd@x.test,\n',
        '"a@x.test,open\nb@x.test,fine\nc@x.test,fine\nd@x.test,\n',
        'a@x.test,x,"open\nb@x.test,fine\nc@x.test,5" pipe\nd@x.test,"two\nlines"\n',
    ],
)
def test_a_row_that_is_none_swallows_no_other(text: str) -> None:
    found = {row.send.to: row.line for row in rows("to,note\n" + text) if row.send}
    assert (found["b@x.test"], found["d@x.test"]) == (3, 5)
    assert "a@x.test" not in found


def test_quotes_that_never_come_to_an_end_cost_a_bounded_look_ahead() -> None:
    """Each line closes the quote of the one before and opens another: to a CSV reader the whole file is one row."""
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        yield "to,note\n"
        for _ in range(2000):
            read += 1
            yield '"x","y\n'
        yield "a@x.test,fine\n"

    found = read_rows(lines(), Campaign(id="spring", sender="hello@news.test"))
    assert next(found).line == 2
    assert read <= 200
    assert [row.line for row in found if row.send] == [2002]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("", "must name the columns"),
        ("name,city\n", "no column to, email or address"),
        ("to,email\n", "'to' is there twice"),
        ("to,,city\n", "column 2 has no name"),
        ("to," + ",".join(map(str, range(600))), "at most 500"),
    ],
)
def test_a_file_without_a_usable_header(head: str, why: str) -> None:
    with pytest.raises(BadFile, match=why):
        rows(head)


# --- campaign files


def test_the_example_of_the_help_is_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "spring.html").write_text("<p>Spring</p>")
    path = tmp_path / "c.toml"
    path.write_text(
        EXAMPLE.replace("# [", "[").replace("# at", "at").replace("# exp", "exp").replace("# X-", "X-")
    )
    found = read_campaign(path)
    assert (found.id, found.html, found.headers) == ("spring-2027", "<p>Spring</p>", {"X-Shop": "lakeside"})
    assert found.schedule.expires_at
    assert found.schedule.expires_at.isoformat() == "2027-03-22T09:00:00+01:00"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id = \n", "line 1"),
        (TOML + "colour = 1\n", r"line 5, field colour: .*unknown field"),
        (TOML.replace('"c1"', '"c 1"'), "line 1, field id"),
        (TOML.replace('"Hi"', '"Hi\\r\\nBcc: x@y.test"'), "line 3, field subject"),
        (TOML.replace("Hello {{ city }}", ""), "give html, html_file, text or text_file"),
        (TOML.replace("shop@shop.test", "nobody"), "line 2, field from: .*no @"),
        (TOML.replace("from", "sender"), "field (from|sender)"),
        (TOML + "[schedule]\nat = 2027-01-01T00:00:00\n", r"line 6, field schedule.at: .*timezone"),
        (TOML + '[schedule]\nat = "soon"\n', "line 6, field schedule.at"),
        (TOML + "priority = 12\n", "line 5, field priority"),
        (TOML + 'html_file = "missing.html"\n', "line 5, field html_file: cannot read"),
        (TOML + 'text_file = "x"\n', "line 5, field text_file: give text or text_file"),
        (
            TOML.replace('"Hello', '"""\nid = 3\npriority = 2"""\npriority = 12 # "Hello'),
            "line 7, field priority",
        ),
    ],
)
def test_faults_name_line_and_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(BadCampaign, match=says):
        read_campaign(path)


# --- publishing


async def read_all(broker: Broker, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        found: list[Any] = []
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=5000)).values():
                found += records
        return found
    finally:
        await consumer.stop()


def command(tmp_path: Path, text: str, toml: str, *options: str, **environment: str) -> Result:
    (tmp_path / "c.toml").write_text(toml)
    (tmp_path / "r.csv").write_text(text)
    arguments = [str(tmp_path / "c.toml"), str(tmp_path / "r.csv"), *options]
    return CliRunner().invoke(send, arguments, env=environment)


async def test_the_command_publishes_campaign_and_sends(broker: Broker, prefix: str, tmp_path: Path) -> None:
    names = [prefix + name for name in ("mail-campaigns", "mail-sends", "mail-sends-now")]
    await create_topics(broker, *names)
    body = "to,city\n" + "".join(f"U{n}@example.com,Bern\n" for n in range(3000)) + "bad,x\n"
    environment = {
        "MAILSLUICE_BROKER": broker.bootstrap,
        "MAILSLUICE_PREFIX": prefix,
        "MAILSLUICE_BROKER_IDEMPOTENT": "1" if broker.name == "apache" else "0",
    }
    result = await asyncio.to_thread(command, tmp_path, body, TOML, "--json", **environment)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["campaign"], summary["sent"], summary["bad"]) == ("c1", 3000, 1)
    assert [row["line"] for row in summary["bad_rows"]] == [3002]
    assert "line 3002:" in result.stderr
    (campaign,) = await read_all(broker, names[0], 1)
    assert campaign.key == b"default/c1"
    assert parse(campaign.value, Campaign).text == "Hello {{ city }}"
    sends = await read_all(broker, names[1], 3000)
    assert len(sends) == 3000
    assert sends[0].key == b"u0@example.com"
    assert {parse(one.value, Send).to for one in sends} == {f"U{n}@example.com" for n in range(3000)}
    # A transactional campaign takes the other way.
    urgent = 'stream = "transactional"\n' + TOML
    result = await asyncio.to_thread(command, tmp_path, "to,city\na@example.com,x\n", urgent, **environment)
    assert "campaign c1: 1 sent" in result.stdout
    assert len(await read_all(broker, names[2], 1)) == 1


def test_a_missing_topic_is_said_at_once(embedded_broker: Broker, prefix: str, tmp_path: Path) -> None:
    result = command(
        tmp_path, "to\na@example.com\n", TOML, "--broker", embedded_broker.bootstrap, "--prefix", prefix
    )
    assert result.exit_code == 2
    assert f"no topic {prefix}mail-campaigns, {prefix}mail-sends" in result.stderr
    assert "topics apply" in result.stderr


def test_no_broker(tmp_path: Path) -> None:
    result = command(tmp_path, "to\na@example.com\n", TOML, "--broker", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "no Kafka at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("text", "toml", "code", "says"),
    [
        ("to\na@example.com\n", TOML, 0, "1 good"),
        ("to\na@example.com\nb\n", TOML, 2, "line 3: "),
        ("to\n", TOML, 2, "0 good"),
        ("name\n", TOML, 2, "no column to"),
        ("to\na@example.com\n", TOML + "x = 1\n", 2, "line 5, field x"),
    ],
)
def test_checking_sends_nothing(tmp_path: Path, text: str, toml: str, code: int, says: str) -> None:
    result = command(tmp_path, text, toml, "--check", "--broker", "127.0.0.1:1")
    assert result.exit_code == code
    assert says in result.output


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(send, ["--help"])
    assert "mailsluice send spring.toml" in result.output
    assert 'from = "Lakeside Shop' in result.output


async def test_memory_does_not_grow_with_the_file(embedded_broker: Broker, prefix: str) -> None:
    await create_topics(embedded_broker, prefix + "mail-campaigns", prefix + "mail-sends")
    producer = make_producer(Settings(broker=embedded_broker.bootstrap, broker_idempotent=False))

    def lines(count: int) -> Iterator[str]:
        yield "to,text\n"
        for n in range(count):
            yield f"u{n}@example.com,{'x' * 4000}\n"

    count = 6000
    await producer.start()
    try:
        tracemalloc.start()
        found = await publish(producer, CAMPAIGN, read_rows(lines(count), CAMPAIGN), prefix=prefix)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await producer.stop()
    assert found.sent == count
    # The file has 24 MB: what is in flight is bounded by IN_FLIGHT and by the producer's batches.
    assert count > IN_FLIGHT
    assert peak < 12_000_000, peak


class Recorder:
    """Takes ``good`` sends; what comes later fails, as with a broker that died."""

    def __init__(self, good: int) -> None:
        self.good = good
        self.taken: list[str] = []

    async def send_and_wait(self, topic: str, value: bytes, key: bytes) -> None:
        self.taken.append(topic)

    async def send(self, topic: str, value: bytes, key: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.good:
            self.good -= 1
            self.taken.append(topic)
            future.set_result(None)
        else:
            future.set_exception(KafkaTimeoutError())
        return future


async def test_a_row_that_is_too_large_for_a_send_is_bad() -> None:
    out = io.StringIO()
    csv.writer(out).writerows(
        [
            ["to", *map(str, range(20))],
            ["a@example.com", *["x" * 100_000] * 20],
            ["b@example.com", *["x"] * 20],
        ]
    )
    bad: list[Row] = []
    found = await publish(Recorder(9), CAMPAIGN, rows(out.getvalue()), prefix="p-", on_bad=bad.append)  # type: ignore[arg-type]
    assert (found.sent, found.bad, [row.line for row in bad]) == (1, 1, [2])
    assert "at most 1048576" in bad[0].why


async def test_a_broker_that_dies_is_told_with_what_was_taken() -> None:
    recorder = Recorder(3)
    body = "".join(f"u{n}@example.com\n" for n in range(10))
    with pytest.raises(Interrupted) as caught:
        await publish(recorder, CAMPAIGN, rows("to\n" + body), prefix="p-")  # type: ignore[arg-type]
    assert caught.value.published.sent == 3
    assert recorder.taken == ["p-mail-campaigns"] + ["p-mail-sends"] * 3
