"""The live page: one HTML file and its figures, on 127.0.0.1 only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

PAGE = Path(__file__).with_name("page.html").read_bytes()
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LOOPBACK = "127.0.0.1"


class LivePage:
    """Serves what ``show`` was given last."""

    def __init__(self, watcher: Any, total: int) -> None:
        self._watcher = watcher
        self._total = total
        self._table: dict[str, Any] = {}
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> str:
        """Listen; a port that is taken is replaced by a free one. Returns HOST:PORT."""
        app = web.Application(middlewares=[_guarded])
        app.add_routes([web.get("/", self._page), web.get("/data.json", self._data)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, LOOPBACK, port).start()
        except OSError:
            await web.TCPSite(self._runner, LOOPBACK, 0).start()
        host, found = self._runner.addresses[0][:2]
        return f"{host}:{found}"

    def show(self, table: dict[str, Any]) -> None:
        """The figures that readers get from now on (``Watcher.table``)."""
        self._table = table

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/html", charset="utf-8")

    async def _data(self, _request: web.Request) -> web.Response:
        body = orjson.dumps({**(self._table or self._watcher.table()), "total": self._total})
        return web.Response(body=body, content_type="application/json")


@web.middleware
async def _guarded(request: web.Request, handler: Any) -> web.StreamResponse:
    # A page elsewhere that points its own name at 127.0.0.1 (DNS rebinding) still sends its own name.
    if request.host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
        return web.Response(status=421, text="this page is served to 127.0.0.1 and localhost only\n")
    response: web.StreamResponse = await handler(request)
    response.headers.update(HEADERS)
    return response
