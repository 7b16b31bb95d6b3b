"""The little that a warm-up or a gate allows goes to the most engaged; the rest waits, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.allowance import DAY, Allowance, Little, Rate
from agents.deliver.choose import AT_ONCE, EACH, MOST, MOST_BYTES, STEPS, Chooser, share
from agents.deliver.job import Mail
from schemas.lane_policy import LanePolicy, Lease, Spent
from tests.support.agents import FakeTicket
from tests.support.gates import START, Broker, BrokerTicket, GateTwo, Servers, hosts_of, mail, virtual, woken

NOW = START
APART = SOONEST = STEPS.short
HOLD = LOOK = STEPS.long


def waiting(name: str, cohort: int | None = 0, queued: float = 0.0, **headers: object) -> Mail:
    found = Mail(FakeTicket(mail(name, cohort=cohort, **headers)), 1, queued)
    return found


class Way:
    """A feed's chooser and its queue, with as much left as the test says."""

    def __init__(self, left: int, rate: float = 1.0, engaged_only: bool = False) -> None:
        self.little: Little | None = Little(left, rate, NOW + DAY / 2, engaged_only)
        self.chooser = Chooser(lambda mail: ("s",), lambda sources, dkim: self.little)
        self.queue: list[Mail] = []
        self.aside: list[tuple[Mail, float, str]] = []

    def come(self, *mails: Mail) -> None:
        for one in mails:
            found = self.chooser.come(one, NOW)
            if found is None:
                self.queue.append(one)
            else:
                self.aside.append(found)

    def look(self, mono: float = 10.0) -> list[Mail]:
        """What is to be copied."""
        asides, copies, _ = self.chooser.look(self.queue, NOW, mono)
        for found in asides:
            found.mail.stage = "gone"
            self.aside.append(found)
        self.queue = [one for one in self.queue if one.stage == "waiting"]
        return copies

    def cohorts(self) -> Counter[int]:
        return Counter(one.cohort for one in self.queue)


def test_as_much_is_kept_as_may_go_the_most_engaged_of_all_that_came() -> None:
    way, chance = Way(100), random.Random(3)
    cohorts = [chance.choice((0, 1, 2, 2, 3, 3, 3, 4, 4, 4)) for _ in range(5000)]
    for n in range(0, 5000, 50):
        way.come(*(waiting(f"{m}", cohorts[m], m) for m in range(n, n + 50)))
        way.look()
    # 500 of them clicked lately: the first hundred of these are kept, in their order.
    assert [one.id for one in way.queue] == [str(n) for n in range(5000) if cohorts[n] == 0][:100]
    assert len(way.aside) == 4900


def test_what_stepped_aside_comes_back_by_cohort_before_the_next_day_begins_for_it() -> None:
    way = Way(1, rate=0.001)
    way.come(*(waiting(f"{n}", n % 5, n) for n in range(20)))
    way.look()
    due = {cohort: {when - NOW for one, when, _ in way.aside if one.cohort == cohort} for cohort in range(5)}
    # A day that has room left gets its next mail within SOONEST of the last: one mail of 1,000 s is kept.
    assert due == {cohort: {SOONEST * (1 + cohort)} for cohort in range(5)}
    assert {why for *_, why in way.aside} == {"warmup"}
    way.little = Little(0, 0.001, NOW + 1800.0, False)
    way.look()
    way.aside.clear()
    way.come(*(waiting(f"n{n}", n % 5) for n in range(10)))
    assert {when - NOW for one, when, _ in way.aside if one.cohort == 3} == {1800.0 + 3 * APART}
    assert {when - NOW for one, when, _ in way.aside if one.cohort == 0} == {1800.0}
    way.little = Little(0, 0.001, NOW + DAY, False)
    way.look()
    way.aside.clear()
    way.come(waiting("late", 2), waiting("short", 4, expires=str(int(NOW) + 1000)))
    assert [when - NOW for _, when, _ in way.aside] == [3 * LOOK, 1000.0]


def test_behind_a_gate_only_who_clicked_lately_stays() -> None:
    way = Way(50, engaged_only=True)
    way.come(*(waiting(f"{n}", n % 5) for n in range(25)), waiting("t", 4, stream="transactional"))
    assert way.cohorts() == {0: 5, -1: 1}
    assert {(when - NOW, why) for _, when, why in way.aside} == {(HOLD, "engaged")}
    # One that is tried again is no exception; and what was here before the gate closed leaves.
    way.come(waiting("again", 1, attempt="2"))
    assert way.cohorts() == {0: 5, -1: 1}
    other = Way(50)
    other.come(*(waiting(f"{n}", n % 5) for n in range(25)))
    assert len(other.queue) == 25
    other.little = Little(50, 1.0, NOW + DAY, True)
    other.look()
    assert other.cohorts() == {0: 5}


