"""``mailsluice queue``: what waits, and bringing it forward, ending it or moving it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from schemas.codec import Malformed, Record
from schemas.hold import Command
from schemas.lanes import lane_names
from streams.admin import check
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.campaign import reasons
from streams.ops.queue_scan import (
    Act,
    Selection,
    audited,
    end,
    facts,
    move,
    on_ladder,
    retry_now,
    scan,
    waiting_from,
)
from streams.ops.read import read_to_end
from streams.settings import Settings

WAYS = ("campaign", "tenant", "domain", "provider", "source")
BEFORE = ("screen", "render", "sign")
"""Stages before the lanes: ``list`` counts what is still on its way to them."""


@dataclass(slots=True)
class Row:
    """What waits of one campaign, domain …; times are Unix seconds, 0 = none."""

    name: str
    lane: int = 0
    ladder: int = 0
    held: int = 0
    on_its_way: int = 0
    oldest: float = 0.0
    next_due: float = 0.0

    @property
    def total(self) -> int:
        """Mails in all."""
        return self.lane + self.ladder + self.held + self.on_its_way


@dataclass(slots=True)
class Queue:
    """Sums what waits, record by record: no body and no address is kept, only a hash for each mail, because a
    copy that was brought forward is the same mail."""

    by: str
    rows: dict[str, Row] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def take(self, record: Record) -> None:
        """Count one record."""
        name = hash(record.text("id"))
        if name in self.seen:
            return
        self.seen.add(name)
        key = self._key(record)
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = Row(key)
        if on_ladder(record):
            if "held" in record.headers:
                row.held += 1
            else:
                row.ladder += 1
                due = _time(record, "due")
                row.next_due = min(row.next_due or due, due)
        elif record.topic.startswith("mail-lane-"):
            row.lane += 1
        else:
            row.on_its_way += 1
        received = _time(record, "received")
        if received:
            row.oldest = min(row.oldest or received, received)

    def _key(self, record: Record) -> str:
        if self.by == "campaign":
            return f"{record.text('tenant', 'default')}/{record.text('campaign')}"
        if self.by == "domain":
            return record.text("to").rpartition("@")[2]
        if self.by == "provider":
            return record.text("provider") or record.text("lane")
        return record.text("tried") if self.by == "source" else record.text("tenant", "default")


def _time(record: Record, name: str) -> float:
    try:
        return record.number(name)
    except Malformed:
        return 0.0


async def read_queue(settings: Settings, selection: Selection, by: str) -> Queue:
    """Everything that waits and is selected."""
    topology = await check(settings)
    found = Queue(by)
    # Lanes before the ladder: of a mail and its copy the one further on counts.
    for stages in (("deliver",), ("wait",), BEFORE):
        starts = await waiting_from(settings, topology.partitions, stages)
        async for record in read_to_end(settings, list(starts), starts):
            if selection.matches(record):
                found.take(record)
    return found


async def change(
    settings: Settings, what: str, selection: Selection, more: dict[str, str], act: Act, stages: Iterable[str],
    who: str, why: str,
) -> dict[str, int]:  # fmt: skip
    """Scan what these stages have before them, and do ``act``; on record."""
    topology = await check(settings)
    command = Command(what=f"queue {what}", on=selection.as_dict() | more, who=who, why=why, time=time.time())
    async with audited(settings, command) as (producer, counts):
        starts = await waiting_from(settings, topology.partitions, stages)
        counts |= (await scan(settings, producer, starts, selection, act)).as_counts()
    return counts


async def read_commands(settings: Settings) -> list[Command]:
    """Every command on record, oldest first."""
    found: dict[bytes, Command] = {}
    async for command in facts(settings, Command):
        found[command.key] = command
    return sorted(found.values(), key=lambda command: command.time)


# -- the commands


def selecting(function: Any) -> Any:
    """The options that select mail."""
    for name, text in (
        ("source", "Last tried from this source."),
        ("provider", "Mail for this provider, or on this lane."),
        ("domain", "Mail for this domain."),
        ("tenant", "Mail of this tenant."),
        ("campaign", "Mail of this campaign."),
    ):
        function = click.option(f"--{name}", default="", help=text)(function)
    return function


def _selection(chosen: dict[str, str]) -> Selection:
    found = Selection(**{name: chosen.pop(name) for name in WAYS})
    if not found.as_dict():
        raise click.UsageError("say which mail: " + ", ".join(f"--{way}" for way in WAYS))
    return found


@click.group()
def queue() -> None:
    """What waits in lanes and on the ladder; bring it forward, end it, or move it.

    A mail is found by campaign, tenant, domain, provider or source. Nothing is lost by any of these: what
    goes on is a copy with the same attempt, whose original is a repeat when it wakes; what ends goes to its
    lane as a verdict, and deliver alone ends it.

    \b
    Example: mailsluice queue list --by provider
    """


@queue.command("list")
@selecting
@click.option(
    "--by", type=click.Choice(WAYS), default="campaign", show_default=True, help="One row for each."
)
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1), help="Rows at most, fullest first."
)
@at_broker
@as_json
def list_queue(
    by: str, limit: int, broker: str | None, prefix: str | None, as_json: bool, **chosen: str
) -> None:
    """Count what waits: in lanes, on the ladder (for its time, or held by a pause), or on its way there.

    \b
    Example: mailsluice queue list --provider google --by campaign
    """
    settings = asked(broker, prefix)
    found = run(settings, read_queue(settings, Selection(**chosen), by))
    rows = sorted(found.rows.values(), key=lambda row: (-row.total, row.name))
    if as_json:
        echo_json(
            {
                "mails": len(found.seen),
                "rows": [_row(row) for row in rows[:limit]],
                "left_out": max(0, len(rows) - limit),
            }
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (by, "on its way", "in lane", "on ladder", "held", "oldest", "next due"):
        table.add_column(name, no_wrap=True, justify="left" if name == by else "right")
    for row in rows[:limit]:
        counts = (f"{n:,}" for n in (row.on_its_way, row.lane, row.ladder, row.held))
        table.add_row(
            Text(clean(row.name or "-")), *counts, *(utc(t) if t else "-" for t in (row.oldest, row.next_due))
        )
    console().print(table)
    click.echo(
        f"{len(found.seen):,} mails"
        + (f"; {len(rows) - limit} rows left out (--limit)" if len(rows) > limit else "")
    )


def _row(row: Row) -> dict[str, Any]:
    names = ("name", "on_its_way", "lane", "ladder", "held", "oldest", "next_due")
    return {name: getattr(row, name) for name in names} | {"total": row.total}


def _told(what: str, counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        echo_json(counts)
    else:
        click.echo(f"{counts['copied']:,} mails {what} ({counts['seen']:,} records looked at)")


@queue.command("retry-now")
@selecting
@click.option("--scheduled", is_flag=True, help="Also what waits for its campaign's schedule.")
@reasons
@at_broker
@as_json
def retry(
    scheduled: bool, why: str, who: str, broker: str | None, prefix: str | None, as_json: bool, **chosen: str
) -> None:
    """What waits on the ladder goes on now, as fast as its lane allows.

    \b
    Example: mailsluice queue retry-now --domain example.org --why "they are up again"
    """
    settings, selection = asked(broker, prefix), _selection(chosen)
    more = {"scheduled": "yes"} if scheduled else {}
    act = retry_now(scheduled)
    counts = run(settings, change(settings, "retry-now", selection, more, act, ["wait"], who, why))
    _told("go on now", counts, as_json)


@queue.command("expire")
@selecting
@reasons
@at_broker
@as_json
def expire(why: str, who: str, broker: str | None, prefix: str | None, as_json: bool, **chosen: str) -> None:
    """What waits, in lanes too, ends as expired; a mail that is being sent just then may still arrive.

    \b
    Example: mailsluice queue expire --campaign flash-sale --why "the sale is over"
    """
    settings, selection = asked(broker, prefix), _selection(chosen)
    act = end("expired", "by_operator", why)
    counts = run(settings, change(settings, "expire", selection, {}, act, ["wait", "deliver"], who, why))
    _told("end as expired", counts, as_json)


@queue.command("move")
@selecting
@click.option("--to-lane", default="", help="Go on in this lane's topic.")
@click.option("--to-sources", default="", metavar="NAME[,NAME]", help="Leave by these sources alone.")
@reasons
@at_broker
@as_json
def move_command(
    to_lane: str, to_sources: str, why: str, who: str, broker: str | None, prefix: str | None, as_json: bool,
    **chosen: str,
) -> None:  # fmt: skip
    """What waits goes on now in another lane's topic, or from other sources.

    All lanes are partitioned by recipient: a mail stays with its worker, and gate two knows it. A worker that
    has none of the sources uses its own, so that no mail is stuck.

    \b
    Example: mailsluice queue move --source 192.0.2.10 --to-sources 192.0.2.11,192.0.2.12 --why "listed"
    """
    settings, selection = asked(broker, prefix), _selection(chosen)
    if not (to_lane or to_sources):
        raise click.UsageError("say where to: --to-lane or --to-sources")
    if to_lane and to_lane not in lane_names():
        raise click.UsageError(f"no lane {to_lane!r}: {', '.join(lane_names())}")
    sources = ",".join(part.strip() for part in to_sources.split(",") if part.strip())
    more = {name: value for name, value in (("to_lane", to_lane), ("to_sources", sources)) if value}
    act = move(to_lane, sources)
    counts = run(settings, change(settings, "move", selection, more, act, ["wait", "deliver"], who, why))
    _told("move", counts, as_json)


@queue.command("log")
@at_broker
@as_json
def log(broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Who steered what, why and when: every command of `queue`, `campaign`, `tenant`, `lane` and `source`.

    \b
    Example: mailsluice queue log --json
    """
    settings = asked(broker, prefix)
    found = run(settings, read_commands(settings))
    if as_json:
        echo_json([msgspec.to_builtins(command) for command in found])
        return
    for command in found:
        on = " ".join(f"{name}={value}" for name, value in command.on.items())
        state = (
            ", ".join(f"{n:,} {name}" for name, n in command.counts.items())
            if command.done
            else "not finished"
        )
        tail = f" ({state})" if state else ""
        click.echo(
            clean(f"{utc(command.time)}  {command.who}  {command.what} {on}: {command.why}{tail}", 500)
        )
