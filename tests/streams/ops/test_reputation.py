"""``mailsluice reputation``: block lists asked now, and what a provider's pages say told to shape."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner, Result

from schemas.codec import decode
from schemas.hold import Command
from schemas.lane_policy import LanePolicy
from schemas.lane_report import LaneReport
from streams.cli import main
from streams.lab.dns import DnsServer, Zone
from streams.ops.queue_scan import facts
from streams.ops.read import read_to_end
from tests.support.brokers import Broker
from tests.support.published import applied, fact, published


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["reputation", *arguments], env=environment)


def zone() -> Zone:
    found = Zone({}, apexes=["bl.test", "dbl.test", "gone.test"])
    for name in ("2.0.0.127.bl.test", "test.dbl.test", "10.2.0.192.bl.test"):
        found.add(name, "A", "127.0.0.2")
    return found


async def test_names_are_asked_for_and_what_is_listed_fails_the_command() -> None:
    async with DnsServer(zone()) as dns:
        at = {"MAILSLUICE_DNS": "{}:{}".format(*dns.address), "MAILSLUICE_WATCH_LISTS": "bl.test"}
        found = await asyncio.to_thread(invoke, "check", "192.0.2.10", "192.0.2.11", "news.example", **at)
        assert found.exit_code == 1
        assert found.stdout.splitlines() == ["192.0.2.10: on bl.test", "192.0.2.11: on none"]
        assert "news.example: no list here is about such a name" in found.stderr
        both = ("--list", "domain:dbl.test", "--list", "gone.test")
        clean = await asyncio.to_thread(invoke, "check", "news.example", *both, "--json", **at)
        assert (clean.exit_code, json.loads(clean.stdout)) == (
            0,
            {"listed": {}, "asked": ["news.example"], "left_out": [], "not_believed": ["gone.test"]},
        )
        nobody = await asyncio.to_thread(invoke, "check", "192.0.2.10", "--list", "gone.test", **at)
        assert nobody.exit_code == 1  # nobody could say
        assert "gone.test is not believed" in nobody.stderr


async def test_without_names_all_that_have_limits_are_asked_for(broker: Broker, prefix: str) -> None:
    settings = await applied(broker, prefix)
    policy = LanePolicy(
        kind="source",
        name="192.0.2.10",
        provider="google",
        rate=1.0,
        minimum=0.0,
        connections=1,
        per_connection=1,
    )
    await published(settings, [fact("mail-lane-policy", policy, policy.key)])
    async with DnsServer(zone()) as dns:
        at = {"MAILSLUICE_DNS": "{}:{}".format(*dns.address), "MAILSLUICE_WATCH_LISTS": "bl.test"}
        where = ("--broker", broker.bootstrap, "--prefix", prefix)
        found = await asyncio.to_thread(invoke, "check", *where, **at)
    assert (found.exit_code, found.stdout) == (1, "192.0.2.10: on bl.test\n")


async def test_what_is_told_is_a_report_to_shape_and_on_record(broker: Broker, prefix: str) -> None:
    settings = await applied(broker, prefix)
    words = (
        "news.example",
        "google",
        "--complaints",
        "12",
        "--traps",
        "3",
        "--why",
        "Postmaster Tools",
        "--by",
        "ada",
    )
    where = ("--broker", broker.bootstrap, "--prefix", prefix)
    found = await asyncio.to_thread(invoke, "tell", *words, *where, MAILSLUICE_BROKER_IDEMPOTENT="0")
    assert found.exit_code == 0, found.output
    told = [
        decode(record, "lane_report") async for record in read_to_end(settings, [("mail-lane-reports", 0)])
    ]
    assert [
        (r.kind, r.dkim, r.source, r.provider, r.complaints, r.traps)
        for r in told
        if isinstance(r, LaneReport)
    ] == [("feedback", "news.example", "", "google", 12, 3)]
    books = [command async for command in facts(settings, Command)]
    assert {(c.what, c.who, c.why) for c in books} == {("reputation tell", "ada", "Postmaster Tools")}
    assert books[-1].done
    assert books[-1].on == {"dkim": "news.example", "provider": "google"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "192.0.2.10"), "no block list"),
        (("check", "192.0.2.10", "--list", "nodots"), "is no block list"),
        (("tell", "192.0.2.10", "google", "--why", "x"), "--traps or --complaints"),
        (("tell", "a|b", "google", "--traps", "1", "--why", "x"), "NAME"),
        (("tell", "192.0.2.10", "google", "--traps", "1"), "--why"),
        (("tell", "192.0.2.10", "google", "--traps", "-1", "--why", "x"), "--traps"),
    ],
)
def test_wrong_words_are_told(arguments: tuple[str, ...], says: str) -> None:
    found = invoke(*arguments)
    assert found.exit_code == 2
    assert says in found.output
