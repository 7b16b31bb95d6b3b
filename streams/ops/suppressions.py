"""Changes to the suppressions, and what is in force: the work behind ``mailsluice suppress``.

Nobody but the stage ``suppress`` writes ``mail-suppressions``. A person's word is an event on ``mail-events``
like any other, which it applies in the order in which it came, and which stays as the record of who and why.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer, TopicPartition

from agents.suppress.policy import REASONS, SCOPES
from schemas.address import normalise
from schemas.codec import Malformed, encode, header_list, parse
from schemas.erasure import Pseudonyms
from schemas.event import Kind, MailEvent, headers_of
from schemas.identity import event_id, partition_of
from schemas.suppression import Suppression
from streams.admin import check
from streams.broker import make_producer, make_reader, started, stopped
from streams.ops.csv_rows import Cells
from streams.ops.read import read_to_end
from streams.settings import Settings

T = TypeVar("T")
EVENTS = "mail-events"
IN_FLIGHT = 5_000
"""Events that may wait for the broker's acknowledgement: memory does not grow with the file."""
LONGEST_FIELD = 4096
COLUMNS = ("to", "tenant", "scope", "stream", "reason", "until", "why")
"""Of a file to be imported, and of an export; only the first is needed."""
NAMES = {"email": "to", "address": "to"}


@dataclass(frozen=True)
class Table(Generic[T]):
    """A compacted topic whose rows begin with the recipient. ``causes``: ids of the events that a row follows from."""

    topic: str
    cls: type[T]
    causes: Callable[[T], Collection[str]]
    since: Callable[[T], float]


SUPPRESSIONS = Table("mail-suppressions", Suppression, lambda row: (row.origin,), lambda row: row.time)


class Wanted(NamedTuple):
    """What a person asks for. ``scope`` and ``reason`` empty: of a release, any. ``until``: Unix seconds, 0 for ever."""

    tenant: str = "default"
    scope: str = ""
    stream: str = ""
    reason: str = ""
    until: float = 0.0
    by: str = ""
    why: str = ""


class Row(NamedTuple):
    """A row of a file, from line ``line``: its event, or None and why there is none."""

    line: int
    event: MailEvent | None
    why: str = ""


class BadFile(Exception):
    """The file has no usable header line; the text says what is missing."""


@dataclass(slots=True)
class Told:
    """What became of a change. ``places``: partition -> where the suppressions ended before it."""

    acknowledged: int = 0
    bad: list[Row] = field(default_factory=list)
    bad_rows: int = 0


def event_of(kind: Kind, address: str, wanted: Wanted, now: float) -> MailEvent:
    """The event of one change. Raises Malformed: a bad address, scope, stream or reason."""
    to = normalise(address).key
    if wanted.scope and wanted.scope not in SCOPES:
        raise Malformed("bad_scope", f"scope must be one of {', '.join(SCOPES)}")
    if wanted.reason and wanted.reason not in REASONS:
        raise Malformed("bad_reason", f"reason must be one of {', '.join(REASONS)}")
    if kind == "blocked" and wanted.reason == "soft_bounces":
        raise Malformed("bad_reason", "soft bounces are counted, not set: give another reason")
    if kind == "blocked" and wanted.reason == "erased":
        raise Malformed("bad_reason", "people are erased by `mailsluice erase`")
    if wanted.scope == "stream" and not wanted.stream:
        raise Malformed("bad_scope", "scope stream needs the name of a stream, such as marketing")
    cause = f"{wanted.tenant}|{wanted.scope}|{wanted.stream}|{wanted.reason}|{now:.3f}"
    return MailEvent(
        id=event_id(to, kind, cause),
        kind=kind,
        mail="",
        time=now,
        tenant=wanted.tenant,
        to=to,
        scope=wanted.scope,
        stream=wanted.stream or "marketing",
        reason=wanted.reason,
        until=wanted.until,
        by=wanted.by[:200],
        detail=wanted.why[:1000],
    )


