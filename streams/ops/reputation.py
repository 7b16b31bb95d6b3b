"""``mailsluice reputation``: what others say of our addresses and domains; asked for, or told by you."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence

import click
from msgspec.structs import replace

from agents.watch.policy import BlockList, block_lists, question, report
from schemas.codec import encode
from schemas.hold import Command
from schemas.lane_policy import ALL
from schemas.lane_report import LaneReport
from streams.ops.ask import as_json, asked, at_broker, clean, echo_json, run
from streams.ops.lanes import read_policies
from streams.ops.queue_scan import audited
from streams.ops.warmup import check_names, kind_of
from streams.resolver import Resolver
from streams.settings import Settings
from streams.watching import Watch

REPORTS = "mail-lane-reports"


@click.group()
def reputation() -> None:
    """What block lists and providers say of our addresses and domains.

    \b
    Example: mailsluice reputation check 192.0.2.10 news.example.com --list zen.spamhaus.org
             mailsluice reputation tell 192.0.2.10 outlook --traps 2 --why "SNDS, 28 November"
    Exit code: 0; 1 listed, no broker or no topics; 2 wrong usage or settings.
    """


@reputation.command("check")
@click.argument("names", nargs=-1)
@click.option(
    "--list", "lists", multiple=True, metavar="ZONE",
    help="A block list: ZONE, or domain:ZONE for one of domains. Default: those of MAILSLUICE_WATCH_LISTS.",
)  # fmt: skip
@at_broker
@as_json
def check(
    names: Sequence[str], lists: Sequence[str], broker: str | None, prefix: str | None, as_json: bool
) -> None:
    """Ask the block lists of DNS, now, about NAMES: addresses and domains. Without NAMES: all that have limits.

    A list that answers its own test points wrongly (RFC 5782) is not believed, and said to be so. Control asks the
    same every MAILSLUICE_WATCH_EVERY seconds, and what is listed stops growing.

    \b
    Example: mailsluice reputation check 192.0.2.10 --list zen.spamhaus.org --list domain:dbl.spamhaus.org
    Exit code: 0 nothing is listed; 1 something is, or no list could be believed; 2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    try:
        chosen = block_lists(lists or settings.watch_lists)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not chosen:
        raise click.UsageError("no block list: name one with --list, or set MAILSLUICE_WATCH_LISTS")
    if not names:
        found = run(settings, read_policies(settings))
        names = sorted({name for kind, name, provider in found.limits if kind != "from" and provider != ALL})
    asked_about = [name for name in names if any(question(name, one) for one in chosen)]
    listed, dead = run(settings, _look(settings, chosen, asked_about), reached=False)
    left_out = sorted(set(names) - set(asked_about))
    if as_json:
        echo_json(
            {"listed": listed, "asked": asked_about, "left_out": left_out, "not_believed": sorted(dead)}
        )
    else:
        for name in asked_about:
            click.echo(f"{clean(name)}: {'on ' + ', '.join(listed[name]) if name in listed else 'on none'}")
        for zone in sorted(dead):
            click.echo(f"{zone} is not believed: its test points answer wrongly, or nobody answers", err=True)
        for name in left_out:
            click.echo(f"{clean(name)}: no list here is about such a name", err=True)
    raise SystemExit(1 if listed or len(dead) == len(chosen) else 0)


async def _look(
    settings: Settings, lists: Sequence[BlockList], names: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    watch = Watch(lists, Resolver(settings.dns).codes)
    return await watch.look(names), watch.dead


@reputation.command("tell")
@click.argument("name")
@click.argument("provider")
@click.option(
    "--traps", default=0, type=click.IntRange(0, 1_000_000), help="Spam traps that our mail reached."
)
@click.option(
    "--complaints", default=0, type=click.IntRange(0, 10_000_000),
    help="Complaints that no feedback loop brought, such as those of a provider's own statistics.",
)  # fmt: skip
@click.option("--why", required=True, help="Where it was said, for the record.")
@click.option("--by", default="", help="Who tells it; your user name if left out.")
@at_broker
def tell(
    name: str,
    provider: str,
    traps: int,
    complaints: int,
    why: str,
    by: str,
    broker: str | None,
    prefix: str | None,
) -> None:
    """Tell shape what a provider's pages say of NAME (a source's address or a DKIM domain) there.

    Three spam traps in the window of the policy stop growth; complaints count in the gate like those of a feedback
    loop. Tell each figure once: shape cannot know that it heard it before.

    \b
    Example: mailsluice reputation tell news.example.com google --complaints 12 --why "Postmaster Tools, 0.15 %"
    Exit code: 0 written; 1 no broker or no topics; 2 wrong usage or settings.
    """
    if not traps and not complaints:
        raise click.UsageError("say what there is to tell: --traps or --complaints")
    check_names({"NAME": name, "PROVIDER": provider, "--why": why, "--by": by})
    settings, now, kind = asked(broker, prefix), round(time.time(), 3), kind_of(name)
    command = Command(
        what="reputation tell",
        on={kind: name, "provider": provider},
        who=by or getpass.getuser(),
        why=why,
        time=now,
        counts={"traps": traps, "complaints": complaints},
    )
    said = replace(report(kind, name, provider, "operator", now), traps=traps, complaints=complaints)
    run(settings, _told(settings, command, said))
    click.echo(
        f"told: {clean(name)} at {clean(provider)}; `mailsluice lanes explain` says what follows from it"
    )


async def _told(settings: Settings, command: Command, said: LaneReport) -> None:
    async with audited(settings, command) as (producer, counts):
        headers = [("type", b"lane_report"), ("version", b"1")]
        await producer.send_and_wait(settings.topic(REPORTS), encode(said), partition=0, headers=headers)
        counts.update(command.counts)
