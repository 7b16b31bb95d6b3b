"""``mailsluice warmup``: the plans, where each source and DKIM domain stands, and an operator's word on it."""

from __future__ import annotations

import getpass
import ipaddress
import time
from collections.abc import Mapping
from typing import Any, Literal

import click
from rich.table import Table
from rich.text import Text

from agents.shape.explain import budget_text, left, named
from agents.shape.rules import BadPolicy
from agents.shape.rules import Settings as Policy
from schemas.codec import encode, header_list, name_of
from schemas.lane_policy import ALL, LaneOrder
from streams.broker import make_producer, started, stopped
from streams.operators import policy_of
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run
from streams.ops.lanes import TOPIC, Policies, read_policies
from streams.settings import Settings

ORDERS = {
    "warm": "known to the provider already: no plan, the law alone",
    "day": "day N of its plan (--day N)",
    "restart": "the first day of its plan",
    "engaged-only": "only contacts that clicked lately, --per-day messages at most",
    "lift": "no gate and no freeze; growth from where it stands",
}


@click.group()
def warmup() -> None:
    """Warm-up of new addresses and DKIM domains: the plans, where each stands, and your word on it.

    \b
    Example: mailsluice warmup status
             mailsluice warmup set 192.0.2.10 google warm --why "sent there for years"
    Exit code: 0; 1 no broker, no topics or nothing known; 2 wrong usage or settings.
    """


@warmup.command("plan")
@click.argument("name", required=False)
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 200), help="How many days.")
@as_json
def plan_of(name: str | None, days: int, as_json: bool) -> None:
    """The warm-up plans of the shaping policy in force here: messages a day and in any hour, day by day.

    \b
    Example: mailsluice warmup plan conservative --days 21
    Exit code: 0; 2 no such plan, or wrong settings or policy.
    """
    plans = policy_in_force(asked()).plans
    if name is not None and name not in plans:
        raise click.UsageError(f"no plan {name!r}; there are {', '.join(plans) or 'none'}")
    listed = [
        {"plan": known, "day": day + 1, "per_day": plan.daily(day), "per_hour": plan.an_hour(day)}
        for known, plan in plans.items()
        if name in (None, known)
        for day in range(days)
    ]
    if as_json:
        echo_json(listed)
        return
    for row in listed:
        click.echo(
            f"{row['plan']:<14} day {row['day']:>3}  {row['per_day']:>10,} a day  {row['per_hour']:>9,} an hour"
        )


def policy_in_force(settings: Settings) -> Policy:
    """The shaping policy of these settings. Raises UsageError."""
    try:
        return policy_of(settings)
    except BadPolicy as error:
        raise click.UsageError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the shaping policy cannot be read: {error}") from None


