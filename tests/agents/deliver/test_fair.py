"""Tenants and campaigns share a feed: by weight, in order within each, and nobody starves."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.allowance import Rate
from agents.deliver.fair import FairQueue
from agents.deliver.feed import KEPT_FREE
from agents.deliver.job import Mail
from schemas.campaign import Campaign
from schemas.codec import parse
from schemas.lane_policy import ALL, LanePolicy, Lease, Spent
from schemas.lane_report import LaneReport
from tests.support.agents import FakeTicket
from tests.support.gates import Broker, GateTwo, Line, Servers, hosts_of, mail, virtual


def waiting(name: str, campaign: str = "c", tenant: str = "default") -> Mail:
    return Mail(FakeTicket(mail(name, campaign=campaign, tenant=tenant)), 1, 0.0)


def drained(queue: FairQueue, count: int = 1_000_000) -> list[Mail]:
    found = []
    while len(found) < count and (head := queue.head()) is not None:
        queue.pop(head)
        found.append(head)
    return found


def test_a_small_campaign_is_not_held_by_a_large_one_before_it() -> None:
    queue = FairQueue()
    queue.extend(waiting(f"l{n}", "large") for n in range(10_000))
    queue.extend(waiting(f"s{n}", "small") for n in range(100))
    assert Counter(m.campaign for m in drained(queue, 200)) == {"large": 100, "small": 100}


def test_a_tenant_gains_nothing_by_more_campaigns() -> None:
    queue = FairQueue()
    for campaign in range(9):
        queue.extend(waiting(f"{campaign}-{n}", f"c{campaign}", "many") for n in range(100))
    queue.extend(waiting(f"o{n}", "only", "one") for n in range(100))
    assert Counter(m.tenant for m in drained(queue, 100)) == {"many": 50, "one": 50}


def test_weights_share() -> None:
    queue = FairQueue(lambda found: {"high": 9.0, "low": 3.0}[found.campaign])
    for name in ("low", "high"):
        queue.extend(waiting(f"{name}{n}", name) for n in range(200))
    assert Counter(m.campaign for m in drained(queue, 120)) == {"high": 90, "low": 30}


def test_what_came_back_is_first_in_its_campaign_and_what_is_over_costs_no_turn() -> None:
    queue = FairQueue()
    first, second = waiting("1"), waiting("2")
    queue.extend([first, second])
    head = queue.head()
    assert head is first
    queue.pop(first)
    queue.appendleft(first)
    assert queue.head() is first
    first.stage = "ended"
    assert queue.head() is second
    assert len(queue) == 1


CAMPAIGNS = st.integers(0, 3)


@given(st.lists(st.one_of(st.tuples(CAMPAIGNS, CAMPAIGNS), st.none()), max_size=150))
@hypothesis(max_examples=150, deadline=None)
def test_it_loses_nothing_keeps_the_order_of_a_campaign_and_never_lets_one_wait_for_long(steps) -> None:
    queue = FairQueue()
    model: dict[tuple[str, str], deque[Mail]] = {}
    since: Counter[tuple[str, str]] = Counter()
    for number, step in enumerate(steps):
        if step is not None:
            key = (f"t{step[0]}", f"c{step[1]}")
            one = waiting(str(number), key[1], key[0])
            queue.append(one)
            model.setdefault(key, deque()).append(one)
        else:
            head = queue.head()
            assert (head is None) == (not any(model.values()))
            if head is not None:
                queue.pop(head)
                key = (head.tenant, head.campaign)
                assert model[key].popleft() is head
                since[key] = 0
                for other, left in model.items():
                    since[other] = since[other] + 1 if left and other != key else 0
                # Four tenants with four campaigns each: twice a full round.
                assert max(since.values()) <= 32
        assert len(queue) == sum(map(len, model.values()))
    assert sorted(m.id for m in drained(queue)) == sorted(m.id for left in model.values() for m in left)


def test_deliver_shares_by_priority_and_keeps_its_rate() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers(), rate=Rate(20.0, 2, 1000, 0.0, ""))
        for name, priority in (("high", 9), ("low", 4)):
            made.campaigns[f"default/{name}"] = Campaign(id=name, sender="a@a.example", priority=priority)
        await made.agent.assigned(0)
        for name in ("low", "high"):
            await made.take(*(mail(f"{name}{n}", f"x{n}@b.example", topic="mail-lane-gmx", campaign=name) for n in range(200)))  # fmt: skip
        await made.ticks(6)
        sent = Counter(outcome.campaign for outcome in made.broker.outcomes())
        assert 100 <= sent.total() <= 131
        assert sent["high"] / sent.total() > 0.62

    virtual(story())


def test_bulk_mail_leaves_a_share_of_the_rate_while_there_is_transactional_mail() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers(), rate=Rate(20.0, 4, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await made.take(*(mail(f"b{n}", "x@b.example", topic="mail-lane-gmx") for n in range(400)))
        await made.ticks(5)
        alone = len(made.broker.outcomes())
        await made.take(mail("n", "x@b.example", topic="mail-lane-gmx-now"))
        await asyncio.sleep(0.5)
        assert made.broker.outcomes("n")
        beside = len(made.broker.outcomes())
        await made.ticks(10)
        slower = len(made.broker.outcomes()) - beside
        assert 0.85 * 10 * 20 <= slower <= 0.93 * 10 * 20
        assert alone >= 0.95 * 5 * 20  # nothing is kept where there is none

    virtual(story())


def test_a_parked_campaign_lets_the_others_pass_and_comes_back() -> None:
    queue = FairQueue()
    for campaign, tenant in (("slow", "one"), ("quick", "one"), ("other", "two")):
        queue.extend(waiting(f"{campaign}{n}", campaign, tenant) for n in range(20))
    while (head := queue.head()) is not None and head.campaign != "slow":
        queue.pop(head)
    assert head is not None
    queue.park(head, 5.0)
    assert Counter(m.campaign for m in drained(queue, 12)) == {"quick": 6, "other": 6}
    assert queue.wakes() == 5.0
    queue.append(waiting("more", "slow", "one"))
    queue.wake(4.9)
    assert "slow" not in {m.campaign for m in drained(queue, 4)}
    queue.wake(5.0)
    assert Counter(m.campaign for m in drained(queue, 8)) == {"slow": 2, "quick": 2, "other": 4}
    assert queue.wakes() == math.inf
    rest = drained(queue)
    assert len(queue) == 0
    assert "more" in {m.id for m in rest}


@given(
    st.lists(
        st.one_of(st.tuples(CAMPAIGNS, CAMPAIGNS), st.sampled_from(["pop", "park", "wake"])), max_size=150
    )
)
@hypothesis(max_examples=150, deadline=None)
def test_parking_loses_nothing_and_keeps_the_order_of_a_campaign(steps) -> None:
    queue = FairQueue()
    model: dict[tuple[str, str], deque[Mail]] = {}
    parked: dict[tuple[str, str], float] = {}
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            key = (f"t{step[0]}", f"c{step[1]}")
            model.setdefault(key, deque()).append(waiting(str(number), key[1], key[0]))
            queue.append(model[key][-1])
        elif step == "wake":
            queue.wake(number)
            parked = {key: until for key, until in parked.items() if until > number}
        else:
            head = queue.head()
            free = [key for key, left in model.items() if left and key not in parked]
            assert (head is None) == (not free)
            if head is not None and step == "park":
                queue.park(head, number + 7.0)
                parked[(head.tenant, head.campaign)] = number + 7.0
            elif head is not None:
                queue.pop(head)
                assert model[(head.tenant, head.campaign)].popleft() is head
        assert queue.wakes() == min(parked.values(), default=math.inf)
    queue.wake(math.inf)
    assert sorted(m.id for m in drained(queue)) == sorted(m.id for left in model.values() for m in left)


def leased(allowance, kind: str, name: str, provider: str, rate: float, most: int = -1) -> None:
    """What shape says of a limit, and its lease to the worker."""
    spent = Spent(per_day=most, per_span=most) if most >= 0 else None
    allowance.feed(1, LanePolicy(
        kind=kind, name=name, provider=provider, rate=rate, minimum=0.0, connections=5, per_connection=99, spent=spent,
    ))  # fmt: skip
    allowance.sent(1, 0.0)
    allowance.feed(2, Lease(
        worker="w", number=1, kind=kind, name=name, provider=provider, rate=rate, connections=5, per_connection=99,
        duration=1e6, most=most,
    ))  # fmt: skip


def test_a_domain_in_warm_up_does_not_hold_the_mail_of_others_in_its_lane() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers())
        await made.agent.assigned(0)
        made.names.found["b.example"] = hosts_of("mx00.gmx.net")
        leased(made.allowance, "source", "default", "gmx", 50.0)
        leased(made.allowance, "dkim", "young.example", "gmx", 0.01, most=3)
        both = [("young", "young.example"), ("known", "known.example")]
        for n in range(100):
            await made.take(*(
                mail(f"{name}{n}", f"x{n}@b.example", topic="mail-lane-gmx", campaign=name, dkim=dkim)
                for name, dkim in both
            ))  # fmt: skip
        await made.ticks(5)
        sent = Counter(outcome.campaign for outcome in made.broker.outcomes())
        assert sent == {"known": 100}  # at 0.01/s the first of the other comes after 100 s
        await made.ticks(350)
        assert Counter(outcome.campaign for outcome in made.broker.outcomes())["young"] == 3

    virtual(story())


def test_a_from_address_in_warm_up_waits_for_itself_alone() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers())
        await made.agent.assigned(0)
        leased(made.allowance, "source", "default", "b.example", 50.0)
        made.allowance.feed(3, LanePolicy(
            kind="dkim", name="a.example", provider=ALL, rate=1.0, minimum=0.0, connections=9, per_connection=9,
            by_from=True,
        ))  # fmt: skip
        leased(made.allowance, "from", "one@a.example", ALL, 50.0, most=7)
        for n in range(30):
            await made.take(*(
                mail(f"{name}{n}", f"x{n}@b.example", campaign=name, author=f"{name}@a.example")
                for name in ("one", "two")
            ))  # fmt: skip
        await made.ticks(3)
        assert Counter(outcome.campaign for outcome in made.broker.outcomes()) == {"one": 7}
        told = [parse(out.value, LaneReport).used for out in made.broker.landed["mail-lane-reports"]]
        assert all(sum(used.kind == "from" for used in mine) <= 2 for mine in told)
        newest = {used.name: used for mine in told for used in mine if used.kind == "from"}
        assert {name: (used.total, used.waiting) for name, used in newest.items()} == {
            "one@a.example": (7, 23),
            "two@a.example": (0, 30),
        }
        leased(made.allowance, "from", "two@a.example", ALL, 50.0, most=30)
        await made.ticks(3)
        assert Counter(outcome.campaign for outcome in made.broker.outcomes()) == {"one": 7, "two": 30}

    virtual(story())


class Slow(Servers):
    """Bulk transactions last until the test says; transactional mail is answered at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Line] = []
        self.answer = self.hear

    def hear(self, line: Line) -> None:
        if line.job.urgent:
            line.say(250, "ok")
        else:
            line.to_dot()
            self.held.append(line)


