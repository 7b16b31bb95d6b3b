"""Paused and cancelled tenants, lanes and sources: what stays where, what ends, and what an expiry overtakes."""

from __future__ import annotations

import asyncio

import pytest

from agents.deliver.allowance import Rate
from agents.deliver.holds import Holds
from agents.deliver.job import Mail
from schemas.campaign import Campaign, Canary
from schemas.hold import Hold
from tests.support.agents import FakeTicket
from tests.support.gates import START, Broker, GateTwo, Servers, mail, virtual, woken


def hold(kind: str, name: str, state: str) -> Hold:
    return Hold(kind=kind, name=name, state=state)  # type: ignore[arg-type]


async def world(*holds: Hold, **changes) -> GateTwo:
    made = GateTwo(Broker(), Servers(), **changes)
    for one in holds:
        made.agent._holds.feed(one)
    await made.agent.assigned(0)
    return made


def states(made: GateTwo) -> list[tuple[str, str]]:
    return [(outcome.state, outcome.reason) for outcome in made.broker.outcomes()]


@pytest.mark.parametrize(
    ("name", "topic", "provider", "expected"),
    [
        ("google", "mail-lane-google", "google", "paused"),
        ("google", "mail-lane-google-now", "google", "paused"),
        ("laposte", "mail-lane-other-2", "laposte", "paused"),
        ("other-2", "mail-lane-other-2", "", "paused"),
        ("google", "mail-lane-gmx", "gmx", "active"),
    ],
)
def test_a_lane_goes_by_its_own_name_and_by_its_providers(
    name: str, topic: str, provider: str, expected: str
) -> None:
    holds = Holds()
    holds.feed(hold("lane", name, "paused"))
    held = Mail(FakeTicket(mail("a", topic=topic, provider=provider)), 1, 0.0)
    assert holds.lane(held) == expected
    holds.feed(hold("lane", name, "active"))
    assert holds.lane(held) == "active"


@pytest.mark.parametrize("who", ["tenant", "campaign", "canary"])
def test_paused_mail_steps_to_the_second_rung_with_its_attempt_and_says_for_whom(who: str) -> None:
    async def story() -> None:
        made = await world(*[hold("tenant", "default", "paused")] * (who == "tenant"))
        if who == "campaign":
            made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="paused")
        if who == "canary":
            made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", canary=Canary())
            await made.take(mail("first", to="first@b.example"))  # the canary itself goes
            await asyncio.sleep(0.05)
            assert states(made) == [("delivered", "")]
            made.broker.landed.pop("mail-outcomes")
        [ticket] = await made.take(mail("a", attempt=3, canary="rest"))
        await asyncio.sleep(0.05)
        [copy] = made.broker.ladder()
        assert (copy.topic, copy.headers["attempt"], copy.headers["held"]) == (
            "mail-wait-10m",
            b"3",
            who.encode(),
        )
        assert ticket.committable
        assert made.broker.outcomes() == []
        made.agent._holds.feed(hold("tenant", "default", "active"))
        made.campaigns.clear()
        # A resume copies it; the original wakes later, and is a repeat.
        await made.take(woken(copy))
        await asyncio.sleep(0.05)
        await made.take(woken(copy))
        await asyncio.sleep(0.05)
        assert states(made) == [("delivered", "")]
        assert "held" not in woken(copy).headers

    virtual(story())


def test_a_paused_lane_keeps_its_mail_where_it_is_and_goes_on_within_a_second() -> None:
    async def story() -> None:
        made = await world(hold("lane", "b.example", "paused"))
        [ticket] = await made.take(mail("a", topic="mail-lane-gmx"))
        await made.ticks(30)
        assert (made.broker.outcomes(), made.broker.ladder(), ticket.said_done) == ([], [], False)
        made.agent._holds.feed(hold("lane", "b.example", "active"))
        await asyncio.sleep(1.0)
        assert states(made) == [("delivered", "")]

    virtual(story())


def test_in_a_shared_lane_what_is_paused_steps_aside_after_its_patience() -> None:
    async def story() -> None:
        made = await world(hold("lane", "b.example", "paused"))
        await made.take(mail("a"), mail("b"), mail("c", "x@c.example"))
        await made.ticks(15)
        assert [outcome.id for outcome in made.broker.outcomes()] == ["c"]
        assert [copy.headers["held"] for copy in made.broker.ladder()] == [b"lane"]

    virtual(story())


