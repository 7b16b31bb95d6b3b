"""Through a proxy to a mail host: SOCKS5 (RFC 1928, 1929) and HAProxy's PROXY protocol, versions 1 and 2.

A proxy is told the address of the mail host, never its name: which addresses mail may go to was checked by us.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import ip_address

from agents.deliver.sources import Proxy, Source

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "kind of address not supported",
}
_BEYOND = frozenset({1, 3, 4, 5, 6})
"""SOCKS replies about the mail host; the others, and silence, are about the proxy itself."""


class ProxyFailed(Exception):
    """It did not connect. ``ours``: the proxy is at fault, so the source is of no use just now."""

    def __init__(self, text: str, ours: bool = True) -> None:
        super().__init__(text)
        self.ours = ours


async def through(source: Source, proxy: Proxy, sock: socket.socket, ip: str, port: int) -> None:
    """On a socket that is connected to the proxy: make it one to ``ip``. Raises ProxyFailed or OSError."""
    loop = asyncio.get_running_loop()
    if proxy.kind == "socks5":
        await _socks5(loop, proxy, sock, ip, port)
    else:
        await loop.sock_sendall(sock, header(source, proxy, ip, port, sock.getsockname()[1]))


def header(source: Source, proxy: Proxy, ip: str, port: int, own_port: int) -> bytes:
    """The PROXY header: from the source's address to the mail host. Raises ProxyFailed for two families."""
    here, there = ip_address(source.address), ip_address(ip)
    if here.version != there.version:
        raise ProxyFailed(f"the source sends from IPv{here.version}, the host has IPv{there.version}", False)
    if proxy.kind == "proxy-v1":
        return f"PROXY TCP{here.version} {here} {there} {own_port} {port}\r\n".encode()
    family = 0x11 if here.version == 4 else 0x21
    addresses = here.packed + there.packed + struct.pack("!HH", own_port, port)
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, len(addresses)) + addresses


async def _socks5(
    loop: asyncio.AbstractEventLoop, proxy: Proxy, sock: socket.socket, ip: str, port: int
) -> None:
    await loop.sock_sendall(sock, b"\x05\x01\x02" if proxy.user else b"\x05\x01\x00")
    version, method = await _read(loop, sock, 2)
    if version != 5:
        raise ProxyFailed("the proxy does not speak SOCKS5")
    if method != (2 if proxy.user else 0):
        raise ProxyFailed("the proxy takes none of the ways in which we may sign in")
    if proxy.user:
        user, password = proxy.user.encode(), proxy.password.encode()
        await loop.sock_sendall(sock, b"\x01%c%b%c%b" % (len(user), user, len(password), password))
        if (await _read(loop, sock, 2))[1]:
            raise ProxyFailed("the proxy does not take our user and password")
    address = ip_address(ip)
    kind = b"\x01" if address.version == 4 else b"\x04"
    await loop.sock_sendall(sock, b"\x05\x01\x00" + kind + address.packed + struct.pack("!H", port))
    version, code, _, bound = await _read(loop, sock, 4)
    if version != 5:
        raise ProxyFailed("the proxy does not speak SOCKS5")
    if code:
        text = _REPLIES.get(code, f"code {code}")
        raise ProxyFailed(f"the proxy says: {text}", code not in _BEYOND)
    # The address that it sends from, of no use to us; a name's length comes first.
    size = {1: 4, 4: 16}.get(bound)
    if size is None:
        size = (await _read(loop, sock, 1))[0] if bound == 3 else 0
    await _read(loop, sock, size + 2)


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes: what follows is the mail host's."""
    found = b""
    while len(found) < size:
        data = await loop.sock_recv(sock, size - len(found))
        if not data:
            raise ProxyFailed("the proxy closed the connection")
        found += data
    return found
