"""Warm-up, day by day: a month passes in a moment."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from agents.shape.agent import Shaper
from agents.shape.budget import Budget
from agents.shape.counted import wide_of
from agents.shape.day import end_day
from agents.shape.explain import explain_policy
from agents.shape.limit import Limit, restored
from agents.shape.policy import decide
from agents.shape.rules import Plan, Settings, parse_policy
from agents.shape.warm import Day, Warm, begun, day_ended
from schemas.codec import encode, parse
from schemas.lane_policy import ALL, Decision, LaneOrder, LanePolicy, Leader
from schemas.lane_report import LaneReport, Reply, Used

NOW = 1_800_000_000.0
SHIPPED = parse_policy((Path(__file__).parents[3] / "agents" / "shape" / "policy.toml").read_text())
PLAN = SHIPPED.plans["conservative"]
KEY = ("source", "s", "google")
LAW_ONLY = SHIPPED.limits("nobody.example")


def warm(step: int = 0, plan: str = "conservative") -> Limit:
    day = Day(NOW - 86400)
    return Limit(KEY, 10.0, NOW, reason="x", warm=begun(plan, SHIPPED.plans[plan], step), day=day)


def test_the_shipped_plans_are_those_of_the_field():
    assert [PLAN.daily(step) for step in (0, 1, 6, 20)] == [300, 390, 1400, 57_000]
    assert (PLAN.an_hour(0), PLAN.daily(21)) == (60, 74_100)
    hourly = SHIPPED.plans["hourly"]
    assert [hourly.an_hour(step) for step in range(5)] == [20, 28, 39, 54, 75]
    assert hourly.daily(0) == 480
    for plan in SHIPPED.plans.values():
        sizes = [plan.daily(step) for step in range(60)]
        assert all(b <= 1.4 * a + 1e-6 for a, b in itertools.pairwise(sizes))
    assert PLAN.step_of(299) == 0
    assert PLAN.step_of(700) == 3


GOOD = Day(NOW, attempts=300, delivered=298, deferred=3)


@pytest.mark.parametrize(
    ("day", "used", "what", "told"),
    [
        (GOOD, 300, "day", "day 2 of conservative: 390 a day, 78 an hour (300 of 300 sent, a good day)"),
        (GOOD, 280, "day", ""),
        (GOOD, 270, "hold", "not used up"),
        (GOOD.add(deferred=20), 300, "hold", "23 of 300 slowed down or held"),
        (GOOD.add(bounced=40), 300, "hold", "40 of 300 refused"),
        (GOOD.add(complaints=1), 300, "day", ""),
        (GOOD.add(complaints=3), 300, "hold", "3 complaints in 298 deliveries"),
        (GOOD.add(traps=1), 300, "hold", "1 spam traps"),
        (Day(NOW), 0, "", ""),
    ],
)
def test_a_step_only_after_a_good_day_that_was_used_up(day, used, what, told):
    after, decided, reason = day_ended(begun("conservative", PLAN), day, PLAN, used, used // 5)
    assert (decided, after.step) == (what, int(what == "day"))
    assert told in reason


def test_a_plan_of_hours_looks_at_the_fullest_hour():
    plan = SHIPPED.plans["hourly"]
    assert day_ended(begun("hourly", plan), GOOD, plan, 60, 20)[1] == "day"
    assert day_ended(begun("hourly", plan), GOOD, plan, 470, 17)[1] == "hold"


def test_frozen_growth_holds_the_day_and_a_plan_ends_above_the_law():
    frozen = with_fields(warm(), frozen_until=NOW + 5)
    _, what, reason = end_day(frozen, SHIPPED.limits("google"), SHIPPED, 300, 60, NOW)
    assert (what, "frozen" in reason) == ("hold", True)
    late = with_fields(warm(60), day=GOOD)
    used = late.warm.per_day
    after, what, reason = end_day(late, SHIPPED.limits("google"), SHIPPED, used, used // 5, NOW)
    assert (after.warm, what) == (None, "warm")


def test_a_month_of_good_days_follows_the_plan_and_stops_where_the_hour_does():
    """Every hour one report of a worker that sends whatever it may: 35 days, in about a second."""
    shaper = Shaper(SHIPPED)
    shaper.lead(0, 0.0, NOW)
    sizes: dict[float, int] = {}
    total = number = 0
    for hour in range(35 * 24):
        now, mono = NOW + 3600.0 * hour, 3600.0 * hour
        budget = shaper.counted.budgets.get(KEY)
        free = budget.free(now) if budget else 0
        total, number = total + free, number + 1
        facts = shaper.on_report(
            LaneReport(
                worker="w", number=number, provider="google", source="s", time=now, seconds=3600.0,
                attempts=free, delivered=free, waiting=100, used=(Used(kind="source", total=total, fresh=free, over=number),),
            ), now, mono,
        )  # fmt: skip
        assert all(parse(encode(fact), type(fact)) == fact for fact in facts)
        budget = shaper.counted.budgets[KEY]
        sizes[budget.day_start] = budget.spent
        shaper.tick(now + 1, mono + 1)
    volumes = [sizes[day] for day in sorted(sizes)]
    # What was lent at a day's end and not used is in no day.
    assert all(
        plan - 2 <= sent <= plan for sent, plan in zip(volumes, (300, 390, 510, 660, 860), strict=False)
    )
    assert max(b / a for a, b in itertools.pairwise(volumes) if a) <= 1.42
    assert volumes[-1] > 100_000
    state = shaper.state[KEY]
    assert state.warm.step >= 28


def test_what_is_new_starts_its_plan_and_is_told_so():
    report = LaneReport(
        worker="w", number=1, provider="google", source="s", dkim="d.example", time=NOW, attempts=1
    )
    found, state = decide(report, {}, SHIPPED, NOW)
    policies = [fact for fact in found if isinstance(fact, LanePolicy)]
    assert [(p.kind, p.plan, p.minimum) for p in policies] == [
        ("source", "conservative", 0.0),
        ("dkim", "conservative", 0.0),
    ]
    assert policies[0].rate == pytest.approx(1.2 * 60 / 3600)
    assert "day 1 of conservative, 300 a day, 60 an hour" in policies[0].reason
    assert state[KEY].caps() == (300, 60)
    # A site without a section knows no plan.
    found, _ = decide(with_fields(report, provider="small.example"), {}, SHIPPED, NOW)
    assert found[0].rate == 1.0


def test_a_throttled_warm_up_is_cut_below_its_pace():
    slow = Reply(klass="rate", action="slow", scope="source", count=5)
    report = LaneReport(
        worker="w",
        number=1,
        provider="google",
        source="s",
        time=NOW,
        attempts=6,
        seconds=60.0,
        replies=(slow,),
    )
    (policy, decision), _ = decide(report, {KEY: with_fields(warm(), raised_at=NOW)}, SHIPPED, NOW)
    assert decision.what == "cut"
    assert policy.rate < 0.02


def test_the_next_leader_goes_on_in_the_middle_of_the_day():
    limit = with_fields(warm(3), day=Day(NOW, 50, 2, 1, 47, 0, 0, 4), volumes=(300, 390, 500), ordered=5.0)
    policy = limit.policy(SHIPPED.limits("google"), NOW)
    again = restored(parse(encode(policy), LanePolicy), SHIPPED.limits("google"), SHIPPED.plans)
    assert (again.warm, again.day, again.volumes, again.ordered) == (
        limit.warm,
        limit.day,
        limit.volumes,
        5.0,
    )
    gone = restored(policy, SHIPPED.limits("google"), {})
    assert gone.warm is None


def test_a_rest_of_30_days_starts_again():
    shaper = Shaper(SHIPPED)
    shaper.lead(0, 0.0, NOW)
    report = LaneReport(worker="w", number=1, provider="google", source="s", time=NOW, attempts=1)
    shaper.on_report(report, NOW, 0.0)
    shaper.state = {KEY: with_fields(shaper.state[KEY], warm=begun("conservative", PLAN, 9))}
    shaper.tick(NOW + 29 * 86400, 29 * 86400.0)
    assert shaper.state[KEY].warm.step == 9
    _, drops = shaper.tick(NOW + 30 * 86400 + 1, 30 * 86400.0)
    assert b"policy|source|s|google" in drops
    later = NOW + 31 * 86400
    shaper.on_report(msg(report, later), later, 31 * 86400.0)
    assert shaper.state[KEY].warm.step == 0


def msg(report: LaneReport, now: float, **more) -> LaneReport:
    return with_fields(report, time=now, **more)


def test_young_sources_and_domains_are_bounded_over_all_providers():
    state = {KEY: warm(0)}
    assert wide_of(state, SHIPPED) == {("source", "s")}
    # 2,400 an hour somewhere, or a plan that is done: no longer.
    far = {KEY: warm(0), ("source", "s", "yahoo"): with_fields(warm(14), key=("source", "s", "yahoo"))}
    assert far[("source", "s", "yahoo")].warm.per_hour < 2400
    assert wide_of(far, SHIPPED)
    far[("source", "s", "yahoo")] = with_fields(warm(15), key=("source", "s", "yahoo"))
    assert wide_of(far, SHIPPED) == set()
    done = {KEY: warm(0), ("source", "s", "gmx"): with_fields(warm(), warm=None, key=("source", "s", "gmx"))}
    assert wide_of(done, SHIPPED) == set()
    # A small site has no plan, and says nothing.
    site = ("source", "s", "x.example")
    assert wide_of({KEY: warm(0), site: with_fields(warm(), warm=None, key=site)}, SHIPPED)


def test_the_bound_over_all_providers_is_published_leased_and_taken_back():
    shaper = Shaper(SHIPPED)
    shaper.lead(0, 0.0, NOW)
    report = LaneReport(worker="w", number=1, provider="google", source="s", time=NOW, waiting=50)
    facts = shaper.on_report(report, NOW, 6.0)
    assert shaper.tick(NOW + 1, 7.0) == ([], [])
    (policy,) = [f for f in facts if isinstance(f, LanePolicy) and f.provider == ALL]
    # Before the first lease of the source, which would let some out that nobody counts here.
    assert facts.index(policy) < min(n for n, f in enumerate(facts) if f.key.startswith(b"lease"))
    assert (policy.spent.per_span, policy.spent.span, policy.spent.per_day) == (400, 600.0, 0)
    used = (Used(kind="source", total=0), Used(kind="source", over_all=True, total=0))
    leases = shaper.on_report(msg(report, NOW + 2, number=2, used=used), NOW + 2, 8.0)
    assert {(f.provider, f.most > 0) for f in leases if f.key.startswith(b"lease")} == {
        ("google", True),
        ("*", True),
    }
    order = LaneOrder(
        kind="source", name="s", provider="google", what="warm", who="dana", why="known", time=NOW + 3
    )
    policy, decision = shaper.on_order(order, NOW + 3)
    assert (policy.spent, policy.plan, decision.reason) == (
        None,
        "",
        "warm, no plan (ordered by dana: known)",
    )
    assert shaper.on_order(order, NOW + 4) == []
    facts, drops = shaper.tick(NOW + 5, 10.0)
    assert [f.spent for f in facts if f.provider == ALL] == [None]
    assert b"policy|source|s|*" in drops


@pytest.mark.parametrize(
    ("what", "value", "caps"),
    [("day", 5, (860, 172)), ("restart", 0, (300, 60)), ("engaged_only", 40, (40, 8)), ("warm", 0, None)],
)
def test_orders_are_followed_once_with_who_and_why(what, value, caps):
    shaper = Shaper(SHIPPED)
    shaper.lead(0, 0.0, NOW)
    order = LaneOrder(
        kind="source", name="s", provider="google", what=what, value=value, who="dana", why="x", time=NOW
    )
    policy, decision = shaper.on_order(order, NOW)
    assert shaper.state[KEY].caps() == caps
    assert decision.what == "order"
    assert "ordered by dana: x" in decision.reason
    # The next leader reads the order and the policy that followed it.
    other = Shaper(SHIPPED)
    for offset, fact in enumerate((Leader(worker="a", time=NOW), policy, order)):
        other.remember(fact, offset, 0.0)
    other.lead(9, 0.0, NOW)
    assert [fact for kept in other.orders.values() for fact in other.on_order(kept, NOW + 1)] == []
    assert other.state[KEY].caps() == caps


COMPLAINTS = LaneReport(
    worker="c", number=1, provider="yahoo", source="s", dkim="d.example", kind="feedback", time=NOW
)
SIGNER = ("dkim", "d.example", "yahoo")


def test_too_many_complaints_leave_only_the_engaged_until_seven_measured_days_are_good():
    shaper = Shaper(SHIPPED)
    shaper.lead(0, 0.0, NOW)
    key = SIGNER
    limit = Limit(key, 500.0, NOW, reason="", day=Day(NOW), volumes=(9000, 10_000))
    shaper.state = {key: limit}
    shaper.on_report(msg(COMPLAINTS, NOW, delivered=5000, complaints=4), NOW, 0.0)
    assert shaper.state[key].gate_day == 0
    facts = shaper.on_report(msg(COMPLAINTS, NOW, complaints=30), NOW, 0.0)
    policy = next(f for f in facts if isinstance(f, LanePolicy) and f.kind == "dkim")
    decision = next(f for f in facts if isinstance(f, Decision) and f.kind == "dkim")
    assert (policy.engaged_only, policy.gate_day, policy.spent.per_day) == (True, 1000, 1000)
    assert decision.what == "engaged"
    # The source itself is only frozen: it is no matter of the address.
    assert shaper.state[("source", "s", "yahoo")].gate_day == 0
    now = NOW
    for day in range(9):
        now += 86400
        shaper.state = {**shaper.state, key: with_fields(shaper.state[key], day=Day(now))}
        if day != 3:  # nothing was measured that day: it counts neither way
            shaper.on_report(msg(COMPLAINTS, now, delivered=900, complaints=1), now, 0.0)
        facts, _ = shaper.tick(now + 86400, 0.0)
        lifted = [f for f in facts if isinstance(f, Decision) and f.what == "lift"]
        assert bool(lifted) == (day == 7)
        if lifted:
            break
    after = shaper.state[key]
    assert (after.gate_day, after.warm.plan, after.warm.per_day) == (0, "conservative", 860)


def test_a_bad_day_starts_the_count_again():
    gated = with_fields(
        warm(), warm=None, gate_day=500, good_days=6, day=Day(NOW, delivered=1000, complaints=9, told=1)
    )
    after, what, _ = end_day(gated, SHIPPED.limits("google"), SHIPPED, 500, 100, NOW)
    assert (after.good_days, after.gate_day, what) == (0, 500, "")


def test_own_checks_and_spam_traps_freeze_growth():
    found, state = decide(msg(COMPLAINTS, NOW, listed=2), {}, SHIPPED, NOW)
    assert {f.what for f in found if isinstance(f, Decision)} == {"freeze"}
    assert all(limit.frozen_until == NOW + SHIPPED.sweep.freeze for limit in state.values())
    found, _ = decide(msg(COMPLAINTS, NOW, traps=3), {}, SHIPPED, NOW)
    assert "3 spam traps" in found[0].reason


def test_a_limit_in_warm_up_says_where_it_stands():
    budget = Budget(300, 60)
    budget.new_day(NOW, 0.0)
    budget.heard("w", 40, 40, 0, NOW, 0.0)
    policy = warm().policy(SHIPPED.limits("google"), NOW)
    told = explain_policy(with_fields(policy, spent=budget.record(NOW)), NOW + 5)
    assert "day 1 of conservative" in told
    assert "40 of 300 today, 20 more this hour" in told


def test_settings_without_plans_know_no_warm_up():
    bare = Settings(LAW_ONLY, plans={"x": Plan(day=(10,))})
    assert decide(COMPLAINTS, {}, bare, NOW)[1][SIGNER].warm is None
    assert Warm("x", 0, 10, 2).per_day == 10