def test_expired_mail_leaves_a_paused_lane() -> None:
    async def story() -> None:
        made = await world(hold("lane", "b.example", "paused"))
        await made.take(mail("a", topic="mail-lane-gmx", expires=START + 3))
        await made.ticks(5)
        assert [state for state, _ in states(made)] == ["expired"]

    virtual(story())


@pytest.mark.parametrize(("kind", "name"), [("tenant", "default"), ("lane", "b.example")])
def test_cancelled_mail_ends(kind: str, name: str) -> None:
    async def story() -> None:
        made = await world(hold(kind, name, "cancelled"))
        [ticket] = await made.take(mail("a"))
        await asyncio.sleep(0.05)
        assert states(made) == [("cancelled", f"{kind}_cancelled")]
        assert ticket.committable
        assert made.servers.tried == 0

    virtual(story())


def test_a_paused_source_sends_nothing_and_the_other_takes_its_mail() -> None:
    async def story() -> None:
        made = await world(hold("source", "127.0.0.1", "paused"), sources=("127.0.0.1", "127.0.0.2"))
        await made.take(*(mail(f"m{n}") for n in range(10)))
        await made.ticks(2)
        assert {outcome.source for outcome in made.broker.outcomes()} == {"127.0.0.2"}
        assert len(made.broker.outcomes()) == 10
        made.agent._holds.feed(hold("source", "127.0.0.2", "cancelled"))
        [last] = await made.take(mail("last"))
        await made.ticks(3)
        assert not last.said_done
        made.agent._holds.feed(hold("source", "127.0.0.1", "active"))
        await made.ticks(2)
        assert made.broker.outcomes("last")[0].source == "127.0.0.1"

    virtual(story())


def test_mail_moved_to_a_source_leaves_by_it_alone_where_the_worker_has_it() -> None:
    async def story() -> None:
        made = await world(sources=("127.0.0.1", "127.0.0.2"))
        await made.take(*(mail(f"m{n}", sources="127.0.0.2,127.0.0.9") for n in range(6)))
        await made.take(mail("elsewhere", sources="127.0.0.9"))
        await made.ticks(2)
        mine = {outcome.source for outcome in made.broker.outcomes() if outcome.id != "elsewhere"}
        assert mine == {"127.0.0.2"}
        assert len(made.broker.outcomes()) == 7

    virtual(story())


def test_a_verdict_ends_the_mail_that_waits_in_the_queue_and_is_a_repeat_when_it_comes_back() -> None:
    async def story() -> None:
        made = await world(rate=Rate(0.0, 0, 1, 0.0, "off"))
        [ticket] = await made.take(mail("a", topic="mail-lane-gmx"))
        verdict = mail("a", topic="mail-lane-gmx-now", type="verdict", outcome="expired", reason="by_operator", body=None)  # fmt: skip
        [second] = await made.take(verdict)
        assert states(made) == [("expired", "by_operator")]
        assert ticket.committable
        assert second.committable
        [copy] = made.broker.ladder()
        [third] = await made.take(woken(copy))
        assert third.committable
        assert len(made.broker.outcomes()) == 1
        await made.ticks(3)

    virtual(story())


def test_a_verdict_does_not_end_a_mail_that_is_being_sent_nor_a_later_attempt() -> None:
    async def story() -> None:
        made = await world()
        made.servers.answer = None
        verdict = {"type": "verdict", "outcome": "expired", "reason": "by_operator", "body": None}
        await made.take(mail("a"))
        await asyncio.sleep(0.05)
        await made.take(mail("a", **verdict))
        assert made.broker.outcomes() == []
        made.servers.lines[0].say(250, "ok")
        await made.take(woken(made.broker.ladder()[0]))
        assert states(made) == [("delivered", "")]

        made.is_fresh = False
        await made.take(mail("b", attempt=2))
        await made.take(mail("b", attempt=1, **verdict))
        assert made.broker.outcomes("b") == []

    virtual(story())
