"""``mailsluice send``: publish a campaign and one send for each row of a CSV file."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from schemas.address import normalise
from schemas.campaign import Campaign
from schemas.codec import encode
from schemas.mail import twin
from streams.broker import make_producer
from streams.ops.campaign_file import EXAMPLE, BadCampaign, read_campaign
from streams.ops.long_lines import text_lines
from streams.ops.recipients import BadFile, Row, read_rows
from streams.settings import BadSettings, Settings, load

IN_FLIGHT = 5_000
"""Sends that may wait for the broker's acknowledgement: memory does not grow with the file."""
LARGEST = 1024 * 1024
"""Bytes of one send; enqueue rejects larger ones."""
LONGEST_LINE = 16_000_000
"""Characters of one line of the CSV file."""
EXIT_BROKER, EXIT_NOTHING = 1, 2


@dataclass(slots=True)
class Published:
    """What became of the rows. ``bad``: line and reason of the first rows that are no sends."""

    campaign: str
    tenant: str
    sent: int = 0
    bad: int = 0
    seconds: float = 0.0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)


class Interrupted(Exception):
    """The broker stopped taking sends; ``published.sent`` of them are acknowledged."""

    def __init__(self, published: Published, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.published = published


async def publish(
    producer: AIOKafkaProducer,
    campaign: Campaign,
    rows: Iterable[Row],
    *,
    prefix: str = "",
    on_bad: Callable[[Row], None] = lambda row: None,
    on_row: Callable[[], None] = lambda: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Published:
    """Write the campaign, then its sends (those of a transactional one to ``mail-sends-now``).

    Returns when all are acknowledged. ``producer`` is started and of acks=all (``streams.broker``).
    ``on_row`` is called for every row, ``on_bad`` for those that are no sends. Raises Interrupted.
    """
    done = Published(campaign.id, campaign.tenant)
    start = monotonic()
    topic = prefix + twin("mail-sends", campaign.stream)
    flying: deque[asyncio.Future[Any]] = deque()
    try:
        await producer.send_and_wait(prefix + "mail-campaigns", encode(campaign), key=campaign.key)
        for row in rows:
            on_row()
            value = encode(row.send) if row.send else b""
            if row.send is None or len(value) > LARGEST:
                bad = (
                    row if row.send is None else Row(row.line, None, f"{len(value)} bytes, at most {LARGEST}")
                )
                _note(done, bad)
                on_bad(bad)
                continue
            key = normalise(row.send.to).key.encode()
            flying.append(await producer.send(topic, value, key=key))
            while len(flying) > IN_FLIGHT or (flying and flying[0].done()):
                await flying.popleft()
                done.sent += 1
        while flying:
            await flying.popleft()
            done.sent += 1
    except KafkaError as error:
        done.sent += sum(f.done() and not f.cancelled() and f.exception() is None for f in flying)
        raise Interrupted(done, error) from error
    done.seconds = round(monotonic() - start, 3)
    return done


def _note(done: Published, bad: Row) -> None:
    done.bad += 1
    if len(done.bad_rows) < 1000:
        done.bad_rows.append({"line": bad.line, "why": bad.why})


HELP = f"""Publish the campaign in CAMPAIGN (TOML) and a send for each row of RECIPIENTS (CSV, - for stdin).

\b
Example: mailsluice send spring.toml customers.csv --broker 127.0.0.1:9092

RECIPIENTS has a header line: to (or email, address), and if wanted name, key (idempotency key),
time_zone, consent_opens, consent_clicks (yes or no); every other column is a variable of the templates.
Files of any size are streamed. A bad row is named with its line number and skipped.

A send that was interrupted may be run again: a marketing campaign goes to an address once; give
transactional ones a key column.

\b
Exit code: 0 at least one row was sent (--check: no row is bad); 1 the broker did not take them all;
2 nothing was sent (bad campaign, no good row, no such topic).

CAMPAIGN, for example:

\b
{EXAMPLE}"""


@click.command("send", help=HELP)
@click.argument("campaign", type=click.Path(path_type=Path))
@click.argument("recipients", type=click.File("rb"))
@click.option("-b", "--broker", metavar="HOST:PORT", help="Kafka; default MAILSLUICE_BROKER.")
@click.option("--prefix", help="Before every topic's name; default MAILSLUICE_PREFIX.")
@click.option("--check", is_flag=True, help="Only read and check both files; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def send(
    campaign: Path, recipients: BinaryIO, broker: str | None, prefix: str | None, check: bool, as_json: bool
) -> None:
    """The command; its help text is HELP."""
    override = {name: value for name, value in (("broker", broker), ("prefix", prefix)) if value is not None}
    try:
        settings = load(os.environ, **override)
        wanted = read_campaign(campaign)
        found = _run(settings, wanted, recipients, check)
    except (BadSettings, BadCampaign, BadFile) as error:
        raise click.UsageError(str(error)) from None
    except Interrupted as error:
        sent = error.published.sent
        click.echo(
            f"The broker {settings.broker} stopped taking sends after {sent} of them ({error}). "
            "See whether it runs, then send again.",
            err=True,
        )
        found, code = error.published, EXIT_BROKER
    except (KafkaError, OSError) as error:
        raise click.ClickException(f"no Kafka at {settings.broker}: {error}") from None
    else:
        code = 0 if found.sent and not (check and found.bad) else EXIT_NOTHING
    _report(found, check, as_json)
    sys.exit(code)


def _run(settings: Settings, campaign: Campaign, recipients: BinaryIO, check: bool) -> Published:
    # A line without end is read in pieces, each of them a bad row.
    rows = read_rows(text_lines(recipients, LONGEST_LINE), campaign)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"sending {campaign.id}", total=_size(recipients))

        seen = itertools.count(1)

        def on_row() -> None:
            if next(seen) % 500 == 0 and recipients.seekable():
                progress.update(task, completed=recipients.tell())

        def on_bad(row: Row) -> None:
            console.print(f"line {row.line}: {row.why}", markup=False, highlight=False, soft_wrap=True)

        if check:
            return _only_read(campaign, rows, on_bad, on_row)
        return asyncio.run(_publish(settings, campaign, rows, on_bad, on_row))


async def _publish(
    settings: Settings,
    campaign: Campaign,
    rows: Iterable[Row],
    on_bad: Callable[[Row], None],
    on_row: Callable[[], None],
) -> Published:
    # aiokafka tells every failed connection; our own message says it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    await _check_topics(settings, twin("mail-sends", campaign.stream))
    producer = make_producer(settings)
    await producer.start()
    try:
        return await publish(producer, campaign, rows, prefix=settings.prefix, on_bad=on_bad, on_row=on_row)
    finally:
        await producer.stop()


async def _check_topics(settings: Settings, topic: str) -> None:
    """A missing topic is said at once: the producer would wait for it, or the broker make it up."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await admin.start()
    try:
        missing = {settings.prefix + name for name in ("mail-campaigns", topic)} - set(
            await admin.list_topics()
        )
    finally:
        await admin.close()
    if missing:
        raise BadFile(
            f"no topic {', '.join(sorted(missing))} at {settings.broker}: run `mailsluice topics apply`"
        )


def _only_read(
    campaign: Campaign, rows: Iterable[Row], on_bad: Callable[[Row], None], on_row: Callable[[], None]
) -> Published:
    done = Published(campaign.id, campaign.tenant)
    for row in rows:
        on_row()
        if row.send is None:
            _note(done, row)
            on_bad(row)
        else:
            done.sent += 1
    return done


def _size(file: BinaryIO) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def _report(found: Published, check: bool, as_json: bool) -> None:
    if as_json:
        fields = {name: getattr(found, name) for name in Published.__slots__}
        click.echo(orjson.dumps(fields))
        return
    what = "good" if check else "sent"
    bad = f", {found.bad} bad rows (named above)" if found.bad else ""
    click.echo(f"campaign {found.campaign}: {found.sent:,} {what}{bad}, {found.seconds:.1f} s")
