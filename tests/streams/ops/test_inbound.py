"""``mailsluice inbound``: every form of mailbox, whose mail a message is about, and what arrives at the broker."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from click.testing import CliRunner

from schemas.identity import partition_of
from schemas.inbound import LARGEST
from schemas.token import Tokens
from streams.admin import apply
from streams.ops.inbound import Envelopes, inbound
from streams.ops.mailboxes import BadMailbox, messages
from streams.settings import Settings
from tests.support.brokers import Broker

SECRET = "a secret of the tests that is long enough"
DOMAIN, ID, P = "r.example.com", "00112233445566778899aabbccddeeff", 4
BOUNCE = Tokens([SECRET.encode()]).verp(ID, 3, DOMAIN)
SETTINGS = Settings(secret=SECRET, return_domain=DOMAIN, partitions=P)
MAIL = f"Return-Path: <>\nTo: <{BOUNCE}>\nDate: Mon, 02 Jun 2025 08:00:00 +0000\nSubject: failed\n\nbody\n"


def read(name: str, stdin: bytes = b"", most: int = LARGEST) -> list[tuple[str, bytes, bool]]:
    return [tuple(one) for one in messages(name, io.BytesIO(stdin), most)]  # type: ignore[misc]


def test_a_message_a_directory_and_a_maildir(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_text(MAIL)
    (tmp_path / "notes.txt").write_text("no mail")
    maildir = tmp_path / "Maildir"
    for place in ("cur", "new", "tmp"):
        (maildir / place).mkdir(parents=True)
    (maildir / "new" / "1.host").write_text(MAIL)
    (maildir / "cur" / "2.host:2,S").write_text("Subject: seen\n\n")
    (maildir / "tmp" / "3").write_text("half of a ma")
    assert read(str(tmp_path / "one.eml")) == [(str(tmp_path / "one.eml"), MAIL.encode(), False)]
    assert [raw for _, raw, _ in read(str(tmp_path))] == [MAIL.encode()]
    assert [raw for _, raw, _ in read(str(maildir))] == [MAIL.encode(), b"Subject: seen\n\n"]


def test_an_mbox_is_taken_apart_at_its_postmarks_alone() -> None:
    box = (
        "From MAILER-DAEMON Mon Jun  2 08:00:00 2025\nSubject: one\n\nFrom here on it is text.\n\nFrom us, with love\n>From quoted\n>>From twice\n"
        "\nFrom a@b.example Mon Jun  2 09:00:00 2025\nSubject: two\n\nend\n"
    )
    first, second = read("-", box.encode())
    assert first[0] == "standard input message 1"
    assert first[1] == (
        b"Subject: one\n\nFrom here on it is text.\n\nFrom us, with love\nFrom quoted\n>From twice\n\n"
    )
    assert second[1] == b"Subject: two\n\nend\n"


def test_what_is_too_long_is_cut_and_what_follows_is_whole() -> None:
    box = b"From a Mon Jun  2 08:00:00 2025\n" + b"x" * 700 + b"\n" + b"y\n" * 500
    box += b"\nFrom a Mon Jun  2 08:00:00 2025\nshort\n"
    (_, first, cut), (_, second, whole) = read("-", box, most=1000)
    assert (len(first), cut, second, whole) == (1000, True, b"short\n", False)
    assert read("-", b"z" * 5000, most=1000) == [("standard input", b"z" * 1000, True)]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path / "missing", "No such file"),
        (lambda path: path, "neither a Maildir"),
    ],
)
def test_what_is_no_mailbox_is_said(tmp_path: Path, make, why: str) -> None:
    with pytest.raises(BadMailbox, match=why):
        read(str(make(tmp_path)))


def test_an_envelope_is_found_again() -> None:
    envelopes = Envelopes(SETTINGS, P)
    out = envelopes.of(MAIL.encode(), 1_800_000_000.0)
    assert (out.topic, out.partition, out.headers["id"]) == ("mail-inbound", 3, ID.encode())
    assert (out.headers["time"], out.headers["rcpt_to"]) == (b"1748851200.000", BOUNCE.encode())
    delivered = f"Delivered-To: {BOUNCE}\nTo: undisclosed\nFrom: a@b.example\n\n"
    assert envelopes.of(delivered.encode(), 5.0).headers["id"] == ID.encode()


@pytest.mark.parametrize(
    "head", [b"", b"\xff\x00", b"To: someone@example.org\n\n", f"To: {BOUNCE[:-30]}x@{DOMAIN}\n\n".encode()]
)
def test_without_a_token_it_goes_to_the_postmaster(head: bytes) -> None:
    out = Envelopes(SETTINGS, P).of(head, 7.0)
    assert (out.headers["rcpt_to"], "id" in out.headers) == (f"postmaster@{DOMAIN}".encode(), False)
    assert (out.partition, out.headers["time"]) == (partition_of(f"postmaster@{DOMAIN}", P), b"7.000")


def command(*arguments: str, stdin: bytes = b"", **environment: str):
    variables = {"MAILSLUICE_SECRET": SECRET, "MAILSLUICE_RETURN_DOMAIN": DOMAIN} | environment
    return CliRunner().invoke(inbound, list(arguments), input=stdin, env=variables)


def test_only_read(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_text(MAIL)
    found = command("--check", "--json", str(tmp_path / "one.eml"), str(tmp_path / "two.eml"))
    assert found.exit_code == 1
    assert orjson.loads(found.stdout) == {"files": 1, "messages": 1, "tokens": 1, "cut": 0, "bad": 1}
    assert "two.eml: No such file" in found.stderr


def test_wrong_usage_and_no_broker() -> None:
    assert command().exit_code == 2
    assert "MAILSLUICE_SECRET" in command("-", MAILSLUICE_SECRET="").stderr
    found = command("-", "--broker", "127.0.0.1:1", stdin=MAIL.encode())
    assert found.exit_code == 1
    assert "127.0.0.1:1" in found.stderr


async def test_it_arrives_as_from_the_edge(embedded_broker: Broker, prefix: str, tmp_path: Path) -> None:
    settings = Settings(
        broker=embedded_broker.bootstrap, broker_idempotent=False, prefix=prefix, partitions=P
    )
    await apply(settings)
    box = tmp_path / "bounces.mbox"
    box.write_text(f"From MAILER-DAEMON Mon Jun  2 08:00:00 2025\n{MAIL}\n" * 500)
    found = await asyncio.to_thread(
        command, str(box), "--json", MAILSLUICE_BROKER=settings.broker, MAILSLUICE_PREFIX=prefix,
        MAILSLUICE_BROKER_IDEMPOTENT="0",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert orjson.loads(found.stdout) == {"files": 1, "messages": 500, "tokens": 500, "cut": 0, "bad": 0}
    consumer = AIOKafkaConsumer(
        prefix + "mail-inbound", bootstrap_servers=settings.broker, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        records = []
        while len(records) < 500:
            got = await consumer.getmany(timeout_ms=5000)
            assert got
            records += [record for some in got.values() for record in some]
    finally:
        await consumer.stop()
    assert {(record.partition, record.value) for record in records} == {(3, MAIL.encode() + b"\n")}
    assert dict(records[0].headers)["id"] == ID.encode()
