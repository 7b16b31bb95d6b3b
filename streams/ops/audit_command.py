"""``mailsluice audit``: the oracle (``streams.ops.audit``) as a command."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from streams.ops.ask import Time, as_json, asked, at_broker, console, echo_json, run
from streams.ops.audit import ENDS, Audit, audit


@click.command("audit")
@at_broker
@click.option("--since", type=Time(), default=None, help="Only sends received from this time on.")
@click.option("--until", type=Time(), default=None, help="Only sends received before this time.")
@click.option("--campaign", default="", metavar="ID", help="Only this campaign's sends.")
@as_json
def command(
    broker: str | None,
    prefix: str | None,
    since: float | None,
    until: float | None,
    campaign: str,
    as_json: bool,
) -> None:
    """Balance the books: what became of every send received.

    Reads the topics (nothing else) and counts each send once: received = delivered + bounced + expired +
    cancelled + suppressed + rejected + dead-lettered + unknown + pending. Pending mail is counted, never
    the remainder; what is in none of these is lost.

    \b
    Example: mailsluice audit --since 2026-03-01T00:00:00Z --campaign spring
    Exit code: 0 only if nothing is lost; 1 something is, or no broker; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    begin, end = since or 0.0, float("inf") if until is None else until
    if end <= begin:
        raise click.UsageError("--until must be later than --since")
    found = run(settings, audit(settings, begin, end, campaign))
    if as_json:
        echo_json(found.as_dict())
    else:
        _show(found)
    raise SystemExit(0 if found.balanced else 1)


def _show(found: Audit) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text("received", style="bold"), Text(f"{found.received:,}", style="bold"))
    for end in ENDS:
        count = found.counts[end]
        if count or end in ("delivered", "pending", "lost"):
            table.add_row(
                Text(end.replace("_", "-"), style="bold red" if end == "lost" and count else ""), f"{count:,}"
            )
    screen = console()
    screen.print(table)
    for origin in found.lost[:20]:
        screen.print(Text(f"lost: {origin}"), soft_wrap=True)
    said = "the books balance" if found.balanced else "THE BOOKS DO NOT BALANCE"
    screen.print(Text(said, style="bold green" if found.balanced else "bold red"))
