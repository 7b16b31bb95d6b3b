"""``mailsluice erase`` and ``mailsluice export``: what is held about a person, handed out or removed (GDPR, articles
15 and 17)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn, TextIO

import click
import msgspec
import orjson
from rich.table import Table
from rich.text import Text

from schemas.address import normalise
from schemas.codec import Malformed, parse
from schemas.erasure import Pseudonyms
from schemas.hold import Command
from schemas.suppression import Suppression
from streams.admin import check
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.erase_many import Told, erase_people, erasure, read_people
from streams.ops.long_lines import text_lines
from streams.ops.person import STATES, Rows, States, as_dict, bounds, erased_at, held, value_of
from streams.ops.queue_scan import audited
from streams.ops.suppress import LONGEST_LINE, login_name, waits
from streams.ops.suppressions import BadFile, change
from streams.settings import Settings

STANDS = "as long as its row stands"
FOR_EVER = "not by itself: run `mailsluice topics apply`"


@dataclass
class Left:
    """What topics still say: topic -> records and the time of the newest, Unix seconds."""

    records: Counter[str] = field(default_factory=Counter)
    newest: dict[str, float] = field(default_factory=dict)

    def until(self, within: Mapping[str, tuple[float, float]], erased: float) -> dict[str, float]:
        """When the last record of each topic is gone, Unix seconds. ``within``: see ``person.bounds``; ``erased``:
        when the rows were deleted, 0 = they were not."""
        found = {}
        for topic, newest in self.newest.items():
            by_time, by_cleaning = within[topic]
            found[topic] = min(
                newest + by_time, max(erased, newest) + by_cleaning if erased else float("inf")
            )
        return found


def _person(address: str, settings: Settings) -> tuple[str, tuple[str, ...]]:
    """The normalised address and its hashes. Raises UsageError."""
    try:
        to = normalise(address).key
    except Malformed as error:
        raise click.UsageError(error.detail) from None
    _must_hash(settings)
    return to, Pseudonyms(settings.hash_secrets()).of(to)


def _must_hash(settings: Settings) -> None:
    if not settings.secret:
        raise click.UsageError(
            "MAILSLUICE_SECRET is not set: who was erased is known by a hash that needs it. Give the workers' own"
        )


async def _scan(settings: Settings, to: str, partitions: int) -> Left:
    left = Left()
    async with aclosing(held(settings, to, partitions)) as records:
        async for record in records:
            left.records[record.topic] += 1
            left.newest[record.topic] = max(left.newest.get(record.topic, 0.0), record.timestamp / 1000)
    return left


@click.command("erase")
@click.argument("address", required=False)
@click.option("--file", type=click.File("rb"), help="A CSV file of people to erase; - for standard input.")
@click.option("--why", help="The reason, for the record; needed unless --check or --dry-run.")
@click.option("--by", default=None, help="Who says so; default: the login name.")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; say where the address occurs.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be deleted.")
@waits("the rows are gone", 30.0)
@at_broker
@as_json
def erase(
    address: str | None, file: BinaryIO | None, why: str | None, by: str | None, only_check: bool, dry_run: bool,
    wait: float, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Erase what is held about ADDRESS, for all tenants, but for a keyed hash: it gets no mail again.

    The stages that hold rows about the address delete them at once; what topics hold beside that goes with
    their retention, and deleted rows with compaction: the command reads every topic afterwards and says until
    when. An address with a +tag is another one (anna+shop@): erase it too. The hash is pseudonymous:
    who has MAILSLUICE_SECRET can tell whether an address was erased. `suppress release --scope global`
    takes the erasure back for the future. --check reads every topic from its start. Kafka cleans a
    partition only when something new is written to it: one that nobody writes to keeps what was deleted.

    --file erases many: CSV of any size, whose first line names the columns, to (or email, address) and if wanted
    why. A bad row is named and passed over; --wait counts for every 5,000 people; --dry-run reads the file alone.
    What topics say beside the rows goes with their retention as well, but is not looked for. Run again after an
    interruption: who was erased already stays so.

    \b
    Example: mailsluice erase anna@example.org --why "asked for it on 3 May"
             mailsluice erase anna@example.org --check
             mailsluice erase --file leavers.csv --why "the contract with shop.example ended"
    Exit code: 0 erased (--check: the address occurs nowhere); 1 not all rows are gone (--check: it
    occurs somewhere), or of some people in the file no erasure was seen; 2 a bad address, row, file or option.
    """
    settings = asked(broker, prefix)
    if (address is None) == (file is None):
        raise click.UsageError("give one ADDRESS, or --file")
    if file is not None:
        if only_check:
            raise click.UsageError("--check takes one ADDRESS")
        _erase_file(settings, file, why, login_name(by), wait, dry_run, as_json)
    assert address is not None
    to, hashes = _person(address, settings)
    if only_check:
        sys.exit(_told_check(run(settings, _check(settings, to, hashes)), as_json))
    if not why and not dry_run:
        raise click.UsageError("give --why: the reason goes on record")
    found = run(settings, _erase(settings, to, hashes, why or "", login_name(by), wait, dry_run))
    if not as_json:
        _tell(found)
    gone = not dry_run and found["erased"] and not found["not_deleted"]
    # Only now: reading every topic may take long, and must not keep anybody waiting for their erasure.
    found["left"] = run(settings, _left(settings, to, time.time() if gone else 0.0))
    if as_json:
        echo_json(found)
    else:
        _table(found["left"], "records in topics, and when the last is gone", FOR_EVER if gone else STANDS)
    sys.exit(0 if dry_run or gone else 1)


