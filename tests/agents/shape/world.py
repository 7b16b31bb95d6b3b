"""A provider with hidden budgets, workers with their allowances, and shape: all on one fake clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agents.deliver.allowance import Allowance
from agents.deliver.feed import CROWDED, PAUSE
from agents.shape.agent import Fact, Shaper
from agents.shape.rules import Settings
from schemas.lane_policy import Leader
from schemas.lane_report import LaneReport, Reply

START = 1_800_000_000.0
COOLDOWN = 30.0
"""As in deliver's pool: a host that refused our only connection is left alone so long."""


@dataclass
class Provider:
    """Takes ``budget`` messages/s with a bucket of ``burst``; more is answered 4xx and counted.

    At most ``connections`` at once, ``per_connection`` messages on each, ``service`` seconds for each. A
    closed connection is counted for ``linger`` seconds more than its worker does: its end has yet to arrive.
    """

    budget: float
    burst: float
    connections: int = 10**6
    per_connection: int = 10**6
    service: float = 0.0
    linger: float = 0.0
    open: int = 0
    tokens: float = 0.0
    last: float = 0.0
    attempts: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    crowded: list[float] = field(default_factory=list)
    """When a connection was refused."""
    spent: list[float] = field(default_factory=list)
    """When a connection had carried too many messages."""
    closing: deque[float] = field(default_factory=deque)

    def takes(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.budget)
        self.last = now
        self.attempts.append(now)
        if self.tokens >= 1:
            self.tokens -= 1
            return True
        self.refused.append(now)
        return False

    def connects(self, now: float) -> bool:
        while self.closing and self.closing[0] <= now:
            self.closing.popleft()
            self.open -= 1
        if self.open >= self.connections:
            self.crowded.append(now)
            return False
        self.open += 1
        return True

    def closed(self, now: float) -> None:
        self.closing.append(now + self.linger)

    def rate(self, since: float, until: float) -> float:
        """Messages/s taken between two moments."""
        tried = sum(since <= at < until for at in self.attempts)
        return (tried - sum(since <= at < until for at in self.refused)) / (until - since)

    def busiest(self, since: float, window: float = 10.0) -> float:
        """The highest attempts/s in any window that begins after ``since``."""
        inside: deque[float] = deque()
        most = 0
        for moment in self.attempts:
            if moment < since:
                continue
            inside.append(moment)
            while inside[0] <= moment - window:
                inside.popleft()
            most = max(most, len(inside))
        return most / window


@dataclass
class Session:
    """A connection: free again at ``free``, after ``carried`` messages."""

    free: float
    carried: int = 0


