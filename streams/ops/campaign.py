"""``mailsluice campaign | tenant | lane | source``: pause, resume and cancel what is on its way."""

from __future__ import annotations

import asyncio
import getpass
import socket
import time
from typing import Any, cast

import click
from msgspec.structs import replace

from schemas.campaign import Campaign
from schemas.campaign_gate import CampaignGate
from schemas.codec import Malformed, decode, encode
from schemas.hold import Command, HeldKind, HeldState, Hold
from streams.admin import check
from streams.ops.ask import as_json, asked, at_broker, clean, echo_json, run, utc
from streams.ops.queue_scan import (
    SETTLE,
    Act,
    Selection,
    audited,
    end,
    fact,
    facts,
    put,
    release,
    resume,
    scan,
    waiting_from,
)
from streams.ops.read import read_to_end
from streams.settings import Settings

STATES = {"pause": "paused", "resume": "active", "cancel": "cancelled"}
RELEASE = "release"


class Refusal(click.ClickException):
    """The command makes no sense for what it was given."""


def who_am_i() -> str:
    """The operator's name for the audit, where ``--who`` gives none."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def reasons(function: Any) -> Any:
    """The options ``--why`` and ``--who``."""
    function = click.option("--who", default=who_am_i, help="For the audit; default user@machine.")(function)
    return click.option("--why", required=True, help="For the audit: one sentence.")(function)


# -- campaigns


async def campaigns(settings: Settings) -> dict[str, Campaign]:
    """tenant/id -> campaign, as they are published now. What cannot be read is left out."""
    found: dict[str, Campaign] = {}
    async for record in read_to_end(settings, [("mail-campaigns", 0)]):
        if not record.value:
            found.pop((record.key or b"").decode("utf-8", "replace"), None)
            continue
        try:
            campaign = decode(record, "campaign")
        except Malformed:
            continue
        if isinstance(campaign, Campaign):
            found[campaign.key.decode()] = campaign
    return found


async def change_campaign(
    settings: Settings, do: str, id: str, tenant: str, who: str, why: str
) -> dict[str, int]:
    """Publish the campaign with its new state; then bring its waiting mail to where it goes on (resume) or
    ends (cancel). Raises Refusal for an unknown or cancelled campaign."""
    topology = await check(settings)
    known = (await campaigns(settings)).get(f"{tenant}/{id}")
    if known is None:
        raise Refusal(f"no campaign {id!r} of tenant {tenant!r} on mail-campaigns (see `campaign list`)")
    if known.state == "cancelled" and do != "cancel":
        raise Refusal(f"campaign {id!r} was cancelled: its mail has ended; publish a new one")
    if do == RELEASE and not (known.rest_waits and known.state == "active"):
        raise Refusal(_nothing_to_release(known))
    selection = Selection(campaign=id, tenant=tenant)
    command = Command(what=f"campaign {do}", on=selection.as_dict(), who=who, why=why, time=time.time())
    async with audited(settings, command) as (producer, counts):
        changed = replace(known, state=cast(Any, STATES.get(do, known.state)))
        canary = known.canary
        rest = canary is not None and (do == RELEASE or (do == "resume" and canary.state == "failed"))
        if canary is not None and rest:
            # Its recipients have had their mail: there is nothing left to measure. The operator decides.
            changed = replace(changed, canary=replace(canary, state="passed"))
        await producer.send_and_wait(settings.topic("mail-campaigns"), encode(changed), key=changed.key)
        act = _follow_up(do, "campaign_cancelled", why, rest)
        if act:
            await asyncio.sleep(SETTLE)
            starts = await waiting_from(settings, topology.partitions, ["wait"])
            counts |= (await scan(settings, producer, starts, selection, act)).as_counts()
    return counts


async def paused_for(settings: Settings) -> dict[str, str]:
    """tenant/id -> why shape paused the campaign, of those that it did."""
    found: dict[str, str] = {}
    async for gate in facts(settings, CampaignGate):
        found[gate.name] = gate.reason if gate.state else ""
    return {name: why for name, why in found.items() if why}


async def _listed(settings: Settings) -> tuple[dict[str, Campaign], dict[str, str]]:
    return await campaigns(settings), await paused_for(settings)


def _nothing_to_release(known: Campaign) -> str:
    if known.canary is None:
        return f"campaign {known.id!r} has no canary: nothing of it waits for one"
    if known.canary.state == "passed":
        return f"the canary of campaign {known.id!r} has passed: its rest is on its way"
    return (
        f"campaign {known.id!r} is paused: `campaign resume` lets it go on, also the rest of a failed canary"
    )


def _follow_up(do: str, reason: str, why: str, rest: bool = False) -> Act | None:
    """``rest``: also what waits for the campaign's canary goes on, held already or not due yet."""
    if do == RELEASE:
        return release
    if do == "resume":
        return (lambda record: resume(record) or release(record)) if rest else resume
    # What lies in the lanes ends there at once; on the ladder it would only when it wakes.
    return end("cancelled", reason, why) if do == "cancel" else None


