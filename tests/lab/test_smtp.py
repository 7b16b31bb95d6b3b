"""The lab's SMTP server, driven by aiosmtplib and by raw sockets."""

import asyncio
import datetime
import ssl

import aiosmtplib
import pytest

from streams.lab.certificate import certificate, server_context
from streams.lab.site import Fault, Reply, Sink
from streams.lab.smtp import SmtpServer

MAIL = b"Message-ID: <1@x.test>\r\nSubject: hi\r\n\r\nfirst\r\n..dotted\r\nlast\r\n"


class Recorder(Sink):
    """A sink that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[str, list[str], bytes, str]] = []

    def rcpt(self, session, address):
        """Refuse one address."""
        return Reply(550, "5.1.1 Nobody here") if address.startswith("nobody") else None

    def dot(self, session, content, replied):
        """Keep it."""
        self.got.append((session.sender, list(session.rcpts), content, session.tls))
        return super().dot(session, content, replied)


@pytest.fixture
async def server():
    async with SmtpServer(Recorder()) as running:
        yield running


async def send(server: SmtpServer, message: bytes = MAIL, to: str = "a@b.test", **more):
    host, port = server.address
    async with aiosmtplib.SMTP(hostname=host, port=port, timeout=3, **more) as client:
        return await client.sendmail("me@x.test", [to], message)


async def raw(server: SmtpServer, data: bytes, until: bytes = b"221 ") -> bytes:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(data)
    got = b""
    async with asyncio.timeout(3):
        while until not in got:
            more = await reader.read(4096)
            if not more:
                break
            got += more
    writer.close()
    return got


async def test_takes_a_message_byte_for_byte(server):
    await send(server)
    assert server.site.got == [("me@x.test", ["a@b.test"], MAIL, "")]
    assert server.site.report()["count"] == 1


async def test_pipelined_commands_are_answered_in_order(server):
    got = await raw(
        server,
        b"EHLO c\r\nMAIL FROM:<a@x.test> SIZE=5\r\nRCPT TO:<nobody@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n"
        b"one\r\n.\r\nMAIL FROM:<b@x.test>\r\nRCPT TO:<nobody@b.test>\r\nDATA\r\nRSET\r\nNOOP\r\nQUIT\r\n",
    )
    codes = [line[:3] for line in got.split(b"\r\n") if line[3:4] == b" "]
    assert codes == [b"%d" % n for n in (220, 250, 250, 550, 250, 354, 250, 250, 550, 503, 250, 250, 221)]
    assert [entry[2] for entry in server.site.got] == [b"one\r\n"]


async def test_only_crlf_dot_crlf_ends_a_message(server):
    body = b"a\n.\nb\r\n.\nc\n.\r\nd\r\n"
    await raw(server, b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n" + body + b".\r\nQUIT\r\n")
    assert len(server.site.got) == 1
    assert server.site.got[0][2].endswith(b"d\r\n")


async def test_a_final_dot_in_pieces_and_an_empty_message(server):
    reader, writer = await asyncio.open_connection(*server.address)
    for piece in (b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n", b"x\r", b"\n.", b"\r", b"\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(b"MAIL FROM:<>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n.\r\nQUIT\r\n")
    await asyncio.wait_for(reader.read(), 3)
    writer.close()
    assert [entry[2] for entry in server.site.got] == [b"x\r\n", b""]


async def test_answers_bad_commands_and_goes_on(server):
    got = await raw(
        server,
        b"MAIL FROM:<a@x.test>\r\nEHLO c\r\nWHAT\r\nMAIL FROM:a\r\nRCPT TO:<b@b.test>\r\nMAIL FROM:<a@x.test>\r\n"
        b"MAIL FROM:<a@x.test>\r\nRCPT TO:<nohost>\r\nDATA\r\nSTARTTLS\r\nQUIT\r\n",
    )
    codes = [line[:3] for line in got.split(b"\r\n") if line[3:4] == b" "]
    assert codes == [b"%d" % n for n in (220, 503, 250, 500, 501, 503, 250, 503, 501, 503, 503, 221)]


async def test_refuses_a_message_that_says_it_is_too_large(server):
    server.site.max_size = 1000
    got = await raw(server, b"EHLO c\r\nMAIL FROM:<a@x.test> BODY=8BITMIME SIZE=1001\r\nQUIT\r\n")
    assert b"552 5.3.4" in got
    with pytest.raises(aiosmtplib.SMTPException):
        await send(server, b"Subject: x\r\n\r\n" + b"x" * 1500 + b"\r\n")
    assert server.site.count == 0


async def test_starttls_with_a_certificate_that_names_the_host():
    pem = certificate(["mx1.shop.test"], datetime.datetime.now(datetime.UTC))
    trusting = ssl.create_default_context(cadata=pem[0].decode())
    async with SmtpServer(Recorder(), tls=server_context(pem)) as server:
        host, port = server.address
        client = aiosmtplib.SMTP(hostname=host, port=port, timeout=3, start_tls=False)
        await client.connect()
        await client.starttls(tls_context=trusting, server_hostname="mx1.shop.test")
        await client.sendmail("me@x.test", ["a@b.test"], MAIL)
        assert not client.supports_extension("starttls")
        await client.quit()
        assert server.site.got[0][3] in ("TLSv1.2", "TLSv1.3")
        # Commands injected behind STARTTLS in clear are not obeyed.
        got = await raw(server, b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<a@x.test>\r\n", until=b"220 2.0.0")
        assert got.endswith(b"220 2.0.0 Go ahead\r\n")
        await send(server, start_tls=True, validate_certs=False)
    assert len(server.site.got) == 2


PHASES = ("connect", "ehlo", "mail", "rcpt", "data", "content", "dot")
FATAL = [(phase, act) for phase in PHASES for act in ("close", "reset", "silent", "nonsense")]
FATAL.remove(("content", "nonsense"))  # not fatal: the junk comes before the reply (a test of its own)


@pytest.mark.parametrize(("phase", "act"), FATAL)
async def test_every_fault_in_every_phase_strikes_once(server, phase, act):
    server.site.script(Fault(phase, act))
    host, port = server.address
    client = aiosmtplib.SMTP(hostname=host, port=port, timeout=0.3)
    with pytest.raises((aiosmtplib.SMTPException, OSError, ValueError)):
        async with client:
            await client.sendmail("me@x.test", ["a@b.test"], MAIL)
    taken_before = server.site.count
    assert taken_before == (1 if phase == "dot" else 0)
    await send(server)
    assert server.site.count == taken_before + 1


async def test_a_dot_fault_that_keeps_nothing(server):
    server.site.script(Fault("dot", "reset", kept=False))
    with pytest.raises((aiosmtplib.SMTPException, OSError)):
        await send(server)
    assert server.site.count == 0


async def test_slow_and_scripted_replies_and_their_limits(server):
    server.site.script(Fault("rcpt", "slow", seconds=0.2, rcpt="slow"))
    server.site.script(Fault("dot", "reply", count=-1, text="451 4.3.0 no disk", rcpt="full"))
    server.site.script(Fault("connect", "reply", text="421 4.3.2 going down", source="127.0.0.99"))
    start = asyncio.get_running_loop().time()
    await send(server, to="quick@b.test")
    assert asyncio.get_running_loop().time() - start < 0.2
    await send(server, to="slow@b.test")
    assert asyncio.get_running_loop().time() - start >= 0.2
    for _ in range(2):
        with pytest.raises(aiosmtplib.SMTPDataError) as error:
            await send(server, to="full@b.test")
        assert error.value.code == 451
    server.site.clear()
    await send(server, to="full@b.test")
    assert server.site.count == 3


async def test_nonsense_inside_data_comes_before_the_reply(server):
    server.site.script(Fault("content", "nonsense"))
    got = await raw(server, b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<c@b.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
    assert b"354 " in got.partition(b"lorem")[0]
    assert server.site.count == 1


def test_a_fault_that_could_never_strike_is_refused():
    with pytest.raises(ValueError, match="phase"):
        Fault("lunch", "close")
    with pytest.raises(ValueError, match="act"):
        Fault("dot", "explode")
    with pytest.raises(ValueError, match="begin it with a code"):
        Fault("dot", "reply", text="no")