# -- writing


@asynccontextmanager
async def producing(settings: Settings) -> AsyncIterator[tuple[AIOKafkaProducer, int]]:
    """A started producer, and P. Raises WrongTopology."""
    partitions = (await check(settings)).partitions
    producer = make_producer(settings)
    await producer.start()
    try:
        yield producer, partitions
    finally:
        await stopped(producer)


async def publish(settings: Settings, rows: Iterable[Row], told: Told) -> None:
    """Write an event for each row; returns when all are acknowledged. Counts into ``told`` as it goes."""
    async with producing(settings) as (producer, partitions):
        flying: deque[asyncio.Future[Any]] = deque()
        for row in rows:
            if row.event is None:
                told.bad_rows += 1
                if len(told.bad) < 1000:
                    told.bad.append(row)
                continue
            key = row.event.to.encode()
            place = partition_of(row.event.to, partitions)
            topic, value = settings.topic(EVENTS), encode(row.event)
            headers = header_list(headers_of(row.event.kind))
            flying.append(await producer.send(topic, value, key=key, partition=place, headers=headers))
            while len(flying) > IN_FLIGHT or (flying and flying[0].done()):
                await flying.popleft()
                told.acknowledged += 1
        while flying:
            await flying.popleft()
            told.acknowledged += 1


async def change(
    settings: Settings, events: Sequence[MailEvent], seconds: float
) -> Mapping[str, Suppression]:
    """``change_in`` the suppressions."""
    return await change_in(settings, events, seconds, SUPPRESSIONS)


async def change_in(
    settings: Settings, events: Sequence[MailEvent], seconds: float, table: Table[T]
) -> Mapping[str, T]:
    """Write the events and wait until their rows are in force, ``seconds`` at most.

    Event id -> the first row that says so. An event without one changed nothing (it was so already), or the
    stage ``suppress`` does not run.
    """
    partitions = (await check(settings)).partitions
    wanted = {event.id for event in events}
    topic = settings.topic(table.topic)
    tps = {TopicPartition(topic, partition_of(event.to, partitions)): None for event in events}
    reader = await started(make_reader(settings), 10.0)
    found: dict[str, T] = {}
    try:
        ends = await reader.end_offsets(list(tps))
        reader.assign(list(tps))
        for tp, end in ends.items():
            reader.seek(tp, end)
        await publish(settings, (Row(0, event) for event in events), Told())
        until = time.monotonic() + seconds
        while len(found) < len(wanted) and time.monotonic() < until:
            for messages in (await reader.getmany(timeout_ms=100)).values():
                for message in messages:
                    row = parse(message.value, table.cls) if message.value else None
                    for cause in wanted.intersection(table.causes(row)) if row is not None else ():
                        found.setdefault(cause, row)  # type: ignore[arg-type]
    finally:
        await stopped(reader)
    return found


# -- reading


async def rows_of(settings: Settings, address: str) -> list[Suppression]:
    """Every suppression of an address, released ones too. Raises Malformed."""
    return await rows_in(SUPPRESSIONS, settings, address)


async def rows_in(table: Table[T], settings: Settings, address: str) -> list[T]:
    """Every row of an address, and of its hashes where it was erased; the newest of each key. Raises Malformed."""
    to = normalise(address).key
    partitions = (await check(settings)).partitions
    hashes = Pseudonyms(settings.hash_secrets()).of(to)
    prefix, found = tuple(f"{name}|".encode() for name in (to, *hashes)), dict[bytes, T]()
    async with aclosing(read_to_end(settings, [(table.topic, partition_of(to, partitions))])) as records:
        async for record in records:
            if record.key is None or not record.key.startswith(prefix):
                continue
            if record.value:
                found[record.key] = parse(record.value, table.cls)
            else:
                found.pop(record.key, None)
    return sorted(found.values(), key=table.since)


