"""``mailsluice report tls``: what became of TLS on a day, by recipient domain; sent to whoever asked for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
from rich.table import Table
from rich.text import Text

from agents.deliver.connect import Networks
from agents.sign.keys import BadKey, load_keys
from schemas.address import normalise
from schemas.codec import Malformed
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run
from streams.ops.tls_report.send import Made, make, read_day, send
from streams.ops.tls_report.tally import Day, Reporter, bounds
from streams.resolver import Resolver
from streams.settings import Settings
from streams.sts import Sts

SHOWN = 60


@click.group("report")
def group() -> None:
    """Reports to others about what we saw.

    \b
    Example: mailsluice report tls
    """


@group.command("tls")
@click.option("--day", default="", metavar="YYYY-MM-DD", help="A UTC day; default yesterday.")
@click.option(
    "--domain", "domains", multiple=True, metavar="NAME", help="Only this recipient domain (repeatable)."
)
@click.option(
    "--send",
    "sending",
    is_flag=True,
    help="Send each domain its report, where _smtp._tls.DOMAIN asks for it.",
)
@click.option("--out", metavar="DIR", help="Write the reports of those who ask there, as JSON files.")
@click.option(
    "--from",
    "sender",
    default="",
    metavar="ADDRESS",
    help="Who sends them; default tlsrpt@ the first DKIM domain.",
)
@click.option(
    "--organization", default="", metavar="NAME", help="In the reports; default the domain of --from."
)
@click.option(
    "--contact", default="", metavar="ADDRESS", help="For questions, in the reports; default --from."
)
@at_broker
@as_json
def tls(
    day: str, domains: tuple[str, ...], sending: bool, out: str | None, sender: str, organization: str, contact: str,
    broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """What became of TLS at each recipient domain on a day: connections with and without, by policy (RFC 8460).

    Counted from the journal (mail-outcomes): connections, each for the domain of the mail that it was made for. By
    policy: sts (MTA-STS, also in testing mode), tlsa (DANE), no-policy-found.

    --send mails a report to each domain whose DNS record at _smtp._tls names a mailto address; run it once a day,
    some time after midnight UTC. A day that is sent twice is a repeat and leaves once. https addresses are counted,
    not served.

    \b
    Example: mailsluice report tls --day 2026-03-01
             mailsluice report tls --send --from tlsrpt@news.example --organization "Lakeside Shop"
    Exit code: 0; 1 no broker, or a report could not be written; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    now = time.time()
    day = day or (datetime.fromtimestamp(now, UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    try:
        _, end = bounds(day)
    except ValueError:
        raise click.UsageError(f"--day {day}: write it as 2026-03-01") from None
    if sending and end > now:
        raise click.UsageError(f"--send: {day} is not over yet (UTC); without --send it can be looked at")
    reporter, address = None, ""
    if sending or out:
        address = _sender(settings, sender)
        mine = address.rpartition("@")[2]
        reporter = Reporter(organization or mine, contact or address, mine)
    found, made, sent = run(settings, _work(settings, day, domains, reporter, address, sending, now))
    if out:
        _write(out, made)
    told = _told(found, domains, made, sent, sending)
    if as_json:
        echo_json(told)
    else:
        _show(told)


async def _work(
    settings: Settings,
    day: str,
    domains: tuple[str, ...],
    reporter: Reporter | None,
    address: str,
    sending: bool,
    now: float,
) -> tuple[Day, list[Made], int]:
    found = await read_day(settings, day)
    if reporter is None:
        return found, [], 0
    resolver = Resolver(settings.dns, validates=settings.dns_validates)
    networks = Networks.parse(settings.deliver_networks)
    sts = Sts(resolver, networks.allow, time.time) if settings.deliver_sts else None
    try:
        wanted = [name for name in found.names() if not domains or name in domains]
        made = await make(settings, found, reporter, resolver, sts, wanted)
        sent = await send(settings, made, address, reporter, resolver, now) if sending else 0
        return found, made, sent
    finally:
        if sts is not None:
            await sts.close()


def _sender(settings: Settings, sender: str) -> str:
    if sender:
        try:
            return normalise(sender).key
        except Malformed as error:
            raise click.UsageError(f"--from {sender}: {error.detail}") from None
    try:
        known = sorted(load_keys(settings.keys))
    except (OSError, BadKey) as error:
        raise click.UsageError(f"{error}; or name the sender with --from ADDRESS") from None
    return f"tlsrpt@{known[0]}"


def _write(out: str, made: list[Made]) -> None:
    try:
        directory = Path(out)
        directory.mkdir(parents=True, exist_ok=True)
        for one in made:
            name = f"{one.content['report-id']}.json".replace("/", "_")
            (directory / name).write_bytes(orjson.dumps(one.content, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror or error}") from None


def _told(day: Day, only: tuple[str, ...], made: list[Made], sent: int, sending: bool) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for (domain, policy), found in sorted(day.domains.items()):
        if only and domain not in only:
            continue
        kinds: dict[str, int] = {}
        for failure, count in found.failed.items():
            kinds[failure.result] = kinds.get(failure.result, 0) + count
        rows.append(
            {"domain": domain, "policy": policy, "good": found.good, "failed": found.bad, "results": kinds,
             "hosts": sorted(found.hosts)}
        )  # fmt: skip
    asking = {
        one.domain: {
            "mailto": list(one.places.addresses),
            "others": one.places.others,
            "report_id": one.content["report-id"],
        }
        for one in made
    }
    return {"day": day.date, "connections": sum(r["good"] + r["failed"] for r in rows), "domains": rows, "asking": asking,
            "sent": sent if sending else None}  # fmt: skip


def _show(told: dict[str, Any]) -> None:
    screen = console()
    screen.print(Text(f"{told['day']} (UTC): {told['connections']:,} connections", style="bold"))
    rows = sorted(told["domains"], key=lambda row: (-row["failed"], -row["good"]))
    if rows:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in ("domain", "policy", "with TLS", "failed", "why"):
            table.add_column(
                head, justify="right" if head in ("with TLS", "failed") else "left", overflow="fold"
            )
        for row in rows[:SHOWN]:
            why = ", ".join(
                f"{count:,} {kind}" for kind, count in sorted(row["results"].items(), key=lambda one: -one[1])
            )
            table.add_row(
                Text(clean(row["domain"])), row["policy"], f"{row['good']:,}", f"{row['failed']:,}", why
            )
        screen.print(table)
        if len(rows) > SHOWN:
            screen.print(f"and {len(rows) - SHOWN} more (--json)")
    for domain, one in told["asking"].items():
        others = f" and {one['others']} places that are not served" if one["others"] else ""
        screen.print(
            Text(clean(f"{domain} asks for its report: {', '.join(one['mailto']) or 'no address'}{others}"))
        )
    if told["sent"] is not None:
        screen.print(Text(f"{told['sent']:,} reports are on their way", style="bold"))