# -- tenants, lanes, sources


async def holds(settings: Settings) -> dict[tuple[str, str], Hold]:
    """The holds that stand: (kind, name) -> hold."""
    found: dict[tuple[str, str], Hold] = {}
    async for hold in facts(settings, Hold):
        if hold.state == "active":
            found.pop((hold.kind, hold.name), None)
        else:
            found[(hold.kind, hold.name)] = hold
    return found


async def change_hold(
    settings: Settings, kind: HeldKind, do: str, name: str, who: str, why: str
) -> dict[str, int]:
    """Publish the hold; then, as for campaigns, care for what waits on the ladder. A source holds no mail."""
    topology = await check(settings)
    now = time.time()
    command = Command(what=f"{kind} {do}", on={kind: name}, who=who, why=why, time=now)
    async with audited(settings, command) as (producer, counts):
        hold = Hold(kind=kind, name=name, state=cast(HeldState, STATES[do]), why=why, who=who, time=now)
        await (await put(settings, producer, fact(hold)))
        act = _follow_up(do, f"{kind}_{STATES[do]}", why)
        if act and kind != "source":
            await asyncio.sleep(SETTLE)
            starts = await waiting_from(settings, topology.partitions, ["wait"])
            selection = Selection(tenant=name) if kind == "tenant" else Selection(provider=name)
            counts |= (await scan(settings, producer, starts, selection, act)).as_counts()
    return counts


# -- the commands


