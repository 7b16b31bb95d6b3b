"""What a leader keeps in mind, hands to the next one, and says for people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as with_fields

from agents.shape.agent import HISTORY, Shaper
from agents.shape.explain import explain, explain_decision, explain_policy, rate_text
from agents.shape.rules import Law, Limits, Reaction, Settings
from schemas.codec import encode, parse
from schemas.lane_policy import Decision, LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport, Reply

NOW = 1_800_000_000.0
LAW = Law(window=5, cut_after=2, settle=1, raise_after=1, lease=3.0)
CAP = Reaction("few", rules=("cap",), connections=1, rate=2.0, lasting=60.0)
SETTINGS = Settings(Limits(2, 20, 10.0, 1.0, 40.0), reactions=(CAP,), law=LAW)
KEY = ("source", "s", "p")


def report(number=1, now=NOW, *replies: Reply, **more) -> LaneReport:
    fields = {"worker": "w", "provider": "p", "source": "s", "attempts": 10, "waiting": 50}
    return LaneReport(**{"number": number, "time": now, "replies": replies} | fields | more)


def leading(epoch=7) -> Shaper:
    shaper = Shaper(SETTINGS)
    shaper.lead(epoch, 0.0)
    return shaper


def test_a_report_is_answered_with_policy_decision_and_lease_under_the_epoch():
    shaper = leading()
    shaper.on_report(report(), NOW, 0.0)
    facts = shaper.on_report(report(2, NOW + 3), NOW + 3, 3.0)
    policy, decision, lease = facts
    assert isinstance(policy, LanePolicy)
    assert isinstance(decision, Decision)
    assert isinstance(lease, Lease)
    assert [fact.epoch for fact in facts] == [7, 7, 7]
    assert (lease.number, lease.rate + policy.minimum) == (2, policy.rate)
    for fact in facts:
        assert parse(encode(fact), type(fact)) == fact


def test_stale_and_hostile_reports_get_no_answer_and_complaints_always_count():
    shaper = leading()
    assert shaper.on_report(report(1, NOW - 16), NOW, 5.0) == []
    assert shaper.on_report(report(1, attempts=-1), NOW, 5.0) == []
    assert (shaper.stale, shaper.refusals, shaper.state) == (1, 1, {})
    late = report(1, NOW - 9999, kind="feedback", attempts=0, complaints=3)
    facts = shaper.on_report(late, NOW, 5.0)
    assert shaper.state[KEY].tally.complaints == 3
    assert not any(isinstance(fact, Lease) for fact in facts)


def test_the_next_leader_remembers_what_the_last_one_wrote():
    first = leading()
    log: list = [Leader(worker="a", time=NOW)]
    for second in range(6):
        slow = Reply(klass="throttled", action="slow", rule="", count=4)
        log += first.on_report(
            report(second, NOW + second, *([slow] if second == 4 else [])), NOW + second, second
        )
    log += first.on_report(report(9, NOW + 9, Reply(klass="x", action="slow", rule="cap")), NOW + 9, 9.0)
    second = Shaper(SETTINGS)
    for offset, fact in enumerate(log):
        assert second.remember(replaced(fact), offset + 7, 100.0)
    ours, theirs = first.state[KEY], second.state[KEY]
    for field in (
        "rate",
        "ceiling",
        "cut_at",
        "raised_at",
        "cap_until",
        "connections",
        "connections_until",
        "frozen_until",
        "reason",
    ):
        assert getattr(theirs, field) == getattr(ours, field)
    assert second.published.keys() == first.published.keys()
    second.lead(50, 100.0)
    assert second.renewed(second.published[KEY]).epoch == 50


def replaced(fact):
    return parse(encode(fact), type(fact))


def test_what_a_displaced_leader_writes_is_not_remembered():
    shaper = Shaper(SETTINGS)
    policy = leading(3).on_report(report(), NOW, 0.0)[0]
    assert shaper.remember(Leader(worker="b", time=NOW), 9, 0.0)
    assert not shaper.remember(policy, 10, 0.0)
    assert shaper.state == {}
    assert shaper.remember(with_fields(policy, epoch=9), 11, 0.0)


def test_a_cap_that_ran_out_is_published_by_the_clock():
    shaper = leading()
    shaper.on_report(report(), NOW, 0.0)
    facts = shaper.on_report(report(2, NOW, Reply(klass="x", action="slow", rule="cap")), NOW, 0.1)
    assert (facts[0].rate, facts[0].connections) == (2.0, 1)
    assert shaper.tick(NOW + 59, 59.0) == ([], [])
    (policy, decision), _ = shaper.tick(NOW + 60, 60.0)
    assert (policy.rate, policy.cap_until, decision.what) == (10.0, 0.0, "uncap")
    # Connections come back one by one, where they are the bottleneck.
    assert (policy.connections, policy.connections_until) == (1, NOW + 60)
    assert shaper.tick(NOW + 61, 61.0)[0] == []


def test_old_keys_are_deleted_from_the_compacted_topic():
    shaper = leading()
    made = [shaper.on_report(report(), NOW, 0.0)[1].key]
    (lease,) = shaper.on_report(report(2, NOW + 0.5, attempts=0), NOW + 0.5, 4.0)
    assert shaper.tick(NOW + 1, 60.0)[1] == []
    assert shaper.tick(NOW + 2, 68.0)[1] == [lease.key]
    for n in range(HISTORY + 5):
        now = NOW + 100 + n * 2
        reply = Reply(klass="x", action="slow", rule="cap")
        made += [
            f.key for f in shaper.on_report(report(n, now, reply), now, 100.0 + n) if isinstance(f, Decision)
        ]
    facts, drops = shaper.tick(now + 60, 301.0)
    made += [fact.key for fact in facts if isinstance(fact, Decision)]
    assert [key for key in drops if not key.startswith(b"lease")] == made[: len(made) - HISTORY]
    _, drops = shaper.tick(now + LAW.forget + 1, 400.0)
    assert f"policy|{'|'.join(KEY)}".encode() in drops
    assert shaper.state == {}
    assert shaper.published == {}


def test_a_changed_policy_is_published_where_it_changes_a_limit():
    shaper = leading()
    shaper.on_report(report(), NOW, 0.0)
    assert shaper.adopt(SETTINGS, NOW + 1) == []
    policy, decision = shaper.adopt(replace(SETTINGS, default=Limits(3, 20, 5.0, 0.5, 6.0)), NOW + 1)
    assert (policy.rate, policy.minimum, policy.connections, policy.epoch) == (6.0, 0.5, 3, 7)
    assert (decision.what, decision.reason) == ("policy", "the policy file has changed")
    assert shaper.state[KEY].rate == 6.0


def test_limits_are_bounded():
    shaper = Shaper(replace(SETTINGS, max_limits=2))
    shaper.lead(0, 0.0)
    for n in range(5):
        shaper.on_report(report(n, source=f"s{n}"), NOW, 5.0)
    assert len(shaper.state) == 2


DECISION = Decision(
    kind="source",
    name="10.0.0.1",
    provider="yahoo",
    time=NOW,
    what="cut",
    reason="4.2% of attempts throttled at 31/s",
    sample="421 4.7.0 [TSS04] \x1b[2Jslow\r\ndown",
    rate=12.5,
)


def test_a_decision_reads_as_a_dated_line_with_its_reply():
    assert explain_decision(DECISION).split("\n") == [
        "2027-01-15 08:00:00Z  yahoo from 10.0.0.1: cut to 12.5/s (4.2% of attempts throttled at 31/s)",
        "    421 4.7.0 [TSS04] ?[2Jslow??down",
    ]
    signed = with_fields(DECISION, kind="dkim", name="a.example", sample="", what="suspend", rate=0.01)
    assert "yahoo signed by a.example: suspended; afterwards 36/h" in explain_decision(signed)


def test_the_newest_decisions_come_last():
    many = [with_fields(DECISION, time=NOW + n, sample="") for n in (3, 1, 2)]
    assert [line[17:19] for line in explain(many, 2)] == ["02", "03"]
    assert explain(many, 0) == []


@pytest.mark.parametrize(("rate", "text"), [(12.5, "12.5/s"), (1 / 6, "10/min"), (0.0025, "9/h")])
def test_rates_read_as_people_say_them(rate, text):
    assert rate_text(rate) == text


def test_a_limit_says_what_holds_it():
    policy = LanePolicy(
        kind="source",
        name="s",
        provider="p",
        rate=2.0,
        minimum=1.0,
        connections=2,
        per_connection=9,
        reason="why",
    )
    assert explain_policy(policy, NOW) == "p source s: 2/s, 2 connections (why)"
    stopped = with_fields(policy, suspended_until=NOW + 60)
    assert "suspended until 2027-01-15 08:01:00Z" in explain_policy(stopped, NOW)
    assert "capped until" in explain_policy(with_fields(policy, cap_until=NOW + 60), NOW)
