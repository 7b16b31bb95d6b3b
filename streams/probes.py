"""The small HTTP server beside every process, at MAILSLUICE_METRICS: /metrics, /healthz and /readyz.

Three fixed answers to GET, a connection for each: by hand, because importing aiohttp takes a quarter of the
time in which a worker starts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams import metrics
from streams.resolver import host_port

PATIENCE = 10.0
"""Seconds for a request and its answer."""
PLAIN = "text/plain; charset=utf-8"
Answer = tuple[str, str, bytes]
"""Status, content type and body."""


class Probes:
    """A server that listens."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    async def cleanup(self) -> None:
        """Listen no more."""
        self._server.close()


async def serve(address: str, ready: Callable[[], bool]) -> Probes:
    """Listen at ``address`` (HOST:PORT) on the running loop; ``cleanup()`` of the result ends it.

    /healthz answers as long as the loop turns, /readyz is 503 until ``ready()``. Raises OSError where the
    port is taken.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever asks wrongly, slowly or goes away has no answer; the process is not to notice.
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head.split(b"\r\n", 1)[0], ready))
                await writer.drain()
        writer.close()

    host, port = host_port(address)
    return Probes(await asyncio.start_server(talk, host, port))


def _response(line: bytes, ready: Callable[[], bool]) -> bytes:
    """The answer to a request line (RFC 9112)."""
    method, _, rest = line.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    status, kind, body = _answer(path, ready)
    if method not in (b"GET", b"HEAD"):
        status, kind, body = "405 Method Not Allowed", PLAIN, b"GET only\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == b"HEAD" else body)


def _answer(path: bytes, ready: Callable[[], bool]) -> Answer:
    if path == b"/metrics":
        return "200 OK", CONTENT_TYPE_LATEST, generate_latest(metrics.REGISTRY)
    if path == b"/healthz":
        return "200 OK", PLAIN, b"ok\n"
    if path == b"/readyz":
        return ("200 OK", PLAIN, b"ready\n") if ready() else ("503 Service Unavailable", PLAIN, b"not yet\n")
    return "404 Not Found", PLAIN, b"/metrics, /healthz or /readyz\n"