async def _erase(
    settings: Settings, to: str, hashes: tuple[str, ...], why: str, by: str, wait: float, dry_run: bool
) -> dict[str, Any]:
    partitions = (await check(settings)).partitions
    states = States(settings, to, hashes, partitions)
    before, now = (await states.read()).counts(), time.time()
    found: dict[str, Any] = {"dry_run": dry_run, "rows": before, "erased": bool(erased_at(states.rows.marks))}
    if not dry_run:
        event = erasure(to, why, by, settings, now)
        command = Command(what="erase", on={"address": hashes[0]}, who=event.by, why=event.detail, time=now)
        async with audited(settings, command) as (_, counts):
            made = (await change(settings, [event], wait)).get(event.id)
            rows = await _gone(states, wait if made else 0.0)
            counts |= before | {f"{topic} (not deleted)": n for topic, n in rows.counts().items()}
        found |= {"erased": made is not None, "event": event.id, "hash": made.to if made else hashes[0]}
    found["not_deleted"] = {} if dry_run else states.rows.counts()
    return found


def _erase_file(
    settings: Settings, file: BinaryIO, why: str | None, by: str, wait: float, dry_run: bool, as_json: bool
) -> NoReturn:
    """Erase the people in a file (``dry_run``: only read it), say what became of them, and exit."""
    _must_hash(settings)
    if not why and not dry_run:
        raise click.UsageError("give --why: the reason goes on record")
    rows, told = read_people(text_lines(file, LONGEST_LINE), why or "", by, settings), Told()
    good = 0
    try:
        if dry_run:
            for row in rows:
                good += row.event is not None
                if row.event is None:
                    told.add(row)
        else:
            run(settings, erase_people(settings, rows, why or "", by, wait, told))
    except BadFile as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        bad = [{"line": row.line, "why": row.why} for row in told.bad_rows]
        counts = {"good": good} if dry_run else {"erased": told.erased, "not_seen": told.unseen}
        echo_json({**counts, "bad": told.bad, "bad_rows": bad, "given_up_at_line": told.ended or None})
    else:
        for row in told.bad_rows:
            click.echo(f"line {row.line}: {clean(row.why, 200)}", err=True)
        click.echo(f"{good:,} good" if dry_run else f"{told.erased:,} erased")
        if told.unseen:
            click.echo(f"{told.unseen:,} written, but not seen in force: does the stage suppress run?")
        if told.ended:
            click.echo(f"given up at line {told.ended}: nobody beyond it is erased; run again from there")
        if told.bad:
            click.echo(f"{told.bad:,} bad rows")
    sys.exit(2 if told.bad else 1 if told.unseen else 0)


async def _left(settings: Settings, to: str, erased: float) -> dict[str, Any]:
    """What topics still say, the erasure and the deletions of rows among it, and until when. ``erased``: when the
    rows were deleted, Unix seconds; 0 = they were not."""
    left = await _scan(settings, to, (await check(settings)).partitions)
    until = left.until(await bounds(settings), erased)
    return {topic: {"records": count, "until": _day(until[topic])} for topic, count in left.records.items()}


