"""``mailsluice trace``: the whole story of a message, from its send to its last open, read from the topics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec
from rich.text import Text

from schemas.address import normalise
from schemas.codec import Malformed, Record, parse
from schemas.identity import partition_of
from schemas.lanes import lane_names, lane_topic
from schemas.mail import NOW
from schemas.replay import Replays
from schemas.suppression import Suppression
from streams.admin import check
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.audit import committed
from streams.ops.read import Place, read_one, read_to_end
from streams.ops.story import (
    JSON_TOPICS,
    NO_MAIL,
    Mail,
    address_of,
    dead_origin,
    gather,
    id_of,
    names_of,
    place_of,
    send_origin,
)
from streams.settings import Settings
from streams.topics import RUNGS

SENDS = ("mail-sends", "mail-sends" + NOW)
FLOW = tuple(
    topic + twin for topic in ("mail-enqueued", "mail-screened", "mail-rendered") for twin in ("", NOW)
)
DEAD = ("mail-sends-dlq", "mail-dlq")
ORIGIN = re.compile(r"(mail-sends(?:-now)?)/(\d{1,9})/(\d{1,18})/-?\d{1,18}/\d{1,9}")
ID = re.compile(r"[0-9a-f]{32}")
Matches = Callable[[Record], bool]


@dataclass
class Traced:
    """Everything found. ``partition`` is the recipient's; None: all of them had to be read."""

    asked: str
    to: str = ""
    partition: int | None = None
    mails: list[Mail] = field(default_factory=list)
    suppressions: list[Suppression] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "asked": self.asked,
            "to": self.to,
            "partition": self.partition,
            "mails": [mail.as_dict() for mail in self.mails],
            "suppressions": [msgspec.to_builtins(found) for found in self.suppressions],
        }


async def trace(settings: Settings, wanted: str) -> Traced:
    """The story of an address, an origin or an id. Raises Malformed where it is none of them."""
    found, replays = Traced(wanted), Replays.of(settings.secret)
    matches = matcher(wanted, replays)
    partitions = (await check(settings)).partitions
    sends: list[Record] = []
    if "@" in wanted:
        found.to = normalise(wanted).key
        sends = await _untaken(settings, partitions, found.to)
    elif "/" in wanted:
        sends = [send] if (send := await _send(settings, wanted)) else []
        if sends:
            origin = send_origin(sends[0], replays)  # another one, where it is a dead letter that comes again
            found.to, known = address_of(sends[0]), id_of(sends[0], origin)
            by_origin, by_id = matcher(origin, replays), matcher(known)
            # What readers do is told by id alone.
            matches = lambda record: by_origin(record) or by_id(record)  # noqa: E731
    else:
        found.to = await _whose(settings, matches, partitions)
    found.partition = partition_of(found.to, partitions) if found.to else None
    here = [*range(partitions)] if found.partition is None else [found.partition]
    records = await _records(settings, matches, here)
    origins = {names_of(record, replays)[1].get("origin", "") for record in records}
    origins.update(send_origin(send, replays) for send in sends)
    for origin in sorted(origins - {place_of(send) for send in sends}):
        if send := await _send(settings, origin):
            sends.append(send)
    found.mails = gather(sends, records, replays)
    if found.to:
        found.suppressions = await _suppressions(settings, found.to, here)
    return found


def matcher(wanted: str, replays: Replays | None = None) -> Matches:
    """Whether a record belongs to an address, an origin or an id; ``replays`` tell the origin of what was replayed.
    Raises Malformed."""
    if "@" in wanted:
        name, value = "to", normalise(wanted).key
    elif ORIGIN.fullmatch(wanted):
        name, value = "origin", wanted
    elif ID.fullmatch(wanted.lower()):
        name, value = "id", wanted.lower()
    else:
        raise Malformed(
            "bad_query", "neither an address, nor an id (32 hex digits), nor an origin of mail-sends"
        )
    needle = value.encode()

    def matches(record: Record) -> bool:
        body = record.value or b""
        if record.topic in JSON_TOPICS:
            # The bytes first: nearly every record is somebody else's and need not be parsed.
            if needle not in body:
                return False
            id, names = names_of(record)
            return value == (id if name == "id" else names.get(name))
        if record.topic.endswith("dlq"):
            # What nobody could parse has no headers of ours: an address may stand anywhere in it.
            if record.headers.get(name) == needle:
                return True
            return needle in body.lower() if name == "to" else dead_origin(record, replays) == value
        return record.headers.get(name) == needle

    return matches


async def _send(settings: Settings, origin: str) -> Record | None:
    """The send of an origin, if the topic still holds it."""
    place = ORIGIN.fullmatch(origin)
    if place is None:
        return None
    found = await read_one(settings, place[1], int(place[2]), int(place[3]))
    # The index at the end counts within the record.
    return found if found and place_of(found).rpartition("/")[0] == origin.rpartition("/")[0] else None


