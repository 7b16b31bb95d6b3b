"""Days of a warm-up in a closed loop: shape's limits and leases, deliver's choice, the ladder between the days."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from agents.deliver.allowance import UNKNOWN
from agents.shape.agent import Shaper
from agents.shape.rules import Law, Limits, Plan, Settings
from schemas.codec import parse
from schemas.lane_policy import Leader
from schemas.lane_report import LaneReport
from tests.support.gates import START, Broker, GateTwo, Servers, hosts_of, mail, virtual, woken

PLAN = Plan(day=(60, 78, 100, 130), hour=0.5)
SETTINGS = Settings(
    Limits(5, 100, 50.0, 0.5, 100.0),
    law=Law(lease=60.0),
    plans={"slow": PLAN},
    named={("dkim", "a.example", ""): Limits(5, 100, 50.0, 0.5, 100.0, warm_up="slow")},
)


class Days:
    """One worker, shape, and a ladder whose records come back when they are due."""

    def __init__(self, made: GateTwo) -> None:
        self.made = made
        self.shaper = Shaper(SETTINGS)
        self.offset = 0
        self.read = Counter[str]()
        self.ladder: list[tuple[float, int, object]] = []
        self.count = itertools.count()
        made.allowance.feed(0, Leader(worker="s", time=START))
        self.shaper.lead(0, made.monotonic(), made.clock())

    def fed(self, facts) -> None:
        for fact in facts:
            self.offset += 1
            self.made.allowance.feed(self.offset, fact)

    def news(self, topic: str):
        landed = self.made.broker.landed.get(topic, [])
        found = landed[self.read[topic] :]
        self.read[topic] = len(landed)
        return found

    async def pass_time(self, until: float) -> None:
        """Until that many seconds after the start; where nothing waits, time jumps."""
        made = self.made
        while made.clock() - START < until:
            await made.ticks(1)
            made.ahead += 11.0  # looks every twelve seconds are often enough for leases of sixty
            for out in self.news("mail-lane-reports"):
                report = parse(out.value, LaneReport)
                self.fed(self.shaper.on_report(report, made.clock(), made.monotonic()))
            self.fed(self.shaper.tick(made.clock(), made.monotonic())[0])
            for topic in [topic for topic in made.broker.landed if topic.startswith("mail-wait-")]:
                for out in self.news(topic):
                    heapq.heappush(self.ladder, (float(out.headers["due"]), next(self.count), out))
            due = []
            while self.ladder and self.ladder[0][0] <= made.clock():
                due.append(woken(heapq.heappop(self.ladder)[2]))
            if due:
                await made.take(*due)
            waiting = any(one.stage == "waiting" for one in made.agent._mails.values())
            if not waiting and self.ladder:
                next_end = self.shaper.state.get(("dkim", "a.example", "gmx"))
                wake = self.ladder[0][0] - made.clock()
                if next_end is not None and next_end.day.since:
                    wake = min(wake, next_end.day.since + 86400 - made.clock())
                made.ahead += max(0.0, min(wake, until - (made.clock() - START)))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_three_days_are_used_up_grow_and_go_to_the_most_engaged() -> None:
    async def story() -> None:
        chance = random.Random(11)
        made = GateTwo(Broker(), Servers(), rate=UNKNOWN)
        await made.agent.assigned(0)
        made.names.found["b.example"] = hosts_of("mx00.gmx.net")
        days = Days(made)
        cohorts = [chance.choice((0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4)) for _ in range(1500)]
        for n in range(0, 1500, 300):
            await made.take(*(
                mail(
                    f"m{m}", f"x{m}@b.example", topic="mail-lane-gmx", cohort=cohorts[m],
                    expires=str(int(START) + 10 * 86400),
                )
                for m in range(n, n + 300)
            ))  # fmt: skip
            await days.pass_time(float(n))
        await days.pass_time(3.1 * 86400)
        sent = made.broker.outcomes()
        assert {outcome.state for outcome in sent} == {"delivered"}
        limit = days.shaper.state[("dkim", "a.example", "gmx")]
        assert limit.volumes[:3] == (60, 78, 100)
        order = [cohorts[int(outcome.id[1:])] for outcome in sent]
        # 85 are of cohort 0, some 170 of cohort 1: nobody else got any in these days, and these in their order.
        assert Counter(order)[0] == cohorts.count(0)
        assert set(order[:238]) == {0, 1}
        firsts = order[: cohorts.count(0)]
        assert firsts.count(0) >= 0.95 * len(firsts)

    virtual(story())


def test_a_plan_that_is_over_lets_everything_go() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers(), rate=UNKNOWN)
        await made.agent.assigned(0)
        made.names.found["b.example"] = hosts_of("mx00.gmx.net")
        days = Days(made)
        await made.take(*(
            mail(f"m{n}", f"x{n}@b.example", topic="mail-lane-gmx", cohort=n % 5, expires=str(int(START) + 86400))
            for n in range(500)
        ))  # fmt: skip
        await days.pass_time(600.0)
        assert 0 < len(made.broker.outcomes()) <= 60
        days.fed(days.shaper.adopt(replace(SETTINGS, plans={}, named={}), made.clock()))
        await days.pass_time(6 * 3600.0)  # cohort 4 looks again after 5 hours
        assert len(made.broker.outcomes()) == 500
        assert not made.allowance.scarce("gmx")

    virtual(story())
