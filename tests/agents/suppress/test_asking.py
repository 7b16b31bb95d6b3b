"""The agent around the consents: which mail is asked for, under which key, and that nothing is asked twice."""

from __future__ import annotations

from typing import Any

import pytest

from agents import Out
from agents.suppress.agent import Suppress
from agents.suppress.asking import LATE, Asking
from agents.suppress.policy import Settings
from schemas.codec import parse
from schemas.consent import StreamConsent
from schemas.consent_rules import ConsentRule, ConsentRules
from schemas.event import Kind, MailEvent
from schemas.send import Send
from schemas.token import ConfirmToken, Tokens
from streams.ops.refold import Suppressions
from tests.support.agents import FakeTicket, MemoryStates, tickets

NOW, TO = 1_750_000_000.0, "ada@example.org"
ID = "00112233445566778899aabbccddeef"
TOKENS = Tokens([b"0123456789abcdef0123456789abcdef"])
RULES = ConsentRules({("acme", "marketing"): ConsentRule(sender="a@acme.test", wording="yes", hours=24)})


def event(kind: Kind, n: int = 0, **fields: Any) -> MailEvent:
    return MailEvent(
        id=f"{ID}{n}", kind=kind, mail="", time=NOW + n, **{"to": TO, "tenant": "acme", **fields}
    )


class World:
    def __init__(self) -> None:
        self.now, self.told = NOW, list[str]()
        self.consents = MemoryStates("mail-consents")
        asking = Asking(
            self.consents,
            RULES,
            lambda link: TOKENS.confirm_url("https://t.acme.test", link),
            lambda: self.now,
            self.told.append,
        )
        self.agent = Suppress(MemoryStates("mail-suppressions"), Settings(), asking)

    async def take(self, *events: MailEvent) -> list[FakeTicket]:
        found = tickets(*events)
        await self.agent.batch(found, 0)
        assert all(ticket.committable for ticket in found)
        return found


@pytest.fixture
async def world() -> World:
    made = World()
    await made.agent.assigned(0)
    return made


def mails(*found: FakeTicket) -> list[Out]:
    return [out for ticket in found for out in ticket.outs if out.topic == "mail-sends-now"]


async def test_who_subscribes_is_asked_by_a_transactional_send_with_a_link_of_their_own(world: World) -> None:
    (ticket,) = await world.take(event("subscription_requested", wording="I agree", tracking="o"))
    (out,) = mails(ticket)
    send = parse(out.value, Send)
    assert (out.partition, out.key) == (None, TO.encode())  # murmur2 of the recipient
    assert (send.campaign, send.tenant, send.to) == ("confirm.marketing", "acme", TO)
    assert (send.variables["wording"], send.variables["hours"]) == ("I agree", "24")
    token = send.variables["confirm_url"].removeprefix("https://t.acme.test/confirm/")
    assert TOKENS.read_confirm_token(token) == ConfirmToken(
        f"{ID}0", "acme", "marketing", TO, NOW, NOW + 86400, "o"
    )


async def test_a_redo_writes_the_same_send_until_its_link_is_dead(world: World) -> None:
    asked = event("subscription_requested")
    first, again = [mails(ticket) for _ in range(2) for ticket in await world.take(asked)]
    assert first == again != []
    world.now = NOW + 86401
    assert mails(*await world.take(asked)) == []


async def test_a_fourth_is_not_written_and_counted(world: World) -> None:
    found = await world.take(*(event("subscription_requested", n) for n in range(4)))
    assert len(mails(*found)) == 3
    assert world.told == ["mailed", "mailed", "mailed", "limited"]


async def test_what_is_not_about_consent_reads_none_and_an_unsubscribe_is_on_record(world: World) -> None:
    await world.take(event("delivered"), event("bounced", 1, action="suppress"))
    state = world.consents.all[0]
    assert state.reads == 0
    (ticket,) = await world.take(event("unsubscribed", 2, reason="one_click"))
    assert {out.topic for out in ticket.outs} == {"mail-suppressions", "mail-consents"}
    (row,) = [parse(raw, StreamConsent) for raw in state.rows.values()]
    assert (row.state, row.changes[0].source) == ("revoked", "one_click")


async def test_who_never_confirmed_is_forgotten_when_nothing_counts_any_more(world: World) -> None:
    await world.take(event("subscription_requested"), event("unsubscribed", 1, to="eve@example.org"))
    state = world.consents.all[0]
    state.over = list(state.rows)
    assert list(world.agent._asking.sweep(NOW + 2 * 86400 + LATE)) == []
    state.is_fresh = False  # it was frozen: another one may have the partition
    assert list(world.agent._asking.sweep(NOW + 2 * 86400 + LATE + 1)) == []
    state.is_fresh = True
    (out,) = world.agent._asking.sweep(NOW + 2 * 86400 + LATE + 1)
    assert (out.topic, out.key, out.value, out.partition) == (
        "mail-consents",
        f"{TO}|acme|marketing".encode(),
        None,
        0,
    )


async def test_the_partition_comes_back_as_it_went(world: World) -> None:
    await world.take(event("unsubscribed"))
    await world.agent.revoked(0)
    await world.agent.assigned(0)
    (again,) = await world.take(event("unsubscribed"))
    assert again.outs == []


@pytest.mark.parametrize("swept", [True, False])
async def test_recomputed_a_row_may_have_gone_and_begun_anew_or_not(world: World, swept: bool) -> None:
    told = Suppressions(lambda address: ("#",), RULES)
    state = world.consents.all[0]
    for ask in (event("subscription_requested"), event("subscription_requested", 3 * 86400)):
        (ticket,) = await world.take(ask)
        told.add(ticket.record, True)
        if swept and ask.time == NOW:
            state.rows.clear()
    for more in (event("unsubscribed", 4 * 86400), event("consent_revoked", 5 * 86400, tracking="o")):
        (ticket,) = await world.take(more)
        told.add(ticket.record, True)
        [(key, raw)] = state.rows.items()
        assert raw in told.consents.get(key)
    assert parse(raw, StreamConsent).version == (3 if swept else 4)
    assert len(told.consents.get(key)) == 2
