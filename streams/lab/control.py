"""A line protocol to steer a world (or a sink) that runs in another process: JSON lines over loopback.

Request: ``{"do": NAME, ...}``; answer: the handler's table, or ``{"error": TEXT}``. For tests, the demo
and people with a terminal: ``echo '{"do":"report"}' | nc 127.0.0.1 PORT``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import orjson

LONGEST = 1_000_000
Handler = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Raises ValueError, KeyError or TypeError for a request that it does not understand."""


class Control:
    """Serves ``handlers`` by name. ``async with Control(handlers) as control: control.address``."""

    def __init__(self, handlers: Mapping[str, Handler], host: str = "127.0.0.1", port: int = 0) -> None:
        self.address = (host, port)
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Control:
        self._server = await asyncio.start_server(self._client, *self.address, limit=LONGEST)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(self._answer(line), option=orjson.OPT_NON_STR_KEYS) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # ValueError: a line longer than LONGEST
            pass
        finally:
            writer.close()

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = orjson.loads(line)
            handler = self._handlers[request.pop("do")]
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"error": f"expected a JSON line with do = {', '.join(self._handlers)}"}
        try:
            return handler(request)
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


def tell(address: tuple[str, int], do: str, timeout: float = 10.0, **more: Any) -> dict[str, Any]:
    """Ask a world one thing and return its answer (blocking). Raises OSError, or ValueError for an error."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(orjson.dumps({"do": do, **more}) + b"\n")
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = orjson.loads(lines.readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