async def _gone(states: States, wait: float) -> Rows:
    """Read on until no row is left, ``wait`` seconds at most."""
    end = time.monotonic() + wait
    while (rows := await states.read()).counts() and time.monotonic() < end:
        await asyncio.sleep(0.3)
    return rows


def _day(seconds: float) -> str | None:
    return utc(seconds) if seconds < 1e11 else None


def _tell(found: Mapping[str, Any]) -> None:
    rows = ", ".join(f"{count} in {topic}" for topic, count in found["rows"].items())
    what = "rows that would be deleted" if found["dry_run"] else "rows found"
    click.echo(f"{what}: {rows or 'none'}")
    if not found["dry_run"]:
        if found["erased"]:
            click.echo(
                f"erased: what is left to know the address by is {found['hash']} (event {found['event']})"
            )
        else:
            click.echo("written, but not seen in force: does the stage suppress run?")
        for topic, count in found["not_deleted"].items():
            click.echo(
                f"not deleted yet: {count} in {topic}; does the stage run that owns them? Look again with --check"
            )
        if found["erased"]:
            click.echo("screen and classify were told to forget whose mail it was")


def _table(left: Mapping[str, Mapping[str, Any]], title: str, ends: str) -> None:
    if not left:
        return
    click.echo(f"{title}:")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("topic", "records", "until"):
        table.add_column(name, justify="right" if name == "records" else "left")
    for topic, each in left.items():
        table.add_row(topic, f"{each['records']:,}", Text(each["until"] or ends))
    console().print(table)
    last = [each["until"] for each in left.values()]
    if None not in last:
        click.echo(f"nothing is left after {max(last)}")


async def _check(settings: Settings, to: str, hashes: tuple[str, ...]) -> dict[str, Any]:
    partitions = (await check(settings)).partitions
    rows = await States(settings, to, hashes, partitions).read()
    erased = erased_at(rows.marks)
    return {
        "erased": utc(erased) if erased else None,
        "rows": rows.counts(),
        "left": await _left(settings, to, erased),
    }


def _told_check(found: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        echo_json(found)
    else:
        click.echo(f"erased {found['erased']}" if found["erased"] else "not erased")
        for topic, count in found["rows"].items():
            click.echo(f"{count} {'row' if count == 1 else 'rows'} in force in {topic}")
        if found["left"]:
            ends = FOR_EVER if found["erased"] else STANDS
            _table(found["left"], "records that say the address, and when the last is gone", ends)
        else:
            click.echo("the address occurs in no topic")
    return 1 if found["left"] or found["rows"] else 0


@click.command("export")
@click.argument("address")
@click.option("--out", type=click.File("w", encoding="utf-8"), default="-", help="Default: standard output.")
@at_broker
def export(address: str, out: TextIO, broker: str | None, prefix: str | None) -> None:
    """Everything that is held about ADDRESS, as one JSON object: the rows of all states, and every record of
    every topic that says the address, with where and when it was written.

    Reads every topic from its start. Of somebody who was erased there is the hash, and what retention has
    not taken yet.

    \b
    Example: mailsluice export anna@example.org --out anna.json
    Exit code: 0 written, also where nothing is held; 2 a bad address.
    """
    settings = asked(broker, prefix)
    to, hashes = _person(address, settings)
    count = run(settings, _export(settings, to, hashes, out))
    click.echo(f"{count:,} records written", err=True)


async def _export(settings: Settings, to: str, hashes: tuple[str, ...], out: TextIO) -> int:
    partitions = (await check(settings)).partitions
    rows = await States(settings, to, hashes, partitions).read()
    about = {
        "address": to,
        "exported": utc(time.time()),
        "erased": [msgspec.to_builtins(parse(raw, Suppression)) for raw in rows.marks.values()],
        **{state.name: [value_of(raw) for raw in rows.of[state.name].values()] for state in STATES},
    }
    # Record by record: a person's mails of a year need not fit into memory.
    out.write(orjson.dumps(about).decode()[:-1] + ', "records": [')
    count = 0
    async with aclosing(held(settings, to, partitions)) as records:
        async for record in records:
            out.write((",\n" if count else "\n") + orjson.dumps(as_dict(record)).decode())
            count += 1
    out.write("\n]}\n")
    return count
