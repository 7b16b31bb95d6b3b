"""The edge as a process: HTTP and SMTP listeners before one producer. ``python -m streams.edge.process``."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from aiokafka.errors import KafkaError

from agents import Out
from schemas.token import Tokens
from streams import probes
from streams.admin import WrongTopology, check
from streams.broker import EXIT_SEND_FAILED, Outbox, die, make_producer
from streams.edge.acked import Publish
from streams.edge.http import HttpEdge, HttpSettings
from streams.edge.smtp import SmtpEdge, SmtpSettings
from streams.edge.subscribe import SubscribeSettings
from streams.operators import consent_rules_of
from streams.resolver import Resolver, host_port
from streams.settings import BadSettings, Settings, load
from streams.worker import EXIT_CONFIG, set_up_logging

log = logging.getLogger("mailsluice.edge")


async def run(settings: Settings) -> None:
    """Listen until SIGTERM. Raises OSError where a port is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    topology = await check(settings)
    if not settings.secret:
        raise ValueError("MAILSLUICE_SECRET is not set: the edge could verify no token")
    tokens = Tokens(settings.secrets())
    outbox = Outbox(make_producer(settings), settings, die)
    await outbox.start()
    publish = publishing(outbox)
    wanted_http = HttpSettings(
        partitions=topology.partitions,
        proxies=settings.edge_proxies,
        subscribe=SubscribeSettings(settings.edge_subscribe_source, settings.edge_subscribe_domain),
    )
    resolver = Resolver(settings.dns)
    http = HttpEdge(publish, tokens, wanted_http, consents=consent_rules_of(settings), hosts=resolver)
    wanted = SmtpSettings(settings.return_domain, topology.partitions, settings.edge_smtp_roles)
    smtp = SmtpEdge(publish, tokens, wanted, tls=certificate(settings.edge_smtp_certificate))
    await http.start(*host_port(settings.edge_http))
    await smtp.start(*host_port(settings.edge_smtp))
    side = await probes.serve(settings.metrics, lambda: True) if settings.metrics else None
    log.info("the edge listens on %s (HTTP) and %s (SMTP)", settings.edge_http, settings.edge_smtp)
    await stop.wait()
    await http.stop()
    await smtp.stop()
    await outbox.stop()
    if side:
        await side.cleanup()


def publishing(outbox: Outbox) -> Publish:
    """Writes one record by the outbox. What nobody waits for any more stays in it: beyond its limit it takes none, else
    a flood would fill the memory while the broker is away. Raises BufferError then."""

    async def publish(out: Out) -> None:
        if outbox.full:
            raise BufferError("too much waits for the broker")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def acked(offset: int) -> None:
            if not done.done():  # the asker may have gone
                done.set_result(offset)

        outbox.put(out, acked)
        await done

    return publish


def certificate(path: Path | None) -> ssl.SSLContext | None:
    """What STARTTLS shows. Raises ValueError where the file cannot be used."""
    if path is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"MAILSLUICE_EDGE_SMTP_CERTIFICATE={path}: {error}; it needs a certificate chain and its unencrypted key, in PEM"
        ) from None
    return context


def main(argv: Sequence[str] | None = None) -> int:
    """The process. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m streams.edge.process", description=__doc__)
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started it ends"
    )
    options = parser.parse_args(argv)
    if options.die_with_parent:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    try:
        settings = load(os.environ)
        set_up_logging(settings.log)
        asyncio.run(run(settings))
    except (BadSettings, WrongTopology, ValueError, OSError) as error:
        print(f"mailsluice edge: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except KafkaError as error:
        where = os.environ.get("MAILSLUICE_BROKER", "")
        print(f"mailsluice edge: the broker {where} does not answer: {error!r}", file=sys.stderr)
        return EXIT_SEND_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
