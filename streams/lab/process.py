"""The lab in a process of its own: ``python -m streams.lab.world``. It ends when its parent does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from streams.lab.audience import csv_rows, recipients
from streams.lab.control import Control, Handler
from streams.lab.dns import Trouble
from streams.lab.providers import DEFAULT, load
from streams.lab.site import Fault, Sink
from streams.lab.smtp import SmtpServer
from streams.lab.world import World


def handlers(world: World) -> dict[str, Handler]:
    """What the control line understands (``control.tell``): report, records, fault, clear, trouble, edge."""

    def records(request: dict[str, Any]) -> Mapping[str, Any]:
        world.publish(request["records"])
        return {"ok": True}

    def fault(request: dict[str, Any]) -> Mapping[str, Any]:
        world.providers[request.pop("provider")].script(Fault(**request))
        return {"ok": True}

    def clear(request: dict[str, Any]) -> Mapping[str, Any]:
        world.providers[request.pop("provider")].clear(**request)
        return {"ok": True}

    def trouble(request: dict[str, Any]) -> Mapping[str, Any]:
        name = request.pop("name")
        world.zone.trouble(name, Trouble(**request) if request else None)
        return {"ok": True}

    def edge(request: dict[str, Any]) -> Mapping[str, Any]:
        world.edge(request.get("http", ""), request.get("smtp", ""))
        return {"ok": True}

    return {
        "report": lambda request: world.report(),
        "records": records,
        "fault": fault,
        "clear": clear,
        "trouble": trouble,
        "edge": edge,
    }


@asynccontextmanager
async def _stop_signal() -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    yield stop


def _say(table: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(orjson.dumps(table).decode(), flush=True)


async def serve(options: argparse.Namespace) -> None:
    """Run a world until SIGTERM. Its first line on standard output says where everything is."""
    settings = load(options.providers)
    world = World(
        settings,
        port=options.port,
        dns_port=options.dns_port,
        edge_http=options.edge_http,
        edge_smtp=options.edge_smtp,
        ledger=options.ledger,
    )
    if options.records is not None:
        world.publish(tomllib.loads(options.records.read_text("utf-8"))["records"])
    async with _stop_signal() as stop, world, Control(handlers(world), port=options.control_port) as control:
        places = {
            p.name: {"address": p.address, "port": world.port, "domains": p.domains, "mx": p.mx}
            for p in settings.providers
        }
        _say(
            {
                "ready": True,
                "pid": os.getpid(),
                "dns": "{}:{}".format(*world.dns.address),
                "control": "{}:{}".format(*control.address),
                "port": world.port,
                "providers": places,
            }
        )
        await stop.wait()


async def sink(options: argparse.Namespace) -> None:
    """Take any mail as fast as it comes until SIGTERM; the last line on standard output is the count."""
    site = Sink()
    server = SmtpServer(site, options.host, options.port)
    told = {"report": lambda request: site.report(), "urgent": lambda request: site.urgent()}
    control = Control(told, port=options.control_port)
    async with _stop_signal() as stop, server, control:
        places = {"port": server.address[1], "control": "{}:{}".format(*control.address)}
        _say({"ready": True, "pid": os.getpid(), "host": options.host, **places})
        await stop.wait()
    _say(site.report())


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends (Linux), also when that already happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("the parent process is gone")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parent = os.getppid()
    parser = argparse.ArgumentParser(prog="python -m streams.lab.world", description=__doc__)
    parser.add_argument("--providers", type=Path, default=DEFAULT, help="providers file (TOML)")
    parser.add_argument("--records", type=Path, help="more DNS records: TOML with [records.NAME] tables")
    parser.add_argument("--host", default="127.0.0.1", help="address of the sink")
    parser.add_argument("--port", type=int, default=2525, help="SMTP port of all providers; 0 finds one")
    parser.add_argument("--dns-port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--edge-http", default="", metavar="URL", help="the pipeline's HTTP edge")
    parser.add_argument("--edge-smtp", default="", metavar="HOST:PORT", help="the pipeline's SMTP edge")
    parser.add_argument("--ledger", type=Path, help="directory of the providers' records")
    parser.add_argument("--sink", action="store_true", help="no world: take any mail, count it")
    parser.add_argument("--recipients", type=int, metavar="N", help="print N recipients as CSV and end")
    parser.add_argument("--seed", type=int, default=1, help="of --recipients")
    options = parser.parse_args(arguments)
    try:
        if options.recipients is not None:
            for line in csv_rows(recipients(load(options.providers), options.recipients, options.seed)):
                sys.stdout.write(line)
            return
        die_with_parent(parent)
        _run(sink(options) if options.sink else serve(options))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)
