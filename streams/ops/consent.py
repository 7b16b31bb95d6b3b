"""``mailsluice consent``: who agreed to what; granted and revoked by people, one by one and in bulk."""

from __future__ import annotations

import csv
import os
import sys
import time
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from schemas.codec import Malformed
from schemas.consent import BASES, StreamConsent
from schemas.consent_rules import BadConsents
from streams.operators import consent_rules_of
from streams.ops.ask import Time, as_json, asked, at_broker, clean, echo_json, run
from streams.ops.consents import (
    COLUMNS,
    CONSENTS,
    HISTORY,
    Said,
    cells_of,
    granted,
    history_of,
    read_consents,
    revoked,
    says,
    told_of,
)
from streams.ops.long_lines import text_lines
from streams.ops.suppress import LONGEST_LINE, accounted, import_rows, login_name, waits, why_unchanged
from streams.ops.suppressions import all_in, change_in, rows_in, rows_of
from streams.settings import BadSettings, load

F = Any


@click.group("consent")
def consent() -> None:
    """Who agreed to get mail and to be seen reading it: show, grant, revoke, import, export; rules.

    A change is an event on mail-events with who made it and what proves it; the stage `suppress` keeps the record
    (mail-consents), screen looks at it where the tenant's rules ask for a consent (MAILSLUICE_CONSENT).

    Example: mailsluice consent show anna@example.org
    """


def _said(function: F) -> F:
    """The options that say what was agreed to."""
    for option in (
        click.option("--by", default=None, help="Who puts it on record; default: the login name."),
        click.option("--proof", default="", help="What shows it: an order, a log line, a recording."),
        click.option("--source", default="", help="Where it was given: a page, a shop, a form."),
        click.option("--wording", default="", help="The words that were shown or said."),
        click.option("--clicks/--no-clicks", default=False, help="Clicks may be tracked."),
        click.option("--opens/--no-opens", default=False, help="Opens may be tracked."),
        click.option(
            "--until", type=Time(), default=0.0, help="When it ends; purchase and inquiry end by law."
        ),
        click.option("--given", type=Time(), default=0.0, help="When it was given (RFC 3339)."),
        click.option("--basis", type=click.Choice(BASES), help="How it came about; none: only tracking."),
        click.option("--stream", default="marketing", show_default=True),
        click.option("--tenant", default="default", show_default=True),
    ):
        function = option(function)
    return function


def _tracking(opens: bool, clicks: bool) -> str:
    return ("o" if opens else "") + ("c" if clicks else "")


def _said_of(o: dict[str, Any]) -> Said:
    return Said(
        o["tenant"], o["stream"], o["basis"] or "", o["given"], o["until"], _tracking(o["opens"], o["clicks"]),
        o["wording"], o["source"], o["proof"], login_name(o["by"]),
    )  # fmt: skip


_wait = waits("it is on record")


