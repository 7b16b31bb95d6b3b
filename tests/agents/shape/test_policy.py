"""The control law, decision by decision."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from agents.shape.check import refused
from agents.shape.halt import SELDOM
from agents.shape.limit import Limit
from agents.shape.policy import decide
from agents.shape.rules import Law, Limits, Reaction, Settings, parse_policy
from schemas.lane_policy import Decision, LanePolicy
from schemas.lane_report import LaneReport, Reply

NOW = 1_800_000_000.0
LIMITS = Limits(connections=2, per_connection=20, start=10.0, minimum=1.0, maximum=40.0, max_connections=4)
LAW = Law(window=5, cut_after=10, settle=1, raise_after=20, probe_after=40, grow=1.5)
SETTINGS = Settings(LIMITS, law=LAW)
KEY = ("source", "10.0.0.1", "demo")


def report(attempts=10, *replies: Reply, **more) -> LaneReport:
    return LaneReport(
        **{
            "worker": "w1",
            "number": 1,
            "provider": "demo",
            "source": "10.0.0.1",
            "time": NOW,
            "attempts": attempts,
            "replies": replies,
        }
        | more
    )


def slow(count=5, **more) -> Reply:
    return Reply(**{"klass": "throttled", "action": "slow", "scope": "source", "count": count} | more)


def limit(**more) -> Limit:
    return with_fields(Limit(KEY, 10.0, NOW - 100, raised_at=NOW - 100, reason="x"), **more)


def one(found) -> tuple[LanePolicy, Decision]:
    (policy, decision), _ = found
    assert isinstance(policy, LanePolicy)
    assert isinstance(decision, Decision)
    assert decision.reason == policy.reason
    return policy, decision


def test_a_new_source_starts_at_the_start_rate_with_two_connections():
    policy, decision = one(decide(report(), {}, SETTINGS, NOW))
    assert (policy.rate, policy.connections, policy.per_connection, policy.minimum) == (10.0, 2, 20, 1.0)
    assert decision.what == "start"


def test_a_throttle_reply_cuts_at_once_below_what_was_taken():
    reports = report(100, slow(40, sample="421 4.7.0 slow down"), seconds=10.0)
    policy, decision = one(decide(reports, {KEY: limit()}, SETTINGS, NOW))
    assert decision.what == "cut"
    assert decision.sample == "421 4.7.0 slow down"
    assert "40.0%" in decision.reason
    # 40 of 100 throttled: at least 35 % is likely (one sigma).
    assert policy.ceiling == pytest.approx(6.5, abs=0.05)
    assert policy.rate == pytest.approx(policy.ceiling * LAW.first)


def test_one_cut_goes_no_deeper_than_its_share():
    policy, _ = one(decide(report(1000, slow(1000), seconds=100.0), {KEY: limit()}, SETTINGS, NOW))
    assert policy.rate == pytest.approx(3.0)


def test_few_replies_cut_less_than_many():
    few, _ = one(decide(report(2, slow(1), seconds=0.2), {KEY: limit()}, SETTINGS, NOW))
    many, _ = one(decide(report(200, slow(100), seconds=20.0), {KEY: limit()}, SETTINGS, NOW))
    assert 1.3 * many.rate < few.rate < 10


def test_a_stray_throttle_reply_is_no_reason():
    found, state = decide(report(100, slow(1)), {KEY: limit()}, SETTINGS, NOW)
    assert found == []
    assert state[KEY].rate == 10.0


def test_at_most_one_cut_in_the_time_and_not_for_mail_sent_before_it():
    _, state = decide(report(10, slow()), {KEY: limit()}, SETTINGS, NOW)
    for later in (0.5, 5, 9.9):
        found, state = decide(report(10, slow()), state, SETTINGS, NOW + later)
        assert found == []
    found, state = decide(report(10, slow()), state, SETTINGS, NOW + 10)
    assert found
    early = replace(SETTINGS, law=replace(LAW, cut_after=1.0, settle=1.0))
    _, state = decide(report(10, slow()), {KEY: limit()}, early, NOW)
    assert decide(report(10, slow()), state, early, NOW + 1.0)[0] == []


@pytest.mark.parametrize("scope", ["address", "domain", "content", "config"])
def test_a_reply_of_another_scope_slows_no_lane(scope):
    found, state = decide(report(5, slow(5, scope=scope)), {KEY: limit()}, SETTINGS, NOW)
    assert found == []
    assert state[KEY].throttled_at == 0.0


def test_a_reply_about_the_signer_binds_the_domain_and_not_the_source():
    reports = report(100, slow(40, scope="dkim"), dkim="a.example", seconds=10.0)
    policy, _ = one(decide(reports, {KEY: limit(raised_at=NOW)}, SETTINGS, NOW))
    assert (policy.kind, policy.name) == ("dkim", "a.example")
    # It was never bound before: what it really sent counts, not its nominal limit.
    assert 4 < policy.rate < 6.5


def test_a_signer_that_nobody_minds_has_no_policy():
    found, state = decide(report(10, dkim="a.example"), {}, SETTINGS, NOW)
    assert [fact.kind for fact in found] == ["source", "source"]
    assert ("dkim", "a.example", "demo") in state


def test_raises_need_quiet_time_and_a_limit_that_is_used():
    assert decide(report(3), {KEY: limit()}, SETTINGS, NOW)[0] == []
    assert decide(report(10), {KEY: limit(raised_at=NOW - 19)}, SETTINGS, NOW)[0] == []
    assert decide(report(10), {KEY: limit(throttled_at=NOW - 19)}, SETTINGS, NOW)[0] == []
    assert decide(report(10), {KEY: limit(frozen_until=NOW + 1)}, SETTINGS, NOW)[0] == []
    policy, decision = one(decide(report(10), {KEY: limit()}, SETTINGS, NOW))
    assert (decision.what, policy.rate) == ("raise", 15.0)
    assert policy.connections == 2


def test_a_raise_stops_below_the_ceiling_and_probes_from_there():
    policy, _ = one(decide(report(10), {KEY: limit(ceiling=12.0)}, SETTINGS, NOW))
    assert policy.rate == pytest.approx(0.9 * 12)
    near = limit(rate=10.8, ceiling=12.0, raised_at=NOW - 30)
    assert decide(report(10), {KEY: near}, SETTINGS, NOW)[0] == []
    policy, _ = one(decide(report(10), {KEY: with_fields(near, raised_at=NOW - 41)}, SETTINGS, NOW))
    assert policy.rate == pytest.approx(10.8 + 0.02 * 12)
    policy, _ = one(decide(report(10), {KEY: with_fields(near, raised_at=NOW - 41, probes=5)}, SETTINGS, NOW))
    assert policy.rate == pytest.approx(10.8 + 0.08 * 12)


def test_rates_stay_inside_the_clamps():
    policy, _ = one(decide(report(40), {KEY: limit(rate=39.0)}, SETTINGS, NOW))
    assert policy.rate == 40.0
    assert decide(report(40), {KEY: limit(rate=40.0)}, SETTINGS, NOW)[0] == []
    policy, _ = one(decide(report(2, slow(2)), {KEY: limit(rate=1.1)}, SETTINGS, NOW))
    assert policy.rate == 1.0
    assert decide(report(2, slow(2)), {KEY: limit(rate=1.0)}, SETTINGS, NOW)[0] == []


REACTIONS = (
    Reaction("stop", rules=("yahoo-tss04*",), count=2, window=100, factor=0.5, suspend=7200),
    Reaction("few connections", classes=("connections",), connections=1, rate=0.5, lasting=60),
    Reaction("theirs only", rules=("x",), providers=("google",), suspend=60),
)


def test_a_reaction_waits_for_its_count_within_its_window():
    settings = replace(SETTINGS, reactions=REACTIONS)
    tss = slow(1, rule="yahoo-tss04", sample="421 4.7.0 [TSS04]")
    found, state = decide(report(100, tss), {KEY: limit()}, settings, NOW)
    assert found == []
    forgotten, _ = decide(report(100, tss), state, settings, NOW + 101)
    assert forgotten == []
    policy, decision = one(decide(report(100, tss), state, settings, NOW + 99))
    assert decision.what == "suspend"
    assert decision.sample == "421 4.7.0 [TSS04]"
    assert policy.suspended_until == NOW + 99 + 7200
    assert policy.rate == 5.0


def test_nothing_is_decided_while_suspended():
    state = {KEY: limit(suspended_until=NOW + 5)}
    settings = replace(SETTINGS, reactions=REACTIONS)
    for reports in (report(10, slow(9)), report(10, slow(9, rule="yahoo-tss04")), report(10)):
        assert decide(reports, state, settings, NOW)[0] == []


def test_a_cap_passes_and_the_rate_under_it_remains():
    settings = replace(SETTINGS, reactions=REACTIONS)
    found = decide(report(100, slow(1, klass="connections")), {KEY: limit()}, settings, NOW)
    policy, decision = one(found)
    assert decision.what == "cap"
    assert (policy.rate, policy.connections, policy.cap_until, policy.base) == (0.5, 1, NOW + 60, 10.0)
    assert policy.minimum <= policy.rate
    assert found[1][KEY].policy(LIMITS, NOW + 60).rate == 10.0


def test_a_reaction_of_another_provider_does_not_count():
    settings = replace(SETTINGS, reactions=REACTIONS)
    assert decide(report(100, slow(1, rule="x")), {KEY: limit()}, settings, NOW)[0] == []


def test_complaints_freeze_growth_only_when_they_are_more_than_chance():
    few = report(0, kind="feedback", delivered=1000, complaints=2)
    assert decide(few, {KEY: limit()}, SETTINGS, NOW)[0] == []
    many = with_fields(few, complaints=9)
    policy, decision = one(decide(many, {KEY: limit()}, SETTINGS, NOW))
    assert decision.what == "freeze"
    assert policy.frozen_until > NOW
    assert policy.rate == 10.0


def test_many_refusals_suspend_the_source():
    policy, decision = one(decide(report(2000, bounced=500), {KEY: limit(rate=40.0)}, SETTINGS, NOW))
    assert decision.what == "suspend"
    assert policy.suspended_until == NOW + 4 * 3600
    hold = Reply(klass="blocked", action="hold", scope="source", count=80)
    policy, decision = one(decide(report(2000, hold), {KEY: limit(rate=40.0)}, SETTINGS, NOW))
    assert (decision.what, policy.rate) == ("cut", 20.0)


HOSTILE = [
    *({"attempts": -1}, {"attempts": 10**30}, {"waiting": 10**8}, {"number": -1}, {"number": 2**70}),
    *({"seconds": math.nan}, {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": math.inf}, {"time": math.nan}),
    *({"worker": ""}, {"source": "a|b"}, {"provider": "x\r\ny"}, {"dkim": "d" * 300}, {"worker": "a\x1b[0m"}),
    *({"complaints": -3}, {"replies": (slow(-1),)}, {"replies": (slow(1),) * 1001}),
]


@pytest.mark.parametrize("fault", HOSTILE, ids=str)
def test_a_hostile_report_is_refused(fault):
    bad = report(**fault)
    assert refused(bad)
    state = {KEY: limit()}
    assert decide(bad, state, SETTINGS, NOW) == ([], state)


def test_more_limits_than_can_be_kept_are_not_begun():
    settings = replace(SETTINGS, max_limits=1)
    found, state = decide(report(source="10.0.0.2"), {KEY: limit()}, settings, NOW)
    assert found == []
    assert list(state) == [KEY]


REPLIES = st.builds(
    Reply,
    klass=st.sampled_from(["throttled", "connections", "blocked"]),
    action=st.sampled_from(["slow", "hold", "retry"]),
    scope=st.sampled_from(["source", "dkim", "domain", ""]),
    rule=st.sampled_from(["", "yahoo-tss04", "x"]),
    count=st.integers(0, 5000),
)
REPORTS = st.builds(
    LaneReport,
    worker=st.sampled_from(["w1", "w2"]),
    number=st.just(1),
    provider=st.sampled_from(["demo", "google"]),
    source=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    dkim=st.sampled_from(["", "a.example"]),
    kind=st.sampled_from(["delivery", "feedback"]),
    seconds=st.sampled_from([1.0, 0.1, 60.0]),
    attempts=st.integers(0, 5000),
    delivered=st.integers(0, 5000),
    bounced=st.integers(0, 5000),
    complaints=st.integers(0, 50),
    replies=st.lists(REPLIES, max_size=3).map(tuple),
)


@hypothesis(max_examples=60, deadline=None)
@given(st.lists(st.tuples(REPORTS, st.floats(0, 7200)), max_size=40))
def test_whatever_is_reported_every_limit_stays_inside_its_clamps(story):
    settings = replace(SETTINGS, reactions=REACTIONS)
    state, now = {}, NOW
    for reports, pause in story:
        now += pause
        found, state = decide(reports, state, settings, now)
        for key, kept in state.items():
            limits = kept.paced(settings.limits(key[2], key[0]))  # a gated limit may go below
            # Nobody should be refused at the minimum for hours: below it a few mails ask.
            assert min(limits.minimum, 1 / max(SELDOM, settings.law.ask)) <= kept.rate <= limits.maximum
            policy = kept.policy(limits, now)
            assert 0 < policy.rate <= limits.maximum
            assert (policy.minimum == 0) if kept.caps() else (0 < policy.minimum <= policy.rate)
            assert 1 <= policy.connections <= max(limits.connections, limits.max_connections)
        for fact in found:
            assert fact.reason


def turned(count: int) -> Reply:
    """In words that speak of no rate."""
    sample = "421 Try again later, closing connection"
    return Reply(klass="system", action="retry", scope="domain", count=count, sample=sample)


def told(state, attempts, count, now, settings=SETTINGS):
    """The limits after a second's report of so many attempts and so many turned away."""
    found, state = decide(report(attempts, *([turned(count)] if count else [])), state, settings, now)
    return [fact.what for fact in found if isinstance(fact, Decision)], state


