"""A domain in trouble waits for itself: the lane goes on, and its mail is not tried in vain."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.allowance import Rate
from agents.deliver.domains import FIRST, LASTING, LONGEST, MOST, PROBE, Domains
from schemas.reply import Meaning
from tests.support.gates import Broker, GateTwo, Line, Servers, hosts_of, mail, meaning, virtual, woken


def troubled(domains: Domains, now: float = 0.0) -> None:
    for n in range(4):
        domains.deferred("d", now + n * 2.0)


def test_a_domain_that_defers_again_and_again_is_left_alone_and_asked_one_at_a_time() -> None:
    domains = Domains()
    domains.deferred("d", 0.0)
    domains.deferred("d", 3.0)
    assert domains.wait("d", "a", 3.0) == 0.0
    domains.deferred("d", 6.0)
    assert domains.wait("d", "a", 6.0) == FIRST
    assert domains.wait("other", "a", 6.0) == 0.0
    now = 6.0 + FIRST
    assert domains.wait("d", "a", now) == 0.0
    assert domains.wait("d", "a", now + 1) == 0.0  # the same one may look again while it waits for its turn
    assert domains.wait("d", "b", now + 1) == PROBE - 1
    domains.deferred("d", now + 2)
    assert domains.wait("d", "a", now + 2) == 2 * FIRST
    assert domains.wait("d", "b", now + 2 + 2 * FIRST) == 0.0
    domains.taken("d")
    assert domains.wait("d", "c", now + 2 + 2 * FIRST) == 0.0
    assert domains.troubled == {}


def test_one_moment_of_several_connections_is_no_trouble_and_a_success_between_neither() -> None:
    domains = Domains()
    for _ in range(20):
        domains.deferred("d", 0.5)
    assert domains.wait("d", "a", 1.0) == 0.0
    for n in range(20):
        domains.deferred("d", 1.0 + 10 * n)
        domains.taken("d")
    assert domains.wait("d", "a", 300.0) == 0.0


def test_what_had_left_before_the_pause_does_not_make_it_longer_and_it_ends_at_an_hour() -> None:
    domains = Domains()
    troubled(domains)
    until = domains.troubled["d"].until
    for n in range(10):
        domains.deferred("d", 7.0 + n / 10)
    assert domains.troubled["d"].until == until
    now = until
    for n in range(12):
        assert domains.wait("d", str(n), now) == 0.0
        domains.deferred("d", now)
        assert domains.troubled["d"].until - now <= LONGEST
        now = domains.troubled["d"].until
    assert domains.troubled["d"].pause == LONGEST
    domains.deferred("d", now + 3 * LONGEST)  # long ago: it begins anew
    assert domains.wait("d", "x", now + 3 * LONGEST) == 0.0


def test_memory_is_bounded() -> None:
    domains = Domains()
    for n in range(MOST + 10):
        domains.deferred(f"d{n}", 0.0)
    assert len(domains.troubled) == MOST


STEPS = st.lists(st.tuples(st.sampled_from(["defer", "take", "ask"]), st.floats(0.1, 2000.0)), max_size=80)


@given(STEPS)
@hypothesis(max_examples=200, deadline=None)
def test_nobody_waits_longer_than_an_hour_and_a_paused_domain_is_asked_by_one_in_a_while(steps) -> None:
    domains, now, asked = Domains(), 0.0, -PROBE
    for n, (step, seconds) in enumerate(steps):
        now += seconds
        if step == "take":
            domains.taken("d")
            assert domains.wait("d", "m", now) == 0.0
        elif step == "defer":
            domains.deferred("d", now)
        else:
            paused = "d" in domains.troubled and domains.troubled["d"].until > 0
            wait = domains.wait("d", str(n), now)
            assert 0.0 <= wait <= LONGEST
            if paused and wait == 0.0:
                assert now - asked >= PROBE - 1e-6 or domains.troubled["d"].until == now + PROBE
                asked = now


def says(reply: str, mx: str, phase: str, provider: str) -> Meaning:
    if "domain" in reply:
        return Meaning("system", "domain", "transient", "retry", "system")
    if "user" in reply:
        return Meaning("unknown_user", "address", "permanent", "suppress", "user")
    return meaning(reply, mx, phase, provider)


def test_the_lane_goes_on_beside_a_domain_in_trouble_and_its_mail_follows_when_it_is_over() -> None:
    async def story() -> None:
        bad = True

        def answer(line: Line) -> None:
            if bad and line.job.domain == "bad.example":
                line.to_dot()
                line.say(451, "4.3.1 this domain has no room")
            else:
                line.say(250, "ok")

        made = GateTwo(Broker(), Servers(answer), rate=Rate(20.0, 4, 1000, 0.0, ""), meaning=says)
        await made.agent.assigned(0)
        for domain in ("bad.example", "good.example"):
            made.names.found[domain] = hosts_of("mx1.hotmail-com.olc.protection.outlook.com")
        for n in range(300):
            to = f"x{n}@{'bad' if n % 2 else 'good'}.example"
            await made.take(mail(f"{n}", to, topic="mail-lane-outlook"))
        await made.ticks(30)
        states = Counter(outcome.state for outcome in made.broker.outcomes())
        assert states["delivered"] == 150
        tried = states["deferred"]
        # As long as it takes to be sure, at half the lane's rate; the rest was not tried at all.
        assert 3 <= tried <= 10 * LASTING + 4
        away = [out for out in made.broker.ladder() if out.headers["attempt"] == b"1"]
        assert len(away) == 150 - tried
        assert made.stepped == {"domain": 150 - tried}
        bad, seen = False, 0
        for _ in range(3):
            await asyncio.sleep(2 * FIRST)
            fresh = made.broker.ladder()[seen:]
            seen += len(fresh)
            if fresh:
                await made.take(*(woken(out) for out in fresh))
            await made.ticks(30)
        delivered = [outcome.id for outcome in made.broker.outcomes() if outcome.state == "delivered"]
        assert len(delivered) == len(set(delivered)) == 300

    virtual(story())


def test_a_domain_that_refuses_a_recipient_judges_recipients_again() -> None:
    async def story() -> None:
        replies = [(451, "4.3.1 this domain has no room")] * 3 + [(550, "5.1.1 no such user")]

        def answer(line: Line) -> None:
            line.say(*(replies.pop(0) if replies else (250, "ok")))

        made = GateTwo(Broker(), Servers(answer), rate=Rate(0.3, 1, 1000, 0.0, ""), meaning=says)
        await made.agent.assigned(0)
        made.names.found["bad.example"] = hosts_of("mx1.hotmail-com.olc.protection.outlook.com")
        for n in range(3):
            await made.take(mail(f"{n}", "x@bad.example", topic="mail-lane-outlook"))
        await made.ticks(15)
        (feed,) = made.agent.feeds.feeds.values()
        assert feed.domains.troubled["bad.example"].until > made.monotonic()
        await asyncio.sleep(FIRST)
        for n in range(3, 7):
            await made.take(mail(f"{n}", "x@bad.example", topic="mail-lane-outlook"))
            await made.ticks(int(PROBE) // 5)
        ends = [outcome.state for outcome in made.broker.outcomes()]
        assert Counter(ends) == {"deferred": 3, "bounced": 1, "delivered": 3}

    virtual(story())
