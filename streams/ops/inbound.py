"""``mailsluice inbound``: mail that came back some other way, put on ``mail-inbound`` as the SMTP edge does."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import click
import orjson
from aiokafka.errors import KafkaError

from agents import Out
from agents.classify.mime import Fields, split
from schemas.codec import header_list
from schemas.inbound import LARGEST, inbound_headers
from schemas.token import Tokens
from streams.admin import WrongTopology, check
from streams.broker import make_producer
from streams.edge.smtp import SmtpEdge, SmtpSettings
from streams.ops.mailboxes import BadMailbox, Message, messages
from streams.settings import BadSettings, Settings, load

IN_FLIGHT = 200
"""Messages that wait for the broker's acknowledgement: memory does not grow with the mailbox."""
_ADDRESS = re.compile(r"[^\s<>,;:\"()\[\]]{1,80}@[^\s<>,;:\"()\[\]]{1,255}")
_ENVELOPE = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "to", "cc")


@dataclass(slots=True)
class Told:
    """What was done. ``tokens``: messages that came to an address with a token of ours."""

    files: int = 0
    messages: int = 0
    tokens: int = 0
    cut: int = 0
    bad: int = 0


class Envelopes:
    """Finds again to whom a stored message came; times are Unix seconds.

    The first of its delivery headers that the edge would take; else it goes where a report to the postmaster
    goes, and classify looks for a token in what it quotes.
    """

    def __init__(self, settings: Settings, partitions: int) -> None:
        tokens = Tokens([part.encode() for part in settings.secret.split(",")])
        domain = settings.return_domain
        self._edge = SmtpEdge(
            _nowhere, tokens, SmtpSettings(domain, partitions, (*settings.edge_smtp_roles, "postmaster"))
        )
        self._common = f"postmaster@{domain.lower()}"

    def of(self, raw: bytes, now: float) -> Out:
        """The record that the edge would have written when the message came."""
        fields, _ = split(raw[:200_000])
        rcpt, whose = self._common, self._edge.whose(self._common)
        for address in _recipients(fields):
            found = self._edge.whose(address)
            if found:
                rcpt, whose = address, found
                if found.mail:
                    break
        assert whose is not None, "the postmaster is always taken"
        sender = _ADDRESS.search(fields["return-path"])
        came = min(now, _time(fields["date"]) or now)
        headers = inbound_headers(came, sender.group() if sender else "", rcpt, "", whose.mail)
        return Out("mail-inbound", raw, headers, None, whose.partition)


async def _nowhere(_out: Out) -> None:
    raise AssertionError("this edge only reads addresses")


def _recipients(fields: Fields) -> Iterator[str]:
    for name in _ENVELOPE:
        yield from _ADDRESS.findall(fields[name][:4000])[:20]


def _time(date: str) -> float:
    """When it was written: the same at each run, so that a repeat is known as one. 0 = it does not say."""
    try:
        return max(0.0, parsedate_to_datetime(date[:100]).timestamp())
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0


async def publish(
    settings: Settings, found: Iterable[Message], told: Told, on_note: Callable[[str], None]
) -> None:
    """Write each message; returns once all are acknowledged. Raises KafkaError, WrongTopology."""
    topology = await check(settings, 5.0)
    envelopes = Envelopes(settings, topology.partitions)
    producer = make_producer(settings)
    await producer.start()
    flying: deque[asyncio.Future[Any]] = deque()
    try:
        for message in found:
            out = _one(envelopes, message, told, on_note)
            flying.append(
                await producer.send(settings.topic(out.topic), out.value, partition=out.partition, headers=header_list(out.headers))
            )  # fmt: skip
            while len(flying) > IN_FLIGHT or (flying and flying[0].done()):
                await flying.popleft()
                told.messages += 1
        while flying:
            await flying.popleft()
            told.messages += 1
    finally:
        await producer.stop()


def _one(envelopes: Envelopes, message: Message, told: Told, on_note: Callable[[str], None]) -> Out:
    out = envelopes.of(message.raw, time.time())
    told.tokens += "id" in out.headers
    if message.cut:
        told.cut += 1
        on_note(f"{message.where}: longer than {LARGEST:,} bytes; only these are written")
    return out


def _all(names: tuple[str, ...], told: Told, on_bad: Callable[[str], None]) -> Iterator[Message]:
    for name in names:
        try:
            yield from messages(name, sys.stdin.buffer, LARGEST)
            told.files += 1
        except BadMailbox as error:
            told.bad += 1
            on_bad(str(error))


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-b", "--broker", metavar="HOST:PORT", help="Kafka; default MAILSLUICE_BROKER.")
@click.option("--prefix", help="Before every topic's name; default MAILSLUICE_PREFIX.")
@click.option("--check", "only_check", is_flag=True, help="Only read: say what would be written.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def inbound(
    files: tuple[str, ...], broker: str | None, prefix: str | None, only_check: bool, as_json: bool
) -> None:
    """Put bounces, complaints and answers from FILES on mail-inbound, as if they had come by SMTP.

    A FILE is a message (.eml), an mbox, a Maildir or a directory of .eml files; - is standard input (a message
    or an mbox). Mailboxes of any size are streamed. A message belongs to the mail whose token stands in its
    Delivered-To, X-Original-To, Envelope-To or To; without one, classify looks for a token in what it quotes.
    It may be run again: what was there before is known as a repeat.

    \b
    Example: mailsluice inbound bounces.mbox ~/Maildir report.eml
             fetchmail-to-mbox | mailsluice inbound -
    MAILSLUICE_SECRET and MAILSLUICE_RETURN_DOMAIN must be those of the pipeline.
    Exit code: 0 all was written; 1 a file could not be read, or the broker did not take all; 2 wrong usage.
    """
    override = {name: value for name, value in (("broker", broker), ("prefix", prefix)) if value is not None}
    try:
        settings = load(os.environ, **override)
    except BadSettings as error:
        raise click.UsageError(str(error)) from None
    if not settings.secret:
        raise click.UsageError("MAILSLUICE_SECRET is not set: no token could be recognised")
    told = Told()

    def note(text: str) -> None:
        click.echo(text, err=True)

    found = _all(files, told, note)
    good = _only_read(settings, found, told, note) if only_check else _write(settings, found, told, note)
    if as_json:
        click.echo(orjson.dumps(asdict(told)))
    else:
        what = "could be written" if only_check else "written"
        click.echo(
            f"{told.messages:,} messages {what}, {told.tokens:,} of them to an address with a token of ours"
        )
    sys.exit(0 if good and not told.bad else 1)


def _only_read(settings: Settings, found: Iterable[Message], told: Told, note: Callable[[str], None]) -> bool:
    envelopes = Envelopes(settings, settings.partitions)
    for message in found:
        _one(envelopes, message, told, note)
        told.messages += 1
    return True


def _write(settings: Settings, found: Iterable[Message], told: Told, note: Callable[[str], None]) -> bool:
    # aiokafka tells every failed connection; our own message says it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(publish(settings, found, told, note))
    except WrongTopology as error:
        raise click.ClickException(str(error)) from None
    except (KafkaError, OSError) as error:
        note(
            f"The broker {settings.broker} stopped taking messages after {told.messages:,} of them "
            f"({type(error).__name__}: {error}). See whether it runs, then run this again."
        )
        return False
    return True
