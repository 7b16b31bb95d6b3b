"""The SMTP edge over real sockets: whom it takes mail for, when it says 250, and what it survives."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import Out
from schemas.identity import partition_of
from schemas.inbound import LARGEST
from schemas.token import Tokens
from streams.edge.process import certificate as configured
from streams.edge.smtp import SmtpEdge, SmtpSettings

TOKENS = Tokens([b"a secret of the tests, long enough"])
ID, DOMAIN, NOW = "00112233445566778899aabbccddeeff", "r.example.com", 1_750_000_000.25
BOUNCE, LEAVE = TOKENS.verp(ID, 5, DOMAIN), TOKENS.unsubscribe_address(ID, 5, DOMAIN)
SETTINGS = SmtpSettings(DOMAIN, 8, reports=("fbl", "postmaster", "abuse@corp.example"), ack=0.3)
MAIL = b"Subject: failed\r\n\r\nbody \xff\r\n.dot\r\n"


class Broker:
    """Collects what is published; can fail or hang."""

    def __init__(self) -> None:
        self.outs: list[Out] = []
        self.mood = "well"
        self.gate = asyncio.Event()

    async def publish(self, out: Out) -> None:
        if self.mood == "down":
            raise ConnectionError("no broker")
        if self.mood == "hangs":
            await self.gate.wait()
        self.outs.append(out)


@asynccontextmanager
async def running(broker: Broker, chosen: SmtpSettings = SETTINGS, **more: Any) -> AsyncIterator[int]:
    edge = SmtpEdge(broker.publish, TOKENS, chosen, lambda: NOW, **more)
    port = await edge.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await edge.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert not edge.open
        assert not edge.peers


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def port(broker: Broker) -> AsyncIterator[int]:
    async with running(broker) as found:
        yield found


@asynccontextmanager
async def client(port: int) -> AsyncIterator[aiosmtplib.SMTP]:
    smtp = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=port, timeout=10, start_tls=False, local_hostname="mx.example.org"
    )
    await smtp.connect()
    try:
        yield smtp
    finally:
        smtp.close()


async def talk(port: int, *lines: bytes) -> list[bytes]:
    """The replies to raw lines, one at a time (multi-line replies as their last line)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for line in (None, *lines):
        if line is not None:
            writer.write(line + b"\r\n")
        while True:
            reply = await asyncio.wait_for(reader.readline(), 5)
            if reply[3:4] != b"-":
                break
        found.append(reply.rstrip())
    writer.close()
    return found


async def test_a_bounce_is_published_as_it_came(port: int, broker: Broker) -> None:
    async with client(port) as smtp:
        await smtp.sendmail("", [BOUNCE.upper()], MAIL)
    (out,) = broker.outs
    assert (out.topic, out.partition, out.value) == ("mail-inbound", 5, MAIL)
    assert out.headers == {
        "type": b"inbound", "version": b"1", "time": b"1750000000.250", "mail_from": b"",
        "rcpt_to": BOUNCE.upper().encode(), "peer": b"127.0.0.1", "id": ID.encode(),
    }  # fmt: skip


async def test_every_recipient_gets_its_own_event_and_a_repeated_one_only_one(
    port: int, broker: Broker
) -> None:
    fbl = f"FBL@{DOMAIN}"
    async with client(port) as smtp:
        await smtp.sendmail("mailer@isp.example", [BOUNCE, LEAVE, fbl, BOUNCE, "Abuse@corp.example"], MAIL)
    by_rcpt = {out.headers["rcpt_to"].decode(): out for out in broker.outs}
    assert list(by_rcpt) == [BOUNCE, LEAVE, fbl, "Abuse@corp.example"]
    assert by_rcpt[LEAVE].headers["id"] == ID.encode()
    assert by_rcpt[LEAVE].partition == 5
    assert "id" not in by_rcpt[fbl].headers
    assert by_rcpt[fbl].partition == partition_of(fbl.lower(), 8)
    assert by_rcpt[fbl].headers["mail_from"] == b"mailer@isp.example"


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.org",
        f"ada@{DOMAIN}",
        BOUNCE.replace(DOMAIN, "other.example"),
        BOUNCE[:5] + ("a" if BOUNCE[5] != "a" else "b") + BOUNCE[6:],
        "b-" + LEAVE[2:],
        f"b-@{DOMAIN}",
        "abuse@" + DOMAIN,
        f"ada%example.org@{DOMAIN}",
        f'"ada@example.org"@{DOMAIN}',
        f"@{DOMAIN}:ada@example.org",
    ],
)
async def test_nobody_can_relay_through_us(port: int, broker: Broker, address: str) -> None:
    replies = await talk(port, b"EHLO x", b"MAIL FROM:<>", f"RCPT TO:<{address}>".encode(), b"DATA")
    assert replies[3] == b"550 5.1.1 No such address here"
    assert replies[4].startswith(b"503")
    assert broker.outs == []


