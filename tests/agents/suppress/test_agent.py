"""The agent around the policy: what is written, what is not looked at, what is refused."""

from __future__ import annotations

import pytest

from agents.suppress.agent import STAGE, Suppress
from agents.suppress.policy import Settings
from schemas.codec import parse
from schemas.event import Kind, MailEvent
from schemas.suppression import Suppression
from tests.support.agents import FakeTicket, MemoryState, MemoryStates, record, tickets

NOW = 1_750_000_000.0


def event(kind: Kind, action: str = "", to: str = "ada@example.org", time: float = NOW) -> MailEvent:
    return MailEvent(id=f"{kind}{time}", kind=kind, mail="m1", time=time, tenant="acme", to=to, action=action)


@pytest.fixture
async def agent() -> Suppress:
    made = Suppress(MemoryStates("mail-suppressions"), Settings())
    await made.assigned(0)
    return made


def state_of(agent: Suppress) -> MemoryState:
    states = agent._states
    assert isinstance(states, MemoryStates)
    return states.all[0]


async def test_a_bad_address_is_written_once(agent: Suppress) -> None:
    first, again = tickets(event("bounced", "suppress"), event("bounced", "suppress"))
    await agent.batch([first, again], 0)
    (out,) = first.outs
    assert out.topic == STAGE.emits[0]
    assert out.key == b"ada@example.org|acme|tenant||hard_bounce"
    assert parse(out.value, Suppression).applies("acme", "marketing", NOW + 1)
    assert again.outs == []
    assert first.committable
    assert again.committable


async def test_events_in_one_batch_see_each_other(agent: Suppress) -> None:
    day = 86400.0
    batch = tickets(*(event("soft_bounced", "soft", time=NOW - n * day) for n in (3, 2, 1)))
    await agent.batch(batch, 0)
    rows = [parse(ticket.outs[0].value, Suppression) for ticket in batch]
    assert [row.active for row in rows] == [False, False, True]
    assert [row.version for row in rows] == [1, 2, 3]


async def test_neighbours_in_the_key_space_are_left_alone(agent: Suppress) -> None:
    await agent.batch(
        tickets(event("soft_bounced", "soft", to="ada@example.org.example.com", time=NOW - 9)), 0
    )
    (delivered,) = tickets(event("delivered"))
    await agent.batch([delivered], 0)
    assert delivered.outs == []


async def test_what_cannot_matter_reads_no_state(agent: Suppress) -> None:
    batch = tickets(event("opened"), event("queued"), event("deferred", "slow"), event("bounced", "hold"))
    await agent.batch(batch, 0)
    assert state_of(agent).reads == 0
    assert all(ticket.committable and not ticket.outs for ticket in batch)


async def test_a_malformed_event_goes_to_the_dead_letters_and_the_others_go_on(agent: Suppress) -> None:
    bad = [
        FakeTicket(record(b"{", headers={"type": b"event"})),
        FakeTicket(record(b'{"id":"x"}')),
        FakeTicket(record(event("delivered"), headers={"version": b"9"})),
        FakeTicket(record(None)),
    ]
    (good,) = tickets(event("unsubscribed"))
    await agent.batch([*bad, good], 0)
    reasons = [ticket.rejected and ticket.rejected[0] for ticket in bad]
    assert reasons == ["bad_json", "bad_field", "unknown_version", "empty"]
    assert len(good.outs) == 1


async def test_a_partition_comes_back_as_it_went(agent: Suppress) -> None:
    await agent.batch(tickets(event("complained")), 0)
    await agent.revoked(0)
    await agent.revoked(0)
    await agent.assigned(0)
    (again,) = tickets(event("complained"))
    await agent.batch([again], 0)
    assert again.outs == []


async def test_a_record_is_committable_only_after_its_write_was_acknowledged(agent: Suppress) -> None:
    ticket = FakeTicket(record(event("complained")), hold=True)
    await agent.batch([ticket], 0)
    assert not ticket.committable
    ticket.ack()
    assert ticket.committable