def test_what_very_many_domains_in_warm_up_keep_is_bounded_together() -> None:
    ways = [Way(1000) for _ in range(40)]
    body = b"x" * 20_000
    for second in range(30):
        for number, way in enumerate(ways):
            way.come(*(waiting(f"{number}-{second}-{n}", n % 5, second, body=body) for n in range(100)))
            most = share(way.chooser for way in ways)
            asides, _, _ = way.chooser.look(way.queue, NOW, 10.0 + second, most)
            for found in asides:
                found.mail.stage = "gone"
            way.queue = [one for one in way.queue if one.stage == "waiting"]
    held = [len(way.queue) * (len(body) + EACH) for way in ways]
    assert sum(held) <= 2 * MOST_BYTES
    assert min(held) >= 0.9 * MOST_BYTES / len(ways)
    cohorts = [one.cohort for way in ways for one in way.queue]
    assert cohorts.count(0) >= 0.9 * len(cohorts)
    # Where there is room again more is kept.
    way = ways[0]
    fits = len(way.queue)
    assert share([way.chooser]) == MOST_BYTES
    way.chooser.look(way.queue, NOW, 50.0, MOST_BYTES)
    way.come(*(waiting(f"more{n}", 0, body=body) for n in range(500)))
    assert len(way.queue) == fits + 500


def test_what_was_tried_before_is_kept_before_all_others() -> None:
    way = Way(3)
    way.come(*(waiting(f"{n}", 0, n) for n in range(5)), waiting("again", 4, 9.0, attempt="2"))
    way.look()
    assert [one.id for one in way.queue] == ["0", "1", "2"]
    way.little = Little(6, 1.0, NOW + DAY, False)
    way.look()
    way.come(waiting("again", 4, 9.0, attempt="2"), *(waiting(f"n{n}", 1, n) for n in range(9)))
    way.look()
    assert "again" in {one.id for one in way.queue}


def test_what_is_kept_is_copied_once_there_is_more_than_may_go_and_not_before() -> None:
    way = Way(10)
    way.come(*(waiting(f"{n}", 2, 0.0) for n in range(5)))
    assert way.look(mono=100.0) == []
    way.come(*(waiting(f"m{n}", 1, 99.0) for n in range(20)))
    copies = way.look(mono=100.0)
    assert len(way.queue) == 10
    assert copies == []  # those of cohort 2 had to leave, and the others have just come
    assert set(map(id, way.look(mono=102.0))) == set(map(id, way.queue))


def test_memory_is_bounded_in_mails_and_bytes_and_a_look_in_what_it_moves() -> None:
    way = Way(1_000_000)
    way.come(*(waiting(f"{n}") for n in range(MOST + 2500)))
    way.look()
    assert len(way.aside) == AT_ONCE
    for _ in range(2500 // AT_ONCE):
        way.look()
    assert len(way.queue) == MOST
    large = Way(100)
    large.come(*(waiting(f"{n}", body=b"x" * 10_000_000) for n in range(5)))
    large.look()
    assert len(large.queue) == 3


def test_a_limit_that_is_not_counted_any_more_lets_everything_stay_in_order() -> None:
    way = Way(2)
    way.come(*(waiting(f"{n}", 4 - n, n) for n in range(2)))
    assert [one.rank for one in way.queue] == [4, 3]
    way.little = None
    way.come(*(waiting(f"m{n}", 4) for n in range(9)))
    way.look()
    assert [one.rank for one in way.queue] == [0] * len(way.queue)
    way.come(waiting("more", 4))
    assert way.queue[-1].id == "more"
    assert way.chooser.groups == {}


COMES = st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 2)), max_size=60)


@given(st.lists(st.tuples(COMES, st.integers(0, 30), st.booleans()), max_size=8))
@hypothesis(max_examples=150, deadline=None)
def test_nothing_is_lost_and_nothing_better_steps_aside_than_what_is_kept(steps) -> None:
    way, count, mono = Way(1), 0, 0.0
    for comes, left, gate in steps:
        mono += 1.0
        way.little = Little(left, 0.1, NOW + DAY, gate)
        for cohort, attempt in comes:
            count += 1
            headers = {"stream": "transactional"} if cohort < 0 else {}
            way.come(waiting(str(count), max(0, cohort), mono, attempt=str(attempt), **headers))
        before = list(way.aside)
        way.look(mono)
        kept = [one for one in way.queue if one.cohort >= 0]
        assert len(kept) <= left
        assert not gate or all(one.cohort == 0 for one in kept)
        fresh = [one for one, _, why in way.aside[len(before) :] if why == "warmup"]
        if kept and fresh:
            assert max(one.rank for one in kept) <= min(one.rank for one in fresh)
        if fresh:
            assert len(kept) == left
        assert all(NOW < when <= NOW + max(5 * LOOK, DAY) for _, when, _ in way.aside)
        assert len(way.queue) + len(way.aside) == count
    assert all(one.cohort >= 0 for one, *_ in way.aside)


