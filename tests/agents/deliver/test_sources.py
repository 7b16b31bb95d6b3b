"""Which source sends a mail: its pool, the family that is liked, what is left of its allowance, and health."""

from __future__ import annotations

import asyncio
from collections import Counter

from agents.deliver.allowance import UNKNOWN
from agents.deliver.connect import ConnectFailed
from agents.deliver.sources import Pool, Source, Sources
from schemas.lane_policy import LanePolicy, Lease, Spent
from tests.agents.deliver.test_agent import replying, settled, states, story, world
from tests.support.gates import START, hosts_of, mail, woken

FOUR, OTHER, SIX = Source("four", "192.0.2.1"), Source("other", "192.0.2.2"), Source("six", "2001:db8::1")


def used(made) -> list[str]:
    return [outcome.source for outcome in made.broker.outcomes()]


@story
async def test_a_mail_goes_out_by_its_pool():
    pools = [Pool("fast", ("other",), ("transactional",)), Pool("rest", ("four",))]
    made = await world(answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR, OTHER], pools))
    for n in range(6):
        await made.take(mail(f"m{n}", stream="transactional" if n % 2 else "marketing"))
        await asyncio.sleep(0.5)
    assert used(made) == ["four", "other"] * 3


@story
async def test_the_liked_family_sends_and_the_other_one_what_only_it_can_reach():
    made = await world(answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR, SIX]))
    made.names.found["six.test"] = hosts_of("mx.six.test")
    made.names.ips["mx.six.test"] = ("2001:db8::9",)
    made.servers.refuse = lambda group, site: (
        ConnectFailed("connect", 0, "no address to send to", True, "no_hosts")
        if (group[0], site) == ("four", ("mx.six.test",))
        else None
    )
    await made.take(mail("a", "a@b.example"))
    await asyncio.sleep(0.5)
    await made.take(mail("s", "s@six.test"))
    await asyncio.sleep(1.5)
    assert {o.id: (o.state, o.source) for o in made.broker.outcomes()}["s"] == ("delivered", "six")
    assert states(made, "a") == ["delivered"]


@story
async def test_a_source_that_cannot_be_used_costs_no_attempt_and_the_others_send():
    made = await world(answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR, OTHER]))
    broken = ConnectFailed("connect", 0, "cannot send from its address", True, "source")
    made.servers.refuse = lambda group, site: broken if group[0] == "four" else None
    for n in range(4):
        await made.take(mail(f"m{n}", f"m{n}@b{n}.example"))
        await asyncio.sleep(0.5)
    assert [(o.state, o.source, o.attempt) for o in made.broker.outcomes()] == [("delivered", "other", 1)] * 4
    assert list(made.agent.feeds.unwell) == ["four"]


@story
async def test_with_no_source_left_mail_waits_and_is_not_deferred():
    made = await world(answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR]))
    broken = ConnectFailed("connect", 0, "the proxy: refused", True, "source")
    made.servers.refuse = lambda group, site: broken
    await made.take(mail("a"))
    await asyncio.sleep(20)
    assert made.broker.outcomes() == []
    assert made.servers.tried <= 3, "not asked again and again"
    made.servers.refuse = lambda group, site: None
    await asyncio.sleep(20)
    assert states(made, "a") == ["delivered"]


@story
async def test_a_greylisted_mail_comes_back_from_the_source_that_is_known():
    meaning, answer = replying("greylist", "450 4.2.0 Greylisted")
    made = await world(answer=answer, meaning=meaning, sources=Sources([FOUR, OTHER]))
    await made.take(mail("a"))
    await settled()
    await asyncio.sleep(0.5)
    for _ in range(5):
        [*_, out] = made.broker.ladder()
        await made.take(woken(out))
        await asyncio.sleep(0.5)
    assert len(set(used(made))) == 1
    assert len(used(made)) == 6


