"""``mailsluice demo``: a campaign through the whole pipeline on this machine, judged from the outside."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from schemas.campaign import Campaign
from schemas.send import Consent, Send
from streams.broker import make_producer, started
from streams.lab.audience import Recipient, recipients
from streams.lab.providers import DEFAULT, load
from streams.ops.audit import ENDS, Audit, audit, read_topic
from streams.ops.ending import ENDED, EXIT_ENDED, by_sigterm
from streams.ops.page import LivePage
from streams.ops.recipients import Row
from streams.ops.scene import SENDER, Scene, SceneFailed
from streams.ops.send import publish
from streams.ops.view import View
from streams.ops.watcher import Watcher

HTML = Path(__file__).with_name("demo_campaign.html").read_text("utf-8")
LATE = 4.0
"""Seconds that late bounces, complaints and readers get after the last mail has ended."""
GRACE = 90.0
"""Seconds after which a campaign that does not end is given up: its mails live 60."""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    messages: int = 5000
    broker: str = "embedded"
    providers: Path | None = None
    report: Path | None = None
    keep: bool = False
    port: int = 2525
    page: int = 8024
    home: Path | None = None


def campaign(name: str) -> Campaign:
    """The demo's campaign."""
    return Campaign(
        id=name, tenant="demo", sender=SENDER, subject="{{ name }}, the water is fine", html=HTML,
        list_id="<news.mailsluice.test>",
    )  # fmt: skip


def sends(name: str, people: Iterable[Recipient]) -> Iterator[Row]:
    """A send for each recipient, with the tracking consent that they gave."""
    for line, person in enumerate(people, 1):
        consent = Consent(opens="o" in person.consent, clicks="c" in person.consent)
        variables = {"city": person.city, "plan": person.plan, "points": person.points, "code": person.code}
        yield Row(
            line,
            Send(
                campaign=name, tenant="demo", to=person.to, name=person.name, time_zone=person.time_zone,
                consent=consent, variables=variables,
            ),
        )  # fmt: skip


def _again_sends(addresses: Sequence[str]) -> Iterator[Row]:
    variables = {"city": "Ulm", "plan": "basic", "points": 1, "code": "0"}
    for line, to in enumerate(addresses, 1):
        yield Row(line, Send(campaign="again", tenant="demo", to=to, name="Once more", variables=variables))


async def run(options: Options) -> int:
    """The demo. Returns the exit status: 0 only if the books balance, on both sides."""
    world = load(options.providers or DEFAULT)
    with tempfile.TemporaryDirectory(prefix="mailsluice-demo-") as temporary:
        home = options.home or Path(temporary)
        view = View(options.messages)
        scene = Scene(
            home, options.broker, providers=options.providers, port=options.port, on_fault=view.fault,
            on_restart=view.restarted, prefix="" if options.broker in ("embedded", "apache") else f"demo{int(time.time())}-",
        )  # fmt: skip
        begun = time.monotonic()
        try:
            view.say(
                f"starting the {options.broker} broker, {len(world.providers)} simulated providers and the workers"
            )
            await scene.start()
            return await _campaigns(options, scene, view, begun)
        except SceneFailed as error:
            view.fault(str(error))
            return 1
        finally:
            view.stop()
            await scene.stop()


async def _campaigns(options: Options, scene: Scene, view: View, begun: float) -> int:
    settings = scene.settings
    watcher = Watcher(settings, settings.partitions)
    await watcher.start()
    page = LivePage(watcher, options.messages)
    address = await page.start(options.page)
    view.say(f"live page: http://{address}/   logs: {scene.home / 'logs'}")
    producer = make_producer(settings)
    await started(producer)
    try:
        people = recipients(load(options.providers or DEFAULT), options.messages)
        sent_at = time.monotonic()
        sending = asyncio.create_task(
            publish(producer, campaign("spring"), sends("spring", people), prefix=settings.prefix)
        )
        await _follow(watcher, view, page, lambda: watcher.done >= options.messages, GRACE, sending)
        seconds = time.monotonic() - sent_at
        published = await sending
        await _follow(watcher, view, page, lambda: False, LATE, None)
        first = await _settled(scene)
        second = await _again(options, scene, producer, watcher, view, page)
        result = await _judge(options, scene, first, second, seconds, time.monotonic() - begun, watcher)
        result["sent"] = published.sent
        view.stop()
        view.verdict(result)
        if options.report is not None:
            options.report.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        if options.keep:
            view.say(f"staying up; Ctrl-C ends it. Broker {settings.broker}, page http://{address}/")
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return 0 if result["ok"] else 1
    finally:
        await producer.stop()
        await page.stop()
        await watcher.stop()