# -- what is left, as a worker reads it


def allowance(*policies: LanePolicy, own: int = 4) -> Allowance:
    found = Allowance("w", 8, Rate(1.0, 1, 20))
    found.own(own)
    for offset, policy in enumerate(policies):
        found.feed(offset, policy)
    return found


def policy(kind: str, name: str, spent: Spent | None, **more: object) -> LanePolicy:
    return LanePolicy(
        kind=kind, name=name, provider="p", rate=1.0, minimum=0.0, connections=5, per_connection=9, spent=spent, **more
    )  # fmt: skip


def test_what_is_left_is_the_workers_part_of_the_stricter_limit() -> None:
    day = Spent(per_day=1000, per_span=200, day_start=NOW - 3600, used=400, ahead=100)
    found = allowance(policy("dkim", "d", day))
    assert found.little("p", ("a", "b"), "d", NOW) == Little(260, 200 / 3600 / 2, NOW - 3600 + DAY, False)
    assert found.little("p", ("a", "b"), "other", NOW) is None
    assert found.little("q", ("a", "b"), "d", NOW) is None
    # One source that is warm takes what is too much for another.
    small = Spent(per_day=100, per_span=20)
    found = allowance(policy("source", "a", small))
    assert found.little("p", ("a", "b"), "d", NOW) is None
    assert found.little("p", ("a",), "d", NOW) == Little(51, 20 / 3600 / 2, NOW + DAY, False)
    found = allowance(policy("source", "a", small), policy("source", "b", small), policy("dkim", "d", day))
    assert found.little("p", ("a", "b"), "d", NOW).left == 102
    # Yesterday is over, and a gate at the signer closes whatever the sources say.
    old = Spent(per_day=1000, per_span=200, day_start=NOW - DAY - 1, used=1000)
    found = allowance(policy("dkim", "d", old, engaged_only=True), policy("source", "a", None))
    assert found.little("p", ("a",), "d", NOW) == Little(510, 200 / 3600 / 2, NOW + DAY, True)


def test_a_gate_at_one_of_the_sources_leaves_the_others_to_the_rest() -> None:
    gate = Spent(per_day=100, per_span=20)
    found = allowance(policy("source", "a", gate, engaged_only=True))
    assert found.gated("p", "a")
    assert not found.gated("p", "b")
    assert found.little("p", ("a", "b"), "d", NOW) is None
    assert found.little("p", ("a",), "d", NOW).engaged_only


# -- in deliver


def lent(
    made: GateTwo, day: int, most: int, rate: float = 50.0, engaged_only: bool = False, start: float = START
) -> None:
    """The DKIM domain a.example is in warm-up at gmx: ``most`` messages by lease, ``day`` a day."""
    made.allowance.own(1)
    spent = Spent(per_day=day, per_span=day, day_start=start, ahead=most)
    common = {"provider": "gmx", "connections": 5, "per_connection": 99, "rate": 50.0}
    made.allowance.feed(1, LanePolicy(kind="source", name="default", minimum=0.0, **common))
    made.allowance.feed(2, LanePolicy(
        kind="dkim", name="a.example", minimum=0.0, spent=spent, engaged_only=engaged_only, **common | {"rate": rate},
    ))  # fmt: skip
    made.allowance.sent(1, 0.0)
    for kind, name, allowed in (("source", "default", -1), ("dkim", "a.example", most)):
        made.allowance.feed(3, Lease(
            worker="w", number=1, kind=kind, name=name, duration=1e7, most=allowed, **common | {"rate": rate},
        ))  # fmt: skip


async def gmx(cohorts: Sequence[int], day: int, most: int, **more: object) -> GateTwo:
    made = GateTwo(Broker(), Servers())
    await made.agent.assigned(0)
    made.names.found["b.example"] = hosts_of("mx00.gmx.net")
    lent(made, day, most, **more)
    return made


def lane(name: str, cohort: int, **headers: object):
    return mail(
        name, "x@b.example", topic="mail-lane-gmx", cohort=cohort, expires=str(int(START) + 10 * 86400), **headers
    )  # fmt: skip