def _tell(do: str, what: str, name: str, counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        echo_json({"what": what, "name": name, "state": STATES.get(do, "released"), **counts})
        return
    text = {"pause": "is paused", "resume": "goes on", "cancel": "is cancelled", RELEASE: "sends its rest"}[
        do
    ]
    moved = f"; {counts['copied']:,} mails on the ladder go on now" if "copied" in counts else ""
    if do == "cancel" and "copied" in counts:
        moved = f"; {counts['copied']:,} mails on the ladder end now"
    click.echo(f"{what} {name} {text} (workers follow within 2 s){moved}")


@click.group()
def campaign() -> None:
    """Pause, resume or cancel a campaign, wherever its mail is; send the rest that waits for its canary.

    Before MAIL every mail looks at its campaign: within 2 s of the command no more leaves. What meets a
    paused campaign waits on the ladder, without an attempt counted, until it expires; `resume` brings it
    back within a minute. `cancel` ends what is left as cancelled.

    \b
    Example: mailsluice campaign pause spring --why "wrong price"
    """


@campaign.command("list")
@at_broker
@as_json
def list_campaigns(broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Every campaign on mail-campaigns, its state, and why it stopped where its feedback did that.

    \b
    Example: mailsluice campaign list --json
    """
    settings = asked(broker, prefix)
    found, why = run(settings, _listed(settings))
    rows: list[dict[str, str]] = []
    for name, one in sorted(found.items()):
        row = {"id": one.id, "tenant": one.tenant, "stream": one.stream, "state": one.state}
        if one.canary is not None:
            row["canary"] = one.canary.state
        if one.state == "paused" and name in why:
            row["why"] = why[name]
        rows.append(row)
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        canary = f"  canary {row['canary']}" if "canary" in row else ""
        reason = f"  {row['why']}" if "why" in row else ""
        click.echo(
            clean(f"{row['state']:<10} {row['stream']:<14} {row['tenant']}/{row['id']}{canary}{reason}")
        )


def _campaign_command(do: str, text: str) -> None:
    @campaign.command(do, help=text)
    @click.argument("id")
    @click.option("--tenant", default="default", show_default=True)
    @reasons
    @at_broker
    @as_json
    def command(
        id: str, tenant: str, why: str, who: str, broker: str | None, prefix: str | None, as_json: bool
    ) -> None:
        settings = asked(broker, prefix)
        counts = run(settings, change_campaign(settings, do, id, tenant, who, why))
        _tell(do, "campaign", f"{tenant}/{id}", counts, as_json)


for _do, _text in (
    ("pause", "Nothing more of the campaign leaves from 2 s after this.\n\nExample: mailsluice campaign pause spring --why 'wrong price'"),
    ("resume", "Its mail goes on, also what stepped onto the ladder.\n\nExample: mailsluice campaign resume spring --why 'price is right'"),
    ("release", "The rest of it goes now, whatever its canary says.\n\nExample: mailsluice campaign release spring --why 'the canary is too small to tell'"),
    ("cancel", "What has not left ends as cancelled, for good.\n\nExample: mailsluice campaign cancel spring --why 'withdrawn'"),
):  # fmt: skip
    _campaign_command(_do, _text)


def _group(kind: HeldKind, text: str) -> click.Group:
    @click.group(kind, help=text)
    def group() -> None:
        pass

    @group.command("list")
    @at_broker
    @as_json
    def listed(broker: str | None, prefix: str | None, as_json: bool) -> None:
        settings = asked(broker, prefix)
        found = [hold for hold in run(settings, holds(settings)).values() if hold.kind == kind]
        if as_json:
            echo_json([{n: getattr(h, n) for n in ("name", "state", "why", "who", "time")} for h in found])
            return
        for hold in found:
            when = utc(hold.time) if hold.time else ""
            click.echo(clean(f"{hold.state:<10} {hold.name:<20} since {when} by {hold.who}: {hold.why}"))
        if not found:
            click.echo(f"no {kind} is held")

    listed.help = f"Every {kind} that is paused or cancelled, since when, by whom and why.\n\nExample: mailsluice {kind} list"
    for do in STATES:
        _held_command(group, kind, do)
    return group


def _held_command(group: click.Group, kind: HeldKind, do: str) -> None:
    text = {"pause": "Nothing more leaves from 2 s after this.", "resume": "The mail goes on.", "cancel": "What has not left ends as cancelled, and what comes, until `resume`."}[do]  # fmt: skip
    if kind == "source" and do == "cancel":
        text = "The source is withdrawn until `resume`; mail leaves from the others."

    @group.command(do, help=f"{text}\n\nExample: mailsluice {kind} {do} NAME --why 'as agreed with sales'")
    @click.argument("name")
    @reasons
    @at_broker
    @as_json
    def command(name: str, why: str, who: str, broker: str | None, prefix: str | None, as_json: bool) -> None:
        settings = asked(broker, prefix)
        counts = run(settings, change_hold(settings, kind, do, name, who, why))
        _tell(do, kind, name, counts, as_json)


tenant = _group(
    "tenant",
    "Pause, resume or cancel all mail of a tenant.\n\nExample: mailsluice tenant pause acme --why 'invoice open'",
)
lane = _group(
    "lane",
    "Pause, resume or cancel a lane: google, other-2, a provider's name, or an MX site in a shared lane.\n\n"
    "A paused lane's mail waits where it is, in Kafka.\n\nExample: mailsluice lane pause google --why 'their outage'",
)
source = _group(
    "source",
    "Pause or withdraw a sending address; the others take its mail, as far as their limits allow.\n\n"
    "Example: mailsluice source pause 192.0.2.10 --why 'listed'",
)
