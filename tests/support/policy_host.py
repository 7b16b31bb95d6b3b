"""A policy host of MTA-STS: HTTPS on loopback, one answer for each domain."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from tests.support.pki import Issued

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def policy_text(*mx: str, mode: str = "enforce", age: int = 86_400) -> str:
    """A policy file."""
    return "".join(
        f"{line}\r\n"
        for line in ("version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in mx), f"max_age: {age}")
    )


class PolicyHost:
    """``files``: what is answered, by domain: a text, or a handler. ``asked``: domains in their order."""

    def __init__(self) -> None:
        self.files: dict[str, str | Answer] = {}
        self.asked: list[str] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        domain = request.host.partition(":")[0].removeprefix("mta-sts.")
        self.asked.append(domain)
        found = self.files.get(domain)
        if found is None or request.path != "/.well-known/mta-sts.txt":
            raise web.HTTPNotFound
        return web.Response(text=found) if isinstance(found, str) else await found(request)


@contextlib.asynccontextmanager
async def policy_host(certificate: Issued, directory: Path) -> AsyncIterator[PolicyHost]:
    """A running one, on a port of its own at 127.0.0.1."""
    found = PolicyHost()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.handle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate.files(directory))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    try:
        await site.start()
        found.port = runner.addresses[0][1]
        yield found
    finally:
        await runner.cleanup()
