"""Gate one under everything that can happen to it: every origin has one end, every key one mail."""

from __future__ import annotations

from collections import defaultdict, deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents import Out
from schemas.codec import Record, encode
from schemas.suppression import Suppression
from tests.agents.screen.test_agent import GateOne, end_of, refusal, send
from tests.support.gates import START, Broker, BrokerTicket, at_once

ADDRESSES = ("a@b.example", "z@b.example")
people = st.sampled_from(ADDRESSES)
flips = st.fixed_dictionaries(
    {"lane": st.sampled_from(["gmx", "other-1"])},
    optional={
        "expires": st.sampled_from([START + 5, START + 90, START + 1000]),
        "host": st.just("null_mx"),
        "not_before": st.just(START + 300),
        "refused": st.sampled_from(["rejected", "expired", "cancelled"]),
    },
)


class Sends(RuleBasedStateMachine):
    """``log``: what enqueue wrote and nobody has committed; ``ends``: what landed, by origin."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker(hold=True)
        self.broker.on_land = self.landed
        self.specs: list[dict] = []
        self.log: deque[Record] = deque()
        self.work: list[BrokerTicket] = []
        self.ends: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self.routes: dict[str, set[tuple[bytes, bytes, bool]]] = defaultdict(set)
        self.suppressed: dict[bytes, bytes] = {}
        self.now = START
        self.begin()

    def begin(self) -> None:
        self.gate = GateOne(self.broker)
        self.gate.now = self.now
        self.gate.suppressed.rows = self.suppressed
        at_once(self.gate.agent.assigned(0))

    def landed(self, out: Out) -> None:
        if out.topic == "mail-screen-log":
            return
        origin, kind, reason = end_of(out)
        # One event (the same id): a refusal has no content left to compare.
        self.ends[origin].add((origin, kind, "duplicate" if reason == "conflict" else reason))
        if kind == "pass":
            urgent = (out.headers.get("next") or out.topic.encode()).endswith(b"-now")
            self.routes[origin].add((out.headers["lane"], out.headers["expires"], urgent))

    def enqueue(self, number: int, flip: dict) -> None:
        spec, changes = self.specs[number], dict(flip)
        refused = changes.pop("refused", None)
        make = refusal if refused else send
        if refused:
            changes["outcome"] = refused
            spec = {name: value for name, value in spec.items() if name != "body"}
        self.log.append(make(f"o{number}", **(spec | changes)))

    # -- what happens

    @rule(
        to=people,
        campaign=st.sampled_from("cd"),
        stream=st.sampled_from(["marketing", "marketing", "transactional"]),
        key=st.sampled_from([None, None, "k"]),
        body=st.sampled_from([b"one", b"two"]),
        flip=flips,
    )
    def a_send(self, to, campaign, stream, key, body, flip):
        self.specs.append({"to": to, "campaign": campaign, "stream": stream, "key": key, "body": body})
        self.enqueue(len(self.specs) - 1, flip)

    @rule(which=st.integers(0, 1000), flip=flips)
    def enqueue_does_it_again(self, which, flip):
        if self.specs:
            self.enqueue(which % len(self.specs), flip)

    @rule(count=st.integers(1, 5))
    def screen_works(self, count):
        tickets = [BrokerTicket(self.log.popleft(), self.broker) for _ in range(min(count, len(self.log)))]
        self.work += tickets
        at_once(self.gate.agent.batch(tickets, 0))

    @rule(topic=st.sampled_from(["mail-screen-log", "mail-screened", "mail-events"]), count=st.integers(1, 3))
    def the_broker_answers(self, topic, count):
        for _ in range(count):
            self.broker.ack_topic(topic)

    @rule()
    def committed(self):
        self.work = [ticket for ticket in self.work if not ticket.committable]

    @rule(lands=st.integers(0, 3))
    def crash(self, lands):
        self.broker.crash(lands)
        self.log.extendleft(ticket.record for ticket in reversed(self.work))
        self.work = []
        self.begin()

    @rule(to=people, active=st.booleans())
    def suppression(self, to, active):
        row = Suppression(tenant="t", to=to, reason="complaint", active=active)
        self.suppressed[row.key] = encode(row)

    @rule(seconds=st.sampled_from([1, 60, 500]))
    def time_passes(self, seconds):
        self.now = self.gate.now = self.now + seconds

    # -- what must hold

    @invariant()
    def one_end(self):
        for ends in self.ends.values():
            assert len(ends) == 1, f"two ends: {ends}"
        for origin, routes in self.routes.items():
            assert len(routes) == 1, f"{origin} went two ways: {routes}"

    @invariant()
    def one_mail_a_key(self):
        takers = defaultdict(set)
        for origin in self.routes:
            spec = self.specs[int(origin[1:])]
            if spec["stream"] == "marketing":
                takers[("campaign", spec["to"], spec["campaign"])].add(origin)
            if spec["key"]:
                takers[("key", spec["to"], spec["key"])].add(origin)
        for key, origins in takers.items():
            assert len(origins) == 1, f"{key} let out {origins}"

    def teardown(self):
        while self.log or self.broker.flight:
            self.screen_works(100)
            self.broker.ack()
        assert all(ticket.committable for ticket in self.work)
        self.one_end()
        self.one_mail_a_key()
        assert set(self.ends) == {f"o{n}" for n in range(len(self.specs))}, "an origin has no end"


Sends.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_gate_one = Sends.TestCase