async def all_rows(settings: Settings) -> AsyncIterator[Suppression]:
    """Every suppression, as ``all_in``."""
    async with aclosing(all_in(SUPPRESSIONS, settings)) as rows:
        async for row in rows:
            yield row


async def all_in(table: Table[T], settings: Settings) -> AsyncGenerator[T, None]:
    """The newest row of every key, partition by partition.

    The log may hold older ones beside it, so each partition is gathered in a file on disk first: memory does
    not grow with millions of them.
    """
    partitions = (await check(settings)).partitions
    with tempfile.TemporaryDirectory(prefix="mailsluice-") as home:
        for partition in range(partitions):
            path = Path(home) / f"{partition}.sqlite"
            database = sqlite3.connect(path, isolation_level=None)
            try:
                database.executescript("PRAGMA journal_mode=off; PRAGMA synchronous=off; BEGIN")
                database.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
                async with aclosing(read_to_end(settings, [(table.topic, partition)])) as records:
                    async for record in records:
                        database.execute(
                            "INSERT OR REPLACE INTO rows VALUES (?, ?)", (record.key, record.value)
                        )
                for (value,) in database.execute(
                    "SELECT value FROM rows WHERE value IS NOT NULL ORDER BY key"
                ):
                    yield parse(value, table.cls)
            finally:
                database.close()
                path.unlink(missing_ok=True)


# -- files


def read_rows(lines: Iterable[str], wanted: Wanted, now: float) -> Iterator[Row]:
    """The rows of a CSV file with a header line, each as an event ``blocked``. Raises BadFile first.

    Separated by comma, semicolon or tab, as the header is. Columns: to (or email, address), and if wanted
    tenant, scope, stream, reason, until (RFC 3339) and why; others are passed over. ``wanted`` fills what a
    row leaves out. Open the file with ``newline=""`` and ``errors="surrogateescape"``.
    """
    return read_table(lines, COLUMNS, lambda cells: _event(cells, wanted, now))


def read_table(
    lines: Iterable[str], columns: Collection[str], make: Callable[[dict[str, str]], MailEvent]
) -> Iterator[Row]:
    """A row for each line of a CSV file as for ``read_rows``. ``make`` gets the cells of ``columns`` that are not
    empty, ``to`` always, and raises Malformed or ValueError. Raises BadFile first."""
    found = Cells(lines, LONGEST_FIELD)
    names = [NAMES.get(n, n) for n in (cell.strip().lower() for cell in found.head)]
    if names.count("to") != 1:
        raise BadFile("the first line must name the columns, just one of them to, email or address")
    found.address = names.index("to")
    for line, cells in found:
        yield Row(line, None, cells) if isinstance(cells, str) else _row(line, cells, names, columns, make)


def _row(
    line: int,
    cells: list[str],
    names: list[str],
    columns: Collection[str],
    make: Callable[[dict[str, str]], MailEvent],
) -> Row:
    found = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if name in columns}
    given = {name: cell for name, cell in found.items() if cell or name == "to"}
    try:
        text = "".join(given.values())
        if not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text):
            raise ValueError("not UTF-8")
        return Row(line, make(given))
    except (Malformed, ValueError) as error:
        return Row(line, None, error.detail if isinstance(error, Malformed) else str(error))


def _event(cells: dict[str, str], wanted: Wanted, now: float) -> MailEvent:
    given = {name: cells[name] for name in ("tenant", "scope", "stream", "reason", "why") if name in cells}
    until = time_of("until", cells.get("until", "")) or wanted.until
    return event_of("blocked", cells["to"], wanted._replace(**given, until=until), now)


def time_of(name: str, text: str) -> float:
    """The RFC 3339 time in the column ``name`` as Unix seconds, 0 where it is empty. Raises ValueError."""
    if not text:
        return 0.0
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is no RFC 3339 time, such as 2026-03-01T08:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"{name} has no zone: end it in Z or +01:00")
    return found.timestamp()
