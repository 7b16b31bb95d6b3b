"""``mailsluice warmup``: plans, where everybody stands, and orders that are written down."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from click.testing import CliRunner, Result

from schemas.lane_policy import ALL, LanePolicy, Spent
from streams.cli import main
from streams.ops.warmup import kind_of
from streams.settings import Settings
from tests.support.brokers import Broker
from tests.support.published import applied, fact, published

NOW = time.time()
YOUNG = LanePolicy(
    kind="source", name="192.0.2.10", provider="google", rate=0.02, minimum=0.0, connections=5, per_connection=50,
    reason="day 2 of conservative", time=NOW, plan="conservative", step=1,
    spent=Spent(per_day=390, per_span=78, day_start=NOW - 60, used=100, lately=((int(NOW), 30),)),
)  # fmt: skip
TOGETHER = LanePolicy(
    kind="source", name="192.0.2.10", provider=ALL, rate=0.8, minimum=0.0, connections=9, per_connection=9,
    reason="in warm-up", time=NOW, spent=Spent(per_span=400, span=600.0),
)  # fmt: skip
GROWN = LanePolicy(
    kind="source",
    name="192.0.2.11",
    provider="google",
    rate=9.0,
    minimum=0.2,
    connections=5,
    per_connection=50,
)


def test_a_source_is_an_address() -> None:
    assert [kind_of(name) for name in ("192.0.2.1", "2001:db8::1", "default", "news.example.com")] == [
        "source",
        "source",
        "source",
        "dkim",
    ]


def test_the_plans_are_shown_day_by_day() -> None:
    found = CliRunner().invoke(main, ["warmup", "plan", "conservative", "--days", "3", "--json"])
    assert [(row["day"], row["per_day"], row["per_hour"]) for row in json.loads(found.output)] == [
        (1, 300, 60),
        (2, 390, 78),
        (3, 510, 102),
    ]
    wrong = CliRunner().invoke(main, ["warmup", "plan", "fast"])
    assert (wrong.exit_code, "conservative, hourly" in wrong.output) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("192.0.2.10", "google", "day", "--why", "x"),
        ("192.0.2.10", "google", "warm", "--day", "3", "--why", "x"),
        ("192.0.2.10", "google", "engaged-only", "--why", "x"),
        ("192.0.2.10", "google", "lift", "--plan", "hourly", "--why", "x"),
        ("192.0.2.10", "goo|gle", "warm", "--why", "x"),
        ("192.0.2.10", "google", "warm"),
    ],
)
def test_an_order_that_says_too_little_or_too_much_is_refused(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["warmup", "set", *arguments]).exit_code == 2


async def test_status_explain_and_an_order_on_a_broker(embedded_broker: Broker, prefix: str) -> None:
    settings = await applied(embedded_broker, prefix)
    assert "nothing is in warm-up" in (await call(settings, "warmup", "status")).output
    events = (YOUNG, TOGETHER, GROWN)
    await published(settings, [fact("mail-lane-policy", event, event.key) for event in events])
    young, together = json.loads((await call(settings, "warmup", "status", "--json")).output)
    assert (young["day"], young["left_today"], young["left_in_span"]) == (2, 290, 48)
    assert (together["provider"], together["left_in_span"]) == ("*", 400)
    shown = (await call(settings, "warmup", "status")).output
    assert "day 2 of conservative" in shown
    told = (await call(settings, "lanes", "explain", "192.0.2.10", "google")).output
    assert "100 of 390 today, 48 more this hour" in told
    assert "400 more this 10 minutes" in told
    done = await call(
        settings, "warmup", "set", "192.0.2.10", "google", "warm", "--why", "known", "--by", "dana"
    )
    assert (done.exit_code, "ordered" in done.output) == (0, True)


async def call(settings: Settings, *arguments: str) -> Result:
    environment = {
        "MAILSLUICE_BROKER": settings.broker,
        "MAILSLUICE_PREFIX": settings.prefix,
        "MAILSLUICE_BROKER_IDEMPOTENT": "0",
    }
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)