@warmup.command("status")
@at_broker
@as_json
def status(broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Every source and DKIM domain that is in warm-up or behind a gate: its day, and what is left of it.

    What is left is as shape has last written it down: a little less than what is left in truth.

    \b
    Example: mailsluice warmup status --json
    Exit code: 0; 1 no broker or no topics; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    found = run(settings, read_policies(settings))
    listed = rows(found, time.time())
    if as_json:
        echo_json(listed)
    elif not listed:
        click.echo("nothing is in warm-up, and no gate is closed")
    else:
        console().print(_table(listed))


def rows(found: Policies, now: float) -> list[dict[str, Any]]:
    """One row for each limit that is counted, by name and provider; those over all providers last."""
    listed = []
    counted = [policy for policy in found.limits.values() if policy.spent is not None]
    kinds = ("source", "dkim", "from")
    for policy in sorted(counted, key=lambda p: (kinds.index(p.kind), p.name, p.provider == ALL, p.provider)):
        day, lately = left(policy, now)
        assert policy.spent is not None
        listed.append(
            {
                "kind": policy.kind,
                "name": policy.name,
                "provider": policy.provider,
                "plan": policy.plan,
                "day": policy.step + 1 if policy.plan else 0,
                "per_day": policy.spent.per_day,
                "per_span": policy.spent.per_span,
                "span_seconds": policy.spent.span,
                "left_today": day,
                "left_in_span": lately,
                "engaged_only": policy.engaged_only,
                "good_days": policy.good_days,
                "frozen_until": policy.frozen_until,
                "budget": budget_text(policy, now),
                "reason": policy.reason,
            }
        )
    return listed


def _table(listed: list[dict[str, Any]]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("of", "provider", "plan", "budget"):
        found.add_column(name, no_wrap=True)
    found.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in listed:
        plan = f"day {row['day']} of {row['plan']}" if row["plan"] else "-"
        if row["engaged_only"]:
            plan = "engaged only"
        found.add_row(
            Text(clean(named(row["kind"], row["name"]))),
            Text("all together" if row["provider"] == ALL else clean(row["provider"])),
            Text(clean(plan)),
            row["budget"],
            Text(clean(row["reason"])),
        )
    return found


@warmup.command("set")
@click.argument("name")
@click.argument("provider")
@click.argument("what", type=click.Choice(list(ORDERS)))
@click.option("--day", type=click.IntRange(1, 200), help="Which day of the plan (with `day`).")
@click.option(
    "--per-day", type=click.IntRange(1, 1_000_000_000), help="Messages a day (with `engaged-only`)."
)
@click.option("--plan", default="", help="Another plan than its own (with `day` and `restart`).")
@click.option("--why", required=True, help="The reason, for the books.")
@click.option("--by", default="", help="Who orders it; your user name if left out.")
@at_broker
def set_limit(
    name: str,
    provider: str,
    what: str,
    day: int | None,
    per_day: int | None,
    plan: str,
    why: str,
    by: str,
    broker: str | None,
    prefix: str | None,
) -> None:
    """Order what shape shall think of NAME (a source's address, `default`, or a DKIM domain) at PROVIDER.

    \b
    warm          known to the provider already: no plan, the law alone
    day           day --day N of its plan
    restart       the first day of its plan
    engaged-only  only contacts that clicked lately, --per-day messages at most
    lift          no gate and no freeze; growth from where it stands

    The order is a record on mail-lane-policy; shape follows it within a second or so, once, and writes a decision
    with who and why (`mailsluice lanes explain`). Without shape it waits there for the next one.

    \b
    Example: mailsluice warmup set news.example.com google day --day 6 --why "moved: 1,000 a day before"
    Exit code: 0 written; 1 no broker or no topics; 2 wrong usage or settings.
    """
    if (what == "day") != (day is not None):
        raise click.UsageError("--day belongs to `day`, and `day` needs it")
    if (what == "engaged-only") != (per_day is not None):
        raise click.UsageError("--per-day belongs to `engaged-only`, which needs it")
    if plan and what not in ("day", "restart"):
        raise click.UsageError("--plan belongs to `day` and `restart`")
    check_names({"NAME": name, "PROVIDER": provider}, {"--why": why, "--by": by})
    settings = asked(broker, prefix)
    order = LaneOrder(
        kind=kind_of(name),
        name=name,
        provider=provider,
        what=what.replace("-", "_"),  # type: ignore[arg-type]  # the choices are those of the record
        value=day or per_day or 0,
        plan=plan,
        who=by or getpass.getuser(),
        why=why,
        time=round(time.time(), 3),
    )
    run(settings, written(settings, order))
    click.echo(f"ordered: {clean(name)} at {clean(provider)}: {ORDERS[what]}")


def check_names(names: Mapping[str, str], words: Mapping[str, str] | None = None) -> None:
    """Raises UsageError for what no record can hold: ``names`` stand in keys, ``words`` beside them."""
    for label, text in {**names, **(words or {})}.items():
        if len(text) > 255 or not text.isprintable() or (label in names and "|" in text):
            raise click.UsageError(f"{label}: at most 255 printable characters, no |")


def kind_of(name: str) -> Literal["source", "dkim"]:
    """A source is an address or ``default``; everything else is a DKIM domain."""
    if name == "default":
        return "source"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "dkim"
    return "source"


async def written(settings: Settings, order: LaneOrder) -> None:
    """Write an order; returns when the broker has it."""
    kind, version = name_of(type(order))
    producer = make_producer(settings)
    await started(producer)
    try:
        await producer.send_and_wait(
            settings.topic(TOPIC),
            encode(order),
            key=order.key,
            partition=0,
            headers=header_list({"type": kind.encode(), "version": str(version).encode()}),
        )
    finally:
        await stopped(producer)
