"""No From address in warm-up sends more than 400 mails in any 10 minutes: over all providers, sources, workers."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import replace as with_fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.deliver.allowance import Allowance, Rate
from agents.shape.agent import Shaper
from agents.shape.check import refused
from agents.shape.counted import MOST_FROMS
from agents.shape.rules import Law, Limits, Plan, Settings
from agents.shape.warm import WIDE, WIDE_SPAN
from schemas.codec import encode, parse
from schemas.lane_policy import ALL, Decision, LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport, Used

START = 1_800_000_000.0
KNOWN = Limits(5, 20, 50.0, 0.5, 100.0)
FAST = Plan(day=(40_000,), hour=0.05)
"""2,000 an hour at each provider: its budgets alone would let far more than 400 out in 10 minutes."""
SETTINGS = Settings(
    KNOWN,
    law=Law(lease=5.0),
    plans={"fast": FAST},
    named={("dkim", "d", ""): with_fields(KNOWN, warm_up="fast")},
)
PROVIDERS, SOURCES, AUTHORS = ("p", "q", "r"), ("s1", "s2"), ("a@d", "b@d", "c@x.d")


class World:
    """Leaders, workers, the log between them, and what went out when from whom."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.log: list[Any] = []
        self.read_back: list[Any] = []
        """The facts of the log as they come out of it, as far as anybody read."""
        self.leaders: list[Shaper] = []
        self.workers: dict[str, list[Any]] = {}
        self.sent: dict[str, list[float]] = defaultdict(list)
        self.lead(0.0)

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

    def join(self, name: str) -> None:
        allowance = Allowance(name, 4, Rate(0.0, 1, 20))
        allowance.own(1)
        self.workers[name] = [allowance, 0, 0]

    def read(self, name: str, most: int = 10**6) -> None:
        allowance, position, _ = self.workers[name]
        end = min(len(self.log), position + most)
        for fact in self.log[len(self.read_back) : end]:
            self.read_back.append(parse(encode(fact), type(fact)))
        for offset in range(position, end):
            allowance.feed(offset, self.read_back[offset])
        self.workers[name][1] = end

    def send(self, name: str, now: float, most: int, chance: random.Random) -> None:
        allowance = self.workers[name][0]
        for _ in range(most):
            where = chance.choice(PROVIDERS), chance.choice(SOURCES)
            author = chance.choice(AUTHORS)
            if allowance.take(*where, "d", now, START + now, author) == 0.0:
                self.sent[author].append(now)

    def reports(self, name: str, now: float, waiting: int) -> list[LaneReport]:
        """One for each lane and source; the first tells of the From addresses, as deliver's does."""
        worker = self.workers[name]
        allowance, found = worker[0], []
        names = [allowance.by_from("d", author) for author in AUTHORS]
        authors = allowance.used_by_from(dict.fromkeys(filter(None, names), waiting), now)
        for provider in PROVIDERS:
            for source in SOURCES:
                worker[2] += 1
                allowance.sent(worker[2], now)
                used = allowance.used(provider, source, "d", now) + authors
                authors = ()
                found.append(
                    LaneReport(
                        worker=name, number=worker[2], provider=provider, source=source, dkim="d",
                        time=START + now, waiting=waiting, partitions=1, used=used,
                    )
                )  # fmt: skip
        return found

    def hear(self, shaper: Shaper, report: LaneReport, now: float) -> None:
        self.log += shaper.on_report(parse(encode(report), LaneReport), START + now, now)

    def tick(self, now: float) -> None:
        facts, _ = self.leaders[-1].tick(START + now, now)
        self.log += facts


def most_in(moments: list[float], span: float) -> int:
    """The most in any window of ``span`` seconds."""
    inside: deque[float] = deque()
    most = 0
    for moment in moments:
        inside.append(moment)
        while inside[0] <= moment - span:
            inside.popleft()
        most = max(most, len(inside))
    return most


@pytest.mark.timeout(300)
def test_each_from_address_has_400_in_10_minutes_and_uses_them() -> None:
    world, chance = World(), random.Random(7)
    world.join("a")
    world.join("b")
    for second in range(0, 2400, 2):  # a lease is for five
        now = float(second)
        for name in world.workers:
            world.read(name)
            world.send(name, now, 120, chance)
            for report in world.reports(name, now, 500):
                world.hear(world.leaders[-1], report, now)
        world.tick(now)
    for author in AUTHORS:
        assert 0.93 * WIDE <= most_in(world.sent[author], WIDE_SPAN) <= WIDE
        # Not only once: 40 minutes of it.
        assert len(world.sent[author]) >= 3.4 * WIDE
    # All of a DKIM domain's addresses together send more than one may.
    assert most_in(sorted(t for sent in world.sent.values() for t in sent), WIDE_SPAN) > 2.5 * WIDE


