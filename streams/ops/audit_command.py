"""``mailsluice audit``: the oracle (``streams.ops.audit``) as a command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from streams.ops.ask import Time, as_json, asked, at_broker, console, echo_json, run
from streams.ops.audit import ENDS, Audit, audit
from streams.ops.kept import homes_in
from streams.ops.recompute import Recomputation, recompute


@click.command("audit")
@at_broker
@click.option("--since", type=Time(), default=None, help="Only sends received from this time on.")
@click.option("--until", type=Time(), default=None, help="Only sends received before this time.")
@click.option("--campaign", default="", metavar="ID", help="Only this campaign's sends.")
@click.option(
    "--states",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Compare every state too: DIR holds the workers' state directories.",
)
@as_json
def command(
    broker: str | None,
    prefix: str | None,
    since: float | None,
    until: float | None,
    campaign: str,
    states: Path | None,
    as_json: bool,
) -> None:
    """Balance the books: what became of every send received.

    Reads the topics (nothing else) and counts each send once: received = delivered + bounced + expired +
    cancelled + suppressed + rejected + dead-lettered + unknown + pending. Pending mail is counted, never
    the remainder; what is in none of these is lost.

    With --states it also computes every state anew from the topics (gate one's and gate two's rows,
    suppressions, contacts) and compares: the compacted topics, and each state file at its own position.
    Meant for a pipeline at rest: files follow their topics half a second later.

    \b
    Example: mailsluice audit --since 2026-03-01T00:00:00Z --campaign spring
    Example: mailsluice audit --states /var/lib/mailsluice
    Exit code: 0 only if nothing is lost and no state differs; 1 else, or no broker; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    begin, end = since or 0.0, float("inf") if until is None else until
    if end <= begin:
        raise click.UsageError("--until must be later than --since")
    found = run(settings, audit(settings, begin, end, campaign))
    kept = run(settings, recompute(settings, homes_in(states))) if states else None
    if as_json:
        echo_json(found.as_dict() | ({"states": asdict(kept)} if kept else {}))
    else:
        _show(found)
        if kept:
            _show_states(kept)
    raise SystemExit(0 if found.balanced and not (kept and kept.differences) else 1)


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


def _show_states(kept: Recomputation) -> None:
    screen = console()
    for line in kept.differences:
        screen.print(Text(line, style="red"), soft_wrap=True)
    compared = f"{kept.rows:,} rows and {kept.files:,} state files compared: "
    wrong = len(kept.differences)
    said = f"{wrong:,} DIFFERENCES" if wrong else "every state is what the topics say"
    screen.print(Text(compared + said, style="bold red" if wrong else "bold green"))
