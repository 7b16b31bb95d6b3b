"""A small world around gate one or gate two: a broker that acknowledges when told, servers, a virtual clock.

Nothing here waits: on ``VirtualLoop`` a sleep of an hour takes no time. ``Broker`` has what was written
in three forms: in flight, landed, and the journal's rows as their tail would give them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from agents import Out, Ticket
from agents.deliver.agent import Deliver
from agents.deliver.allowance import Allowance, Rate
from agents.deliver.attempt import Attempt, Facts
from agents.deliver.connect import ConnectFailed
from agents.deliver.policy import Settings
from agents.deliver.requirement import Requirement
from agents.deliver.row import newer, reduce_outcome
from agents.deliver.smtp import Session
from agents.deliver.sources import Sources
from schemas.codec import Headers, Record
from schemas.erasure import Pseudonyms, name_in
from schemas.hosts import MailHosts, MxHost
from schemas.ladder import RUNGS, off_ladder
from schemas.outcome import Outcome
from schemas.reply import Meaning
from tests.support.agents import FakeTicket

START = 1_800_000_000.0
"""Unix time at which a virtual world begins."""

HASHES = Pseudonyms([b"h" * 32])
"""Of people who were erased."""


class _Select(selectors.SelectSelector):
    """Never waits: says how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everything waits, and no timer is set"
            self.slept += max(0.0, timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer. Not for sockets."""

    def __init__(self) -> None:
        self._select = _Select()
        super().__init__(self._select)

    def time(self) -> float:
        return self._select.slept


def virtual(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a story on a virtual clock."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(story)
    finally:
        loop.close()


def at_once(story: Coroutine[Any, Any, None]) -> None:
    """Run what never really waits, without a loop."""
    try:
        story.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


class Broker:
    """``hold``: records stay in flight until ``ack``; else they are acknowledged at once."""

    def __init__(self, hold: bool = False) -> None:
        self.hold = hold
        self.flight: deque[tuple[Out, Callable[[], None]]] = deque()
        self.landed: dict[str, list[Out]] = {}
        self.rows: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self.reduces: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, bytes], bool]]] = {
            "mail-outcomes": (lambda value: reduce_outcome(value)[0], newer)
        }
        self.on_put: Callable[[Out], None] = lambda out: None
        self.on_land: Callable[[Out], None] = lambda out: None

    def put(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Write."""
        self.on_put(out)
        self.flight.append((out, acked or (lambda: None)))
        if not self.hold:
            self.ack()

    def ack(self, count: int = 1_000_000) -> None:
        """The first ``count`` records in flight land and are acknowledged."""
        while self.flight and count:
            count -= 1
            out, acked = self.flight.popleft()
            self.land(out)
            acked()

    def ack_topic(self, topic: str) -> None:
        """The first record in flight of a topic is acknowledged: topics do not keep each other's order."""
        for n, (out, acked) in enumerate(self.flight):
            if out.topic == topic:
                del self.flight[n]
                self.land(out)
                return acked()

    def land(self, out: Out) -> None:
        self.landed.setdefault(out.topic, []).append(out)
        self.on_land(out)
        if out.key is not None and out.value is not None:
            reduce, better = self.reduces.get(out.topic, (lambda value: value, lambda old, new: True))
            rows = self.rows.setdefault((out.topic, out.partition or 0), {})
            new = reduce(out.value)
            if out.key not in rows or better(rows[out.key], new):
                rows[out.key] = new

    def crash(self, lands: int) -> None:
        """Of what is in flight the first ``lands`` records of every topic land, the rest is gone."""
        seen: dict[str, int] = {}
        for out, _ in self.flight:
            seen[out.topic] = seen.get(out.topic, 0) + 1
            if seen[out.topic] <= lands:
                self.land(out)
        self.flight.clear()

    def outcomes(self, mail: str = "") -> list[Outcome]:
        """What the journal holds (of a mail)."""
        found = [decode_outcome(out) for out in self.landed.get("mail-outcomes", [])]
        return [outcome for outcome in found if not mail or outcome.id == mail]

    def ladder(self) -> list[Out]:
        """What lies on the rungs, in order."""
        return [o for topic, outs in self.landed.items() if topic.startswith("mail-wait-") for o in outs]


def decode_outcome(out: Out) -> Outcome:
    """The outcome in a journal record."""
    from schemas.codec import parse

    return parse(out.value, Outcome)


class BrokerTicket(FakeTicket):
    """A ticket whose outputs go to the broker."""

    def __init__(self, record: Record, broker: Broker) -> None:
        super().__init__(record)
        self.broker = broker
        self.pending = 0

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        assert not self.said_done, "the agent emits after done()"
        self.outs.append(out)
        self.pending += 1

        def done() -> None:
            if acked is not None:
                acked()
            self.pending -= 1

        self.broker.put(out, done)

    @property
    def committable(self) -> bool:
        return self.said_done and not self.pending


class TailState:
    """A partition's state as the runner gives it: own writes at once, rows from the log's tail."""

    hashed: frozenset[str] = frozenset()

    def __init__(self, topic: str, partition: int, broker: Broker, reduce: Callable[[bytes], bytes]) -> None:
        self.topic, self.partition, self.broker = topic, partition, broker
        self.own: dict[bytes, bytes] = {}
        self._reduce = reduce

    def get(self, key: bytes) -> bytes | None:
        return self.own.get(key) or self.broker.rows.get((self.topic, self.partition), {}).get(key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        raise AssertionError("nobody scans this state")

    def put(
        self, ticket: Ticket, key: bytes, value: bytes | None, acked: Callable[[], None] | None = None
    ) -> None:
        assert value is not None
        mine = self.own[key] = self._reduce(value)

        def done() -> None:
            if self.own.get(key) == mine:
                del self.own[key]
            if acked is not None:
                acked()

        ticket.emit(Out(self.topic, value, {}, key, self.partition), done)


class TailStates:
    """Opens tail states."""

    def __init__(
        self, topic: str, broker: Broker, reduce: Callable[[bytes], bytes] = lambda value: value
    ) -> None:
        self.topic, self.broker, self._reduce = topic, broker, reduce
        self.open_now: set[int] = set()

    async def open(self, partition: int) -> TailState:
        self.open_now.add(partition)
        return TailState(self.topic, partition, self.broker, self._reduce)

    async def close(self, partition: int) -> None:
        self.open_now.remove(partition)


class Suppressed:
    """The suppressions of a partition: rows by key, fresh or not."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.is_fresh = True

    def __call__(self, partition: int) -> Suppressed:
        return self

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return sorted((key, value) for key, value in self.rows.items() if key.startswith(prefix))

    @property
    def hashed(self) -> set[str]:
        return {name_in(key) for key in self.rows if key.startswith(b"#")}

    async def to_end(self) -> None:
        pass

    def fresh(self, seconds: float) -> bool:
        assert seconds <= 2.0
        return self.is_fresh


class Names:
    """DNS: every domain has the host mx.<domain>, unless ``found`` says otherwise."""

    def __init__(self) -> None:
        self.found: dict[str, MailHosts] = {}
        self.slow: dict[str, float] = {}
        """Domains that are not in the cache yet: seconds until the answer."""
        self.ips: dict[str, tuple[str, ...]] = {}

    def _of(self, domain: str) -> MailHosts:
        return self.found.get(domain) or hosts_of(f"mx.{domain}")

    def cached(self, domain: str) -> MailHosts | None:
        return None if domain in self.slow else self._of(domain)

    async def mail_hosts(self, domain: str) -> MailHosts:
        await asyncio.sleep(self.slow.get(domain, 0.0))
        self.slow.pop(domain, None)
        return self._of(domain)

    async def addresses(self, host: str) -> tuple[str, ...]:
        return self.ips.get(host, ("127.0.0.1",))


class Asked:
    """TLS policies: none, unless ``found`` says otherwise."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Requirement, ...]] = {}
        self.slow: dict[str, float] = {}

    def cached(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...] | None:
        return None if domain in self.slow else self.found.get(domain, ())

    async def look_up(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...]:
        await asyncio.sleep(self.slow.pop(domain, 0.0))
        return self.found.get(domain, ())


def hosts_of(*names: str) -> MailHosts:
    """MX records of these hosts, in this order."""
    return MailHosts(tuple(MxHost(10 * n, name) for n, name in enumerate(names)), "ok")


class Line(Session):
    """A connection to a server that does what the test says: a Session without a socket."""

    def __init__(self, place: Servers, site: Any, group: Any, per_connection: int) -> None:
        self.place, self.site, self.group, self.per_connection = place, site, group, per_connection
        self.facts = Facts(host="mx.test", tls="TLSv1.3")
        self.carried = 0
        self.job: Any = None
        self.late: Any = None
        self.phase = "idle"

    @property
    def ready(self) -> bool:
        return self.phase == "idle"

    @property
    def past_dot(self) -> bool:
        return self.phase == "dot"

    def start(self, job: Any) -> Attempt | None:
        assert self.phase not in ("mail", "dot"), "the session is busy"
        if not self.ready:
            return self._attempt("failed", 0, "the connection is closed", "mail")
        if job.body.startswith(b"too big"):
            return self._attempt("refused", 552, "5.3.4 not sent: too big", "mail", local=True)
        if not job.may_start():
            return self._attempt("held", 0, "not started", "mail")
        self.carried += 1
        self.job, self.phase = job, "mail"
        self.place.on_start(job)
        if self.place.answer:
            asyncio.get_running_loop().call_soon(self.place.answer, self)
        return None

    def _attempt(self, state: Any, code: int, text: str, phase: str, local: bool = False) -> Attempt:
        return Attempt(state, code, text, phase, phase == "dot", 0.1, self.carried, local)

    def to_dot(self) -> bool:
        """The body is there: the dot, if it is allowed."""
        if self.phase != "mail":
            return self.phase == "dot"
        if not self.job.may_dot():
            self.finish("held", 0, "closed before the dot", "data", close=True)
            return False
        self.phase = "dot"
        self.place.on_dot(self.job)
        return True

    def say(self, code: int, text: str = "") -> None:
        """The server answers: before the dot only a refusal, else to the dot."""
        state = "accepted" if code < 300 else "deferred" if code < 500 else "refused"
        if state != "accepted" or self.to_dot():
            if state == "accepted" or self.phase == "dot":
                self.place.on_reply(self.job or self.late, state)
            self.finish(state, code, text, "dot" if self.phase == "dot" else "rcpt", close=code == 421)

    def die(self) -> None:
        """The server closes the connection."""
        if self.job or self.late:
            lost = self.phase == "dot"
            if lost and self.job:
                self.place.on_lost(self.job)
            self.finish("lost" if lost else "failed", 0, "connection closed", self.phase, close=True)
        else:
            self.shut()

    def finish(self, state: Any, code: int, text: str, phase: str, close: bool = False) -> None:
        job, late = self.job, self.late
        self.job = self.late = None
        attempt = self._attempt(state, code, text, phase)
        if close or late:
            self.shut()
        else:
            self.phase = "idle"
        if job:
            job.done(attempt)
        elif late and state != "lost":
            late.late(attempt)

    def give_up(self) -> bool:
        if self.phase == "dot" and self.job:
            self.late, self.job = self.job, None
            self.place.on_lost(self.late)
            self.late.done(self._attempt("lost", 0, "gave up waiting", "dot"))
        elif self.job:
            self.finish("held", 0, "stopped before the dot", "data", close=True)
        return self.late is not None

    def quit(self) -> None:
        if self.phase == "idle":
            self.shut()

    def close(self) -> None:
        self.die()

    def shut(self) -> None:
        if self.phase != "closed":
            self.phase = "closed"
            self.place.gone(self)


class Servers:
    """A pool (the contract of ``pool.Pool``) whose servers do what the test says.

    ``answer``: called for each started mail; None: the test plays the server by itself. ``refuse``:
    (group, hosts) -> ConnectFailed for a connection that does not come about, ``delay`` seconds for one
    that takes time.
    """

    def __init__(self, answer: Callable[[Line], None] | None = lambda line: line.say(250, "ok")) -> None:
        self.answer = answer
        self.lines: list[Line] = []
        self.refuse: Callable[[Any, Any], ConnectFailed | None] = lambda group, hosts: None
        self.delay: Callable[[Any], float] = lambda hosts: 0.0
        self.on_start: Callable[[Any], None] = lambda job: None
        self.on_dot: Callable[[Any], None] = lambda job: None
        self.on_reply: Callable[[Any, str], None] = lambda job, state: None
        self.on_lost: Callable[[Any], None] = lambda job: None
        self.on_free: Callable[[Any], None] = lambda group: None
        self.idle: list[Line] = []
        self.tried = 0
        self.most = 0

    def count(self, group: Any) -> int:
        return sum(line.group == group for line in self.lines)

    def groups(self) -> list[Any]:
        return list({line.group for line in self.lines})

    def take(self, site: Any, per_connection: int) -> Line | None:
        for line in [line for line in self.idle if line.site == site]:
            self.idle.remove(line)
            if line.ready and line.carried < per_connection:
                return line
            line.quit()
        return None

    async def acquire(self, site: Any, group: Any, hosts: Any, source: str, limits: Any) -> Any:
        self.tried += 1
        line = self.take(site, limits.per_connection)
        if line is not None or self.count(group) >= limits.connections:
            return line
        line = Line(self, site, group, limits.per_connection)
        line.phase = "connecting"
        self.lines.append(line)
        self.most = max(self.most, len(self.lines))
        await asyncio.sleep(self.delay(site[1]))
        self.lines.remove(line)
        failed = self.refuse(group, site[1])
        if failed is not None:
            self.on_free(group)
            return failed
        self.lines.append(line)
        line.phase = "idle"
        return line

    def release(self, line: Line) -> None:
        if line not in self.lines or line in self.idle:
            return
        if not line.ready or line.carried >= line.per_connection:
            line.quit()
        else:
            self.idle.append(line)

    def trim(self, group: Any, most: int) -> None:
        for line in [line for line in self.idle if line.group == group][: max(0, self.count(group) - most)]:
            line.quit()

    def gone(self, line: Line) -> None:
        self.lines.remove(line)
        if line in self.idle:
            self.idle.remove(line)
        self.on_free(line.group)

    async def close(self, grace: float) -> None:
        for line in list(self.lines):
            line.give_up() or line.quit()


def meaning(reply: str, mx: str, phase: str, provider: str) -> Meaning:
    """What a reply means, by its first digit."""
    found = {"2": "unknown", "4": "transient", "5": "permanent"}.get(reply[:1], "unknown")
    klass = {"4": "busy", "5": "bad_address"}.get(reply[:1], "unclassified")
    return Meaning(klass, "recipient", found, "retry", f"rule-{reply[:3]}")  # type: ignore[arg-type]


def mail(
    name: str, to: Any = "", *, topic: str = "mail-lane-other-1", offset: int = 0, **headers: Any
) -> Record:
    """A record of a lane. Headers as keywords; None leaves one out."""
    found: dict[str, Any] = {
        "type": "mail",
        "version": "1",
        "id": name,
        "to": f"{name}@b.example" if to == "" else to,
        "origin": f"mail-sends/0/{name}",
        "attempt": "1",
        "expires": str(int(START) + 86400),
        "tenant": "default",
        "campaign": "c",
        "return_path": "r@a.example",
        "dkim": "a.example",
        "received": str(int(START) - 5),
    }
    found |= headers
    value = found.pop("body", b"Subject: x\r\n\r\nHello.\r\n")
    encoded: Headers = {
        key: v if isinstance(v, bytes) else str(v).encode() for key, v in found.items() if v is not None
    }
    partition = int(found.pop("partition", 0))
    encoded.pop("partition", None)
    return Record(topic, partition, offset, int(START * 1000), None, value, encoded)


def woken(out: Out, offset: int = 0) -> Record:
    """A ladder record as it comes back to the lane."""
    headers = off_ladder(out.headers)
    return Record(
        out.headers["next"].decode(),
        out.partition or 0,
        offset,
        int(START * 1000),
        out.key,
        out.value,
        headers,
    )


class GateTwo:
    """One worker: a Deliver over a broker, servers and a clock of its loop; ``epoch`` and ``fresh`` to turn."""

    def __init__(
        self, broker: Broker, pool: Any = None, settings: Settings | None = None, **changes: Any
    ) -> None:
        self.broker = broker
        self.servers: Any = pool or Servers()
        self.loop = asyncio.get_event_loop()
        self.names = changes.pop("names", None) or Names()
        self.asked = Asked()
        self.suppressed = Suppressed()
        self.campaigns: dict[str, Any] = {}
        self.epoch, self.is_fresh, self.ahead = 1, True, 0.0
        self.tickets: list[BrokerTicket] = []
        self.seen: list[tuple[Outcome, float, int]] = []
        self.stepped: Counter[str] = Counter()
        self.allowance = Allowance("w", 1, changes.pop("rate", Rate(10_000.0, 4, 100, 0.0, "")))
        self.agent = Deliver(
            settings or Settings(),
            rows=TailStates("mail-outcomes", broker, lambda value: reduce_outcome(value)[0]),
            suppressions=self.suppressed,
            names=HASHES.of,
            campaigns=self.campaigns,
            hosts=self.names,
            policies=self.asked,
            pool=self.servers,
            allowance=self.allowance,
            sources=found if isinstance(found := changes.pop("sources", ()), Sources) else Sources.at(found),
            rungs=RUNGS,
            meaning=changes.pop("meaning", meaning),
            fresh=lambda epoch: self.is_fresh and epoch == self.epoch,
            epoch=lambda: self.epoch,
            publish=broker.put,
            clock=changes.pop("clock", self.clock),
            monotonic=self.monotonic,
            random=lambda: 0.5,
            observe=lambda outcome, age, repeat: self.seen.append((outcome, age, repeat)),
            stepped=lambda why: self.stepped.update((why,)),
        )
        self.servers.on_free = self.agent.feeds.group_free

    def monotonic(self) -> float:
        return self.loop.time() + self.ahead

    def clock(self) -> float:
        return START + self.loop.time() + self.ahead

    async def take(self, *records: Record) -> list[BrokerTicket]:
        """Hand in records of one partition."""
        tickets = [BrokerTicket(record, self.broker) for record in records]
        self.tickets += tickets
        await self.agent.batch(tickets, records[0].partition)
        return tickets

    async def ticks(self, seconds: int) -> None:
        """Let time pass, with a tick a second."""
        for _ in range(seconds):
            await asyncio.sleep(1.0)
            self.agent.tick()
