"""``mailsluice lanes``: how fast each source may feed each provider, and why; read from mail-lane-policy."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.shape.explain import explain, explain_policy, left, named, rate_text
from schemas.codec import Malformed, Record, decode
from schemas.lane_policy import ALL, Decision, LanePolicy, Leader, Lease
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.read import read_to_end
from streams.settings import Settings

TOPIC = "mail-lane-policy"
EVERY = 2.0
"""Seconds between two looks of ``--watch``."""
Name = tuple[str, str, str]
"""kind, name, provider."""


@dataclass
class Policies:
    """What mail-lane-policy says now. ``decisions`` are in time order."""

    limits: dict[Name, LanePolicy] = field(default_factory=dict)
    leases: dict[tuple[str, Name], Lease] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    leader: str = ""

    def take(self, record: Record) -> None:
        """One record; what cannot be read is passed over."""
        try:
            fact = decode(record, "lane_policy")
        except Malformed:
            return
        if isinstance(fact, Leader):
            self.leader = fact.worker
            return
        if not isinstance(fact, LanePolicy | Lease | Decision):
            return
        name = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, LanePolicy):
            self.limits[name] = fact
        elif isinstance(fact, Lease):
            self.leases[(fact.worker, name)] = fact
        else:
            self.decisions.append(fact)

    def lent(self, name: Name, now: float) -> tuple[int, float]:
        """How many workers hold a lease on a limit, and how many messages/s they share."""
        held = [
            lease
            for (_, of), lease in self.leases.items()
            if of == name and now < lease.time + lease.duration and lease.rate > 0
        ]
        return len(held), sum(lease.rate for lease in held)

    def last(self, name: Name) -> Decision | None:
        """The last decision on a limit."""
        return next((d for d in reversed(self.decisions) if (d.kind, d.name, d.provider) == name), None)


async def read_policies(settings: Settings) -> Policies:
    """Everything that shape has published."""
    found = Policies()
    async for record in read_to_end(settings, [(TOPIC, 0)]):
        if record.value:
            found.take(record)
    found.decisions.sort(key=lambda decision: decision.time)
    return found


def rows(found: Policies, now: float) -> list[dict[str, Any]]:
    """One row a limit, by provider and name, sources before DKIM domains."""
    listed = []
    for name, policy in sorted(
        found.limits.items(), key=lambda item: (item[0][2], item[0][0] != "source", item[0][1])
    ):
        workers, lent = found.lent(name, now)
        last = found.last(name)
        listed.append(
            {
                "provider": policy.provider,
                "kind": policy.kind,
                "name": policy.name,
                "rate": round(policy.rate, 4),
                "minimum": policy.minimum,
                "connections": policy.connections,
                "per_connection": policy.per_connection,
                "suspended_seconds": max(0, round(policy.suspended_until - now)),
                "suspended_until": policy.suspended_until,
                "workers": workers,
                "lent": round(lent, 4),
                "plan": policy.plan,
                "day": policy.step + 1 if policy.plan else 0,
                "left_today": left(policy, now)[0],
                "left_in_span": left(policy, now)[1],
                "engaged_only": policy.engaged_only,
                "reason": policy.reason,
                "changed": policy.time,
                "last": None if last is None else msgspec.to_builtins(last),
            }
        )
    return listed


@click.group(invoke_without_command=True)
@at_broker
@as_json
@click.option("--watch", is_flag=True, help=f"Look again every {EVERY:.0f} s until Ctrl-C.")
@click.pass_context
def lanes(ctx: click.Context, broker: str | None, prefix: str | None, as_json: bool, watch: bool) -> None:
    """How fast each source (and DKIM domain) may feed each provider, and why.

    What shape has published on mail-lane-policy: the limit, how much of it is lent to workers now, and
    the reason of its last change. `lanes explain` gives the whole history of one.

    \b
    Example: mailsluice lanes --watch
             mailsluice lanes explain 192.0.2.10 google
    Exit code: 0; 1 no broker or no topics; 2 wrong usage or settings.
    """
    settings = ctx.obj = asked(broker, prefix)
    if ctx.invoked_subcommand is not None:
        return
    if not watch:
        _print(run(settings, read_policies(settings)), as_json, console())
        return
    try:
        _watch(settings, as_json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _watch(settings: Settings, as_json: bool) -> None:
    screen = console()
    with (
        Live(console=screen, auto_refresh=False, screen=False)
        if screen.is_terminal and not as_json
        else _Plain() as live
    ):
        while True:
            found = run(settings, read_policies(settings))
            if isinstance(live, Live):
                live.update(table(rows(found, time.time()), screen.width), refresh=True)
            else:
                _print(found, as_json, screen)
            time.sleep(EVERY)


class _Plain:
    """In the place of Live where there is no terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _print(found: Policies, as_json: bool, screen: Console) -> None:
    listed = rows(found, time.time())
    if as_json:
        echo_json(listed)
    elif listed:
        screen.print(table(listed, screen.width))
    else:
        click.echo(
            "shape has published no limit yet: every lane is fed at its floor (MAILSLUICE_DELIVER_RATE)"
        )


