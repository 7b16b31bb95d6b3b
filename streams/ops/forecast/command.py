"""``mailsluice forecast``: when a campaign will have left, lane by lane, and what holds it up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from agents.shape.explain import rate_text
from agents.shape.rules import Settings as Policy
from schemas.campaign import Campaign
from schemas.faults import Faulty
from schemas.lanes import LANES
from schemas.send import Send
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run, utc
from streams.ops.campaign import campaigns
from streams.ops.campaign_file import BadCampaign, read_campaign
from streams.ops.forecast.inputs import Situation, situation
from streams.ops.forecast.lane import Lane
from streams.ops.forecast.model import LaneForecast, forecast
from streams.ops.forecast.rates import Rates
from streams.ops.recipients import BadFile, read_rows
from streams.ops.warmup import policy_in_force
from streams.settings import Settings

DAY = 86400.0
HORIZON = 60 * DAY
MOST_LANES = 200
"""Lanes that are run forward. Small sites of which shape knows nothing differ only in how much they get."""


@click.command("forecast")
@click.argument("campaign")
@click.option("--tenant", default="default", show_default=True, help="Whose campaign it is.")
@click.option(
    "--recipients", metavar="FILE.csv", help="Before sending: who will get it, as for `mailsluice send`."
)
@at_broker
@as_json
def command(
    campaign: str, tenant: str, recipients: str | None, broker: str | None, prefix: str | None, as_json: bool
) -> None:
    """When CAMPAIGN will have left, for each provider, and what holds it up for the longest time.

    CAMPAIGN is an id on mail-campaigns, or before sending a campaign file (.toml) with --recipients, whose domains
    are looked up. Counted is what waits now in lanes, on the ladder and on its way there, that of other campaigns in
    the same lanes too; how fast it goes by what `mailsluice lanes` and `mailsluice warmup status` say, with the law
    of production run forward: warm-up by the day and by the hour, the limit over all providers, gates, suspensions;
    spread, quiet hours and the canary by the mails' due times.

    "finish": rates grow as the law lets them, up to what a provider has shown as its ceiling. "at the latest": they
    stay as they are. Forecast are first attempts: mail that is deferred comes again, and no pushing back is foreseen.

    \b
    Example: mailsluice forecast spring
             mailsluice forecast spring.toml --recipients customers.csv --json
    Exit code: 0; 1 no such campaign, no broker, or mail that would expire before; 2 wrong usage, settings or file.
    """
    settings = asked(broker, prefix)
    policy = policy_in_force(settings)
    now = time.time()
    file = _from_file(campaign) if campaign.endswith(".toml") else None
    if file is not None and recipients is None:
        raise click.UsageError(f"{campaign} is not sent yet: say to whom with --recipients FILE.csv")
    found = run(settings, _read(settings, file, campaign, tenant, recipients, now))
    end = min(found.expires or now + HORIZON, now + HORIZON)
    few, rest = _modelled(found)
    lanes = [_forecast(found, few, policy, now, end, grow) for grow in (True, False)]
    if rest:
        lanes = [[*some, _like(some, rest)] for some in lanes]
    told = _told(found, lanes[0], lanes[1], now, end)
    if as_json:
        echo_json(told)
    else:
        _show(told)
    raise SystemExit(1 if told["left_at_end"] else 0)


async def _read(
    settings: Settings, file: Campaign | None, name: str, tenant: str, recipients: str | None, now: float
) -> Situation:
    ours = file or (await campaigns(settings)).get(f"{tenant}/{name}")
    if ours is None:
        raise click.ClickException(
            f"no campaign {name!r} of tenant {tenant!r} on mail-campaigns: see `mailsluice campaign list`, or name a "
            "campaign file (.toml)"
        )
    rows = _rows(recipients, ours) if recipients is not None else ()
    return await situation(settings, ours, now, rows)


def _modelled(found: Situation) -> tuple[list[Lane], list[Lane]]:
    """The lanes to run forward, and the smallest ones beyond MOST_LANES: sites that nothing is known of."""
    known = {policy.provider for policy in found.policies} | set(LANES)
    order = sorted(found.lanes, key=lambda lane: (lane.provider not in known, -lane.ours(), lane.provider))
    return order[:MOST_LANES], order[MOST_LANES:]


def _like(some: list[LaneForecast], rest: list[Lane]) -> LaneForecast:
    """Of the sites that are not run forward: none takes longer than the smallest that is, which gets as much or more."""
    last = some[-1]
    return replace(
        last, provider=f"({len(rest):,} more sites)", waiting=round(sum(lane.ours() for lane in rest)),
        others=round(sum(lane.others() for lane in rest)), rate=0.0, left=last.left and round(sum(lane.ours() for lane in rest)),
    )  # fmt: skip


def _forecast(
    found: Situation, lanes: list[Lane], policy: Policy, now: float, end: float, grow: bool
) -> list[LaneForecast]:
    rates = Rates(policy, found.policies, now, found.author, grow)
    return forecast(lanes, rates, found.dkim, now, end, found.held)


def _from_file(path: str) -> Campaign:
    try:
        return read_campaign(Path(path))
    except (BadCampaign, Faulty) as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None


def _rows(path: str, ours: Campaign) -> Iterator[Send]:
    """The recipients of a file; rows that are none are told."""
    bad = 0
    try:
        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as source:
            for row in read_rows(source, ours):
                if row.send is not None:
                    yield row.send
                    continue
                bad += 1
                if bad <= 5:
                    click.echo(f"{path}:{row.line}: {clean(row.why, 200)}", err=True)
    except BadFile as error:
        raise click.ClickException(f"{path}: {error}") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None
    if bad:
        click.echo(f"{path}: {bad:,} rows are no recipients and are left out", err=True)


def _told(
    found: Situation, lanes: list[LaneForecast], late: list[LaneForecast], now: float, end: float
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for one, other in zip(lanes, late, strict=True):
        rows.append({
            "provider": one.provider, "waiting": one.waiting, "others_waiting": one.others, "rate": round(one.rate, 4),
            "finish": utc(one.finish) if one.finish else None, "latest": utc(other.finish) if other.finish else None,
            "seconds": round(one.finish - now, 1) if one.finish else None,
            "latest_seconds": round(other.finish - now, 1) if other.finish else None,
            "left_at_end": one.left, "why": one.why,
        })  # fmt: skip
    rows.sort(key=lambda row: (row["seconds"] is not None, -(row["seconds"] or 0.0), row["provider"]))
    done = all(one.finish for one in lanes)
    gate = found.gate
    return {
        "campaign": f"{found.campaign.tenant}/{found.campaign.id}",
        "state": found.campaign.state,
        "now": utc(now),
        "waiting": sum(one.waiting for one in lanes),
        "sent": {}
        if gate is None
        else {n: getattr(gate, n) for n in ("attempts", "delivered", "deferred", "bounced")},
        "finish": utc(max((one.finish for one in lanes), default=now)) if done else None,
        "latest": utc(max((one.finish for one in late), default=now))
        if all(one.finish for one in late)
        else None,
        "end": utc(end),
        "left_at_end": sum(one.left for one in lanes),
        "notes": found.notes,
        "lanes": rows,
    }


def _show(told: dict[str, Any]) -> None:
    screen = console()
    screen.print(
        Text(
            f"campaign {clean(told['campaign'])}, {told['now']}: {told['waiting']:,} mails are to go",
            style="bold",
        )
    )
    if told["sent"]:
        counts = ", ".join(f"{count:,} {name}" for name, count in told["sent"].items())
        screen.print(Text(f"so far: {counts}"))
    for note in told["notes"]:
        screen.print(Text(clean(note), style="yellow"), soft_wrap=True)
    if not told["lanes"]:
        screen.print("nothing of it waits")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("provider", "to go", "others there", "now", "finish", "at the latest", "what holds it up"):
        table.add_column(
            head, justify="right" if head in ("to go", "others there", "now") else "left", overflow="fold"
        )
    for row in told["lanes"]:
        missed = f"not before {told['end']}"
        table.add_row(
            Text(clean(row["provider"])), f"{row['waiting']:,}", f"{row['others_waiting']:,}",
            rate_text(row["rate"]) if row["rate"] else "-", Text(row["finish"] or missed, style="" if row["finish"] else "red"),
            row["latest"] or missed, Text(clean(row["why"])),
        )  # fmt: skip
    screen.print(table)
    if told["finish"]:
        screen.print(
            Text(
                f"all of it: {told['finish']}, at the latest {told['latest'] or 'not before ' + told['end']}",
                style="bold",
            )
        )
    else:
        text = f"{told['left_at_end']:,} mails would still be there at {told['end']}, when the last of them expires"
        screen.print(Text(text, style="bold red"))
