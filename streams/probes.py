"""The small HTTP server beside every process, at MAILSLUICE_METRICS: /metrics, /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams import metrics
from streams.resolver import host_port


async def serve(address: str, ready: Callable[[], bool]) -> web.AppRunner:
    """Listen at ``address`` (HOST:PORT) on the running loop; ``cleanup()`` of the result ends it.

    /healthz answers as long as the loop turns, /readyz is 503 until ``ready()``. Raises OSError where the
    port is taken.
    """

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(_request: web.Request) -> web.Response:
        good = ready()
        return web.Response(text="ready\n" if good else "not yet\n", status=200 if good else 503)

    server = web.Application()
    routes = {"/metrics": scrape, "/healthz": health, "/readyz": readiness}
    server.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    host, port = host_port(address)
    await web.TCPSite(runner, host, port).start()
    return runner
