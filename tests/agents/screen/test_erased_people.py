"""Screen and people who were erased: their rows go, and no row says their address again."""

from __future__ import annotations

import asyncio

import orjson

from agents.screen.agent import Screen
from agents.screen.policy import Settings
from schemas.codec import Headers, encode
from schemas.erasure import Erasure, Pseudonyms
from schemas.identity import mail_id
from schemas.ladder import RUNGS
from schemas.suppression import Suppression
from tests.support.agents import FakeTicket, MemoryState, MemoryStates, record

TO, NOW = "a@b.example", 1_790_000_000.0
NAMES = Pseudonyms([b"a" * 32])


class World:
    """A Screen over states in memory."""

    def __init__(self) -> None:
        self.rows = MemoryStates("mail-screen-log")
        self.suppressed = MemoryState("mail-suppressions")
        self.agent = Screen(
            Settings(), self.rows, lambda p: self.suppressed, lambda p: MemoryState("mail-contacts"), RUNGS,
            lambda: NOW, names=NAMES.of,
        )  # fmt: skip

    async def take(self, *tickets: FakeTicket) -> None:
        await self.agent.batch(tickets, 0)
        for _ in range(5):
            await asyncio.sleep(0)

    def named(self) -> set[str]:
        return {key.decode() for key in self.rows.all[0].rows}

    def erase(self, active: bool = True) -> None:
        row = Suppression(tenant="", to=NAMES.of(TO)[0], scope="global", reason="erased", active=active)
        self.suppressed.rows[row.key] = encode(row)


async def world() -> World:
    made = World()
    await made.agent.assigned(0)
    return made


def send(origin: str, to: str = TO, key: str | None = None) -> FakeTicket:
    found: Headers = {
        "type": b"accepted", "id": mail_id("default", key, to, origin).encode(), "origin": origin.encode(),
        "to": to.encode(), "campaign": b"c", "lane": b"gmail", "expires": b"1790600000",
    }  # fmt: skip
    return FakeTicket(record(b"{}", topic="mail-enqueued", headers=found))


def order(*people: str) -> list[FakeTicket]:
    return [FakeTicket(record(Erasure(id="e", to=to), topic="mail-enqueued")) for to in people]


async def test_the_rows_of_all_campaigns_go_and_no_others():
    made = await world()
    others = (f"x{TO}", f"{TO}.example")
    await made.take(send("o1"), send("o2", others[0]), send("o3", others[1]), send("o4", key="k"))
    assert {f"c|{to}|default|c" for to in (TO, *others)} <= made.named()
    made.erase()
    first, again, malformed = *order(TO, TO), FakeTicket(record(b"{", headers={"type": b"erasure"}))
    await made.take(first, again, malformed)
    assert f"c|{TO}|default|c" not in made.named()
    assert {f"c|{to}|default|c" for to in others} <= made.named()
    assert made.suppressed.ended == 1  # it waits for the marks that stood before the order
    assert first.committable
    assert again.committable
    assert malformed.rejected[0] == "bad_json"


async def test_a_send_to_somebody_erased_ends_and_leaves_no_address():
    made = await world()
    made.erase()
    ticket, redone = send("o1"), send("o1")
    await made.take(ticket)
    await made.take(redone)
    for each in (ticket, redone):
        event = orjson.loads(next(out for out in each.outs if out.topic == "mail-events").value)
        assert (event["kind"], event["reason"]) == ("suppressed", "erased")
    assert [key[:2] for key in made.named()] == ["i|"]
    assert not any(TO.encode() in raw for raw in made.rows.all[0].rows.values())


async def test_a_send_that_passed_before_and_is_redone_brings_no_row_back():
    made = await world()
    await made.take(send("o1", key="k"))
    made.erase()
    await made.take(*order(TO))
    redone = send("o1", key="k")
    await made.take(redone)
    assert [out.topic for out in redone.outs] == ["mail-screened"]  # gate two looks again
    assert {key[:2] for key in made.named()} == {"i|"}


async def test_after_a_release_mail_goes_as_to_anybody():
    made = await world()
    made.erase(active=False)
    ticket = send("o1")
    await made.take(ticket)
    assert ticket.outs[-1].topic == "mail-screened"
    assert f"c|{TO}|default|c" in made.named()


async def test_a_partition_that_goes_leaves_the_order_to_the_next_owner():
    made = await world()

    async def never():
        await asyncio.Event().wait()

    made.suppressed.to_end = never
    (ticket,) = order(TO)
    await made.take(ticket)
    await made.agent.revoked(0)
    await asyncio.sleep(0)
    assert not ticket.said_done


async def test_what_cannot_be_forgotten_is_a_dead_letter_and_holds_nobody_up():
    made = await world()

    async def broken():
        raise RuntimeError("no such partition")

    made.suppressed.to_end = broken
    (ticket,) = order(TO)
    await made.take(ticket)
    assert ticket.rejected == ("bug", "RuntimeError: no such partition")
