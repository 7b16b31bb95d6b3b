"""No test reaches beyond this machine. 192.0.2.1 is an address that nobody has (RFC 5737)."""

import asyncio
import socket
from collections.abc import Callable

import pytest


def by_connect() -> None:
    with socket.socket() as s:
        s.connect(("192.0.2.1", 25))


def by_connect_ex() -> None:
    with socket.socket() as s:
        s.connect_ex(("192.0.2.1", 25))


def by_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"?", ("192.0.2.1", 53))


def by_name() -> None:
    socket.create_connection(("mx.example.com", 25))


def by_asyncio() -> None:
    asyncio.run(asyncio.open_connection("192.0.2.1", 25))


def by_asyncio_name() -> None:
    asyncio.run(asyncio.open_connection("mx.example.com", 25))


WAYS = [by_connect, by_connect_ex, by_datagram, by_name, by_asyncio, by_asyncio_name]


@pytest.mark.parametrize("reach", WAYS)
def test_the_outside_is_refused(reach: Callable[[], None], crossings: list[str]) -> None:
    with pytest.raises(RuntimeError, match="stay on loopback"):
        reach()
    assert len(crossings) == 1
    crossings.clear()  # or this test would fail for it, as one that swallows the error does


async def test_loopback_is_open(crossings: list[str]) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.12", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        _, writer = await asyncio.open_connection("127.0.0.12", server.sockets[0].getsockname()[1])
        writer.close()
    assert not crossings