def transactional(made: GateTwo, name: str) -> Awaitable[object]:
    return made.take(mail(name, "x@b.example", topic="mail-lane-gmx-now", stream="transactional"))


@pytest.mark.parametrize(("connections", "for_bulk"), [(5, 4), (2, 1), (1, 1)])
def test_slow_bulk_mail_leaves_transactional_mail_one_of_two_or_more_connections(
    connections, for_bulk
) -> None:
    async def story() -> None:
        servers = Slow()
        made = GateTwo(Broker(), servers, rate=Rate(100.0, connections, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await transactional(made, "first")
        await made.ticks(2)
        assert made.broker.outcomes("first")
        await made.take(*(mail(f"b{n}", "x@b.example", topic="mail-lane-gmx") for n in range(50)))
        await made.ticks(10)
        assert len(servers.held) == for_bulk
        await transactional(made, "second")
        await made.ticks(2)
        assert bool(made.broker.outcomes("second")) == (connections > 1)
        assert servers.most <= connections
        # A free connection carries the next one, and a place that is given back is used again.
        servers.held.pop(0).say(250, "ok")
        await made.ticks(2)
        assert made.broker.outcomes("second")
        assert len(servers.held) == for_bulk
        # What does not come any more is not waited for.
        (feed,) = made.agent.feeds.feeds.values()
        feed.urgent_at -= KEPT_FREE
        await made.ticks(2)
        assert len(servers.held) == connections

    virtual(story())


def test_places_of_bulk_mail_are_given_back_however_its_attempts_end() -> None:
    async def story() -> None:
        servers = Slow()
        made = GateTwo(Broker(), servers, rate=Rate(100.0, 3, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await transactional(made, "first")
        await made.take(*(
            mail(f"b{n}", "x@b.example", topic="mail-lane-gmx", guarantee="at_most_once" if n % 2 else None)
            for n in range(60)
        ))  # fmt: skip
        ends = [lambda line: line.say(250, "ok"), lambda line: line.say(451, "later"), Line.die]
        for n in range(24):
            await made.ticks(1)
            assert len(servers.held) == 2
            ends[n % 3](servers.held.pop(0))
        await made.ticks(1)
        (feed,) = made.agent.feeds.feeds.values()
        assert feed.carrying == {"default": 2}

    virtual(story())


def test_among_very_many_blocked_campaigns_one_that_may_go_is_found() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers())
        await made.agent.assigned(0)
        made.names.found["b.example"] = hosts_of("mx00.gmx.net")
        leased(made.allowance, "source", "default", "gmx", 50.0)
        leased(made.allowance, "dkim", "young.example", "gmx", 0.01, most=3)
        await made.take(*(
            mail(f"y{n}", "x@b.example", topic="mail-lane-gmx", campaign=f"c{n}", dkim="young.example")
            for n in range(500)
        ))  # fmt: skip
        await made.ticks(2)
        await made.take(
            mail("known", "x@b.example", topic="mail-lane-gmx", campaign="k", dkim="known.example")
        )
        await made.ticks(2)
        assert [outcome.id for outcome in made.broker.outcomes()] == ["known"]

    virtual(story())


@pytest.mark.parametrize("connections", [1, 3])
def test_bulk_mail_that_hangs_before_its_dot_makes_way_for_transactional_mail(connections: int) -> None:
    async def story() -> None:
        servers = Servers(lambda line: line.say(250, "ok") if line.job.urgent else None)
        made = GateTwo(Broker(), servers, rate=Rate(100.0, connections, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await made.take(*(mail(f"b{n}", "x@b.example", topic="mail-lane-gmx") for n in range(9)))
        await made.ticks(20)
        hanging = [line.job.id for line in servers.lines]
        assert len(hanging) == connections
        await transactional(made, "now")
        await made.ticks(4)
        assert not made.broker.outcomes()
        await made.ticks(5)
        assert [outcome.id for outcome in made.broker.outcomes()] == ["now"]
        assert servers.most <= connections
        # No attempt was lost, and the one that made way is the next.
        await made.ticks(2)
        assert {line.job.id for line in servers.lines if line.job} <= set(hanging)
        servers.answer = lambda line: line.say(250, "ok")
        for line in list(servers.lines):
            if line.job:
                line.say(250, "ok")
        await made.ticks(20)
        outcomes = made.broker.outcomes()
        assert sorted(outcome.id for outcome in outcomes) == sorted([*(f"b{n}" for n in range(9)), "now"])
        assert {outcome.attempt for outcome in outcomes} == {1}

    virtual(story())


def test_transactional_mail_does_not_wait_for_what_holds_back_bulk_mail_alone() -> None:
    async def story() -> None:
        made = GateTwo(Broker(), Servers(), rate=Rate(0.5, 3, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await transactional(made, "first")
        await made.ticks(3)
        await made.take(*(mail(f"b{n}", "x@b.example", topic="mail-lane-gmx") for n in range(9)))
        count = len(made.broker.outcomes())
        while len(made.broker.outcomes()) == count:
            await asyncio.sleep(0.01)
        # The next message may go 2.0 s after it; the next bulk mail, at 0.9 of the rate, 2.2 s after it.
        await asyncio.sleep(2.08)
        assert len(made.broker.outcomes()) == count + 1
        await transactional(made, "second")
        await asyncio.sleep(0.03)
        assert made.broker.outcomes("second")

    virtual(story())


def test_a_mail_that_takes_long_does_not_give_way_for_ever() -> None:
    async def story() -> None:
        def hear(line: Line) -> None:
            if line.job.urgent:
                line.say(250, "ok")
            else:
                mine = line.job
                asyncio.get_running_loop().call_later(12.0, lambda: line.job is mine and line.say(250, "ok"))

        made = GateTwo(Broker(), Servers(hear), rate=Rate(100.0, 1, 1000, 0.0, ""))
        await made.agent.assigned(0)
        await made.take(mail("large", "x@b.example", topic="mail-lane-gmx"))
        for n in range(12):
            await made.ticks(10)
            await transactional(made, f"now{n}")
        assert [outcome.attempt for outcome in made.broker.outcomes("large")] == [1]
        await made.ticks(20)
        assert len(made.broker.outcomes()) == 13

    virtual(story())
