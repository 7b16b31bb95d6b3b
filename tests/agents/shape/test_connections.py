"""The connections' law, decision by decision: refusals narrow, shortage widens, the rate is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from agents.shape.limit import Limit, restored
from agents.shape.policy import decide
from agents.shape.rules import Law, Limits, Reaction, Settings, parse_policy
from schemas.codec import encode, parse
from schemas.lane_policy import Decision, LanePolicy
from schemas.lane_report import LaneReport, Reply

NOW = 1_800_000_000.0
LIMITS = Limits(connections=4, per_connection=20, start=10.0, minimum=1.0, maximum=40.0, max_connections=6)
LAW = Law(window=5, cut_after=10, settle=1, raise_after=20, short=3, connect_after=30, refused_for=600)
SETTINGS = Settings(LIMITS, law=LAW)
KEY = ("source", "10.0.0.1", "demo")


def report(attempts=10, *replies: Reply, **more) -> LaneReport:
    fields = {"worker": "w1", "number": 1, "provider": "demo", "source": "10.0.0.1", "connections": 4}
    return LaneReport(**fields | {"time": NOW, "attempts": attempts, "replies": replies} | more)


def refused(beside=3, klass="connections", count=1, **more) -> Reply:
    text = "421 4.7.0 Too many connections at once"
    fields = {"klass": klass, "action": "slow", "scope": "source", "sample": text}
    return Reply(**fields | {"count": count, "open": beside} | more)


def limit(**more) -> Limit:
    return with_fields(
        Limit(KEY, 10.0, NOW - 100, raised_at=NOW - 5, connected_at=NOW - 100, reason="x"), **more
    )


def after(*reports: LaneReport, state=None, settings=SETTINGS, step=1.0):
    """The facts of the last report, and the limit."""
    found, state = [], state or {KEY: limit()}
    for n, one in enumerate(reports):
        found, state = decide(one, state, settings, NOW + n * step)
    return found, state[KEY]


# Providers word it as they like: what counts is that a greeting was refused.
@pytest.mark.parametrize("klass", ["connections", "rate", "unclassified"])
@pytest.mark.parametrize("count", [1, 50])
def test_a_refused_connection_narrows_and_never_cuts_the_rate(klass, count):
    found, kept = after(report(10, refused(3, klass, count)))
    policy, decision = found
    assert isinstance(policy, LanePolicy)
    assert isinstance(decision, Decision)
    assert (policy.connections, policy.rate) == (3, 10.0)
    assert (decision.what, decision.sample) == ("narrow", "421 4.7.0 Too many connections at once")
    assert (kept.ceiling, kept.cut_at, kept.throttled_at) == (0.0, 0.0, 0.0)
    assert kept.connections_until == NOW + 600


def test_a_connection_reply_in_mid_session_is_no_throttle_either():
    found, kept = after(report(10, refused(-1)))
    assert [kept.room(LIMITS), kept.rate, kept.ceiling] == [3, 10.0, 0.0]
    assert found[0].rate == 10.0


def test_connections_of_all_workers_count():
    others = report(10, worker="w2", connections=2, number=7)
    found, _ = after(others, report(10, refused(1), connections=1))
    assert found[0].connections == 3


def test_at_least_one_connection_remains():
    found, _ = after(report(0, refused(0), connections=0))
    assert found[0].connections == 1


def test_refusals_at_the_same_time_count_once_and_later_ones_again():
    _, kept = after(report(10, refused(3)), report(10, refused(3)))
    assert kept.room(LIMITS) == 3
    _, kept = after(report(10, refused(3)), report(10, refused(3)), step=11)
    assert kept.room(LIMITS) == 2


BUSY = [report(2, busy=5)] * 8


def test_one_connection_more_only_where_all_were_busy_and_the_rate_is_not_used():
    found, kept = after(*BUSY[:2])
    assert (found, kept.room(LIMITS)) == ([], 4)
    found, kept = after(*BUSY[:3])
    policy, decision = found
    assert (policy.connections, policy.rate, decision.what) == (5, 10.0, "widen")
    assert decision.reason == "4 connections carry 2/s of 10/s: one more"
    assert after(*BUSY)[1].room(LIMITS) == 5  # not again within connect_after
    assert after(*BUSY, step=20)[1].room(LIMITS) == 4  # not often enough within the window
    assert after(*[report(2)] * 8)[1].room(LIMITS) == 4
    assert after(*[report(9, busy=5)] * 8)[1].room(LIMITS) == 4


def test_no_further_connection_where_the_last_one_did_not_help():
    tired = {KEY: limit(connections=4, carried=2.0)}
    assert after(*BUSY[:4], state=tired)[1].room(LIMITS) == 4
    assert after(*[report(3, busy=5)] * 4, state=tired)[1].room(LIMITS) == 5


def test_growth_ends_at_the_most_allowed_and_waits_long_after_a_refusal():
    assert after(*BUSY, state={KEY: limit(connections=6)})[1].room(LIMITS) == 6
    held = limit(connections=3, connections_until=NOW + 7)
    assert after(*BUSY[:7], state={KEY: held})[1].room(LIMITS) == 3
    assert after(*BUSY, state={KEY: held})[1].room(LIMITS) == 4


def test_more_rate_brings_no_connections():
    found, kept = after(report(10), state={KEY: limit(raised_at=NOW - 50)})
    assert (found[1].what, found[0].connections, kept.rate) == ("raise", 4, 13.0)


def test_messages_on_a_connection_are_learned_and_tried_again_later():
    spent = refused(-1, carried=12)
    found, kept = after(report(10, spent))
    policy, decision = found
    assert (policy.per_connection, policy.connections, policy.rate) == (12, 4, 10.0)
    assert decision.what == "shorten"
    assert after(report(10, spent), report(10, refused(-1, carried=15)))[1].carries(LIMITS, NOW + 1) == 12
    assert kept.carries(LIMITS, NOW + 599) == 12
    assert kept.carries(LIMITS, NOW + 600) == 20


def test_spent_connections_set_off_no_reaction_to_too_many():
    few = Reaction("too many connections", classes=("connections",), connections=1, lasting=3600.0)
    settings = replace(SETTINGS, reactions=(few,))
    assert after(report(10, refused(-1, carried=12)), settings=settings)[1].room(LIMITS) == 4
    found, kept = after(report(10, refused(3)), settings=settings)
    assert (found[0].connections, found[1].what, kept.rate) == (1, "narrow", 10.0)
    assert kept.connections_until == NOW + 3600


def test_the_rate_law_goes_on_beside_a_refusal():
    slow = Reply(klass="rate", action="slow", scope="source", count=40)
    found, _ = after(report(100, slow, refused(3), seconds=10.0))
    assert (found[1].what, found[0].connections) == ("cut", 3)
    assert found[0].rate < 10


def test_the_next_leader_keeps_what_was_learned():
    found, ours = after(report(10, refused(2), refused(-1, carried=12)))
    theirs = restored(parse(encode(found[0]), LanePolicy), LIMITS)
    assert theirs.room(LIMITS) == 2
    assert theirs.carries(LIMITS, NOW + 1) == 12
    assert theirs.connections_until == ours.connections_until
    strict = replace(LIMITS, connections=1, max_connections=0)
    assert restored(found[0], strict).room(strict) == 1


def test_the_shipped_figures_are_patient():
    text = (Path(__file__).parents[3] / "agents" / "shape" / "policy.toml").read_text()
    settings = parse_policy(text)
    assert settings.law.connect_after >= 3600
    assert settings.law.refused_for >= 3600
    # The field's practice: one connection for an hour.
    (few,) = [r for r in settings.reactions if "connections" in r.classes]
    assert (few.connections, few.lasting) == (1, 3600)
    assert {"outlook", "orange"} <= set(few.providers)