def test_a_part_turned_away_in_any_words_is_a_rate_and_from_then_on_each_of_them_says_so():
    few, _ = told({KEY: limit(raised_at=NOW)}, 100, 9, NOW)
    assert few == []  # what a domain in trouble may cause
    cut, state = told({KEY: limit(raised_at=NOW)}, 100, 30, NOW)
    assert cut == ["cut"]
    assert state[KEY].rate == pytest.approx(7.5)
    assert told(state, 100, 3, NOW + 30)[0] == ["cut"]  # now 3 % say it
    quiet = NOW + 2 * 86_400
    later = {KEY: with_fields(state[KEY], samples=(), raised_at=quiet)}
    assert told(later, 100, 3, quiet)[0] == []  # but not for ever


def test_at_a_named_provider_a_part_turned_away_may_be_one_of_its_domains():
    named = replace(SETTINGS, providers={"demo": LIMITS})
    assert told({KEY: limit(raised_at=NOW)}, 100, 40, NOW, named)[0] == []
    assert told({KEY: limit(raised_at=NOW)}, 100, 60, NOW, named)[0] == ["cut"]


def test_words_that_no_cut_makes_fewer_are_no_rate():
    state, now, cuts = {KEY: limit(rate=40.0)}, NOW, 0
    for _ in range(60):
        found, state = told(state, 100, 12, now)
        cuts += found.count("cut")
        now += 11.0
    assert cuts == 5
    assert state[KEY].rate > LIMITS.minimum


