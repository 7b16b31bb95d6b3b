"""The worker's side of limits and leases: what it may send, and that it stops first."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.deliver.allowance import IDLE, Allowance, Rate
from agents.deliver.bucket import MOST_WAIT, TokenBucket
from schemas.lane_policy import ALL, Decision, LanePolicy, Leader, Lease, Spent

POLICY = LanePolicy(
    kind="source",
    name="s",
    provider="p",
    rate=10.0,
    minimum=2.0,
    connections=8,
    per_connection=20,
    reason="why",
)
LEASE = Lease(
    worker="w",
    number=1,
    provider="p",
    kind="source",
    name="s",
    rate=4.0,
    connections=4,
    per_connection=20,
    duration=3.0,
)
WALL = 1_800_000_000.0


def allowance(*facts, owned: int = 2) -> Allowance:
    """Owns a quarter of 8 partitions, sent report 1 at 100.0, and read ``facts``."""
    made = Allowance("w", 8)
    made.own(owned)
    made.sent(1, 100.0)
    for offset, fact in enumerate(facts):
        made.feed(offset, fact)
    return made


def rate(made: Allowance, mono: float = 101.0, dkim: str = "", wall: float = WALL):
    return made.rate("p", "s", dkim, mono, wall)


def test_a_live_lease_comes_on_top_of_the_floor():
    found = rate(allowance(POLICY, LEASE))
    assert (found.rate, found.connections, found.per_connection, found.reason) == (4.5, 4, 20, "why")


def test_a_lease_counts_from_when_its_report_was_sent():
    made = allowance(POLICY, LEASE)
    assert rate(made, 102.999).rate == 4.5
    floor = rate(made, 103.0)
    assert (floor.rate, floor.connections, floor.reason) == (0.5, 2, "no lease: the floor")


def test_the_floor_is_shared_by_owned_partitions():
    assert rate(allowance(POLICY, owned=8)).rate == 2.0
    assert rate(allowance(POLICY, owned=0))[:2] == (0.0, 0)
    made = allowance(POLICY)
    assert rate(made).rate == 0.5
    made.own(4)
    assert rate(made).rate == 1.0


def test_before_any_policy_there_is_a_trickle():
    found = rate(allowance())
    assert 0 < found.rate < 0.05
    assert found.connections == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(LEASE, worker="x"),
        replace(LEASE, number=2),
        replace(LEASE, name="t"),
        replace(LEASE, provider="q"),
        replace(LEASE, rate=math.nan),
    ],
)
def test_a_lease_of_somebody_else_or_for_no_report_of_ours_is_nothing(other):
    assert rate(allowance(POLICY, other)).rate == 0.5


def test_suspended_means_nothing_until_it_ends():
    made = allowance(replace(POLICY, suspended_until=WALL + 5, reason="blocked"), LEASE)
    found = rate(made)
    assert (found.rate, found.connections, found.suspended_until, found.reason) == (
        0.0,
        0,
        WALL + 5,
        "blocked",
    )
    assert rate(made, wall=WALL + 4.9).rate == 0.0
    assert rate(made, wall=WALL + 5).rate == 4.5


def test_a_cut_scales_the_lease_at_once_and_a_raise_waits_for_a_new_one():
    made = allowance(POLICY, LEASE, replace(POLICY, rate=6.0, connections=4))
    assert rate(made)[:2] == (2.5, 2)
    made.feed(9, POLICY)
    assert rate(made)[:2] == (2.5, 2)
    made.sent(2, 101.0)
    made.feed(10, replace(LEASE, number=2))
    assert rate(made)[:2] == (4.5, 4)


def test_lower_epochs_behind_a_higher_one_are_ignored():
    made = allowance(replace(POLICY, epoch=0), Leader(worker="b", time=0.0))
    assert made.epoch == 1
    made.feed(2, LEASE)
    made.feed(3, replace(POLICY, rate=99.0))
    made.feed(4, Decision(kind="source", name="s", provider="p", time=0.0, what="cut", reason="x"))
    assert rate(made).rate == 0.5
    made.feed(5, replace(POLICY, minimum=4.0, epoch=1))
    made.feed(6, replace(LEASE, epoch=1))
    assert rate(made).rate == 5.0


def test_the_stricter_of_source_and_signer_wins():
    signer = replace(
        POLICY, kind="dkim", name="a.example", minimum=0.4, rate=1.0, connections=1, reason="strict"
    )
    made = allowance(POLICY, LEASE, signer)
    assert rate(made).rate == 4.5
    found = rate(made, dkim="a.example")
    assert (found.rate, found.connections) == (pytest.approx(0.1), 1)
    assert rate(made, dkim="b.example").rate == 4.5


def test_another_workers_turn_means_no_connection():
    assert rate(allowance(POLICY, replace(LEASE, rate=0.0, connections=0)))[:2] == (0.0, 0)


def test_a_hostile_policy_is_ignored():
    made = allowance(POLICY, LEASE, replace(POLICY, rate=math.inf), replace(POLICY, minimum=math.nan))
    assert rate(made).rate == 4.5


def test_all_domains_of_a_source_together_keep_its_limit():
    made = allowance(POLICY, replace(LEASE, duration=1e9))
    sent = 0
    for step in range(1000):
        now = 101.0 + step / 100
        sent += sum(made.take("p", "s", f"d{n}", now, WALL) == 0.0 for n in range(5))
    assert 43 <= sent <= 46


def test_taking_for_a_stricter_signer_costs_the_source_nothing():
    stop = replace(POLICY, kind="dkim", name="stopped", suspended_until=WALL + 99)
    made = allowance(POLICY, replace(LEASE, duration=1e9), stop)
    sent = 0
    for step in range(1000):
        now = 101.0 + step / 100
        assert made.take("p", "s", "stopped", now, WALL) > 0
        sent += made.take("p", "s", "free", now, WALL) == 0.0
    assert 43 <= sent <= 46


@hypothesis(max_examples=100, deadline=None)
@given(
    st.floats(0.05, 500),
    st.lists(st.floats(0.0001, 3), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_a_bucket_never_lets_out_more_than_its_burst_and_its_rate(per_second, pauses, seed):
    bucket, now = TokenBucket(per_second, 0.0, seed=seed), 0.0
    burst = max(1.0, 0.5 * per_second)
    sent: list[float] = []
    for pause in pauses:
        now += pause
        while bucket.take(now) == 0.0:
            sent.append(now)
    assert len(sent) <= per_second * now + 1e-6
    # Over every window from one message to a later one; 1.75: what a seed may hold back and let go later,
    # and the half message that is kept for late timers.
    least = math.inf
    for index, moment in enumerate(sent):
        least = min(least, index - per_second * moment)
        assert index + 1 - per_second * moment - least <= max(1.75, burst) + 1e-6


def test_a_bucket_starts_empty_and_says_how_long_to_wait():
    bucket = TokenBucket(4.0, 10.0)
    assert bucket.take(10.0) == pytest.approx(0.25)
    assert bucket.take(10.25) == 0.0
    assert bucket.take(10.25) == pytest.approx(0.25)
    assert TokenBucket(0.0, 0.0).take(99.0) == MOST_WAIT
    assert TokenBucket(0.01, 0.0).take(1.0) == MOST_WAIT
    bucket.set_rate(1.0, 10.375)
    assert bucket.take(10.375) == pytest.approx(0.5)
    assert bucket.take(5.0) > 0  # a clock that goes back earns nothing


def test_asking_costs_next_to_nothing():
    made = allowance(POLICY, replace(LEASE, duration=1e9))
    rounds = 20_000
    best = math.inf
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(rounds):
            made.rate("p", "s", "", 101.0, WALL)
        best = min(best, (time.perf_counter() - begun) / rounds)
    assert best < 4e-6  # 0.4 measured; the machine may be busy


def test_asking_how_long_to_wait_counts_nothing():
    made = allowance(POLICY, LEASE)
    assert made.wait("p", "s", "", 101.0, WALL) > 0.0
    for _ in range(5):
        assert made.wait("p", "s", "", 101.5, WALL) == 0.0
    assert made.take("p", "s", "", 101.5, WALL) == 0.0
    assert made.take("p", "s", "", 101.5, WALL) == 0.0
    assert made.wait("p", "s", "", 101.5, WALL) > 0.0


SPENT = replace(POLICY, minimum=0.0, spent=Spent(per_day=100, per_span=20))


def test_a_counted_limit_has_no_floor_and_ends_with_its_lease():
    made = allowance(SPENT)
    assert made.rate("p", "s", "", 101.0, WALL).rate == 0
    assert made.counts("p", "s")
    assert not made.counts("q", "s")
    made.feed(5, replace(LEASE, most=3, duration=100.0))
    sent = sum(made.take("p", "s", "", 101.0 + n, WALL) == 0.0 for n in range(20))
    assert sent == 3
    found = made.rate("p", "s", "", 130.0, WALL)
    assert (found.rate, found.connections) == (0.0, 1)
    # Another source of the pool is not held back: overflow goes there.
    assert made.rate("p", "t", "", 130.0, WALL).rate > 0
    (used,) = made.used("p", "s", "", 130.0)
    assert (used.total, used.fresh, used.over) == (3, 3, 0)
    (used,) = made.used("p", "s", "", 300.0)
    assert (used.fresh, used.over) == (0, 1)


def test_a_lease_that_does_not_count_is_nothing_for_a_counted_limit():
    assert allowance(SPENT, LEASE).rate("p", "s", "", 101.0, WALL).rate == 0


def test_limits_of_sites_that_nobody_mails_any_more_are_forgotten_but_not_what_shape_says():
    made = allowance(POLICY)
    for n in range(3000):
        made.take(f"mx{n}.example", "s", "a.example", 200.0, WALL)
    signer = replace(POLICY, kind="dkim", name="a.example", provider="mx7.example")
    made.feed(5, signer)
    for second in range(int(IDLE) + 200):
        made.forget(300.0 + second)
        # Two of them are asked again and again: mail waits there.
        made.wait("mx8.example", "s", "b.example", 300.0 + second, WALL)
    asked = {
        (kind, name, to)
        for kind, name in (("source", "s"), ("dkim", "b.example"))
        for to in ("*", "mx8.example")
    }
    told = {("source", "s", "p"), ("dkim", "a.example", "mx7.example")}
    assert set(made._lines) == asked | told
    assert rate(made, 9000.0).reason == "no lease: the floor"
    made.drop(POLICY.key)
    assert rate(made, 9000.0).reason == "no policy yet"
    made.drop(signer.key)
    for second in range(2 * int(IDLE)):
        made.forget(10_000.0 + second)
    assert made._lines == {}


def test_a_deleted_policy_binds_nobody_any_more():
    author = "a|b@news.example"
    bound = replace(POLICY, kind="dkim", name="news.example", provider=ALL, by_from=True)
    mine = replace(SPENT, kind="from", name=author, provider=ALL)
    made = allowance(POLICY, LEASE, bound, mine, replace(SPENT, engaged_only=True, provider="q"))
    assert made.by_from("news.example", author) == author
    assert made.scarce("q")
    assert made.gated("q", "s")
    made.drop(b"policy|source|s|q")
    assert not any((made.scarce("q"), made.gated("q", "s"), made.counts("q", "s")))
    made.drop(mine.key)
    assert 0 < made.wait("p", "s", "news.example", 102.0, WALL, author) < MOST_WAIT
    assert made.wait("p", "s", "news.example", 102.8, WALL, author) == MOST_WAIT  # not before it is counted
    made.drop(bound.key)
    assert made.by_from("news.example", author) == ""
    assert made.wait("p", "s", "news.example", 102.9, WALL, author) < MOST_WAIT
    for strange in (b"", b"policy|", b"policy|source|never|heard", b"lease|w|source|s|p", b"\xff|||"):
        made.drop(strange)
    assert rate(made, 102.9).rate == 4.5


@hypothesis(max_examples=150, deadline=None)
@given(
    st.floats(0.01, 50),
    st.lists(
        st.tuples(st.integers(0, 2), st.one_of(st.floats(0.001, 30), st.floats(IDLE - 5, 3 * IDLE))),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from(("w", "another", "third")),
)
def test_forgetting_lets_out_no_more_than_the_limit_in_any_window(per_second, steps, worker):
    made, now = Allowance(worker, 8, Rate(per_second, 1, 20)), 0.0
    made.own(8)
    sent: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for site, pause in steps:
        now += pause
        made.forget(now)
        while made.take(f"mx{site}.example", "s", "a.example", now, WALL) == 0.0:
            sent[site].append(now)
    for moments in sent.values():
        least = math.inf
        for index, moment in enumerate(moments):
            least = min(least, index - per_second * moment)
            assert index + 1 - per_second * moment - least <= max(1.75, 0.5 * per_second) + 1e-6


def test_forgetting_starves_nobody_who_waits_for_a_slow_turn():
    made = Allowance("w", 64)
    made.own(1)  # 0.05/s of 64 parts: a mail every 21 minutes, a site every few hours
    gone = 0
    for second in range(0, 4 * int(IDLE), 5):
        made.forget(float(second))
        gone += made.take("mx.example", "s", "a.example", float(second), WALL) == 0.0
    assert gone in (10, 11)


def test_from_addresses_make_room_for_others_when_they_are_forgotten(monkeypatch):
    monkeypatch.setattr("agents.deliver.allowance.MOST_FROMS", 3)
    bound = replace(POLICY, kind="dkim", name="news.example", provider=ALL, by_from=True)
    made = allowance(bound)
    names = [f"n{n}@news.example" for n in range(4)]
    assert [made.by_from("news.example", name) for name in names] == [*names[:3], "news.example"]
    for second in range(int(IDLE) + 5):
        made.forget(200.0 + second)
    assert [made.by_from("news.example", name) for name in names[::-1]] == [*names[:0:-1], "news.example"]
