"""Tenants and campaigns share a feed: by weight, in order within each, and nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.allowance import Rate
from agents.deliver.fair import FairQueue
from agents.deliver.job import Mail
from schemas.campaign import Campaign
from tests.support.agents import FakeTicket
from tests.support.gates import Broker, GateTwo, Servers, mail, virtual


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
