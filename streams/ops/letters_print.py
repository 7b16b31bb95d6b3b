"""Dead letters for people: a table of them, and one whole, safe for a terminal whatever is in it."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from streams.ops.ask import clean, console, echo_json, utc
from streams.ops.letters import Letter

COLUMNS = ("letter", "stage", "reason", "died", "where", "campaign", "replayed", "detail")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as ``dlq list --json`` has them."""
    if not rows:
        return
    cells = [_cells(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        # A narrow terminal cuts the rest: these are what is typed into the next command.
        least = max(len(row[number]) for row in cells) if name in ("letter", "stage", "reason") else None
        table.add_column(name, no_wrap=True, min_width=least)
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    campaign = f"{row.get('tenant', '')}/{row.get('campaign', '')}".strip("/")
    again = f"{utc(row['replayed_at'])} by {row['replayed_by']}" if "replayed_at" in row else "-"
    found = (
        row["letter"],
        row["stage"],
        row["reason"],
        utc(row["time"]),
        _where(row),
        campaign,
        again,
        row["detail"],
    )
    return [clean(str(cell), 80) for cell in found]


def _where(row: dict[str, Any]) -> str:
    """Between chained stages a record has no offset."""
    place = f"{row['topic']}/{row['partition']}"
    return place if row["offset"] < 0 else f"{place}@{row['offset']}"


def print_letter(letter: Letter, row: dict[str, Any], longest: int, as_json: bool) -> None:
    """Reason, headers and ``longest`` bytes of the body (0: all)."""
    was = letter.was
    body = was.value or b""
    part = body[:longest] if longest else body
    headers = {name: value.decode("utf-8", "backslashreplace") for name, value in was.headers.items()}
    if as_json:
        echo_json(
            row
            | {"headers": headers, "body": part.decode("utf-8", "backslashreplace"), "body_bytes": len(body)}
        )
        return
    click.echo(
        f"{row['letter']}: {shown(letter.stage)} could not work on {shown(_where(row))} at {utc(letter.time)}"
    )
    click.echo(f"  {shown(letter.reason)}: {shown(letter.detail)}")
    for name in ("origin", "id", "tenant", "campaign", "to"):
        if row.get(name):
            click.echo(f"  {name}: {shown(row[name])}")
    if "replayed_at" in row:
        click.echo(f"  replayed {utc(row['replayed_at'])} by {shown(row['replayed_by'])}")
    if row["cut"]:
        click.echo(f"  cut: it had {shown(letter.record.text('dlq_cut'))} bytes")
    for name, value in headers.items():
        click.echo(f"  header {shown(name)}: {shown(value)}")
    click.echo(
        f"  body, {len(body):,} bytes" + (f" (the first {longest:,})" if len(part) < len(body) else "")
    )
    for line in part.decode("utf-8", "backslashreplace").splitlines():
        click.echo("  | " + shown(line))
    click.echo()


def shown(text: str) -> str:
    """What came from outside, for a terminal: all that is not printable (controls, changes of direction) as its
    escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