async def test_postmaster_needs_no_domain(port: int) -> None:
    assert (await talk(port, b"HELO x", b"MAIL FROM:<>", b"RCPT TO:<Postmaster>"))[-1].startswith(b"250")


@pytest.mark.parametrize("mood", ["down", "hangs"])
async def test_without_an_acknowledgement_the_sender_comes_again(
    port: int, broker: Broker, mood: str
) -> None:
    async with client(port) as smtp:
        broker.mood = mood
        with pytest.raises(aiosmtplib.SMTPDataError) as caught:
            await smtp.sendmail("", [BOUNCE], MAIL)
        assert caught.value.code == 451
        assert caught.value.message.startswith("4.3.0")
        broker.mood = "well"
        await smtp.sendmail("", [BOUNCE], MAIL)
    assert len(broker.outs) == 1


async def test_one_failed_recipient_fails_the_mail(port: int, broker: Broker) -> None:
    real = broker.publish

    async def publish(out: Out) -> None:
        if out.headers["rcpt_to"].startswith(b"u-"):
            raise ConnectionError("no leader")
        await real(out)

    edge = SmtpEdge(publish, TOKENS, SETTINGS, lambda: NOW)
    other = await edge.start("127.0.0.1", 0)
    async with client(other) as smtp:
        with pytest.raises(aiosmtplib.SMTPDataError):
            await smtp.sendmail("", [BOUNCE, LEAVE], MAIL)
    await edge.stop()


async def test_stop_lets_a_mail_get_its_answer(broker: Broker) -> None:
    edge = SmtpEdge(broker.publish, TOKENS, replace(SETTINGS, ack=5.0), lambda: NOW)
    async with client(await edge.start("127.0.0.1", 0)) as smtp:
        broker.mood = "hangs"
        sent = asyncio.ensure_future(smtp.sendmail("", [BOUNCE], MAIL))
        while not edge.busy:
            await asyncio.sleep(0.01)
        stopped = asyncio.ensure_future(edge.stop())
        await asyncio.sleep(0.05)
        assert not stopped.done()
        broker.gate.set()
        await asyncio.wait_for(asyncio.gather(sent, stopped), 5)
    assert len(broker.outs) == 1