@pytest.mark.long
@pytest.mark.timeout(300)
@hypothesis(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_no_schedule_sends_more_than_400_in_any_10_minutes_from_an_address(seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    now, born = 0.0, 0
    late: list[tuple[float, LaneReport]] = []
    for _ in range(250):
        now += chance.choice((0.2, 1.0, 1.0, 2.0, 5.0, 30.0, 300.0 if chance.random() < 0.2 else 4.0))
        roll = chance.random()
        if len(world.workers) < 3 and roll < 0.2:
            born += 1
            world.join(f"w{born}")
        elif world.workers and roll < 0.22:
            del world.workers[chance.choice(list(world.workers))]
        elif roll < 0.24:
            world.lead(now)
        for name in list(world.workers):
            if chance.random() < 0.7:
                world.read(name, chance.choice((3, 30, 10_000)))
            world.send(name, now, chance.choice((0, 20, 200)), chance)
            if chance.random() < 0.7:
                for report in world.reports(name, now, chance.choice((0, 100))):
                    late.append((now + chance.choice((0.0, 0.0, 0.2, 6.0)), report))
        for item in [item for item in late if item[0] <= now]:
            late.remove(item)
            for shaper in world.leaders[-2:]:  # a displaced leader may go on for a moment
                if shaper is world.leaders[-1] or chance.random() < 0.3:
                    world.hear(shaper, item[1], now)
        world.tick(now)
    for author in AUTHORS:
        assert most_in(world.sent[author], WIDE_SPAN) <= WIDE


def bound(shaper: Shaper, number: int = 1, now: float = 0.0, **used: Any) -> list[Any]:
    """What follows from a report of a domain in warm-up that tells of a From address."""
    mine = (Used(kind="from", over_all=True, **used),) if used else ()
    report = LaneReport(
        worker="w", number=number, provider="p", source="s1", dkim="d", time=START + now, waiting=9, used=mine
    )
    return shaper.on_report(report, START + now, 10.0 + now)


def test_an_address_is_counted_from_its_first_report_on_and_forgotten_when_silent() -> None:
    shaper = Shaper(SETTINGS)
    shaper.lead(0, 0.0, START)
    (signer,) = [f for f in bound(shaper) if isinstance(f, LanePolicy) and f.key == b"policy|dkim|d|*"]
    assert (signer.by_from, signer.spent) == (True, None)
    assert "from each From address" in signer.reason
    facts = bound(shaper, 2, 1.0, name="a@d", total=0, waiting=9)
    assert [(f.kind, f.name) for f in facts if isinstance(f, LanePolicy) and f.provider == ALL] == [
        ("from", "a@d")
    ]
    lease = next(f for f in facts if isinstance(f, Lease) and f.kind == "from")
    assert lease.most > 0
    _, drops = shaper.tick(START + 60, 70.0)
    assert b"policy|from|a@d|*" not in drops
    drops = [key for now in (100.0, 800.0) for key in shaper.tick(START + now, 10 + now)[1]]
    assert b"policy|from|a@d|*" in drops


def test_one_whose_domain_is_known_is_not_counted() -> None:
    shaper = Shaper(Settings(KNOWN, plans={"fast": FAST}))
    shaper.lead(0, 0.0, START)
    facts = bound(shaper, name="a@d", total=5, waiting=9)
    assert not [fact for fact in facts if fact.provider == ALL]
    allowance = Allowance("w", 1, Rate(10.0, 2, 20))
    allowance.own(1)
    assert allowance.by_from("d", "a@d") == ""


def test_a_domain_that_has_grown_lets_its_addresses_go() -> None:
    allowance = Allowance("w", 1, Rate(1000.0, 2, 20))
    allowance.own(1)
    young = LanePolicy(
        kind="dkim", name="d", provider=ALL, rate=1.0, minimum=0.0, connections=9, per_connection=9, by_from=True
    )  # fmt: skip
    allowance.feed(1, young)
    assert allowance.by_from("d", "a@d") == "a@d"
    assert allowance.by_from("d", "") == "d"  # signed by an earlier release: they share one
    assert allowance.take("p", "s", "d", 1.0, START, "a@d") > 0
    assert allowance.signer_waits("p", "s", "d", "a@d", 1.5, START)
    assert allowance.take("p", "s", "other", 2.0, START, "a@other") == 0.0
    allowance.feed(2, replace(young, by_from=False))
    assert allowance.take("p", "s", "d", 3.0, START, "a@d") == 0.0


def test_more_addresses_than_are_counted_wait() -> None:
    shaper = Shaper(SETTINGS)
    shaper.lead(0, 0.0, START)
    bound(shaper)
    for n in range(MOST_FROMS):
        assert shaper.counted.author(f"{n}@d")
    facts = bound(shaper, 2, 1.0, name="one-more@d", total=0, waiting=9)
    assert not [fact for fact in facts if fact.kind == "from"]


def test_what_no_worker_would_tell_is_refused() -> None:
    report = LaneReport(worker="w", number=1, provider="p", source="s", time=START)
    for name in ("", "a|b@d", "x" * 300, "a\nb"):
        bad = Used(kind="from", name=name, over_all=True, total=1)
        assert "not an address" in refused(replace(report, used=(bad,)))
    many = tuple(Used(kind="from", name=f"{n}@d", over_all=True, total=1) for n in range(51))
    assert "more than" in refused(replace(report, used=many))
    assert refused(replace(report, used=many[:50])) == ""
