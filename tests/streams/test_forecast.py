"""mailsluice forecast, the model: what shares a lane, what a plan lets out by the day, and when the last mail has left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.shape.figures import Limits, Plan, Settings
from schemas.campaign import Campaign
from schemas.lane_policy import ALL, LanePolicy, Spent
from streams.ops.forecast.command import MOST_LANES, _like, _modelled
from streams.ops.forecast.inputs import Situation
from streams.ops.forecast.lane import Flow, Lane, Queue, fill
from streams.ops.forecast.model import forecast
from streams.ops.forecast.rates import Rates

NOW = 1_772_323_200.0
HOUR, DAY = 3600.0, 86400.0
AUTHOR = "hello@news.example"
OURS = Flow("shop", "spring", 6.0, signed=True, ours=True)
SAME_TENANT = Flow("shop", "receipts", 12.0)
OTHER = Flow("other", "news", 1.0)
URGENT = Flow("other", "codes", 1.0, urgent=True)
LIMITS = Limits(connections=4, per_connection=50, start=2.0, minimum=0.1, maximum=100.0)
PLAN = Plan(day=(300, 390, 510, 660), hour=0.2)
POLICY = Settings(LIMITS, {"google": replace(LIMITS, warm_up="slow")}, plans={"slow": PLAN})
"""Law: a raise of 1.3 each hour of quiet."""


def limit(
    provider: str = "x.example", name: str = "default", rate: float = 10.0, **more: object
) -> LanePolicy:
    return LanePolicy(
        kind="source", name=name, provider=provider, rate=rate, base=rate, minimum=0.1, connections=4, per_connection=50,
        reason="for the test", time=NOW - 60, raised_at=NOW - 60, **more,
    )  # type: ignore[arg-type] # fmt: skip


def told(lane: Lane, *facts: LanePolicy, grow: bool = True, days: float = 60, dkim: str = "news.example"):
    (found,) = forecast([lane], Rates(POLICY, facts, NOW, AUTHOR, grow), dkim, NOW, NOW + days * DAY)
    return found


@settings(deadline=None)
@given(st.floats(0, 1000), st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 500)), min_size=1, max_size=8))
def test_room_is_shared_by_weight_and_what_one_leaves_goes_to_the_others(room, members):
    weights, able = [weight for weight, _ in members], [count for _, count in members]
    got = fill(room, weights, able)
    assert all(-1e-6 <= one <= most + 1e-6 for one, most in zip(got, able, strict=True))
    assert sum(got) == pytest.approx(min(room, sum(able)), abs=1e-3)
    hungry = [at for at in range(len(able)) if able[at] - got[at] > 1e-3]
    assert (
        len({round(got[at] / weights[at], 3) for at in hungry}) <= 1
        or max(got[at] / weights[at] for at in hungry) - min(got[at] / weights[at] for at in hungry) < 1e-2
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([OURS, SAME_TENANT, OTHER, URGENT]), st.integers(1, 300)), max_size=8),
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), max_size=20),
    st.integers(1, 400),
)
def test_nothing_comes_into_being_or_is_lost_in_a_queue(blocks, steps, window):
    queue, went = Queue(blocks, window), 0.0
    for room, signed in steps:
        gone, ours_signed, ours = queue.serve(room, signed)
        assert gone <= room + 1e-6
        assert ours <= ours_signed + 1e-6 <= signed + 2e-6
        went += gone
    assert went + queue.waiting() == pytest.approx(sum(count for _, count in blocks), abs=1e-2)


def test_a_lane_alone_takes_its_mail_at_its_rate():
    found = told(Lane("x.example", [(OURS, 600)]), limit(rate=10))
    assert found.finish == pytest.approx(NOW + 60, abs=1.5)
    assert (found.waiting, found.others, found.left, found.rate) == (600, 0, 0, pytest.approx(10, rel=0.05))
    assert found.why == "rate 10/s"


def test_tenants_share_alike_and_campaigns_of_a_tenant_by_weight():
    alone = Lane("x.example", [(OURS, 300), (OTHER, 3000)], window=10_000)
    assert told(alone, limit()).finish == pytest.approx(NOW + 60, abs=2)
    weighed = Lane("x.example", [(OURS, 300), (SAME_TENANT, 3000)], window=10_000)
    assert told(weighed, limit()).finish == pytest.approx(NOW + 90, abs=2)
    urgent = Lane("x.example", [(OURS, 300), (URGENT, 300)], window=10_000)
    assert told(urgent, limit()).finish == pytest.approx(NOW + 60, abs=2)


def test_what_lies_before_it_out_of_sight_goes_first():
    behind = Lane("x.example", [(OTHER, 3000), (OURS, 300)], window=100)
    assert told(behind, limit()).finish > NOW + 300
    before = Lane("x.example", [(OURS, 300), (OTHER, 3000)], window=100)
    assert told(before, limit()).finish < NOW + 45


def test_a_suspension_is_waited_out():
    found = told(Lane("x.example", [(OURS, 100)]), limit(suspended_until=NOW + 7200))
    assert NOW + 7200 <= found.finish <= NOW + 7300
    assert found.why.startswith("suspended: for the test")


def test_warm_up_goes_on_by_the_day_and_the_hour():
    lane = Lane("google", [(OURS, 2000)])
    found = told(lane)
    # 300 + 390 + 510 + 660 in four days, the rest of 140 in the first two hours of the fifth.
    assert NOW + 4 * DAY <= found.finish <= NOW + 4 * DAY + 2.5 * HOUR
    assert "warm-up day 1: 300 a day, in the end warm-up day 4: 660 a day" in found.why
    fewer = told(Lane("google", [(OURS, 150)]))
    assert NOW + 2 * HOUR < fewer.finish < NOW + 3 * HOUR
    assert fewer.why == "warm-up day 1: 60 an hour"
    two = told(Lane("google", [(OURS, 2000)], sources=("192.0.2.1", "192.0.2.2")), dkim="")
    assert NOW + 2 * DAY <= two.finish < found.finish
    assert "(2 sources)" in two.why


def test_a_day_that_is_half_used_has_only_its_rest():
    plan = {"plan": "slow", "step": 2, "day": (NOW - 6 * HOUR,)}
    used = limit("google", spent=Spent(per_day=510, per_span=102, day_start=NOW - 6 * HOUR, used=400), **plan)
    assert told(Lane("google", [(OURS, 100)]), used, dkim="").finish < NOW + 3 * HOUR
    rest = told(Lane("google", [(OURS, 200)]), used, dkim="")
    assert NOW + 18 * HOUR <= rest.finish <= NOW + 20 * HOUR


def test_the_limit_over_all_providers_holds_lanes_together():
    facts = [
        limit("google", rate=50, plan="slow", step=3, spent=Spent(per_day=660, per_span=132)),
        limit(ALL, rate=0.8, spent=Spent(per_span=400, span=600.0)),
    ]
    lanes = [Lane(f"{name}.example", [(OURS, 400)]) for name in "abcd"] + [Lane("google", [(OURS, 1)])]
    found = forecast(lanes, Rates(POLICY, facts, NOW), "", NOW, NOW + DAY)
    finish = max(one.finish for one in found)
    assert NOW + 3 * 600 <= finish <= NOW + 6 * 600
    assert any("400 in any 10 minutes over all providers" in one.why for one in found)


def test_rates_grow_by_the_law_but_not_at_the_latest_nor_over_a_known_ceiling():
    lane = [(OURS, 2 * 12 * 3600.0)]
    grows = told(Lane("x.example", lane), limit(rate=2))
    stays = told(Lane("x.example", lane), limit(rate=2), grow=False)
    capped = told(Lane("x.example", lane), limit(rate=2, ceiling=2.2))
    assert stays.finish == pytest.approx(NOW + 12 * HOUR, rel=1e-3)
    assert grows.finish < NOW + 8 * HOUR
    assert NOW + 10.5 * HOUR < capped.finish < stays.finish


def test_the_domain_that_signs_may_be_the_stricter_limit():
    slow = LanePolicy(
        kind="dkim", name="news.example", provider="x.example", rate=1.0, base=1.0, minimum=0.1, connections=4,
        per_connection=50, reason="slow", time=NOW, raised_at=NOW,
    )  # fmt: skip
    lane = Lane("x.example", [(OURS, 300), (OTHER, 300)], window=10_000)
    found = told(lane, limit(), slow)
    assert found.finish == pytest.approx(NOW + 300, abs=5)
    assert found.why == "rate 1/s of DKIM domain news.example"


def test_what_is_due_later_comes_later_and_what_cannot_leave_is_left():
    lane = Lane("x.example", later=[(NOW + HOUR + at, OURS, 1.0) for at in range(0, 600, 10)])
    found = told(lane, limit())
    assert found.finish == pytest.approx(NOW + HOUR + 590, abs=40)
    assert found.why == "its mail is due later"
    never = told(Lane("google", [(OURS, 5000)]), days=2)
    assert never.finish == 0.0
    assert never.left == pytest.approx(5000 - 300 - 390, abs=5)


def test_a_from_address_in_warm_up_has_a_limit_over_all_providers():
    young = LanePolicy(
        kind="dkim", name="news.example", provider="google", rate=50.0, base=50.0, minimum=0.0, connections=4, per_connection=50,
        reason="young", time=NOW, raised_at=NOW, plan="slow", step=3, spent=Spent(per_day=660, per_span=132),
    )  # fmt: skip
    wide = LanePolicy(
        kind="dkim", name="news.example", provider=ALL, rate=0.8, minimum=0.0, connections=9, per_connection=9, by_from=True,
    )  # fmt: skip
    lanes = [Lane(f"{name}.example", [(OURS, 400)]) for name in "abcd"] + [Lane("google", [(OURS, 1)])]
    facts = [limit(f"{name}.example", rate=50) for name in "abcd"] + [young, wide]
    found = forecast(lanes, Rates(POLICY, facts, NOW, AUTHOR), "news.example", NOW, NOW + DAY)
    assert NOW + 3 * 600 <= max(one.finish for one in found) <= NOW + 6 * 600
    assert any(f"over all providers from {AUTHOR}" in one.why for one in found)


def test_of_very_many_sites_the_smallest_are_taken_to_be_like_the_next_larger_ones():
    lanes = [Lane(f"s{n}.example", [(OURS, float(n))]) for n in range(1, MOST_LANES + 31)]
    lanes += [Lane("google", [(OURS, 1.0)]), Lane("known.example", [(OURS, 1.0)])]
    campaign = Campaign(id="c", sender="a@news.example")
    few, rest = _modelled(Situation(campaign, lanes, [limit("known.example")], "", "", 0.0, []))
    assert {"google", "known.example", f"s{MOST_LANES + 30}.example"} <= {lane.provider for lane in few}
    assert (len(few), len(rest)) == (MOST_LANES, 32)
    some = forecast(few, Rates(POLICY, (), NOW), "", NOW, NOW + DAY)
    other = _like(some, rest)
    assert (other.provider, other.waiting) == ("(32 more sites)", sum(range(1, 33)))
    slowest = max(one.finish for one in forecast(rest, Rates(POLICY, (), NOW), "", NOW, NOW + DAY))
    assert other.finish >= slowest
