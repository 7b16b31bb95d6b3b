"""What is counted is never passed: whoever joins, dies, is late, and whoever leads."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.deliver.allowance import Allowance, Rate
from agents.shape.agent import Shaper
from agents.shape.budget import Budget
from agents.shape.rules import Law, Limits, Plan, Settings
from schemas.codec import encode, parse
from schemas.lane_policy import Decision, LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport

START = 1_800_000_000.0
LAW = Law(window=30, cut_after=60, settle=3, raise_after=3600, lease=5.0)
PLAN = Plan(day=(60, 78, 100), hour=0.2)
LIMITS = Limits(5, 20, 10.0, 0.5, 100.0, warm_up="slow")
SETTINGS = Settings(LIMITS, law=LAW, plans={"slow": PLAN})
KEY = ("source", "s", "p")


def test_what_is_granted_is_spoken_for_until_a_report_says_otherwise():
    budget = Budget(10, 100)
    budget.heard("a", 0, 0, 0, 0.0, 0.0)
    budget.heard("b", 0, 0, 0, 0.0, 0.0)
    assert budget.grant("a", 1, 8, 5.0, 0.0) == 8
    assert budget.grant("b", 1, 8, 5.0, 0.0) == 2
    budget.heard("a", 3, 3, 0, 1.0, 1.0)
    assert (budget.spent, budget.held(), budget.free(1.0)) == (3, 7, 0)
    budget.heard("a", 3, 0, 1, 6.0, 6.0)
    assert (budget.held(), budget.free(6.0)) == (2, 5)
    # What b held when it died stays counted.
    budget.settle(500.0, 500.0)
    assert (budget.spent, budget.held(), budget.free(500.0)) == (5, 0, 5)


def test_an_unknown_worker_gets_nothing_before_it_has_told_its_total():
    budget = Budget(10, 100)
    assert budget.grant("a", 1, 5, 5.0, 0.0) == 0
    budget.heard("a", 500, 2, 0, 1.0, 1.0)
    assert (budget.spent, budget.grant("a", 2, 5, 6.0, 1.0)) == (2, 505)


def test_the_hour_holds_in_every_window_and_the_day_starts_anew():
    budget = Budget(100, 10)
    budget.heard("a", 0, 0, 0, 0.0, 0.0)
    for n in range(10):
        budget.heard("a", n + 1, 1, 0, 360.0 * n, 360.0 * n)
    assert budget.free(3599.0) == 0
    assert budget.free(3600.0) == 1
    assert budget.free(7300.0) == 10
    budget.new_day(7300.0, 7300.0)
    assert (budget.spent, budget.day_start) == (0, 7300.0)


def test_the_next_leader_begins_with_what_was_written_ahead():
    budget = Budget(100, 50)
    budget.heard("a", 7, 7, 0, 1000.0, 1000.0)
    budget.grant("a", 1, 10, 1005.0, 1000.0)
    assert budget.due()
    record = parse(encode(LanePolicy(
        kind="source", name="s", provider="p", rate=1.0, minimum=0.0, connections=1, per_connection=1,
        spent=budget.record(1000.0),
    )), LanePolicy).spent  # fmt: skip
    assert not budget.due()
    other = Budget(100, 50)
    assert record is not None
    other.restore(record, 1010.0)
    assert other.spent == 7 + 10 + 2
    assert other.free(1010.0) == 50 - 19
    assert other.free(4611.0) == 81 - 31 or other.free(4611.0) == 50


@dataclass
class Cluster:
    """Leaders, workers, a log between them, and the provider's own count of what came."""

    settings: Settings
    log: list = field(default_factory=list)
    leaders: list = field(default_factory=list)
    workers: dict = field(default_factory=dict)
    started: list = field(default_factory=list)
    numbers: dict = field(default_factory=dict)

    def lead(self, now: float) -> None:
        shaper = Shaper(self.settings)
        for offset, fact in enumerate(self.log):
            if isinstance(fact, Lease | Leader | LanePolicy | Decision):
                shaper.remember(fact, offset, now)
        offset = len(self.log)
        self.log.append(Leader(worker=f"leader{offset}", time=START + now))
        shaper.lead(offset, now, START + now)
        self.log += [shaper.renewed(policy, START + now) for policy in list(shaper.published.values())]
        self.leaders.append(shaper)

    def join(self, name: str, partitions: int = 4) -> None:
        allowance = Allowance(name, partitions, Rate(0.0, 1, 20))
        allowance.own(1)
        self.workers[name] = [allowance, 0]
        self.numbers[name] = 0

    def read(self, name: str, most: int = 10**6) -> None:
        allowance, position = self.workers[name]
        for offset in range(position, min(len(self.log), position + most)):
            fact = self.log[offset]
            if fact is not None:
                allowance.feed(offset, fact)
            position = offset + 1
        self.workers[name][1] = position

    def send(self, name: str, now: float, most: int) -> int:
        allowance = self.workers[name][0]
        sent = 0
        while sent < most and allowance.take("p", "s", "d", now, START + now) == 0.0:
            self.started.append(now)
            sent += 1
        return sent

    def report(self, name: str, now: float, waiting: int, attempts: int) -> LaneReport:
        allowance = self.workers[name][0]
        self.numbers[name] += 1
        number = self.numbers[name]
        allowance.sent(number, now)
        return LaneReport(
            worker=name, number=number, provider="p", source="s", dkim="d", time=START + now,
            waiting=waiting, attempts=attempts, delivered=attempts, partitions=1,
            used=allowance.used("p", "s", "d", now),
        )  # fmt: skip

    def hear(self, shaper: Shaper, report: LaneReport, now: float) -> None:
        self.log += shaper.on_report(report, START + now, now)

    def valid(self) -> list[LanePolicy]:
        """The policies without those that a displaced leader wrote."""
        epoch, found = -1, []
        for offset, fact in enumerate(self.log):
            if isinstance(fact, Leader):
                epoch = offset
            elif isinstance(fact, LanePolicy) and fact.epoch >= epoch:
                found.append(fact)
        return found

    def tick(self, now: float) -> None:
        facts, _ = self.leaders[-1].tick(START + now, now)
        self.log += facts