def test_who_is_refused_at_the_minimum_gets_below_it():
    state, now = {KEY: limit(rate=1.0)}, NOW
    for _ in range(30):
        _, state = decide(report(10, slow(6), seconds=10.0), state, SETTINGS, now)
        now += 12.0
    assert 1 / LAW.ask <= state[KEY].rate < 0.2
    policy = state[KEY].policy(LIMITS, now)
    assert policy.minimum == policy.rate  # the floor of workers without a lease comes down too


def test_patience_is_for_what_lies_past_a_ceiling_that_was_met_again_and_again():
    law = replace(LAW, patient=8, grow=1.1)
    settings = replace(SETTINGS, law=law)
    met = limit(rate=9.2, ceiling=10.0, met=3, cut_at=NOW, raised_at=NOW, throttled_at=NOW)
    state, now, raised = {KEY: met}, NOW, []
    while now < NOW + 10_000 and len(raised) < 6:
        now += 5.0
        rate = int(5 * state[KEY].rate + 1)
        found, state = decide(report(rate, seconds=5.0), state, settings, now)
        raised += [(now - NOW, fact.rate) for fact in found if isinstance(fact, Decision)]
    below = [at for at, rate in raised if rate < 10.0]
    past = [at for at, rate in raised if rate > 10.0]
    assert below[0] == 40.0  # on the way there as quick as ever
    assert past[0] >= 2 * 8 * 40.0  # once more past it: not before long


