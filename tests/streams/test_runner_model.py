"""Tickets, watermark and commits against a model broker: random answers, orders, crashes, redeliveries.

What must hold whatever happens: an offset is committed only when its record was settled in this life of
the process and everything that it had to write, or its dead letter, is acknowledged; and in the end
everything is committed.
"""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents import Out, Stage
from schemas.codec import Record
from streams.watermark import Watermark
from streams.work import Desk, Work, hand

STAGE = Stage("model", "?", ("in",), ("out",), twins=False)
ACTION = st.tuples(
    st.sampled_from(["done", "keep", "reject", "raise", "half", "large", "forget"]),
    st.integers(0, 3),
    st.booleans(),
)


class Pending:
    """What was written and not yet acknowledged, in the order of writing."""

    def __init__(self):
        self.queue = []

    def put(self, out, acked=None, urgent=True):
        self.queue.append((out, acked))

    def end(self, code, why, error):
        raise AssertionError(why) from error


class Scripted:
    """Does with each record what the script says. ``then``: outputs that follow an acknowledgement."""

    def __init__(self, machine):
        self.machine = machine

    async def batch(self, tickets, partition):
        for ticket in tickets:
            what, outputs, then = self.machine.script[ticket.record.offset]
            if what == "keep":
                ticket.keep()
                self.machine.kept.append((ticket, outputs, then))
            elif what == "done":
                self.machine.settle(ticket, outputs, then)
            elif what == "reject":
                ticket.reject("no", "the script says so")
            elif what == "half":
                self.machine.emit(ticket, then)
                raise ValueError("after an output")
            elif what == "raise":
                raise ValueError("at once")
            elif what == "large":
                ticket.emit(Out("out", b"x" * 200, {}, None, 0))
                ticket.done()


class Life(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.length = 0
        self.committed = 0
        self.now = 0.0
        self.begin()

    def begin(self):
        """A process starts at the committed offset."""
        self.outbox = Pending()
        self.desk = Desk(STAGE, self.outbox, 100, lambda: self.now)
        self.mark = Watermark(self.committed)
        self.next = self.committed
        self.kept, self.script = [], {}
        self.said = {}  # offset -> settled in this life
        self.owed = {}  # offset -> what has to be acknowledged still

    def settle(self, ticket, outputs, then):
        for _ in range(outputs):
            self.emit(ticket, then)
        ticket.done()
        self.said[ticket.record.offset] = True

    def emit(self, ticket, then):
        offset = ticket.record.offset
        if not then:
            ticket.emit(Out("out", b"%d" % offset, {}, None, 0))
            return
        self.owed[offset] = self.owed.get(offset, 0) + 1

        def follow():
            ticket.emit(Out("out", b"%d" % offset, {}, None, 0), lambda: self.paid(offset))

        ticket.emit(Out("out", b"%d" % offset, {}, None, 0), follow)

    def paid(self, offset):
        self.owed[offset] -= 1

    def waiting(self, offset):
        return [o for o, _ in self.outbox.queue if o.value == b"%d" % offset]

    @rule(count=st.integers(1, 5))
    def produce(self, count):
        self.length += count

    @precondition(lambda self: self.next < self.length)
    @rule(actions=st.lists(ACTION, min_size=1, max_size=5))
    def take(self, actions):
        works = []
        self.now += 100  # the limit on bugs a minute has a test of its own
        for action in actions[: self.length - self.next]:
            offset = self.next
            self.script[offset] = action
            self.mark.take(offset)
            record = Record("in", 0, offset, 0, None, b"%d" % offset, {})
            works.append(Work(record, self.desk, lambda work: self.mark.finish(work.record.offset)))
            self.next += 1
        asyncio.run(hand(Scripted(self), self.desk, works, 0))
        assert all(work.settled for work in works)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def finish_kept(self, data):
        ticket, outputs, then = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        self.settle(ticket, outputs, then)

    @precondition(lambda self: self.outbox.queue)
    @rule(data=st.data())
    def acknowledge(self, data):
        """Any one: partitions of different topics answer in any order."""
        _, acked = self.outbox.queue.pop(data.draw(st.integers(0, len(self.outbox.queue) - 1)))
        if acked:
            acked(0)

    @rule()
    def commit(self):
        self.committed = self.mark.position

    @rule()
    def crash(self):
        self.begin()

    @invariant()
    def nothing_passes_before_it_is_safe(self):
        assert self.committed <= self.mark.position <= self.next
        for offset, (what, _, _) in self.script.items():
            if offset < self.mark.position:
                assert not self.waiting(offset), "an output is not acknowledged"
                assert not self.owed.get(offset), "what was to follow an acknowledgement is missing"
                if what in ("done", "keep"):
                    assert self.said.get(offset), "the record is not settled"

    def teardown(self):
        while self.kept or self.outbox.queue:
            while self.outbox.queue:
                _, acked = self.outbox.queue.pop()
                if acked:
                    acked(0)
                self.nothing_passes_before_it_is_safe()
            while self.kept:
                self.settle(*self.kept.pop())
        self.nothing_passes_before_it_is_safe()
        assert self.mark.position == self.next
        assert len(self.mark) == 0
        assert not any(self.owed.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


async def test_an_acknowledgement_that_cannot_be_worked_on_leaves_the_record_open():
    """It ends the process; until then nothing may count as done."""
    ended, finished = [], []

    class Ends(Pending):
        def end(self, code, why, error):
            ended.append((code, why, repr(error)))

    outbox = Ends()
    desk = Desk(STAGE, outbox, 100, lambda: 0.0)
    work = Work(Record("in", 0, 0, 0, None, b"", {}), desk, finished.append)

    def raises():
        raise KeyError("the mail")

    work.emit(Out("out", b"", {}, None, 0), raises)
    work.done()
    outbox.queue[0][1](0)
    assert ended == [(70, "stage model raised on an answer", "KeyError('the mail')")]
    assert not finished
    assert not work.finished
