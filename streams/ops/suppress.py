"""``mailsluice suppress``: who must not get mail, and why; changed by people, one by one and in bulk."""

from __future__ import annotations

import csv
import getpass
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NoReturn

import click
import msgspec
from rich.table import Table
from rich.text import Text

from agents.suppress.policy import DAY, REASONS, SCOPES
from schemas.codec import Malformed
from schemas.suppression import Suppression
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.long_lines import text_lines
from streams.ops.remember import remember
from streams.ops.suppressions import (
    COLUMNS,
    BadFile,
    Row,
    Told,
    Wanted,
    all_rows,
    change,
    event_of,
    publish,
    read_rows,
    rows_of,
)
from streams.settings import Settings

LONGEST_LINE = 65_536
"""Characters of one line of a file: a longer one is read in pieces, each of them a bad row."""
SHOWN = 20
"""Bad rows that are named one by one."""
F = Any


@click.group("suppress")
def suppress() -> None:
    """Who must not get mail: show, add, release, list, import, export, remember.

    A change is an event of kind blocked or released on mail-events, with who made it and why; the stage
    `suppress` applies it, and screen and deliver know of it within seconds, also for mail already in a lane.

    Example: mailsluice suppress show anna@example.org
    """


suppress.add_command(remember)


def _narrowed(function: F) -> F:
    """The options that say which suppressions are meant."""
    for option in (
        click.option("--reason", type=click.Choice(REASONS), help="Why the address is suppressed."),
        click.option("--stream", default="", help="The stream, where the scope is one."),
        click.option(
            "--scope", type=click.Choice(SCOPES), help="Every tenant's mail, one tenant's, or one stream's."
        ),
        click.option("--tenant", default="default", show_default=True),
    ):
        function = option(function)
    return function


def accounted(function: F) -> F:
    """The options that say who changes something, and why."""
    function = click.option("--by", default=None, help="Who says so; default: the login name.")(function)
    return click.option("--why", required=True, help="The reason, for the record.")(function)


def waits(until: str, seconds: float = 10.0) -> Callable[[F], F]:
    """The option that says how long to wait for what was ordered."""
    return click.option(
        "--wait",
        type=click.FloatRange(0),
        default=seconds,
        show_default=True,
        help=f"Seconds to wait until {until}.",
    )


def login_name(by: str | None) -> str:
    """Who says so: ``by``, or the name of the login."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@suppress.command("add")
@click.argument("addresses", nargs=-1, required=True)
@_narrowed
@click.option("--days", type=click.FloatRange(0), default=0.0, help="For so many days; default: for ever.")
@accounted
@waits("it is in force")
@at_broker
@as_json
def add(
    addresses: tuple[str, ...], tenant: str, scope: str | None, stream: str, reason: str | None, days: float,
    why: str, by: str | None, wait: float, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Suppress ADDRESSES, and wait until that is in force.

    \b
    Example: mailsluice suppress add anna@example.org --why "asked by telephone" --by jane
    Exit code: 0 in force; 1 written, but not seen in force in time; 2 a bad address or option.
    """
    now = time.time()
    wanted = Wanted(
        tenant,
        scope or "tenant",
        stream,
        reason or "manual",
        now + days * DAY if days else 0.0,
        login_name(by),
        why,
    )
    _apply("blocked", addresses, wanted, now, wait, asked(broker, prefix), as_json)