def test_the_longer_a_stop_lasts_the_more_seldom_is_asked():
    settings = replace(SETTINGS, law=replace(LAW, stop=0.8, trickle_after=60, ask=300))
    state, now, asked = {KEY: limit()}, NOW, []
    for _ in range(40):
        _, state = decide(
            report(10 if now == NOW else 1, slow(10 if now == NOW else 1)), state, settings, now
        )
        asked.append(1 / state[KEY].rate)
        now += max(61.0, 1 / state[KEY].rate)
    assert asked == sorted(asked)
    assert asked[-1] == SELDOM
    assert asked[8] <= 300


def test_a_month_at_the_shipped_pace_ends_near_what_the_provider_takes():
    """30 days of reports, one each ten minutes, against 8 messages/s: the month takes about a second."""
    text = (Path(__file__).parents[3] / "agents" / "shape" / "policy.toml").read_text()
    settings, state, now, budget = parse_policy(text), {}, NOW, 8.0
    cuts: list[float] = []
    raises: list[float] = []
    attempts = throttled = last_week = 0.0
    for step in range(30 * 144):
        now = NOW + 600.0 * step
        rate = state[KEY].rate if state else settings.default.start
        sent = int(rate * 600)
        over = max(0, sent - int(budget * 600))
        reports = report(sent, slow(over), seconds=600.0) if over else report(sent, seconds=600.0)
        found, state = decide(reports, state, settings, now)
        for fact in found:
            if isinstance(fact, Decision):
                {"cut": cuts, "raise": raises}.get(fact.what, []).append(now)
        attempts, throttled = attempts + sent, throttled + over
        last_week += (sent - over) / (7 * 86400) if step >= 23 * 144 else 0
    assert last_week > 0.9 * budget
    assert throttled / attempts < 0.02
    assert all(b - a >= settings.law.resume_after for a, b in pairwise(raises))
    assert all(b - a >= 60 for a, b in pairwise(cuts))
    assert cuts
