"""Who was erased stays erased: in every state that names people, whatever comes late, twice or in another order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.classify.book import SqliteBook
from agents.classify.policy import Owner
from agents.score import policy as score
from agents.score.agent import Score
from agents.score.erased import in_force
from agents.suppress import policy as suppress
from agents.suppress.agent import FORGET, Suppress
from schemas.codec import encode, parse
from schemas.contact import Contact
from schemas.erasure import Erasure, Pseudonyms, key_of, rows_of
from schemas.event import MailEvent
from schemas.suppression import Suppression
from tests.support.agents import FakeTicket, MemoryState, MemoryStates, record

TO, NOW = "ada@example.org", 1_790_000_000.0
NAMES = Pseudonyms([b"a" * 32, b"b" * 32])
DAY = 86400.0
KINDS = st.sampled_from(
    [
        ("bounced", "suppress", ""), ("soft_bounced", "soft", ""), ("delivered", "", ""), ("complained", "", ""),
        ("unsubscribed", "", ""), ("subscribed", "", ""), ("opened", "", ""), ("clicked", "", ""),
        ("blocked", "", "tenant"), ("blocked", "", "global"),
    ]
)  # fmt: skip
WORDS = st.one_of(
    KINDS, st.just(("erased", "", "")), st.just(("released", "", "global")), st.just(("released", "", ""))
)


def event(day: float, kind: str, action: str = "", scope: str = "") -> MailEvent:
    return MailEvent(
        id=f"{kind}{scope}{day:.6f}".ljust(32, "0"), kind=kind, mail="m", time=NOW + day * DAY, tenant="acme",
        to=TO, action=action, scope=scope,
    )  # fmt: skip


def story(words: st.SearchStrategy) -> st.SearchStrategy[list[MailEvent]]:
    steps = st.lists(st.tuples(words, st.floats(0.01, 9, allow_nan=False)), max_size=14)
    return steps.map(
        lambda steps: [
            event(sum(gap for _, gap in steps[: n + 1]), *word) for n, (word, _) in enumerate(steps)
        ]
    )


class World:
    """Both stages that follow the events, over states that a restart leaves."""

    def __init__(self) -> None:
        self.rows, self.contacts = MemoryStates("mail-suppressions"), MemoryStates("mail-contacts")
        self.told: list[str] = []

    async def play(self, events: Sequence[MailEvent], at: float = 0.0) -> None:
        """Handed in together; written at ``at``, or when each says."""
        stages = (
            Suppress(self.rows, suppress.Settings(), names=NAMES.of),
            Score(self.contacts, score.Settings(), NAMES.of),
        )
        for agent in stages:
            await agent.assigned(0)
            tickets = [FakeTicket(record(e, timestamp=int((at or e.time) * 1000 + 1))) for e in events]
            await agent.batch(tickets, 0)
            assert all(ticket.committable for ticket in tickets)
            self.told += [out.topic for t in tickets for out in t.outs if out.topic in FORGET]
            await agent.revoked(0)

    def suppressions(self) -> list[Suppression]:
        return [parse(raw, Suppression) for raw in self.rows.all[0].rows.values()]

    def kept(self) -> list[Contact]:
        return [parse(raw, Contact) for raw in self.contacts.all[0].rows.values()]

    def everything(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        return dict(self.rows.all[0].rows), dict(self.contacts.all[0].rows)


@settings(max_examples=200, deadline=None)
@given(story(KINDS), st.floats(0, 60), st.data())
def test_in_any_order_and_however_often_only_the_mark_is_left(events, day, data) -> None:
    erased = event(day, "erased")
    twice = data.draw(
        st.permutations([*events, erased, *data.draw(st.lists(st.sampled_from([*events, erased])))])
    )
    world = World()
    asyncio.run(world.play(twice, at=NOW + 900 * DAY))
    (mark,), (contact,) = world.suppressions(), world.kept()
    assert (mark.to, mark.reason, mark.time, mark.version) == (NAMES.of(TO)[0], "erased", erased.time, 1)
    assert (contact.to, contact.erased, contact.version) == (mark.to, erased.time, 1)
    assert all(TO.encode() not in key + raw for rows in world.everything() for key, raw in rows.items())
    assert mark.applies("anybody", "transactional", NOW + 1000 * DAY)


@settings(max_examples=200, deadline=None)
@given(story(WORDS), st.integers(0, 14))
def test_a_replay_of_any_part_changes_nothing(events, start) -> None:
    world = World()

    async def twice():
        await world.play(events)
        before = world.everything()
        await world.play(events[start:])
        return before

    assert asyncio.run(twice()) == world.everything()


@settings(max_examples=200, deadline=None)
@given(story(WORDS))
def test_what_is_told_after_a_release_counts_as_if_nothing_had_been_before(events) -> None:
    last = max((n for n, e in enumerate(events) if e.kind == "erased"), default=None)
    if last is None:
        return
    back = next(
        (n for n, e in enumerate(events) if n > last and (e.kind, e.scope) == ("released", "global")), None
    )
    world, fresh = World(), World()
    asyncio.run(world.play(events))
    clear = [row for row in world.suppressions() if row.reason != "erased"]
    contacts = [row for row in world.kept() if row.to == TO]
    if back is None:
        assert clear == contacts == []
        assert [row.active for row in world.suppressions()] == [True]
        return
    asyncio.run(fresh.play(events[back + 1 :]))
    assert clear == fresh.suppressions()
    assert contacts == fresh.kept()
    assert [row.active for row in world.suppressions() if row.reason == "erased"] == [False]
    assert [in_force(row) for row in world.kept() if row.to != TO] == [False]


async def test_a_tenants_release_does_not_take_an_erasure_back() -> None:
    world = World()
    await world.play([event(0, "erased"), event(1, "released"), event(2, "subscribed")])
    assert [row.active for row in world.suppressions()] == [True]


async def test_the_others_are_told_when_the_mark_stands() -> None:
    agent = Suppress(MemoryStates("mail-suppressions"), suppress.Settings(), names=NAMES.of)
    await agent.assigned(0)
    ticket = FakeTicket(record(event(0, "erased"), partition=0), hold=True)
    await agent.batch([ticket], 0)
    assert [out.topic for out in ticket.outs] == ["mail-suppressions"]
    assert not ticket.said_done
    ticket.ack()
    orders = [out for out in ticket.outs if out.topic in FORGET]
    assert {out.topic for out in orders} == set(FORGET)
    assert {parse(out.value, Erasure).to for out in orders} == {TO}
    assert {(out.headers["type"], out.partition) for out in orders} == {(b"erasure", 0)}
    assert ticket.committable


async def test_who_dies_between_the_mark_and_the_orders_leaves_both_to_the_next() -> None:
    states = MemoryStates("mail-suppressions")
    first = Suppress(states, suppress.Settings(), names=NAMES.of)
    await first.assigned(0)
    died = FakeTicket(record(event(0, "erased")), hold=True)
    await first.batch([died], 0)
    await first.revoked(0)
    died.ack()  # after the partition went: nobody waits for what it says now
    assert not died.said_done
    second = Suppress(states, suppress.Settings(), names=NAMES.of)
    await second.assigned(0)
    again = FakeTicket(record(event(0, "erased")))
    await second.batch([again], 0)
    assert {out.topic for out in again.outs} == set(FORGET)  # the mark is there
    assert again.committable


def test_an_older_secret_still_knows_whom_it_erased() -> None:
    old, new = Pseudonyms([b"a" * 32]), Pseudonyms([b"b" * 32, b"a" * 32])
    view = MemoryState("mail-suppressions")
    row = Suppression(tenant="", to=old.of(TO)[0], scope="global", reason="erased")
    view.rows[row.key] = encode(row)
    assert [raw for _, raw in rows_of(view, TO, new.of)] == [encode(row)]
    assert rows_of(view, "eve@example.org", new.of) == []
    view.reads = 0
    rows_of(view, "eve@example.org", new.of)
    assert view.reads == 1  # nothing is looked for under a hash that is not there
    assert key_of(row.to) in new.known
    assert key_of(row.to) not in Pseudonyms([b"b" * 32]).known
    assert TO not in row.to
    assert old.of(TO) != Pseudonyms([b"c" * 32]).of(TO)


def test_nothing_is_hashed_where_nobody_was_erased() -> None:
    def never(address: str) -> tuple[str, ...]:
        raise AssertionError

    assert rows_of(MemoryState("mail-suppressions"), TO, never) == []


async def test_an_erased_address_is_marked_again_under_its_old_name() -> None:
    world = World()
    await world.play([event(0, "erased"), event(1, "released", scope="global"), event(2, "complained")])
    assert {row.reason for row in world.suppressions()} == {"erased", "complaint"}
    await world.play([event(3, "erased")])
    (mark,) = world.suppressions()
    assert (mark.active, mark.version, mark.time) == (True, 3, NOW + 3 * DAY)


@pytest.mark.parametrize("people", [{TO}, {TO, "eve@example.org"}])
def test_the_book_forgets_whose_mail_it_was(tmp_path, people, monkeypatch) -> None:
    import msgspec

    monkeypatch.setattr("agents.classify.book.STEP", 2)

    book = SqliteBook(tmp_path / "book.sqlite")
    ada = Owner(to=TO, tenant="acme", campaign="c", delivered=NOW)
    others = ("eve@example.org", f"x{TO}", f"{TO}.example")
    owners = [ada, *(replace(ada, to=to) for to in others), ada]
    for n, owner in enumerate(owners):
        book.remember(f"{n:032x}", msgspec.msgpack.encode(owner), NOW + DAY * (n > 2))
    for day in book.days():
        after, steps = b"", 0
        while after is not None:
            after, steps = book.forget(people, day, after), steps + 1
        assert steps == 2  # of three rows, and of two
    left = [book.find(f"{n:032x}") is not None for n in range(5)]
    assert left == [False, TO in people and len(people) == 1, True, True, False]
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert f"\xaf{TO}".encode("latin-1") not in raw  # nor in free pages or the log beside it
    book.close()