@suppress.command("release")
@click.argument("addresses", nargs=-1, required=True)
@_narrowed
@accounted
@waits("it is in force")
@at_broker
@as_json
def release(
    addresses: tuple[str, ...], tenant: str, scope: str | None, stream: str, reason: str | None,
    why: str, by: str | None, wait: float, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Release ADDRESSES: every suppression of the tenant, or those that the options name.

    A global suppression is only released with --scope global, and so is somebody who was erased.

    \b
    Example: mailsluice suppress release anna@example.org --reason hard_bounce --why "mailbox is back"
    Exit code: 0 released; 1 written, but nothing changed in time (there was nothing to release, or the
    stage suppress does not run); 2 a bad address or option.
    """
    wanted = Wanted(tenant, scope or "", stream, reason or "", 0.0, login_name(by), why)
    _apply("released", addresses, wanted, time.time(), wait, asked(broker, prefix), as_json)


def _apply(
    kind: Any,
    addresses: tuple[str, ...],
    wanted: Wanted,
    now: float,
    wait: float,
    settings: Any,
    as_json: bool,
) -> None:
    events = []
    for address in dict.fromkeys(addresses):
        try:
            events.append(event_of(kind, address, wanted, now))
        except Malformed as error:
            raise click.UsageError(f"{clean(address, 60)}: {error.detail}") from None
    found = run(settings, change(settings, events, wait))
    unchanged = 0
    for event in events:
        row = found.get(event.id)
        unchanged += row is None
        if as_json:
            echo_json({"to": event.to, "event": event.id, "row": msgspec.to_builtins(row) if row else None})
        elif row is None:
            click.echo(f"{event.to}: no change seen within {wait:g} s ({why_unchanged(settings, event.to)})")
        else:
            click.echo(f"{event.to}: {_says(row, now)}")
    sys.exit(1 if unchanged else 0)


def why_unchanged(settings: Any, to: str) -> str:
    """Why a person's word on ``to`` may have changed nothing."""
    if any(row.reason == "erased" and row.active for row in run(settings, rows_of(settings, to))):
        return (
            "it was erased: that forbids all mail, and only `suppress release --scope global` takes it back"
        )
    return "it was so already, or the stage suppress does not run"


def _says(row: Suppression, now: float) -> str:
    scope = {"global": "all tenants", "tenant": f"tenant {row.tenant}"}.get(
        row.scope, f"tenant {row.tenant}, {row.stream}"
    )
    if not row.active:
        hits = f", {len(row.hits)} soft bounces counted" if row.hits else ""
        return f"not suppressed: {row.reason} of {scope} since {utc(row.time)}{hits}"
    until = f"until {utc(row.until)}" if row.until else "for ever"
    over = " (over)" if row.until and row.until <= now else ""
    return f"suppressed {until}{over}: {row.reason}, {scope}, since {utc(row.time)}"


@suppress.command("show")
@click.argument("address")
@at_broker
@as_json
def show(address: str, broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Every suppression of ADDRESS, released ones too.

    \b
    Example: mailsluice suppress show anna@example.org --json
    Exit code: 0 nothing forbids mail; 1 something does; 2 no address.
    """
    settings, now = asked(broker, prefix), time.time()
    try:
        rows = run(settings, rows_of(settings, address))
    except Malformed as error:
        raise click.UsageError(error.detail) from None
    for row in rows:
        if as_json:
            echo_json(msgspec.to_builtins(row))
        else:
            click.echo(f"{_says(row, now)}; event {row.origin or '-'}")
    if not rows and not as_json:
        click.echo("nothing is known of this address")
    sys.exit(1 if any(row.active and not (row.until and row.until <= now) for row in rows) else 0)


def _matches(row: Suppression, tenant: str, scope: str, stream: str, reason: str, now: float) -> bool:
    return (
        row.active
        and not (row.until and row.until <= now)
        and (not tenant or row.scope == "global" or row.tenant == tenant)
        and (not scope or row.scope == scope)
        and (not stream or row.stream == stream)
        and (not reason or row.reason == reason)
    )


def _chosen(function: F) -> F:
    for option in (
        click.option("--reason", type=click.Choice(REASONS)),
        click.option("--stream", default=""),
        click.option("--scope", type=click.Choice(SCOPES)),
        click.option("--tenant", default="", help="One tenant's and the global ones; default all."),
    ):
        function = option(function)
    return function


@suppress.command("list")
@_chosen
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@at_broker
@as_json
def list_(
    tenant: str, scope: str | None, stream: str, reason: str | None, limit: int,
    broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """The suppressions in force, and how many there are of each reason.

    \b
    Example: mailsluice suppress list --tenant shop --reason complaint --limit 20
    """
    settings, now = asked(broker, prefix), time.time()
    counts: dict[str, int] = {}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("address", "scope", "reason", "since", "until"):
        table.add_column(name, overflow="fold")

    async def read() -> int:
        shown = 0
        async for row in all_rows(settings):
            if not _matches(row, tenant, scope or "", stream, reason or "", now):
                continue
            counts[row.reason] = counts.get(row.reason, 0) + 1
            if shown < limit:
                shown += 1
                if as_json:
                    echo_json(msgspec.to_builtins(row))
                else:
                    of = row.scope if row.scope == "global" else f"{row.tenant} {row.stream}".strip()
                    cells = (
                        clean(row.to),
                        of,
                        row.reason,
                        utc(row.time),
                        utc(row.until) if row.until else "",
                    )
                    table.add_row(*map(Text, cells))
        return shown

    shown = run(settings, read())
    if as_json:
        return
    if shown:
        console().print(table)
    total = sum(counts.values())
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    click.echo(
        f"{total:,} in force" + (f": {told}" if told else "") + (f" ({shown} shown)" if shown < total else "")
    )


@suppress.command("export")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@_chosen
@at_broker
def export(
    file: Any,
    tenant: str,
    scope: str | None,
    stream: str,
    reason: str | None,
    broker: str | None,
    prefix: str | None,
) -> None:
    """Write the suppressions in force to FILE (CSV, - for standard output), as `import` reads them.

    \b
    Example: mailsluice suppress export suppressions.csv --tenant shop
    """
    settings, now = asked(broker, prefix), time.time()

    async def write() -> tuple[int, int]:
        count = hashes = 0
        writer = csv.writer(file)  # opens it, once the broker answers: till then an older file stays as it is
        writer.writerow(COLUMNS)
        async for row in all_rows(settings):
            if row.reason == "erased":
                hashes += 1
            elif _matches(row, tenant, scope or "", stream, reason or "", now):
                count += 1
                until = utc(row.until).replace(" ", "T") if row.until else ""
                writer.writerow(
                    (row.to, row.tenant, row.scope, row.stream, row.reason, until, f"event {row.origin}")
                )
        return count, hashes

    count, hashes = run(settings, write())
    left = (
        f"; left out who was erased and is known by a hash alone (see remember): {hashes:,}" if hashes else ""
    )
    click.echo(f"{count:,} written{left}", err=True)


@suppress.command("import")
@click.argument("file", type=click.File("rb"))
@_narrowed
@click.option("--days", type=click.FloatRange(0), default=0.0, help="For so many days; default: for ever.")
@accounted
@click.option("--check", is_flag=True, help="Only read the file; change nothing.")
@at_broker
@as_json
def import_(
    file: BinaryIO, tenant: str, scope: str | None, stream: str, reason: str | None, days: float,
    why: str, by: str | None, check: bool, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Suppress every address in FILE (CSV, - for standard input), of any size.

    The first line names the columns: to (or email, address), and if wanted tenant, scope, stream, reason,
    until (RFC 3339) and why; the options fill what a row leaves out. A bad row is named and passed over.
    Run again after an interruption: what is suppressed already stays as it is.

    \b
    Example: mailsluice suppress import old-system.csv --reason hard_bounce --why "moved from the old system"
    Exit code: 0 all rows are good; 1 the broker did not take them all; 2 some row is bad, or the file.
    """
    now = time.time()
    until = now + days * DAY if days else 0.0
    wanted = Wanted(tenant, scope or "tenant", stream, reason or "manual", until, login_name(by), why)
    import_rows(asked(broker, prefix), read_rows(text_lines(file, LONGEST_LINE), wanted, now), check, as_json)


def import_rows(settings: Settings, rows: Iterable[Row], check: bool, as_json: bool) -> NoReturn:
    """Write the event of each row (``check``: none), say what was bad, and exit with 2 if anything was."""
    told = Told()
    try:
        if check:
            for row in rows:
                told.acknowledged += row.event is not None
                told.bad_rows += row.event is None
                if row.event is None and len(told.bad) < SHOWN:
                    told.bad.append(row)
        else:
            run(settings, publish(settings, rows, told))
    except BadFile as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        bad = [{"line": row.line, "why": row.why} for row in told.bad]
        echo_json({"written": told.acknowledged, "bad": told.bad_rows, "bad_rows": bad})
    else:
        for row in told.bad[:SHOWN]:
            click.echo(f"line {row.line}: {clean(row.why, 200)}", err=True)
        what = "good" if check else "written"
        click.echo(f"{told.acknowledged:,} {what}, {told.bad_rows:,} bad rows")
    sys.exit(2 if told.bad_rows else 0)