def allowed(made, source: str, most: int, rate: float = 50.0) -> None:
    """shape's word on a source, with a lease; ``most`` -1: it is known to the provider, and not counted."""
    common = {"kind": "source", "name": source, "provider": "b.example", "rate": rate, "connections": 5}
    spent = Spent(per_day=most, per_span=most, day_start=START, ahead=most) if most >= 0 else None
    made.allowance.feed(1, LanePolicy(minimum=0.0, per_connection=99, spent=spent, **common))
    made.allowance.sent(1, 0.0)
    made.allowance.feed(2, Lease(worker="w", number=1, per_connection=99, duration=1e6, most=most, **common))


@story
async def test_ipv4_sends_until_the_liked_ipv6_source_is_warm():
    made = await world(
        answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR, SIX], prefer="ipv6"), rate=UNKNOWN
    )
    allowed(made, "four", -1, rate=5.0)
    # Nothing is known of the other one yet: it has its part of the floor, and no more.
    await made.take(*(mail(f"a{n}", f"a{n}@b.example") for n in range(20)))
    await made.ticks(6)
    assert Counter(used(made))["four"] >= 19
    # Its day's budget is used, the rest goes out on the warm one.
    made.broker.landed.clear()
    allowed(made, "six", 7)
    await made.take(*(mail(f"b{n}", f"b{n}@b.example", cohort=0) for n in range(30)))
    await made.ticks(8)
    assert Counter(used(made)) == {"six": 7, "four": 23}
    made.broker.landed.clear()
    allowed(made, "six", -1)
    await made.take(*(mail(f"c{n}", f"c{n}@b.example") for n in range(20)))
    await made.ticks(3)
    assert Counter(used(made))["six"] >= 15


@story
async def test_sources_that_change_send_from_the_next_mail_on():
    sources = Sources([FOUR])
    made = await world(answer=lambda line: line.say(250, "ok"), sources=sources)
    await made.take(mail("a", "a@b.example"))
    await made.ticks(1)
    slow: list = []
    made.servers.answer = slow.append
    await made.take(mail("under-way", "u@b.example"))
    await made.ticks(1)
    made.servers.answer = lambda line: line.say(250, "ok")
    sources.become(Sources([OTHER], [Pool("p", ("other",))]))
    await made.take(mail("b", "b@b.example"))
    await made.ticks(1)
    slow[0].say(250, "ok")
    await made.ticks(1)
    sent = {outcome.id: (outcome.state, outcome.source) for outcome in made.broker.outcomes()}
    assert sent == {
        "a": ("delivered", "four"),
        "b": ("delivered", "other"),
        "under-way": ("delivered", "four"),
    }


@story
async def test_a_new_source_is_for_the_engaged_as_long_as_its_day_is_used_up_in_time():
    made = await world(answer=lambda line: line.say(250, "ok"), sources=Sources([FOUR, OTHER]), rate=UNKNOWN)
    allowed(made, "four", -1, rate=5.0)
    allowed(made, "other", 12, rate=5.0)
    await made.take(*(mail(f"{n}", f"a{n}@b.example", cohort=n % 5) for n in range(50)))
    await made.ticks(9)
    sent = [(outcome.source, int(outcome.id) % 5) for outcome in made.broker.outcomes()]
    assert len(sent) == 50
    assert {cohort for source, cohort in sent if source == "other"} == {0, 1}
    assert Counter(source for source, _ in sent)["other"] == 12
    # Half a day later it has hardly been used: now everybody may.
    made.broker.landed.clear()
    common = {"kind": "source", "name": "other", "provider": "b.example", "rate": 5.0, "connections": 5}
    late = Spent(per_day=100, per_span=100, day_start=START - 43_200, used=20)
    made.allowance.feed(3, LanePolicy(minimum=0.0, per_connection=99, spent=late, **common))
    made.allowance.sent(1, 0.0)
    made.allowance.feed(4, Lease(worker="w", number=1, per_connection=99, duration=1e6, most=60, **common))
    await made.take(*(mail(f"{n}", f"b{n}@b.example", cohort=4) for n in range(200, 250)))
    await made.ticks(9)
    assert Counter(used(made))["other"] >= 20
