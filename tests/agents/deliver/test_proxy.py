"""Sources behind proxies: SOCKS5 and PROXY headers through real sockets, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from agents.deliver.connect import ConnectFailed, Target, connect
from agents.deliver.proxy import ProxyFailed, header
from agents.deliver.smtp import Session
from agents.deliver.sources import Proxy, Source
from tests.support.smtp_mail import asked, post, settings
from tests.support.smtp_server import self_signed, smtp_server


@dataclass
class Door:
    """A proxy. ``says``: its reply code; ``users``: who may come in, None for everybody."""

    says: int = 0
    users: dict[bytes, bytes] | None = None
    raw: bytes | None = None
    port: int = 0
    asked: list[object] = field(default_factory=list)

    async def socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if self.raw is not None:
            writer.write(self.raw)
            return
        wanted = 0 if self.users is None else 2
        writer.write(bytes([5, wanted if wanted in methods else 255]))
        if wanted not in methods:
            return
        if self.users is not None:
            _, size = await reader.readexactly(2)
            user = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = self.users.get(user) == password
            writer.write(bytes([1, 0 if good else 1]))
            if not good:
                return
        _, command, _, kind = await reader.readexactly(4)
        ip = socket.inet_ntoa(await reader.readexactly(4)) if kind == 1 else "?"
        [port] = struct.unpack("!H", await reader.readexactly(2))
        self.asked.append((command, ip, port))
        # The name of the address that it sends from is as long as it likes.
        writer.write(bytes([5, self.says, 0, 3, 9]) + b"out.proxy" + b"\0\0")
        if not self.says:
            await _pipe(reader, writer, ip, port)

    async def proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await reader.readexactly(6)
        if start == b"PROXY ":
            _, here, there, _, port = (await reader.readline()).decode().split()
        else:
            await reader.readexactly(6)
            version, family, size = struct.unpack("!BBH", await reader.readexactly(4))
            assert (version, family, size) == (0x21, 0x11, 12)
            data = await reader.readexactly(size)
            here, there = socket.inet_ntoa(data[:4]), socket.inet_ntoa(data[4:8])
            port = struct.unpack("!H", data[10:])[0]
        self.asked.append((here, there, int(port)))
        await _pipe(reader, writer, there, int(port))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ip: str, port: int) -> None:
    inner, outer = await asyncio.open_connection(ip, port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

    await asyncio.gather(copy(reader, outer), copy(inner, writer))


@contextlib.asynccontextmanager
async def door(kind: str = "socks5", **how: object) -> AsyncIterator[Door]:
    made = Door(**how)  # type: ignore[arg-type]
    talk: Callable[..., object] = made.socks5 if kind == "socks5" else made.proxy

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)  # type: ignore[misc]
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def by(found: Door, kind: str = "socks5", user: str = "", password: str = "", address: str = "") -> Source:
    return Source("far", address, "far.client.test", Proxy(kind, "127.0.0.1", found.port, user, password))  # type: ignore[arg-type]


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("user", ["", "me"])
async def test_mail_goes_through_socks5(user, encrypted, tmp_path):
    tls = self_signed(tmp_path)[0] if encrypted else None
    async with smtp_server(tls=tls) as server, door(users={b"me": b"p\xc3\xa4ss"} if user else None) as proxy:
        target = Target("mx.test", server.host, server.port, asked("require" if encrypted else "off"))
        session = await connect(target, settings(), by(proxy, user=user, password="päss" if user else ""))
        assert isinstance(session, Session), session
        assert (await post(session)).state == "accepted"
        assert proxy.asked == [(1, server.host, server.port)]
        assert server.seen[0].commands[0] == "EHLO far.client.test"


@pytest.mark.parametrize("kind", ["proxy-v1", "proxy-v2"])
async def test_mail_goes_through_the_proxy_protocol(kind):
    async with smtp_server() as server, door(kind) as proxy:
        target = Target("mx.test", server.host, server.port)
        session = await connect(target, settings(), by(proxy, kind, address="192.0.2.7"))
        assert isinstance(session, Session), session
        assert (await post(session)).state == "accepted"
        assert proxy.asked == [("192.0.2.7", server.host, server.port)]


@pytest.mark.parametrize(
    ("how", "why", "text"),
    [
        ({"says": 5}, "unreachable", "connection refused"),
        ({"says": 4}, "unreachable", "host unreachable"),
        ({"says": 2}, "source", "not allowed by its rules"),
        ({"says": 99}, "source", "code 99"),
        ({"users": {b"me": b"other"}}, "source", "does not take our user and password"),
        ({"users": {}}, "source", "does not take our user and password"),
        ({"raw": b"HTTP/1.0 400"}, "source", "does not speak SOCKS5"),
        ({"raw": b"\x05\xff"}, "source", "none of the ways"),
        ({"raw": b"\x05"}, "source", "closed the connection"),
    ],
)
async def test_whose_fault_it_is(how, why, text):
    async with door(**how) as proxy:
        users = "users" in how
        source = by(proxy, user="me" if users else "", password="secret" if users else "")
        found = await connect(Target("mx.test", "127.0.0.1", 9), settings(), source)
        assert isinstance(found, ConnectFailed)
        assert (found.why, found.phase, found.temporary) == (why, "connect", True)
        assert text in found.text
        assert "secret" not in found.text


async def test_a_proxy_that_is_not_there_or_says_nothing():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        source = Source("far", proxy=Proxy("socks5", *free.getsockname()))
        found = await connect(Target("mx.test", "127.0.0.1", 9), settings(), source)
        assert (found.why, "the proxy: " in found.text) == ("source", True)
        free.listen()
        found = await connect(Target("mx.test", "127.0.0.1", 9), settings(connect=0.2), source)
        assert (found.why, found.temporary) == ("timeout", True)


async def test_no_proxy_is_asked_for_a_network_that_mail_may_not_go_to():
    async with door() as proxy:
        found = await connect(Target("mx.test", "10.0.0.1", 25), settings(), by(proxy))
        assert found.why == "network"
        assert proxy.asked == []


def test_headers():
    """The examples of HAProxy's document: the line, and the binary form for both families."""
    four = Source("a", "192.0.2.1")
    v1 = Proxy("proxy-v1", "127.0.0.1", 1)
    assert header(four, v1, "198.51.100.2", 25, 4000) == b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 25\r\n"
    six = Source("b", "2001:db8::1")
    assert header(six, v1, "2001:db8::2", 25, 4000) == b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\n"
    found = header(six, Proxy("proxy-v2", "127.0.0.1", 1), "2001:db8::2", 25, 4000)
    assert found[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert found[12:16] == bytes([0x21, 0x21, 0, 36])
    assert (len(found), found[-4:]) == (52, struct.pack("!HH", 4000, 25))
    with pytest.raises(ProxyFailed, match="IPv6"):
        header(four, v1, "2001:db8::2", 25, 4000)
