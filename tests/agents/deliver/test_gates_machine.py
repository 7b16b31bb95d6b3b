"""Gate two under everything that can happen to it, beside a model of what its journal promises."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents import Out
from agents.deliver.row import Row, read_row
from schemas.codec import Record
from schemas.outcome import TERMINAL, Outcome
from tests.support.gates import (
    START,
    Broker,
    BrokerTicket,
    GateTwo,
    Servers,
    VirtualLoop,
    decode_outcome,
    mail,
    woken,
)

some = st.integers(0, 1000)
words = st.sampled_from(["250", "250", "451", "451", "550", "421", "dot", "dot", "die"])
rarely = st.sampled_from([True, False, False, False])


class Lane(RuleBasedStateMachine):
    """``log``: records that nobody has taken; ``work``: taken and not committed; ``rungs``: on the ladder.

    ``at_large``: mails that a provider has or may have, by id; ``excuses``: how often it was allowed to
    get another one (the promise: between dot and acknowledgement at a crash, or a reply that never came).
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.faults: list[Any] = []
        self.loop.set_exception_handler(lambda _loop, fault: self.faults.append(fault))
        self.broker = Broker(hold=True)
        self.broker.on_put, self.broker.on_land = self.put, self.land
        self.log: deque[Record] = deque()
        self.work: list[BrokerTicket] = []
        self.rungs: list[Out] = []
        self.firsts: list[Record] = []
        self.ladder: set[tuple[str, int]] = set()
        self.journal: list[Outcome] = []
        self.known: dict[int, int] = {}
        """How long the journal was when a record was handed in, by id() of its ticket."""
        self.at_large: Counter[str] = Counter()
        self.excuses: Counter[str] = Counter()
        self.once: set[str] = set()
        self.run(self.begin())

    def run(self, story: Any) -> None:
        self.loop.run_until_complete(story)
        assert self.faults == []  # what was raised in a task or a timer

    async def begin(self) -> None:
        servers = Servers(None)
        servers.on_start, servers.on_dot, servers.on_reply = self.started, self.dotted, self.replied
        servers.on_lost = self.lost
        self.gate = GateTwo(self.broker, servers)
        await self.gate.agent.assigned(0)

    # -- what the model sees

    def put(self, out: Out) -> None:
        if out.topic == "mail-outcomes":
            outcome = decode_outcome(out)
            if outcome.state == "deferred" or (outcome.state == "unknown" and not outcome.final):
                assert (outcome.id, outcome.attempt + 1) in self.ladder, "an outcome before its ladder record"

    def land(self, out: Out) -> None:
        if out.topic == "mail-outcomes":
            self.journal.append(decode_outcome(out))
        elif out.topic.startswith("mail-wait-"):
            self.ladder.add((out.headers["id"].decode(), int(out.headers["attempt"])))
            self.rungs.append(out)

    def started(self, job: Any) -> None:
        before = self.journal[: self.known[id(job.ticket)]]
        for outcome in (o for o in before if o.id == job.id):
            assert not outcome.terminal, f"an attempt after {outcome.state}"
            assert outcome.attempt < job.attempt or outcome.state == "intent", "the same attempt twice"
        if job.id in self.once:
            assert any((o.id, o.state) == (job.id, "intent") for o in self.journal), "no intent before MAIL"
        under_way = [line.job.id for line in self.gate.servers.lines if line.job]
        assert len(under_way) == len(set(under_way)), "two attempts at a time"
        assert self.gate.is_fresh

    def dotted(self, job: Any) -> None:
        assert self.gate.is_fresh
        self.at_large[job.id] += 1
        if job.id in self.once:
            assert self.at_large[job.id] <= 1, "at most once, and yet a second one"

    def replied(self, job: Any, state: str) -> None:
        if state != "accepted":
            self.at_large[job.id] -= 1

    def lost(self, job: Any) -> None:
        self.excuses[job.id] += 1

    # -- what happens

    @precondition(lambda self: len(self.firsts) < 5)
    @rule(once=st.booleans(), expires=st.sampled_from([120, 86400, 86400]))
    def a_mail(self, once, expires):
        name = f"m{len(self.firsts)}"
        if once:
            self.once.add(name)
        self.firsts.append(
            mail(
                name,
                f"{name}@{'bc'[len(self.firsts) % 2]}.example",
                guarantee="at_most_once" if once else None,
                expires=int(START + self.loop.time()) + expires,
            )
        )
        self.log.append(self.firsts[-1])

    @precondition(lambda self: self.firsts)
    @rule(which=some, verdict=st.booleans())
    def somebody_before_us_does_it_again(self, which, verdict):
        record = self.firsts[which % len(self.firsts)]
        if verdict:
            headers = record.headers | {"type": b"verdict", "outcome": b"cancelled"}
            record = Record(record.topic, 0, 0, record.timestamp, None, None, headers)
        self.log.append(record)

    @precondition(lambda self: self.log)
    @rule(count=st.sampled_from([1, 100]), wait=st.sampled_from([0.0, 0.3, 0.3]), intents=st.booleans())
    def deliver_works(self, count, wait, intents):
        self.run(self.hand(count, wait))
        if intents:
            self.run(self.acks("mail-outcomes", 100))

    async def hand(self, count: int, wait: float = 0.3) -> None:
        tickets = [BrokerTicket(self.log.popleft(), self.broker) for _ in range(min(count, len(self.log)))]
        for ticket in tickets:
            self.known[id(ticket)] = len(self.journal)
        self.work += tickets
        await self.gate.agent.batch(tickets, 0)
        await asyncio.sleep(wait)

    @precondition(lambda self: self.talking())
    @rule(which=some, what=words)
    def a_server_answers(self, which, what):
        self.run(self.answer(which, what))

    @precondition(lambda self: self.talking())
    @rule(then=st.sampled_from(["die", "crash", "rebalance", "later"]))
    def the_dot_is_written_and_then(self, then):
        self.run(self.answer(0, "dot"))
        if then == "die":
            self.run(self.answer(0, "die"))
        elif then == "crash":
            self.crash(0, False, True)
        elif then == "rebalance":
            self.rebalance(True, True)

    def talking(self) -> list[Any]:
        return [line for line in self.gate.servers.lines if line.job or line.late]

    async def answer(self, which: int, what: str) -> None:
        lines = self.talking()
        if lines:
            line = lines[which % len(lines)]
            if what == "dot":
                line.to_dot()
            elif what == "die":
                line.die()
            else:
                line.say(int(what), "so it is")

    @precondition(lambda self: self.broker.flight)
    @rule(count=st.sampled_from([1, 2, 100]), topic=st.sampled_from(["mail-outcomes", "", "", ""]))
    def the_broker_answers(self, topic, count):
        self.run(self.acks(topic, count))

    async def acks(self, topic: str, count: int) -> None:
        for _ in range(count):
            self.broker.ack_topic(topic) if topic else self.broker.ack(1)
        await asyncio.sleep(0.03)
        self.committed()

    def committed(self) -> None:
        self.a_committed_record_is_in_the_journal_or_on_the_ladder()
        self.work = [ticket for ticket in self.work if not ticket.committable]

    @rule(seconds=st.sampled_from([1, 5, 40, 700]))
    def time_passes(self, seconds):
        self.run(self.gate.ticks(min(seconds, 40)))
        self.gate.ahead += max(0, seconds - 40)

    @precondition(lambda self: self.rungs)
    @rule(which=some, twice=st.booleans())
    def a_ladder_record_wakes(self, which, twice):
        out = self.rungs[which % len(self.rungs)]
        if not twice:
            self.rungs.remove(out)
        self.log.append(woken(out))

    @rule(dot=st.booleans())
    def heartbeats_fail_for_a_while(self, dot):
        self.run(self.stale(dot))

    async def stale(self, dot: bool) -> None:
        self.gate.is_fresh = False
        for line in self.talking() if dot else []:
            line.to_dot()
        await self.hand(1, 1.0)
        self.gate.is_fresh = True
        await asyncio.sleep(0.1)

    @rule(lands=st.integers(0, 3), also_done=st.booleans(), really=rarely)
    def crash(self, lands, also_done, really):
        if not really:
            return
        sent = Counter(o.id for o in map(decode_outcome, self.in_flight()) if o.state == "delivered")
        before = len(self.journal)
        self.broker.crash(lands)
        landed = Counter(o.id for o in self.journal[before:] if o.state == "delivered")
        self.excuses += sent - landed
        for line in self.gate.servers.lines:
            if line.phase == "dot" and line.job:
                self.lost(line.job)
        self.redo(also_done)
        self.gate.agent.feeds.stop()  # no timer and no task of a dead process goes on
        self.run(self.begin())

    def in_flight(self) -> list[Out]:
        return [out for out, _ in self.broker.flight if out.topic == "mail-outcomes"]

    def redo(self, also_done: bool) -> None:
        self.log.extendleft(t.record for t in reversed(self.work) if also_done or not t.committable)
        self.work = []

    @rule(answers=st.booleans(), really=rarely)
    def rebalance(self, answers, really):
        if really:
            self.run(self.turn(answers))

    async def turn(self, answers: bool) -> None:
        async def broker() -> None:
            while answers:
                await asyncio.sleep(0.4)
                self.broker.ack()

        acks = asyncio.create_task(broker())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gate.agent.revoked(0), 5)
        acks.cancel()
        self.gate.epoch += 1
        self.redo(False)
        await self.gate.agent.assigned(0)

    # -- what must hold

    def row(self, name: str) -> Row | None:
        raw = self.broker.rows.get(("mail-outcomes", 0), {}).get(name.encode())
        return read_row(raw) if raw else None

    @invariant()
    def a_committed_record_is_in_the_journal_or_on_the_ladder(self):
        for ticket in self.work:
            if ticket.committable:
                name, attempt = ticket.record.headers["id"].decode(), int(ticket.record.headers["attempt"])
                row = self.row(name)
                held = row is not None and row.attempt >= attempt + (row.state == "intent")
                covered = held or (row is not None and row.terminal)
                copied = any(out.topic.startswith("mail-wait-") for out in ticket.outs)
                assert covered or copied, f"{name}: its record is gone and nothing holds it"

    @invariant()
    def nothing_twice_but_as_promised(self):
        for name, count in self.at_large.items():
            assert count <= 1 + self.excuses[name], f"{name}: {count} copies, {self.excuses[name]} excuses"

    def teardown(self):
        try:
            self.run(self.drain())
        finally:
            self.loop.close()

    async def drain(self) -> None:
        self.gate.is_fresh = True
        self.gate.servers.answer = lambda line: line.say(250, "ok")
        for line in list(self.gate.servers.lines):
            if line.job:
                line.say(250, "ok")
        for _ in range(40):
            self.log.extend(woken(out) for out in self.rungs)
            self.rungs.clear()
            await self.hand(100)
            self.broker.ack()
            self.a_committed_record_is_in_the_journal_or_on_the_ladder()
            self.committed()
            if not (self.log or self.rungs or self.work or self.broker.flight):
                break
        assert not self.work, f"never done: {[t.record.headers for t in self.work]}"
        self.nothing_twice_but_as_promised()
        assert self.gate.agent.journal.open == 0
        assert self.gate.agent._mails == {}
        for record in self.firsts:
            row = self.row(record.headers["id"].decode())
            assert row is not None, f"lost: {record.headers['id']!r}"
            assert row.terminal, f"never ended: {record.headers['id']!r}, row {row}"
            assert row.state in TERMINAL or row.state == "unknown"


Lane.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_gate_two = Lane.TestCase