@consent.command("grant")
@click.argument("addresses", nargs=-1, required=True)
@_said
@_wait
@at_broker
@as_json
def grant(
    addresses: tuple[str, ...], wait: float, broker: str | None, prefix: str | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Put the consent of ADDRESSES on record, with its proof.

    An unsubscribe or complaint stays in force beside it: see `mailsluice suppress release`. After a revocation only
    --basis express or double_opt_in counts. Without --given it was given now.

    \b
    Example: mailsluice consent grant anna@example.org --basis express --proof "call 4711" --wording "monthly news"
    Exit code: 0 on record; 1 written, but not seen on record in time; 2 a bad address or option.
    """
    now = time.time()
    said = _said_of(options)
    said = said if said.given else said._replace(given=round(now, 3))
    _apply(
        [partial(granted, address, said, now) for address in addresses],
        addresses,
        now,
        wait,
        broker,
        prefix,
        as_json,
    )


@consent.command("revoke")
@click.argument("addresses", nargs=-1, required=True)
@click.option("--tenant", default="default", show_default=True)
@click.option("--opens", is_flag=True, help="Only that opens may be tracked.")
@click.option("--clicks", is_flag=True, help="Only that clicks may be tracked.")
@accounted
@_wait
@at_broker
@as_json
def revoke(
    addresses: tuple[str, ...], tenant: str, opens: bool, clicks: bool, why: str, by: str | None,
    wait: float, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """End the consent of ADDRESSES to marketing mail, which also unsubscribes them; or only that to be tracked.

    \b
    Example: mailsluice consent revoke anna@example.org --why "asked by telephone"
    Exit code: 0 on record; 1 written, but not seen on record in time; 2 a bad address or option.
    """
    now = time.time()
    letters = _tracking(opens, clicks)
    made = [partial(revoked, to, tenant, letters, login_name(by), why, now) for to in addresses]
    _apply(made, addresses, now, wait, broker, prefix, as_json)


def _apply(
    made: Any, addresses: tuple[str, ...], now: float, wait: float, broker: str | None, prefix: str | None, as_json: bool
) -> None:  # fmt: skip
    settings, events = asked(broker, prefix), {}
    for address, event_of in zip(addresses, made, strict=True):
        try:
            event = event_of()
        except Malformed as error:
            raise click.UsageError(f"{clean(address, 60)}: {error.detail}") from None
        events[event.id] = event
    found = run(settings, change_in(settings, list(events.values()), wait, CONSENTS))
    for event in events.values():
        row = found.get(event.id)
        if as_json:
            echo_json({"to": event.to, "event": event.id, "row": msgspec.to_builtins(row) if row else None})
        elif row is None:
            click.echo(
                f"{event.to}: not seen on record within {wait:g} s ({why_unchanged(settings, event.to)})"
            )
        else:
            click.echo(f"{event.to}: {says(row, now)}")
            _warn_of_suppressions(settings, row, now)
    sys.exit(0 if len(found) == len(events) else 1)


def _warn_of_suppressions(settings: Any, row: StreamConsent, now: float) -> None:
    if not row.in_force(now):
        return
    against = [s for s in run(settings, rows_of(settings, row.to)) if s.applies(row.tenant, row.stream, now)]
    for s in against:
        click.echo(
            f"{row.to}: still suppressed ({s.reason}): no mail goes out until `mailsluice suppress release`",
            err=True,
        )


@consent.command("show")
@click.argument("address")
@at_broker
@as_json
def show(address: str, broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Every consent of ADDRESS with its history.

    \b
    Example: mailsluice consent show anna@example.org --json
    Exit code: 0 a consent to mail is in force; 1 none is; 2 no address.
    """
    settings, now = asked(broker, prefix), time.time()
    try:
        rows = run(settings, rows_in(CONSENTS, settings, address))
    except Malformed as error:
        raise click.UsageError(error.detail) from None
    for row in rows:
        if as_json:
            echo_json(msgspec.to_builtins(row))
            continue
        click.echo(says(row, now))
        for change in row.changes:
            click.echo("  " + clean(told_of(change)))
        for item in row.asked:
            if not any(change.asked == item.time for change in row.changes):
                click.echo(f"  asked for and not confirmed: {clean(item.source or item.proof or item.id)}")
    if not rows and not as_json:
        click.echo("no consent of this address is on record")
    sys.exit(0 if any(row.in_force(now) for row in rows) else 1)


@consent.command("export")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--stream", default="")
@click.option("--history", is_flag=True, help="Every change ever said, not what is in force.")
@at_broker
def export(
    file: Any, tenant: str, stream: str, history: bool, broker: str | None, prefix: str | None
) -> None:  # fmt: skip
    """Write the consents in force to FILE (CSV, - for standard output), as `import` reads them; or their history.

    \b
    Example: mailsluice consent export consents.csv --tenant shop
    """
    settings, now = asked(broker, prefix), time.time()

    async def write() -> int:
        count = 0
        writer = csv.writer(file)  # opens it, once the broker answers: till then an older file stays as it is
        writer.writerow(HISTORY if history else COLUMNS)
        async with aclosing(all_in(CONSENTS, settings)) as rows:
            async for row in rows:
                if (tenant and row.tenant != tenant) or (stream and row.stream != stream):
                    continue
                if history:
                    lines = list(history_of(row))
                else:
                    over = row.state == "granted" and not row.in_force(now)
                    cells = None if over else cells_of(row)
                    lines = [cells] if cells else []
                writer.writerows(lines)
                count += len(lines)
        return count

    count = run(settings, write())
    click.echo(f"{count:,} written", err=True)


@consent.command("import")
@click.argument("file", type=click.File("rb"))
@_said
@click.option("--check", is_flag=True, help="Only read the file; change nothing.")
@at_broker
@as_json
def import_(
    file: BinaryIO, check: bool, broker: str | None, prefix: str | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Put every consent in FILE (CSV, - for standard input) on record, of any size.

    The first line names the columns: to (or email, address), and tenant, stream, basis, given, until, opens, clicks,
    wording, source, proof, by; times are RFC 3339 or days (2026-03-01); the options fill what a row leaves out. Basis (or opens, clicks), given and proof are
    needed. A bad row is named and passed over. Run it again as often as you like: the same row says the same.

    \b
    Example: mailsluice consent import crm.csv --basis purchase --source "shop, checkout"
    Exit code: 0 all rows are good; 1 the broker did not take them all; 2 some row is bad, or the file.
    """
    rows = read_consents(text_lines(file, LONGEST_LINE), _said_of(options), time.time())
    import_rows(asked(broker, prefix), rows, check, as_json)


@consent.command("rules")
@click.option(
    "--check",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file in the place of MAILSLUICE_CONSENT: is it good?",
)
@as_json
def rules(check: Path | None, as_json: bool) -> None:
    """What each tenant asks of consents (MAILSLUICE_CONSENT; workers and edge read it when they start).

    \b
    Example: mailsluice consent rules --check consent.toml
    Exit code: 0 good; 2 the file has faults, all of them are listed.
    """
    try:
        settings = load(os.environ, **({"consent": check} if check else {}))
        found = consent_rules_of(settings)
    except (BadConsents, BadSettings) as error:
        raise click.UsageError(str(error)) from None
    named = {f"default.{stream}": rule for stream, rule in found.defaults.items()}
    named |= {f"{tenant}.{stream}": rule for (tenant, stream), rule in found.own.items()}
    if as_json:
        echo_json({name: asdict(rule) for name, rule in named.items()})
        return
    for name, rule in named.items():
        required = "a consent is required" if rule.require else "no consent is required"
        seen = (
            "tracking needs a consent of its own"
            if rule.tracking == "consent"
            else "tracking as each send says"
        )
        how = "confirmed by mail" if rule.double_opt_in else "not confirmed"
        taken = (
            f"subscriptions are taken, {how} ({rule.hours:g} h), from {rule.sender}"
            if rule.sender
            else "no subscriptions are taken"
        )
        click.echo(f"{name}: {required}; {seen}; {taken}")
    if not named:
        click.echo("nothing is asked for: MAILSLUICE_CONSENT is not set, or its file is empty")