async def test_size_is_advertised_and_kept(port: int, broker: Broker) -> None:
    async with client(port) as smtp:
        await smtp.ehlo()
        assert smtp.esmtp_extensions["size"] == str(LARGEST)
        assert "auth" not in smtp.esmtp_extensions
        with pytest.raises(aiosmtplib.SMTPResponseException) as declared:
            await smtp.mail("a@b.example", options=[f"SIZE={LARGEST + 1}"])
        assert declared.value.code == 552
        await smtp.rset()
        await smtp.mail("a@b.example")
        await smtp.rcpt(BOUNCE)
        with pytest.raises(aiosmtplib.SMTPResponseException) as sent:
            await smtp.data(b"x" * 900 + b"\r\n" + (b"y" * 900 + b"\r\n") * (LARGEST // 900))
        assert sent.value.code == 552
        await smtp.sendmail("", [BOUNCE], MAIL)
    assert len(broker.outs) == 1


async def test_a_long_line_in_a_bounce_is_no_reason_to_lose_it(port: int, broker: Broker) -> None:
    async with client(port) as smtp:
        await smtp.sendmail("", [BOUNCE], b"\r\n" + b"x" * 20_000 + b"\r\n")
    assert len(broker.outs) == 1


async def test_a_line_that_never_ends_takes_no_memory(port: int, broker: Broker) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<{BOUNCE}>\r\nDATA\r\n".encode())
    sent = 0
    with suppress(ConnectionError):
        while sent < 40:
            writer.write(b"x" * LARGEST)
            await asyncio.wait_for(writer.drain(), 5)
            sent += 1
    assert sent < 40
    writer.close()
    assert broker.outs == []
    assert (await talk(port, b"NOOP"))[-1].startswith(b"250")


async def test_a_bare_line_feed_does_not_end_a_mail(port: int, broker: Broker) -> None:
    # SMTP smuggling: what follows "\n.\n" must stay text of the first mail.
    body = b"one\n.\nMAIL FROM:<x@evil.example>\r\nRSET\r\n."
    replies = await talk(port, b"EHLO x", b"MAIL FROM:<>", f"RCPT TO:<{BOUNCE}>".encode(), b"DATA", body)
    assert replies[-1] == b"250 2.0.0 Received"
    (out,) = broker.outs
    assert out.value == body[:-1]


async def test_too_many_connections_and_silent_ones_are_closed(broker: Broker) -> None:
    async with running(broker, replace(SETTINGS, per_peer=2, idle=0.3)) as port:
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        greetings = [await asyncio.wait_for(reader.readline(), 2) for reader, _ in streams]
        assert sorted(line[:3] for line in greetings) == [b"220", b"220", b"421"]
        for reader, writer in streams:
            assert await asyncio.wait_for(reader.read(), 3) == b""
            writer.close()
        assert (await talk(port, b"NOOP"))[0].startswith(b"220")


async def test_one_sender_cannot_flood_us(broker: Broker) -> None:
    async with running(broker, replace(SETTINGS, rate=2)) as port, client(port) as smtp:
        await smtp.sendmail("", [BOUNCE], MAIL)
        await smtp.sendmail("", [BOUNCE], MAIL)
        with pytest.raises(aiosmtplib.SMTPDataError) as caught:
            await smtp.sendmail("", [BOUNCE], MAIL)
    assert caught.value.code == 451
    assert len(broker.outs) == 2


async def test_a_connection_does_not_live_for_ever(broker: Broker) -> None:
    async with running(broker, replace(SETTINGS, life=0.3)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = 0
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while answered < 100:
                writer.write(b"NOOP\r\n")
                await asyncio.wait_for(reader.readuntil(), 2)
                answered += 1
                await asyncio.sleep(0.02)
        assert answered < 100
        writer.close()


async def test_the_number_of_recipients_is_bounded(broker: Broker) -> None:
    async with running(broker, replace(SETTINGS, recipients=1)) as port:
        replies = await talk(
            port, b"HELO x", b"MAIL FROM:<>", f"RCPT TO:<{BOUNCE}>".encode(), f"RCPT TO:<{LEAVE}>".encode()
        )
        assert [reply[:3] for reply in replies[-2:]] == [b"250", b"452"]


async def test_a_token_from_a_larger_p_still_finds_a_partition(broker: Broker) -> None:
    address = TOKENS.verp(ID, 63, DOMAIN)
    async with running(broker) as port, client(port) as smtp:
        await smtp.sendmail("", [address], MAIL)
    assert broker.outs[0].partition == partition_of(address, 8)


async def test_a_mail_over_tls(broker: Broker, tmp_path: Path) -> None:
    async with running(broker, tls=certificate(tmp_path)) as port, client(port) as smtp:
        await smtp.starttls(validate_certs=False)
        await smtp.ehlo()
        assert not smtp.supports_extension("auth")
        await smtp.sendmail("", [BOUNCE], MAIL)
    assert len(broker.outs) == 1


def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    assert configured(None) is None
    (tmp_path / "none.pem").write_text("no certificate")
    for path in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(ValueError, match="MAILSLUICE_EDGE_SMTP_CERTIFICATE"):
            configured(path)
    certificate(tmp_path)
    assert configured(tmp_path / "edge.pem") is not None


def certificate(directory: Path) -> ssl.SSLContext:
    """A server context with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    now = datetime(2025, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=9999))
    signed = made.sign(key, SHA256())
    pem = directory / "edge.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + signed.public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def test_hostile_addresses_get_an_answer_and_no_trace_of_us(port: int) -> None:
    for line in [
        b"MAIL FROM:<",
        b'MAIL FROM:<"',
        b"MAIL FROM:<" + b"(" * 400,
        b"MAIL FROM:<a@[>",
        b"VRFY ada",
    ]:
        reply = (await talk(port, b"EHLO x", line))[-1]
        assert reply[:1] in b"2345"
        assert b"Error" not in reply or b"malformed" in reply
        assert b"IndexError" not in reply


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_no_bytes_stop_the_service(chunks: list[bytes]) -> None:
    async def story() -> None:
        broker = Broker()
        async with running(broker) as port:
            await asyncio.get_running_loop().run_in_executor(None, _throw, port, chunks)
            assert (await talk(port, b"NOOP"))[-1].startswith(b"250")
        assert broker.outs == []

    asyncio.run(story())


def _throw(port: int, chunks: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        for chunk in chunks:
            try:
                sock.sendall(chunk)
            except OSError:
                return