class Worker:
    """Sends what its allowance lets out over connections as deliver does, and reports every second."""

    def __init__(self, name: str, partitions: int, owned: int, mail: int, phase: float) -> None:
        self.name = name
        self.allowance = Allowance(name, partitions)
        self.allowance.own(owned)
        self.mail = mail
        self.number = 0
        self.next_report = phase
        self.ready = 0.0
        self.sessions: list[Session] = []
        self.crowded_until = self.beside = 0.0
        self.ended_at = -1.0
        self.attempts = self.throttled = self.sent = 0
        self.busy = 0
        self.refusals: list[int] = []
        self.spent: list[int] = []

    def work(self, now: float, provider: Provider) -> None:
        who = ("demo", "127.0.0.11", "a.example")
        allowed = self.allowance.rate(*who, now, START + now)
        while self.mail and now >= self.ready:
            wait = self.allowance.wait(*who, now, START + now)
            if wait:
                self.ready = now + wait
                return
            session = self.session(now, provider, allowed.connections, allowed.per_connection)
            if session is None:
                self.busy += len(self.sessions) >= allowed.connections > 0
                return
            self.allowance.take(*who, now, START + now)
            self.send(session, now, provider)

    def session(self, now: float, provider: Provider, most: int, per_connection: int) -> Session | None:
        """One that is free, or a new one where there may be one more."""
        for session in [s for s in self.sessions if s.free <= now]:
            if session.carried < per_connection and len(self.sessions) <= most:
                return session
            self.close(session, now, provider)
        count = len(self.sessions)
        if count >= (max(1, self.beside) if now < self.crowded_until else most) or count >= most:
            return None
        if count + 1 >= most and now < self.ended_at + PAUSE:
            return None
        if not provider.connects(now):
            self.crowded_until, self.beside = now + CROWDED, count
            if not count:  # then the host is left alone for a while
                self.ready = now + COOLDOWN
            self.refusals.append(len(self.sessions))
            return None
        self.sessions.append(Session(now + provider.service))
        return self.sessions[-1] if provider.service == 0 else None

    def trim(self, now: float, provider: Provider) -> None:
        """Close what is idle above what is allowed by now, as deliver does once a second."""
        most = self.allowance.rate("demo", "127.0.0.11", "a.example", now, START + now).connections
        idle = [session for session in self.sessions if session.free <= now]
        for session in idle[: max(0, len(self.sessions) - most)]:
            self.close(session, now, provider)

    def close(self, session: Session, now: float, provider: Provider) -> None:
        self.sessions.remove(session)
        self.ended_at = now
        provider.closed(now)

    def send(self, session: Session, now: float, provider: Provider) -> None:
        session.carried += 1
        session.free = now + provider.service
        self.attempts += 1
        if session.carried > provider.per_connection:
            provider.spent.append(now)
            self.spent.append(session.carried - 1)
            self.close(session, now, provider)
        elif provider.takes(now):
            self.mail -= 1
            self.sent += 1
        else:
            self.throttled += 1

    def report(self, now: float) -> LaneReport:
        self.number += 1
        self.next_report += 1.0
        self.allowance.sent(self.number, now)
        replies = []
        if self.throttled:
            replies.append(reply("rate", self.throttled))
        if self.refusals:
            replies.append(reply("rate", len(self.refusals), open=min(self.refusals)))
        if self.spent:
            replies.append(reply("connections", len(self.spent), carried=min(self.spent)))
        found = LaneReport(
            worker=self.name,
            number=self.number,
            provider="demo",
            source="127.0.0.11",
            dkim="a.example",
            time=START + now,
            attempts=self.attempts,
            delivered=self.attempts - self.throttled,
            deferred=self.throttled,
            busy=self.busy,
            waiting=min(self.mail, 1000),
            connections=len(self.sessions),
            replies=tuple(replies),
        )
        self.attempts = self.throttled = self.busy = 0
        self.refusals, self.spent = [], []
        return found


def reply(klass: str, count: int, **more: int) -> Reply:
    return Reply(klass=klass, action="slow", scope="source", rule="any", count=count, sample="421 x", **more)


def run(
    settings: Settings,
    provider: Provider,
    workers: list[Worker],
    end: float,
    lag: float = 0.15,
    shaper: Shaper | None = None,
    begin: float = 0.0,
) -> Shaper:
    """Let time pass from ``begin`` to ``end`` (seconds), with a new leader that knows what ``shaper`` knew.

    A report reaches shape after ``lag``, its answer the workers after as much.
    """
    shaper = shaper or Shaper(settings)
    offset = max(0, shaper.epoch) + 10_000
    shaper.lead(offset, begin)
    up: deque[tuple[float, LaneReport]] = deque()
    down: deque[tuple[float, int, Fact | Leader]] = deque()
    down.append((begin, offset, Leader(worker="s", time=START + begin)))
    for policy in list(shaper.published.values()):
        offset += 1
        down.append((begin, offset, shaper.renewed(policy)))
    for step in range(int(begin * 100), int(end * 100)):
        now = step / 100
        while up and up[0][0] <= now:
            for fact in shaper.on_report(up.popleft()[1], START + now, now):
                offset += 1
                down.append((now + lag, offset, fact))
        while down and down[0][0] <= now:
            _, at, fact = down.popleft()
            for worker in workers:
                worker.allowance.feed(at, fact)
        for worker in workers:
            worker.work(now, provider)
            if now >= worker.next_report:
                worker.trim(now, provider)
                up.append((now + lag, worker.report(now)))
    return shaper
