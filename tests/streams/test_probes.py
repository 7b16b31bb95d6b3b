"""What Prometheus and Kubernetes ask a process for, over a real socket, and what nonsense gets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from streams import probes
from streams.lab.brokers import free_port


class Process:
    """One with probes: where they listen, and whether it is ready."""

    def __init__(self) -> None:
        self.port = free_port()
        self.ready = False

    async def says(self, raw: bytes) -> bytes:
        """All that comes back for some bytes, until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        found = b""
        with contextlib.suppress(ConnectionResetError):  # of bytes that nobody read
            async with asyncio.timeout(15):
                found = await reader.read()
        writer.close()
        return found


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    found = Process()
    server = await probes.serve(f"127.0.0.1:{found.port}", lambda: found.ready)
    yield found
    await server.cleanup()


async def test_a_scraper_and_the_probes_are_answered(process: Process) -> None:
    base = f"http://127.0.0.1:{process.port}"
    async with aiohttp.ClientSession(base) as client:
        async with client.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "not yet\n")
        process.ready = True
        async with client.get("/readyz?verbose") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")
        async with client.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert "mailsluice_" in await answer.text()
        async with client.head("/metrics") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert int(answer.headers["Content-Length"]) > 1000
        async with client.get("/") as answer:
            assert answer.status == 404
        async with client.post("/healthz", data=b"x") as answer:
            assert answer.status == 405


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz/../x HTTP/1.0\r\n\r\n"])
async def test_a_bad_request_is_told_so(process: Process, raw: bytes) -> None:
    assert (await process.says(raw)).partition(b"\r\n")[0].split(b" ")[1] in (b"404", b"405")


async def test_who_never_ends_a_request_or_goes_away_costs_only_their_connection(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PATIENCE", 0.2)
    assert await process.says(b"GET /healthz HTTP/1.1\r\n") == b""
    assert await process.says(b"x" * 200_000) == b""
    _, writer = await asyncio.open_connection("127.0.0.1", process.port)
    writer.close()
    assert (await process.says(b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_port_that_is_taken_is_an_error(process: Process) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await probes.serve(f"127.0.0.1:{process.port}", lambda: True)


def test_a_worker_starts_without_what_it_may_never_need() -> None:
    program = (
        "import sys, streams.worker; print(*sorted({'aiohttp', 'faust', 'aiosmtpd'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ,
    )
    assert done.stdout.split() == []