async def _follow(
    watcher: Watcher,
    view: View,
    page: LivePage,
    done: Callable[[], bool],
    seconds: float,
    also: asyncio.Task[Any] | None,
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        if also is not None and also.done() and also.exception() is not None:
            raise SceneFailed(f"the sends could not be published: {also.exception()}")
        if watcher.error or view.faults:
            raise SceneFailed(watcher.error or view.faults[0])
        table = watcher.table()
        view.show(table)
        page.show(table)
        await asyncio.sleep(0.25)


async def _settled(scene: Scene) -> Audit:
    """The audit once nothing is pending any more: commits and DSNs lag a little behind the last mail."""
    for _ in range(10):
        found = await audit(scene.settings)
        if not found.counts["pending"] and not found.counts["lost"]:
            break
        await asyncio.sleep(1.0)
    return found


async def _again(
    options: Options, scene: Scene, producer: Any, watcher: Watcher, view: View, page: LivePage
) -> dict[str, Any]:
    """A second campaign to some whose address proved bad and some who read: the first must be skipped."""
    bad, good = await _bounced_and_delivered(scene)
    chosen = [*bad[:100], *good[:20]]
    if not bad:
        return {"to_bounced": 0, "skipped": 0, "to_readers": len(good[:20]), "reached": 0, "ok": True}
    begun = watcher.done
    await publish(producer, campaign("again"), _again_sends(chosen), prefix=scene.settings.prefix)
    await _follow(watcher, view, page, lambda: watcher.done >= begun + len(chosen), 40.0, None)
    found = await audit(scene.settings, campaign="again")
    skipped = found.counts["suppressed"]
    return {
        "to_bounced": len(bad[:100]), "skipped": skipped, "to_readers": len(good[:20]),
        "reached": found.counts["delivered"], "ok": skipped >= len(bad[:100]) and found.balanced,
    }  # fmt: skip


async def _bounced_and_delivered(scene: Scene) -> tuple[list[str], list[str]]:
    bad: dict[str, None] = {}
    good: dict[str, None] = {}
    async for message in read_topic(scene.settings, "mail-outcomes", scene.settings.partitions):
        outcome = orjson.loads(message.value or b"")
        if outcome["state"] == "bounced" and outcome.get("action") == "suppress":
            bad[outcome["to"]] = None
        elif outcome["state"] == "delivered":
            good[outcome["to"]] = None
    async for message in read_topic(scene.settings, "mail-events", scene.settings.partitions):
        event = orjson.loads(message.value or b"")
        if event["kind"] in ("unsubscribed", "complained", "bounced"):
            good.pop(event["to"], None)
    return list(bad), list(good)


async def _judge(
    options: Options,
    scene: Scene,
    first: Audit,
    second: dict[str, Any],
    seconds: float,
    whole: float,
    watcher: Watcher,
) -> dict[str, Any]:
    theirs = await asyncio.to_thread(scene.report)
    found = await audit(scene.settings)
    taken_by_us = found.counts["delivered"] + _late(found, theirs)
    result: dict[str, Any] = {"received": found.received}
    result |= {end: found.counts[end] for end in ENDS}
    result["lost"] = found.counts["lost"] + max(0, taken_by_us - theirs["distinct"])
    result["duplicates"] = theirs["duplicates"]
    result["providers_took"] = theirs["distinct"]
    result["we_say_they_took"] = taken_by_us
    result["seconds"] = round(seconds, 2)
    result["whole_seconds"] = round(whole, 2)
    result["messages_per_second"] = round(options.messages / max(seconds, 0.001), 1)
    result["within_limits"] = theirs["within_budget"]
    result["second_campaign"] = second
    result["restarts"] = sum(max(0, worker.starts - 1) for worker in scene.supervisor.workers.values())
    result["lanes"] = watcher.table()["lanes"]
    result["providers"] = theirs["providers"]
    result["balanced"] = found.balanced and first.balanced
    checks = {
        "the audit balances": result["balanced"],
        "nothing is pending": found.counts["pending"] == 0,
        "lost 0": result["lost"] == 0,
        "duplicates 0": result["duplicates"] == 0,
        "the providers took what we say they took": taken_by_us == theirs["distinct"],
        "every provider's limit was respected": bool(theirs["within_budget"]),
        "bad addresses are skipped by the second campaign": bool(second["ok"]),
    }
    result["checks"] = checks
    result["ok"] = all(checks.values())
    return result


def _late(found: Audit, theirs: dict[str, Any]) -> int:
    """Mails that were taken with a 250 and bounced by a DSN later: bounced for us, taken for them."""
    return found.bounced_late


@click.command()
@click.option("--messages", "-n", default=5000, show_default=True, help="Recipients of the campaign.")
@click.option("--broker", default="embedded", show_default=True, metavar="embedded|apache|HOST:PORT")
@click.option(
    "--providers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another providers file (TOML).",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the result as JSON.")
@click.option("--keep", is_flag=True, help="Stay up afterwards, for a look around; Ctrl-C ends it.")
@click.option("--port", default=2525, show_default=True, help="SMTP port of the simulated providers.")
@click.option("--page", default=8024, show_default=True, help="Port of the live page on 127.0.0.1 (0: any).")
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Keep logs, ledgers and state here."
)
def demo(**values: Any) -> None:
    """Send a campaign to simulated mailbox providers, on this machine alone, and judge the result.

    Starts a broker, six providers on real SMTP sockets with hidden limits, and every worker; then asks
    the providers what they took. Exits 0 only if both sides agree and nothing is lost or doubled.

    Example: mailsluice demo --messages 500 --report result.json
    """
    logging.basicConfig(level="ERROR", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel("CRITICAL")
    options = Options(**values)
    if options.messages < 1:
        raise click.BadParameter("at least 1", param_hint="--messages")
    try:
        sys.exit(asyncio.run(by_sigterm(run(options))))
    except ENDED:
        sys.exit(EXIT_ENDED)