def table(listed: Iterable[dict[str, Any]], width: int = 200) -> Table:
    """The rows for people; below 110 columns without reason and time."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("provider", "limit of", "limit", "lent", "workers", "conns"):
        found.add_column(name, no_wrap=True, justify="left" if name in ("provider", "limit of") else "right")
    wide = width >= 110
    if wide:
        found.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
        found.add_column("since", no_wrap=True)
    for row in listed:
        away = row["suspended_seconds"]
        cells: list[Text | str] = [
            Text(clean(row["provider"])),
            Text(clean(named(row["kind"], row["name"]))),
            Text(f"off {away} s", style="bold red") if away else Text(rate_text(row["rate"])),
            rate_text(row["lent"]) if row["lent"] else "-",
            str(row["workers"]),
            str(row["connections"]),
        ]
        if wide:
            cells += [Text(clean(row["reason"])), utc(row["changed"]) if row["changed"] else ""]
        found.add_row(*cells)
    return found


@lanes.command("explain")
@click.argument("source")
@click.argument("provider")
@click.option("--newest", default=20, show_default=True, type=click.IntRange(1), help="How many decisions.")
@as_json
@click.pass_obj
def explain_lane(settings: Settings, source: str, provider: str, newest: int, as_json: bool) -> None:
    """Why a limit is what it is: each decision with its time, its reason and the reply that caused it.

    SOURCE is a sending address (or `default`), or a DKIM domain; PROVIDER as in `mailsluice lanes`.

    \b
    Example: mailsluice lanes explain 192.0.2.10 google
    Exit code: 0; 1 nothing is known of that lane, or no broker; 2 wrong usage or settings.
    """
    found = run(settings, read_policies(settings))
    mine = {name: p for name, p in found.limits.items() if name[1:] == (source, provider)}
    if mine:  # in warm-up there is a limit over all providers too
        mine |= {name: p for name, p in found.limits.items() if name[1:] == (source, ALL) and p.spent}
    decisions = [d for d in found.decisions if (d.name, d.provider) == (source, provider)]
    if not mine and not decisions:
        known = ", ".join(sorted({f"{name} {to}" for _, name, to in found.limits})) or "none yet"
        raise click.ClickException(
            f"nothing is known of {source} to {provider}; known lanes: {clean(known, 500)}"
        )
    if as_json:
        now = time.time()
        limits = [
            msgspec.to_builtins(policy)
            | {"left_today": left(policy, now)[0], "left_in_span": left(policy, now)[1]}
            | dict(zip(("workers", "lent"), found.lent(name, now), strict=True))
            for name, policy in mine.items()
        ]
        echo_json({"limits": limits, "decisions": [msgspec.to_builtins(x) for x in decisions[-newest:]]})
        return
    now = time.time()
    for policy in mine.values():
        click.echo(explain_policy(policy, now))
    for line in explain(decisions, newest):
        click.echo(line)
