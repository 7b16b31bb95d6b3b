"""Queues and their pace: who comes first, how fast, from which source, and what never gets stuck."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.allowance import Rate
from agents.deliver.feed import Feed
from agents.deliver.job import Mail
from schemas.lane_policy import LanePolicy
from tests.support.agents import FakeTicket
from tests.support.gates import START, Broker, GateTwo, Servers, hosts_of, mail, virtual


async def world(**changes) -> GateTwo:
    answer = changes.pop("answer", lambda line: line.say(250, "ok"))
    made = GateTwo(Broker(), Servers(answer), **changes)
    await made.agent.assigned(0)
    return made


def waiting(name: str, topic: str = "mail-lane-gmx") -> Mail:
    return Mail(FakeTicket(mail(name, topic=topic)), 1, 0.0)


def test_urgent_mail_is_the_head_and_what_is_over_is_skipped():
    feed = Feed("gmx")
    first, second, urgent = waiting("a"), waiting("b"), waiting("c", "mail-lane-gmx-now")
    feed.bulk.extend([first, second])
    feed.urgent.append(urgent)
    assert len(feed) == 3
    assert feed.head() is urgent
    feed.pop(urgent)
    first.stage = "gone"
    assert feed.head() is second
    feed.pop(second)
    assert feed.head() is None
    feed.put_back(first)
    first.stage = "waiting"
    assert feed.head() is first


def test_transactional_mail_overtakes_what_waits():
    async def story() -> None:
        made = await world(rate=Rate(2.0, 1, 100, 0.0, ""))
        bulk = [mail(f"b{n}", "x@b.example", topic="mail-lane-gmx") for n in range(10)]
        await made.take(*bulk)
        await made.take(mail("now", "x@b.example", topic="mail-lane-gmx-now"))
        await asyncio.sleep(1.2)
        assert [outcome.id for outcome in made.broker.outcomes()][:2] == ["now", "b0"]

    virtual(story())


@given(st.floats(0.5, 200.0), st.integers(1, 6), st.integers(1, 3))
@hypothesis(max_examples=15, deadline=None)
def test_never_faster_than_allowed_in_any_window(rate: float, connections: int, sources: int):
    async def story() -> None:
        names = tuple(f"127.0.0.{n}" for n in range(1, sources + 1))
        times: dict[str, list[float]] = {}
        made = await world(rate=Rate(rate, connections, 20, 0.0, ""), sources=names)
        made.servers.on_start = lambda job: times.setdefault(job.source, []).append(made.loop.time())
        await made.take(*(mail(f"m{n}", f"x@d{n % 3}.example", topic="mail-lane-gmx") for n in range(60)))
        await made.ticks(20)
        assert made.servers.most <= connections * sources * 3  # by site: each has its own
        burst = max(1.0, 0.2 * rate)
        sent = sorted((at, source) for source, found in times.items() for at in found)
        for begin in range(0, len(sent), 7):
            for width in (0.1, 1.0, 5.0):
                count = sum(sent[begin][0] <= at <= sent[begin][0] + width for at, _ in sent)
                # Three sites, each with its own allowance.
                assert count <= 3 * sources * (burst + rate * width + 1)

    virtual(story())


def test_sources_take_turns_and_a_suspended_one_is_passed_over():
    async def story() -> None:
        made = await world(sources=("127.0.0.11", "127.0.0.12"))
        for n, until in ((11, 0.0), (12, START + 60)):
            policy = LanePolicy(
                kind="source", name=f"127.0.0.{n}", provider="gmx", rate=100.0, minimum=100.0, connections=4,
                per_connection=50, suspended_until=until, reason="r",
            )  # fmt: skip
            made.allowance.feed(n, policy)
        made.names.found["g.example"] = hosts_of("mx1.gmx.net")
        await made.take(*(mail(f"m{n}", "x@g.example", topic="mail-lane-gmx") for n in range(20)))
        await made.ticks(2)
        assert Counter(o.source for o in made.broker.outcomes()) == {"127.0.0.11": 20}
        made.ahead = 61.0
        await made.take(*(mail(f"n{n}", "x@g.example", topic="mail-lane-gmx") for n in range(200)))
        await made.ticks(3)
        used = Counter(o.source for o in made.broker.outcomes()[20:])
        assert used.total() == 200
        assert min(used["127.0.0.11"], used["127.0.0.12"]) >= 60

    virtual(story())


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_connections_than_allowed(connections: int):
    async def story() -> None:
        made = await world(rate=Rate(1000.0, connections, 2, 0.0, ""), answer=None)
        await made.take(*(mail(f"m{n}", "x@b.example") for n in range(30)))
        for _ in range(400):
            await asyncio.sleep(0.05)
            for line in list(made.servers.lines):
                if line.job:
                    line.say(250, "ok")
        assert len(made.broker.outcomes()) == 30
        assert made.servers.most <= connections

    virtual(story())


def test_a_provider_that_suspends_us_for_an_hour_gets_nothing_and_wakes():
    async def story() -> None:
        made = await world(rate=Rate(0.0, 0, 20, START + 3600, "suspended"))
        await made.take(mail("a"))
        await made.ticks(100)
        assert made.servers.tried == 0
        policy = LanePolicy(
            kind="source", name="default", provider="b.example", rate=5.0, minimum=5.0, connections=2,
            per_connection=20, reason="back",
        )  # fmt: skip
        made.allowance.feed(1, policy)
        await made.ticks(3)
        assert [o.state for o in made.broker.outcomes()] == ["delivered"]

    virtual(story())


def test_stop_starts_nothing_more():
    async def story() -> None:
        made = await world()
        made.agent.feeds.stop()
        await made.take(mail("a"))
        await made.ticks(5)
        assert made.servers.tried == 0
        assert made.broker.outcomes() == []

    virtual(story())
