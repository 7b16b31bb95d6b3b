"""Where a benchmark's mail goes: our own sink, Postfix's ``smtp-sink``, or a server that runs already.

Ours is the default: it tells one mail from another and so finds what is lost or doubled, at no more CPU a
mail than ``smtp-sink`` (160 µs each, in one run).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from streams.lab.brokers import answers_tcp, free_port

OWN = "own"
"""Our own sink, which remembers who got a mail and when."""
SMTP_SINK = "smtp-sink"
"""The one that comes with Postfix."""
QUEUE = 1000
"""Connections that may wait to be accepted."""


class NoSink(Exception):
    """There is nowhere to send the mail; the text says why."""


@dataclass
class Sink:
    """``control``: of our own sink. ``pid``: 0 for somebody else's. ``name``: for the conditions."""

    host: str
    port: int
    name: str
    control: tuple[str, int] | None = None
    pid: int = 0


@asynccontextmanager
async def make_sink(wanted: str) -> AsyncIterator[Sink]:
    """``wanted``: own, smtp-sink, or HOST:PORT of one that runs. Raises NoSink."""
    if wanted == OWN:
        async with _own() as sink:
            yield sink
    elif wanted == SMTP_SINK:
        async with _smtp_sink() as sink:
            yield sink
    else:
        host, _, port = wanted.rpartition(":")
        if not host or not port.isdigit():
            raise NoSink(f"--sink {wanted}: write own, smtp-sink or HOST:PORT")
        yield Sink(host, int(port), "foreign")


@asynccontextmanager
async def _own() -> AsyncIterator[Sink]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.lab.world", "--sink", "--port", "0", stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = json.loads(await asyncio.wait_for(process.stdout.readline(), 30) or b"{}")
        if not said:
            raise NoSink("our own sink did not start")
        host, _, port = str(said["control"]).rpartition(":")
        yield Sink(str(said["host"]), int(said["port"]), OWN, (host, int(port)), process.pid)
    finally:
        await _end(process)


@asynccontextmanager
async def _smtp_sink() -> AsyncIterator[Sink]:
    tool = shutil.which(SMTP_SINK, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if tool is None:
        raise NoSink("smtp-sink is not installed (Debian: apt install postfix)")
    port = free_port("127.0.0.1")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        tool, *user, f"127.0.0.1:{port}", str(QUEUE), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        for _ in range(100):
            if process.returncode is not None or await answers_tcp("127.0.0.1", port):
                break
            await asyncio.sleep(0.05)
        if process.returncode is not None:
            assert process.stderr is not None
            raise NoSink(f"smtp-sink did not start: {(await process.stderr.read()).decode().strip()[-300:]}")
        yield Sink("127.0.0.1", port, SMTP_SINK, None, process.pid)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()
