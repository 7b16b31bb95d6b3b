"""The live page: one HTML file and its figures, on 127.0.0.1 only."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import orjson
from aiohttp import web

LOOPBACK = "127.0.0.1"
NAMES = frozenset((LOOPBACK, "localhost"))
PAGE = Path(__file__).with_name("page.html").read_bytes()
SAMPLE = 1.0
"""Seconds between two points of a lane's curve."""
POINTS = 95
STALE = 1.0
"""Seconds after which the figures are asked for again, when nobody shows new ones."""


def _hashes(tag: str) -> str:
    """What the page's own elements of a kind are to a content security policy."""
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies)


HEADERS = {
    # Only the page's own script and style run; it may talk to nobody but us and be framed by nobody.
    "Content-Security-Policy": f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Watching(Protocol):
    """What the page asks for figures (``streams.ops.watcher.Watcher``)."""

    def table(self) -> dict[str, Any]:
        """The present figures."""


class LivePage:
    """Serves the figures that ``show`` was given last, with the curve of each lane's last minute and a half."""

    def __init__(
        self, watcher: Watching, total: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._watcher = watcher
        self._total = total
        self._monotonic = monotonic
        self._table: dict[str, Any] = {}
        self._shown_at = self._sampled_at = float("-inf")
        self._curves: dict[tuple[str, str], deque[tuple[float, float, float]]] = defaultdict(
            lambda: deque(maxlen=POINTS)
        )
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> str:
        """Listen on 127.0.0.1; a port that is taken is replaced by a free one. Returns HOST:PORT."""
        app = web.Application(middlewares=[_guarded])
        app.add_routes([web.get("/", self._page), web.get("/data.json", self._data)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, LOOPBACK, port).start()
        except (OSError, OverflowError):
            await web.TCPSite(self._runner, LOOPBACK, 0).start()
        host, found = self._runner.addresses[0][:2]
        return f"{host}:{found}"

    def show(self, table: dict[str, Any]) -> None:
        """The figures that readers get from now on (``Watcher.table``)."""
        now = self._shown_at = self._monotonic()
        self._table = table
        if now < self._sampled_at + SAMPLE:
            return
        self._sampled_at = now
        for lane in table["lanes"]:
            allowed = 0.0 if lane["suspended_seconds"] else lane["limit"]
            self._curves[lane["provider"], lane["source"]].append((table["time"], lane["rate"], allowed))

    async def stop(self) -> None:
        """Stop serving. May be called twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/html", charset="utf-8")

    async def _data(self, _request: web.Request) -> web.Response:
        if self._monotonic() > self._shown_at + STALE:
            self.show(self._watcher.table())
        lanes = [
            {**lane, "history": list(self._curves[lane["provider"], lane["source"]])}
            for lane in self._table["lanes"]
        ]
        body = orjson.dumps({**self._table, "total": self._total, "lanes": lanes})
        return web.Response(body=body, content_type="application/json")


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    # A page elsewhere that lets its own name point to 127.0.0.1 (DNS rebinding) still sends its own name.
    if request.host.rpartition(":")[0] not in NAMES:
        raise web.HTTPMisdirectedRequest(
            text="this page is served as 127.0.0.1 and localhost only\n", headers=HEADERS
        )
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    response.headers.update(HEADERS)
    return response