def test_a_backlog_far_beyond_the_window_sends_its_most_engaged() -> None:
    """20,000 mails through a window of 1,000, with 300 a day: as the runner does it, by offset."""

    async def story() -> None:
        chance = random.Random(5)
        cohorts = [chance.choice((0,) + (1, 2, 3, 4) * 12) for _ in range(20_000)]
        made = await gmx(cohorts, 300, 300, rate=300 / 3600)
        backlog = deque(enumerate(cohorts))
        window: deque[BrokerTicket] = deque()
        seconds = 0
        while backlog:
            while window and window[0].committable:
                window.popleft()
            fresh = [backlog.popleft() for _ in range(min(200, 1000 - len(window), len(backlog)))]
            if fresh:
                window += await made.take(*(lane(f"m{n}", cohort) for n, cohort in fresh))
            await made.ticks(1)
            seconds += 1
        assert seconds < 300
        first = len(made.broker.outcomes())
        assert first < 30  # what went out before everything had been seen
        await made.ticks(3600)
        sent = [cohorts[int(outcome.id[1:])] for outcome in made.broker.outcomes()]
        assert len(sent) == 300
        assert sent[first:].count(0) == len(sent[first:])
        # Nothing is lost: everything else lies on the ladder, what is kept too.
        away = {out.headers["id"] for out in made.broker.ladder()}
        there = {outcome.id.encode() for outcome in made.broker.outcomes()}
        assert len(away | there) == 20_000
        assert all(ticket.committable for ticket in made.tickets)
        held = {out.headers.get("held") for out in made.broker.ladder()}
        assert held <= {b"warmup", None}

    virtual(story())


def test_what_is_kept_goes_once_although_its_copy_comes_by() -> None:
    async def story() -> None:
        made = await gmx((), 20, 20, rate=0.05)
        await made.take(*(lane(f"m{n}", n % 2) for n in range(60)))
        await made.ticks(200)
        copies = [out for out in made.broker.ladder() if "held" not in out.headers]
        assert len(copies) == 21  # and one, for what shape may have written ahead
        sent = {outcome.id for outcome in made.broker.outcomes()}
        assert 8 <= len(sent) <= 12
        await made.take(*(woken(out, n) for n, out in enumerate(copies)))
        await made.ticks(600)
        assert len(made.broker.outcomes()) == 20
        assert Counter(outcome.id for outcome in made.broker.outcomes()).most_common(1)[0][1] == 1
        # Those that were still to go have another copy, 10 minutes on; those that were gone are repeats.
        again = [out for out in made.broker.ladder() if "held" not in out.headers][20:]
        assert {out.headers["id"].decode() for out in again} | sent == {
            out.headers["id"].decode() for out in copies
        }
        assert {out.topic for out in again} == {"mail-wait-10m"}

    virtual(story())


def test_a_worker_that_stops_leaves_what_it_kept_on_the_ladder() -> None:
    async def story() -> None:
        made = await gmx((), 20, 0)
        tickets = await made.take(*(lane(f"m{n}", n % 5) for n in range(200)))
        await made.ticks(5)
        assert all(ticket.committable for ticket in tickets)
        await made.agent.revoked(0)
        assert {out.headers["id"].decode() for out in made.broker.ladder()} == {f"m{n}" for n in range(200)}
        assert made.broker.outcomes() == []

    virtual(story())


@pytest.mark.parametrize("lifted", [True, False])
def test_a_gate_holds_all_but_those_who_clicked_until_it_opens_or_they_expire(lifted: bool) -> None:
    async def story() -> None:
        made = await gmx((), 100, 100, engaged_only=True)
        await made.take(*(lane(f"m{n}", n % 5) for n in range(50)), lane("now", 4, stream="transactional"))
        await made.ticks(5)
        assert {outcome.id for outcome in made.broker.outcomes()} == {
            "now",
            *(f"m{n}" for n in range(0, 50, 5)),
        }
        held = [out for out in made.broker.ladder() if out.headers.get("held") == b"engaged"]
        assert len(held) == 40
        assert made.stepped == {"engaged": 40}
        await asyncio.sleep(HOLD)
        if lifted:
            lent(made, 100, 100)
        else:
            made.ahead += 10 * 86400.0
        await made.take(*(woken(out, n) for n, out in enumerate(held)))
        await made.ticks(5)
        states = Counter(outcome.state for outcome in made.broker.outcomes())
        assert states == ({"delivered": 51} if lifted else {"delivered": 11, "expired": 40})

    virtual(story())
