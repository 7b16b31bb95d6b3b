"""Writing the journal: what is open, how old it is, and what is written without a ticket."""

from __future__ import annotations

import orjson

from agents import Out
from agents.deliver.job import Mail
from agents.deliver.journal import Journal
from schemas.outcome import Outcome
from tests.support.agents import FakeTicket, MemoryState
from tests.support.gates import mail


class Paper:
    def __init__(self) -> None:
        self.now = 10.0
        self.published: list[Out] = []
        self.acks: list = []
        self.journal = Journal(self.publish, lambda: self.now)
        self.state = MemoryState("mail-outcomes")
        self.events: list[str] = []

    def publish(self, out: Out, acked=None) -> None:
        self.published.append(out)
        self.acks.append(acked)

    def mail(self, name: str) -> tuple[Mail, FakeTicket]:
        ticket = FakeTicket(mail(name), hold=True)
        return Mail(ticket, 1, self.now), ticket

    def write(self, found: Mail, state: MemoryState | None, word: str = "written") -> None:
        outcome = Outcome(id=found.id, state="delivered", attempt=1)
        self.journal.write(found, state, outcome, lambda: self.events.append(word))


def test_open_and_age_follow_the_oldest_that_is_not_acknowledged():
    paper = Paper()
    (one, first), (two, second) = paper.mail("one"), paper.mail("two")
    assert (paper.journal.open, paper.journal.age()) == (0, 0.0)
    paper.write(one, paper.state)
    paper.now += 3
    paper.write(two, paper.state)
    paper.now += 1
    assert (paper.journal.open, paper.journal.age()) == (2, 4.0)
    first.ack()
    assert (paper.journal.open, paper.journal.age()) == (1, 1.0)
    second.ack()
    assert (paper.journal.open, paper.journal.age()) == (0, 0.0)


def test_it_no_longer_counts_when_the_acknowledgement_is_told():
    """So that a mail may start from there."""
    paper = Paper()
    found, ticket = paper.mail("one")
    seen: list[int] = []
    outcome = Outcome(id="one", state="intent", attempt=1)
    paper.journal.write(found, paper.state, outcome, lambda: seen.append(paper.journal.open))
    ticket.ack()
    assert seen == [0]


def test_the_row_sees_it_before_the_broker_does():
    paper = Paper()
    found, ticket = paper.mail("one")
    paper.write(found, paper.state)
    assert orjson.loads(paper.state.get(b"one") or b"")["state"] == "delivered"
    assert paper.events == []
    ticket.ack()
    assert paper.events == ["written"]


def test_what_hangs_on_no_ticket_any_more_is_published():
    paper = Paper()
    found, ticket = paper.mail("one")
    found.ticket_done = True
    ticket.done()
    paper.write(found, paper.state)
    paper.journal.emit(found, Out("mail-wait-1m", b"", {}, None, 0), lambda: paper.events.append("ladder"))
    assert [out.topic for out in paper.published] == ["mail-outcomes", "mail-wait-1m"]
    assert paper.journal.open == 1
    for acked in paper.acks:
        acked()
    assert paper.events == ["written", "ladder"]
    assert paper.journal.open == 0


def test_without_a_state_the_next_owner_reads_it():
    paper = Paper()
    found, ticket = paper.mail("one")
    paper.write(found, None)
    [out] = paper.published
    assert (out.topic, out.key, out.partition) == ("mail-outcomes", b"one", 0)
    assert out.headers == {"type": b"outcome", "version": b"1"}
    assert ticket.outs == []
    paper.acks[0]()
    assert paper.events == ["written"]


def test_a_late_reply_counts_for_nothing_that_is_open():
    paper = Paper()
    found, _ = paper.mail("one")
    paper.journal.late(found, Outcome(id="one", state="bounced", attempt=1))
    assert paper.journal.open == 0
    assert paper.published[0].key == b"one"
