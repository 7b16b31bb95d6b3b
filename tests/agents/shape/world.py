"""A provider with a hidden budget, workers with their allowances, and shape: all on one fake clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agents.deliver.allowance import Allowance
from agents.shape.agent import Fact, Shaper
from agents.shape.rules import Settings
from schemas.lane_policy import Leader
from schemas.lane_report import LaneReport, Reply

START = 1_800_000_000.0


@dataclass
class Provider:
    """Takes ``budget`` messages/s with a bucket of ``burst``; more is answered 4xx and counted."""

    budget: float
    burst: float
    tokens: float = 0.0
    last: float = 0.0
    attempts: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def takes(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.budget)
        self.last = now
        self.attempts.append(now)
        if self.tokens >= 1:
            self.tokens -= 1
            return True
        self.refused.append(now)
        return False

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


class Worker:
    """Sends what its allowance lets out, and reports every second."""

    def __init__(self, name: str, partitions: int, owned: int, mail: int, phase: float) -> None:
        self.name = name
        self.allowance = Allowance(name, partitions)
        self.allowance.own(owned)
        self.mail = mail
        self.number = 0
        self.next_report = phase
        self.ready = 0.0
        self.sums = [0, 0]
        self.sent = 0

    def work(self, now: float, provider: Provider) -> None:
        while self.mail and now >= self.ready:
            wait = self.allowance.take("demo", "127.0.0.11", "a.example", now, START + now)
            if wait:
                self.ready = now + wait
                return
            took = provider.takes(now)
            self.mail -= took
            self.sent += took
            self.sums[0] += 1
            self.sums[1] += not took

    def report(self, now: float) -> LaneReport:
        self.number += 1
        self.next_report += 1.0
        self.allowance.sent(self.number, now)
        attempts, throttled = self.sums
        self.sums = [0, 0]
        slow = Reply(
            klass="throttled", action="slow", scope="source", rule="any", count=throttled, sample="421 x"
        )
        return LaneReport(
            worker=self.name,
            number=self.number,
            provider="demo",
            source="127.0.0.11",
            dkim="a.example",
            time=START + now,
            attempts=attempts,
            delivered=attempts - throttled,
            deferred=throttled,
            waiting=self.mail,
            replies=(slow,) if throttled else (),
        )


def run(
    settings: Settings, provider: Provider, workers: list[Worker], seconds: float, lag: float = 0.15
) -> Shaper:
    """Let ``seconds`` pass. A report reaches shape after ``lag``, its answer the workers after as much."""
    shaper = Shaper(settings)
    shaper.lead(0, 0.0)
    offset = 0
    up: deque[tuple[float, LaneReport]] = deque()
    down: deque[tuple[float, int, Fact | Leader]] = deque([(0.0, 0, Leader(worker="s", time=START))])
    for step in range(int(seconds * 100)):
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
                up.append((now + lag, worker.report(now)))
    return shaper
