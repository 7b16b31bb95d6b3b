"""One worker process: stages, signals, /metrics. ``python -m streams.worker --stages screen,deliver``."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from agents.sign.keys import BadKey
from streams import probes, seldom
from streams.admin import WrongTopology, check, watch
from streams.app import App
from streams.broker import die
from streams.memory import keep_giving_back
from streams.settings import BadSettings, Settings, load

log = logging.getLogger("mailsluice.worker")
EXIT_CONFIG = 78


def set_up_logging(level: str) -> None:
    """One line a record to standard error; aiokafka only when it matters (it fills a log in an outage)."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("aiokafka").setLevel("ERROR")
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel("CRITICAL")
    logging.getLogger("aiohttp.access").setLevel("WARNING")
    seldom.install()


async def run(settings: Settings, stages: Sequence[str], chain: bool) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    topology = await check(settings)
    app = App(settings, topology, stages, chain)
    await app.start()
    watching = asyncio.create_task(watch(settings, topology, die), name="topology")
    server = await probes.serve(settings.metrics, lambda: app.ready) if settings.metrics else None
    log.info("working: %s", ", ".join(stages))
    # What lives now lives long: it need not be looked at by every collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    giving = asyncio.create_task(keep_giving_back(), name="memory")
    await stop.wait()
    log.info("stopping")
    giving.cancel()
    watching.cancel()
    await app.stop()
    if server:
        await server.cleanup()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is: measured, a tenth less CPU for intake and deliver."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(work)
    else:
        uvloop.run(work)


def main(argv: Sequence[str] | None = None) -> int:
    """The process. Returns the exit status: 78 where settings or topics are wrong."""
    parser = argparse.ArgumentParser(prog="python -m streams.worker", description=__doc__)
    parser.add_argument("--stages", required=True, help="names separated by commas")
    parser.add_argument("--no-chain", action="store_true", help="pass every topic through the broker")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started it ends"
    )
    options = parser.parse_args(argv)
    if options.die_with_parent:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    try:
        settings = load(os.environ)
        set_up_logging(settings.log)
        _run(run(settings, options.stages.split(","), not options.no_chain))
    except (BadSettings, WrongTopology, BadKey, ValueError) as error:
        print(f"mailsluice: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except KafkaError as error:
        print(
            f"mailsluice: the broker {os.environ.get('MAILSLUICE_BROKER', '')} does not answer: {error!r}",
            file=sys.stderr,
        )
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