def most_in(moments: list[float], span: float) -> int:
    """The most moments in any window of ``span`` seconds."""
    found, first = 0, 0
    for index, moment in enumerate(moments):
        while moments[first] <= moment - span:
            first += 1
        found = max(found, index + 1 - first)
    return found


@hypothesis(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["source", "dkim"]))
def test_no_schedule_sends_more_than_the_day_or_the_hour_allows(seed, kind):
    chance = random.Random(seed)
    named = {("dkim" if kind == "source" else "source", "d" if kind == "source" else "s", ""): with_fields(
        LIMITS, warm_up="warm", start=50.0
    )}  # fmt: skip
    cluster = Cluster(with_fields(SETTINGS, named=named))
    cluster.lead(0.0)
    now, born, late = 0.0, 0, []
    key = (kind, "s" if kind == "source" else "d", "p")
    for _ in range(400):
        now += chance.choice(
            (0.1, 1.0, 1.0, 4.0, 30.0, chance.choice((900.0, 9000.0)) if chance.random() < 0.2 else 2.0)
        )
        roll = chance.random()
        if len(cluster.workers) < 4 and roll < 0.1:
            born += 1
            cluster.join(f"w{born}")
            cluster.read(f"w{born}")
        elif cluster.workers and roll < 0.12:
            del cluster.workers[chance.choice(list(cluster.workers))]
        elif roll < 0.14:
            cluster.lead(now)
        for name in list(cluster.workers):
            if chance.random() < 0.5:
                cluster.read(name, chance.choice((1, 5, 1000)))
            sent = cluster.send(name, now, chance.choice((0, 3, 50)))
            if chance.random() < 0.7:
                report = cluster.report(name, now, chance.choice((0, 100)), sent)
                late.append((now + chance.choice((0.0, 0.2, 6.0)), report))
        for arrives, report in [item for item in late if item[0] <= now]:
            late.remove((arrives, report))
            # A displaced leader may go on for a moment; its records have the lower epoch.
            for shaper in cluster.leaders[-2:]:
                if shaper is cluster.leaders[-1] or chance.random() < 0.3:
                    cluster.hear(shaper, report, now)
        cluster.tick(now)
    days = [
        (fact.spent.day_start, fact.spent.per_day, fact.spent.per_span)
        for fact in cluster.valid()
        if (fact.kind, fact.name, fact.provider) == key and fact.spent
    ]
    largest = max((day for _, day, _ in days), default=0)
    hour = max((hour for _, _, hour in days), default=0)
    assert most_in(cluster.started, 3600.0) <= hour
    begun = sorted({start - START for start, _, _ in days if start})
    assert all(b - a >= 86400 for a, b in pairwise(begun))
    for begin in begun:
        ends = begin + 86400
        assert sum(begin <= at < ends for at in cluster.started) <= largest


def test_the_world_of_the_property_really_sends_and_uses_the_whole_day():
    cluster = Cluster(with_fields(SETTINGS, named={("dkim", "d", ""): with_fields(LIMITS, warm_up="warm")}))
    cluster.lead(0.0)
    cluster.join("a")
    cluster.join("b")
    for second in range(0, 6 * 3600, 4):
        now = float(second)
        for name in cluster.workers:
            cluster.read(name)
            sent = cluster.send(name, now, 50)
            cluster.hear(cluster.leaders[-1], cluster.report(name, now, 100, sent), now)
        cluster.tick(now)
    assert len(cluster.started) == 60
    assert most_in(cluster.started, 3600.0) == 12


def test_a_leader_that_dies_in_the_middle_of_the_day_costs_little_of_it():
    cluster = Cluster(with_fields(SETTINGS, named={("dkim", "d", ""): with_fields(LIMITS, warm_up="warm")}))
    cluster.lead(0.0)
    cluster.join("a")
    for second in range(0, 12 * 3600, 4):
        now = float(second)
        if second == 9000:
            cluster.lead(now)
        cluster.read("a")
        sent = cluster.send("a", now, 50)
        cluster.hear(cluster.leaders[-1], cluster.report("a", now, 100, sent), now)
        cluster.tick(now)
    assert 54 <= len(cluster.started) <= 60


@pytest.mark.parametrize("fault", [{"total": -1}, {"over": 2**60}, {"fresh": -5}])
def test_a_hostile_report_spends_nothing(fault):
    cluster = Cluster(SETTINGS)
    cluster.lead(0.0)
    cluster.join("a")
    cluster.hear(cluster.leaders[-1], cluster.report("a", 0.0, 10, 0), 0.0)
    cluster.read("a")
    report = cluster.report("a", 1.0, 10, 0)
    assert report.used
    bad = replace(report, used=(replace(report.used[0], **fault),))
    cluster.hear(cluster.leaders[-1], bad, 1.0)
    assert cluster.leaders[-1].refusals == 1