async def _untaken(settings: Settings, partitions: int, to: str) -> list[Record]:
    """Sends to an address that enqueue has not taken yet: producers choose the partition, so all are read."""
    at = await committed(settings, "enqueue", list(SENDS), partitions)
    places = [(topic, p) for topic in SENDS for p in range(partitions)]
    starts = {(topic, p): at[topic].get(p, 0) for topic, p in places}
    return [record async for record in read_to_end(settings, places, starts) if address_of(record) == to]


async def _whose(settings: Settings, matches: Matches, partitions: int) -> str:
    """The address of a mail known by its id: partitions are read until a record has it."""
    for topic in ("mail-outcomes", *FLOW[:2], "mail-events"):
        async with aclosing(read_to_end(settings, [(topic, p) for p in range(partitions)])) as reading:
            async for record in reading:
                if matches(record):
                    return names_of(record)[1].get("to", "")
    return ""


async def _records(settings: Settings, matches: Matches, here: Iterable[int]) -> list[Record]:
    """What matches in the topics that are partitioned by recipient and in the dead letters."""
    here = list(here)
    rungs = [f"mail-wait-{rung}" for rung in RUNGS]
    places: list[Place] = [(topic, p) for topic in (*FLOW, *rungs, *JSON_TOPICS) for p in here]
    places += [(topic, 0) for topic in DEAD]
    found = [record async for record in read_to_end(settings, places) if matches(record)]
    # Lanes hold whole mails: only those that the mail was on are read.
    lanes = {names_of(record)[1].get("lane", "") for record in found} & set(lane_names())
    places = [(lane_topic(lane) + twin, p) for lane in sorted(lanes) for twin in ("", NOW) for p in here]
    return found + [record async for record in read_to_end(settings, places) if matches(record)]


async def _suppressions(settings: Settings, to: str, here: Iterable[int]) -> list[Suppression]:
    """What forbids mail to an address now."""
    rows: dict[bytes, Suppression] = {}
    prefix = f"{to}|".encode()
    async for record in read_to_end(settings, [("mail-suppressions", p) for p in here]):
        if record.key and record.key.startswith(prefix):
            rows.pop(record.key, None)
            if record.value:
                rows[record.key] = parse(record.value, Suppression)
    now = time.time()
    return [row for row in rows.values() if row.active and not 0 < row.until <= now]


@click.command("trace")
@click.argument("wanted", metavar="ID|ORIGIN|ADDRESS")
@at_broker
@click.option("--all", "everything", is_flag=True, help="Also the events that only repeat the journal.")
@as_json
def command(wanted: str, broker: str | None, prefix: str | None, everything: bool, as_json: bool) -> None:
    """The whole story of a message, in time order: send, stages, waits, each attempt's reply, opens, clicks.

    By address: every message to it, and what it is suppressed for. By id (32 hex digits, the Message-ID's
    first part) or by origin (mail-sends/PARTITION/OFFSET/...): that one. Only the recipient's partition of
    each topic is read once the recipient is known.

    \b
    Example: mailsluice trace ada@example.test
    Exit code: 0 something was found; 1 nothing was, or no broker; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    try:
        matcher(wanted)
    except Malformed as error:
        raise click.UsageError(f"{clean(wanted, 80)!r}: {error.detail}") from None
    found = run(settings, trace(settings, wanted.strip() if "@" in wanted else wanted.lower()))
    if as_json:
        echo_json(found.as_dict())
    else:
        _print(found, everything)
    raise SystemExit(0 if found.mails or found.suppressions else 1)


def _print(found: Traced, everything: bool) -> None:
    screen = console()
    for mail in found.mails:
        names = mail.names
        about = f"mail {mail.id} to {names.get('to', '?')}, campaign {names.get('campaign', '?')}: "
        about = "" if mail.id == NO_MAIL else about
        screen.print(Text(clean(about)).append(mail.end, style="bold"), soft_wrap=True)
        for item in mail.items:
            if everything or not item.echo:
                screen.print(Text("  " + item.line()), soft_wrap=True)
        screen.print()
    for row in found.suppressions:
        until = f"until {utc(row.until)}" if row.until else "for ever"
        scope = {"global": "all mail", "tenant": f"all mail of {row.tenant}"}.get(
            row.scope, f"{row.stream} of {row.tenant}"
        )
        since = f" since {utc(row.time)}" if row.time else ""
        screen.print(
            Text(clean(f"suppressed {until}{since}: {row.reason} ({scope})")),
            soft_wrap=True,
        )
    if not found.mails:
        where = "" if found.partition is None else f" (partition {found.partition})"
        click.echo(f"no message of {clean(found.to or found.asked)} in the topics{where}", err=True)
