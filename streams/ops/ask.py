"""What the operator's commands share: their options, and faults as one clear sentence instead of a traceback."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import orjson
from aiokafka.errors import KafkaError
from rich.console import Console

from streams.admin import WrongTopology
from streams.ops.origins import NoSecret
from streams.settings import BadSettings, Settings, load

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PATIENCE = 5.0
"""Seconds that a command waits for the broker to take a connection."""
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0
"""Unix seconds of the years 1 and 9999: datetime has no others."""


class BrokerAbsent(Exception):
    """No server takes connections where MAILSLUICE_BROKER says."""


def at_broker(function: F) -> F:
    """The options ``--broker`` and ``--prefix``; the command hands them to ``asked``."""
    function = click.option("--prefix", help="Before every topic's name; default MAILSLUICE_PREFIX.")(
        function
    )
    return click.option("-b", "--broker", metavar="HOST:PORT", help="Kafka; default MAILSLUICE_BROKER.")(
        function
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
"""The option ``--json``."""


def asked(broker: str | None = None, prefix: str | None = None) -> Settings:
    """The settings of the environment under the command's options. Raises UsageError (exit code 2)."""
    override = {name: value for name, value in (("broker", broker), ("prefix", prefix)) if value is not None}
    try:
        return load(os.environ, **override)
    except BadSettings as error:
        raise click.UsageError(str(error)) from None


def run(settings: Settings, work: Coroutine[Any, Any, T], reached: bool = True) -> T:
    """Do ``work`` against the broker (``reached``: once it takes connections). Raises ClickException (exit code 1) where broker or topics are missing."""
    # aiokafka tells every failed connection; the one sentence below says it once.
    for name in ("aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_reached(settings, work) if reached else work)
    except BrokerAbsent as error:
        raise click.ClickException(str(error)) from None
    except (WrongTopology, NoSecret) as error:
        raise click.ClickException(str(error)) from None
    except (KafkaError, OSError) as error:
        what = str(error) or type(error).__name__
        raise click.ClickException(
            f"the broker {settings.broker} did not answer as it should: {what}"
        ) from None


async def _reached(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    try:
        await reach(settings.broker)
    except BaseException:
        work.close()
        raise
    return await work


async def reach(bootstrap: str, seconds: float = PATIENCE) -> None:
    """Return when one of the servers takes a connection. Raises BrokerAbsent: clients would try for a minute."""
    why = "no server is named"
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            why = f"{server!r} is not HOST:PORT"
            continue
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except TimeoutError:
            why = f"no answer within {seconds:.0f} s"
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        else:
            writer.close()
            return
    raise BrokerAbsent(f"no Kafka at {bootstrap} ({why}): start it, or set MAILSLUICE_BROKER or --broker")


def console() -> Console:
    """Standard output; wide where it is no terminal, so that no line of a table is broken for a program."""
    found = Console(highlight=False)
    if not found.is_terminal and not os.environ.get("COLUMNS"):
        found.width = 200
    return found


def echo_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(orjson.dumps(value).decode())


class Time(click.ParamType):
    """An RFC 3339 time with a zone (``2026-03-01T08:00:00Z``) as Unix seconds."""

    name = "RFC3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds; a time without a zone is refused: whose midnight would it be?"""
        if isinstance(value, float):
            return value
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no RFC 3339 time, such as 2026-03-01T08:00:00Z", param, ctx)
        if found.tzinfo is None:
            self.fail(f"{value!r} has no zone: end it in Z or +01:00", param, ctx)
        return found.timestamp()


def utc(seconds: float, parts: str = "seconds") -> str:
    """Unix seconds for people: 2026-03-01 08:00:00Z, or with ``parts`` milliseconds; the first or last moment of the
    calendar for what lies beyond it."""
    seconds = min(max(seconds, EARLIEST), LATEST)
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", parts).replace("+00:00", "Z")


def clean(text: str, longest: int = 0) -> str:
    """What came from outside, on one line: nothing that moves a terminal's cursor passes."""
    found = "".join(char if char.isprintable() else " " for char in text)
    return found if not longest or len(found) <= longest else found[: longest - 1] + "…"
