"""The agent around the policy: one row per contact and tenant, repeats counted once."""

from __future__ import annotations

import pytest

from agents.score.agent import STAGE, Score
from agents.score.policy import Settings
from schemas.codec import parse
from schemas.contact import Contact
from schemas.event import Kind, MailEvent
from tests.support.agents import FakeTicket, MemoryStates, record, tickets

NOW = 1_750_000_000.0


def event(n: int, kind: Kind, tenant: str = "acme") -> MailEvent:
    return MailEvent(
        id=f"{n:032x}"[::-1], kind=kind, mail="m1", time=NOW, tenant=tenant, to="ada@example.org"
    )


@pytest.fixture
async def agent() -> Score:
    made = Score(MemoryStates("mail-contacts"), Settings())
    await made.assigned(0)
    return made


async def test_events_of_one_batch_add_up(agent: Score) -> None:
    batch = tickets(event(1, "delivered"), event(2, "opened"), event(3, "clicked"), event(2, "opened"))
    await agent.batch(batch, 0)
    assert [len(ticket.outs) for ticket in batch] == [1, 1, 1, 0]
    out = batch[2].outs[0]
    contact = parse(out.value, Contact)
    assert (out.topic, out.key) == (STAGE.emits[0], b"ada@example.org|acme")
    assert (contact.delivered, contact.opens, contact.clicks, contact.version) == (1, 1, 1, 3)
    assert all(ticket.committable for ticket in batch)


async def test_tenants_do_not_see_each_others_readers(agent: Score) -> None:
    batch = tickets(event(1, "clicked"), event(2, "delivered", tenant="other"))
    await agent.batch(batch, 0)
    assert parse(batch[1].outs[0].value, Contact).clicks == 0


async def test_what_is_not_counted_writes_nothing_and_nonsense_is_refused(agent: Score) -> None:
    bounced, nonsense = tickets(event(1, "bounced"))[0], FakeTicket(record(b"\xff"))
    await agent.batch([bounced, nonsense], 0)
    assert bounced.committable
    assert not bounced.outs
    assert nonsense.rejected is not None
    assert nonsense.rejected[0] == "bad_json"


async def test_a_partition_comes_back_as_it_went(agent: Score) -> None:
    await agent.batch(tickets(event(1, "opened")), 0)
    await agent.revoked(0)
    await agent.assigned(0)
    again, new = tickets(event(1, "opened"), event(2, "opened"))
    await agent.batch([again, new], 0)
    assert not again.outs
    assert parse(new.outs[0].value, Contact).opens == 2


async def test_an_event_is_never_of_later_than_its_record_says(agent: Score) -> None:
    ahead = record(event(1, "opened"), timestamp=int((NOW - 20) * 1000))
    ticket = FakeTicket(ahead)
    await agent.batch([ticket], 0)
    assert parse(ticket.outs[0].value, Contact).last_open == NOW - 20
