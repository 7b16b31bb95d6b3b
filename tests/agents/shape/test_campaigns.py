"""What comes back pauses a campaign; a canary that proves good lets the rest of it go."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.shape.campaigns import AGAIN, FORGET, WRITE, Campaigns, Change
from agents.shape.figures import Feedback
from agents.shape.rules import BadPolicy, parse_policy
from schemas.campaign import Campaign, Canary
from schemas.campaign_gate import CampaignGate
from schemas.lane_report import CampaignCount, LaneReport

RULES = Feedback(minimum=100, bounces=0.05, complaints=0.01)
CANARY = Canary(share=0.02, minutes=30, minimum=50, bounces=0.04, complaints=0.005, deferrals=0.2)


class World:
    """Reports, campaigns as they are published, and a clock."""

    def __init__(self, canary: Canary | None = None, **tenants: Feedback) -> None:
        self.now = 1_800_000_000.0
        self.campaigns = {"acme/spring": campaign(canary)}
        self.gates = Campaigns(RULES, tenants)

    def report(self, *counts: CampaignCount, **values: int) -> None:
        mine = counts or (CampaignCount(campaign="spring", tenant="acme", **values),)
        report = LaneReport(worker="w", number=1, provider="google", source="s", campaigns=mine)
        self.gates.add(report, self.now)

    def delivered(self, count: int, bounced: int = 0, deferred: int = 0) -> None:
        attempts = count + bounced + deferred
        self.report(attempts=attempts, delivered=count, bounced=bounced, deferred=deferred)

    def tick(self, seconds: float = 1.0) -> list[Change]:
        """What is decided, and published at once."""
        self.now += seconds
        found = self.gates.due(self.campaigns, self.now)
        for change in found:
            self.campaigns[change.campaign.key.decode()] = change.campaign
        return found

    @property
    def state(self) -> str:
        return self.campaigns["acme/spring"].state


def campaign(canary: Canary | None = None, **changes: Any) -> Campaign:
    return Campaign(
        **{"id": "spring", "tenant": "acme", "sender": "n@acme.test", "canary": canary, **changes}
    )


def test_too_many_bounces_pause_it_once_and_say_why() -> None:
    world = World()
    world.delivered(94, 5)
    assert world.tick() == []  # 99 of the 100
    world.delivered(1)
    (change,) = world.tick()
    assert (change.gate, change.reason) == ("bounces", "5 of 100 bounced, the limit is 5.00%")
    assert world.state == "paused"
    world.delivered(0, 3)  # what was under way
    assert [world.tick() for _ in range(20)] == [[]] * 20


def test_late_bounces_and_complaints_count_where_they_come_back() -> None:
    late, complained = World(), World()
    for world in (late, complained):
        world.delivered(200)
        assert world.tick() == []
    late.report(late_bounces=10)
    assert [change.gate for change in late.tick()] == ["bounces"]
    complained.report(complaints=1)
    assert complained.tick() == []
    complained.report(complaints=1)
    assert [change.reason for change in complained.tick()] == [
        "2 complaints of 200 delivered, the limit is 1.00%"
    ]


def test_whoever_resumes_it_accepts_what_was_and_it_is_counted_anew() -> None:
    world = World()
    world.delivered(90, 10)
    assert len(world.tick()) == 1
    assert world.tick() == []
    world.campaigns["acme/spring"] = campaign()
    assert [world.tick() for _ in range(5)] == [[]] * 5
    world.delivered(95, 1)
    assert world.tick() == []
    world.delivered(0, 4)
    assert [change.gate for change in world.tick()] == ["bounces"]


def test_a_pause_that_did_not_arrive_is_published_again() -> None:
    world = World()
    world.delivered(90, 10)
    world.tick()
    world.campaigns["acme/spring"] = campaign()  # the leader died before it could
    assert world.tick() == []
    (again,) = world.tick(AGAIN)
    assert (again.campaign.state, again.gate) == ("paused", "")


def test_the_next_leader_goes_on_where_the_last_one_wrote() -> None:
    world = World()
    world.delivered(90, 4)
    world.tick()
    records, _ = world.gates.records(world.now)
    after = World()
    for record in records:
        after.gates.remember(record)
    after.delivered(5, 1)
    assert [change.gate for change in after.tick()] == ["bounces"]


def test_counts_are_written_every_few_seconds_and_forgotten_in_the_end() -> None:
    world = World()
    written = 0
    for _ in range(20):
        world.delivered(1)
        world.tick()
        written += len(world.gates.records(world.now)[0])
    assert 20 / WRITE <= written <= 20 / WRITE + 1
    assert world.gates.records(world.now + FORGET / 2)[1] == []
    world.now += FORGET + 1
    world.report(CampaignCount(campaign="other", tenant="acme", attempts=1, delivered=1))
    assert world.gates.records(world.now)[1] == [b"campaign|acme/spring"]
    assert set(world.gates.kept) == {"acme/other"}


def test_a_tenants_policy_is_its_own() -> None:
    world = World(acme=Feedback(minimum=20, bounces=0.5, complaints=1.0))
    world.delivered(90, 10)
    world.report(complaints=80)
    assert world.tick() == []
    world.delivered(0, 100)
    assert [change.gate for change in world.tick()] == ["bounces"]


@pytest.mark.parametrize(
    ("found", "stream"),
    [
        (CampaignCount(campaign="spring", tenant="acme", attempts=100, bounced=-100), "marketing"),
        (CampaignCount(campaign="spring", tenant="acme", attempts=100, bounced=2**40), "marketing"),
        (CampaignCount(campaign="s" * 200, tenant="acme", attempts=100, bounced=100), "marketing"),
        (CampaignCount(campaign="spr\ning", tenant="acme", attempts=100, bounced=100), "marketing"),
        (CampaignCount(campaign="spring", tenant="acme", attempts=100, bounced=100), "transactional"),
    ],
)
def test_impossible_counts_and_transactional_campaigns_stop_nothing(
    found: CampaignCount, stream: str
) -> None:
    world = World()
    world.campaigns["acme/spring"] = campaign(stream=stream)
    world.report(found)
    assert world.tick() == []
    assert world.state == "active"


# --- canaries


def test_a_good_canary_lets_the_rest_go_after_its_minutes() -> None:
    world = World(CANARY)
    world.delivered(70, 2, deferred=10)
    assert world.tick(29 * 60) == []
    (change,) = world.tick(61)
    assert change.gate == "passed"
    assert "70 delivered, 2 bounced, 0 complaints, 10 of 82 attempts deferred" in change.reason
    assert (world.state, world.campaigns["acme/spring"].rest_waits) == ("active", False)
    assert world.tick(60) == []
    # From here on its tenant's limits hold, which are wider.
    world.delivered(28, 2)
    assert world.tick() == []


def test_a_canary_of_too_few_waits_for_more_or_for_somebody() -> None:
    world = World(CANARY)
    world.delivered(49)
    assert world.tick(31 * 60) == []
    assert world.gates.waiting(world.campaigns, world.now) == pytest.approx(60)
    world.delivered(1)
    assert [change.gate for change in world.tick()] == ["passed"]
    assert world.gates.waiting(world.campaigns, world.now) == 0.0


@pytest.mark.parametrize(
    ("counts", "gate"),
    [
        ({"attempts": 50, "delivered": 48, "bounced": 2}, "bounces"),
        ({"attempts": 50, "delivered": 50, "complaints": 1}, "complaints"),
        ({"attempts": 70, "delivered": 50, "deferred": 20}, "deferrals"),
    ],
)
def test_a_bad_canary_pauses_the_campaign_before_its_minutes_are_over(
    counts: dict[str, int], gate: str
) -> None:
    world = World(CANARY)
    world.report(**counts)
    (change,) = world.tick()
    assert (change.gate, change.reason.startswith("the canary: ")) == (gate, True)
    now = world.campaigns["acme/spring"]
    assert now.canary is not None
    assert (now.state, now.canary.state, now.rest_waits) == ("paused", "failed", True)


def test_a_passed_canary_passes_again_for_a_producer_who_publishes_it_anew() -> None:
    world = World(CANARY)
    world.delivered(60)
    assert len(world.tick(31 * 60)) == 1
    world.campaigns["acme/spring"] = campaign(CANARY, subject="New")
    assert world.tick() == []  # perhaps not arrived yet
    (change,) = world.tick(AGAIN)
    assert (change.gate, change.campaign.subject) == ("passed", "New")


def test_a_canary_belongs_to_marketing() -> None:
    with pytest.raises(ValueError, match="only a marketing campaign"):
        campaign(CANARY, stream="transactional")


@hypothesis(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("report"),
                st.integers(0, 60),
                st.integers(0, 5),
                st.integers(0, 20),
                st.integers(0, 2),
            ),
            st.tuples(st.just("resume"), *(st.just(0),) * 4),
            st.tuples(st.just("restart"), *(st.just(0),) * 4),
        ),
        max_size=30,
    )
)
def test_whatever_comes_the_rest_never_goes_before_a_measured_good_canary(steps: list[Any]) -> None:
    """Passed: only with enough that ended after its minutes, or by an operator. One decision a state."""
    world = World(CANARY)
    for what, delivered, bounced, deferred, complaints in steps:
        if what == "report":
            world.delivered(delivered, bounced, deferred)
            world.report(complaints=complaints)
        elif what == "restart":
            world.now += WRITE
            records, _ = world.gates.records(world.now)
            fresh = Campaigns(RULES)
            for gate in (*world.gates.kept.values(), *records):
                fresh.remember(gate)
            world.gates = fresh
        elif world.state == "paused":
            known = world.campaigns["acme/spring"]
            canary = replace(known.canary, state="passed") if known.canary else None
            world.campaigns["acme/spring"] = replace(known, state="active", canary=canary)
        before = world.campaigns["acme/spring"]
        counts = dict(world.gates.kept)
        for change in world.tick(300):
            gate = counts["acme/spring"]
            if change.gate == "passed":
                assert before.rest_waits
                assert world.now >= gate.since + 1800
                assert gate.ended >= 50
                assert gate.bounced < 0.04 * gate.ended
                assert gate.deferred < 0.2 * gate.attempts
            else:
                assert change.campaign.state == "paused"
                assert gate.ended >= 50


# --- the policy


POLICY = """
[default]
connections = 1
per_connection = 10
start = 1
minimum = 1
maximum = 10
[campaign]
minimum = 500
complaints = 0.002
[tenant."acme"]
bounces = 0.08
"""


def test_a_tenant_says_what_differs_and_an_override_comes_last() -> None:
    over = '[campaign]\nminimum = 400\n[tenant."acme"]\ncomplaints = 0.001\n[tenant."b"]\nminimum = 50'
    found = parse_policy(POLICY, override=over)
    assert found.campaign == Feedback(400, 0.05, 0.002)
    assert found.tenants == {"acme": Feedback(400, 0.08, 0.001), "b": Feedback(50, 0.05, 0.002)}


def test_faults_are_told_all_at_once() -> None:
    wrong = POLICY.replace("0.002", "1.5").replace("0.08", '"much"') + "spread = 3\n[tenant.c]\nminimum = 3\n"
    with pytest.raises(BadPolicy) as caught:
        parse_policy(wrong)
    text = str(caught.value)
    assert "[campaign] complaints: is a share" in text
    assert "[tenant.acme] bounces: must be float, not 'much'" in text
    assert "[tenant.acme] spread: no such setting; there are minimum, bounces, complaints" in text
    assert "[tenant.c] minimum: must be at least 20" in text


def test_a_gate_that_nobody_can_have_written_is_not_taken_in() -> None:
    world = World()
    world.gates.remember(CampaignGate(campaign="spring", tenant="acme", bounced=-1))
    assert world.gates.kept == {}


class Asked(dict):
    """Campaigns that count how often somebody asks for one."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)


def test_a_second_looks_at_those_campaigns_that_something_may_be_decided_about_and_few_others() -> None:
    gates, now = Campaigns(RULES), 1_800_000_000.0
    campaigns = Asked({f"acme/{n}": campaign(id=str(n)) for n in range(5000)})
    campaigns["acme/7"] = campaign(CANARY, id="7")
    for n in range(5000):
        gates.remember(CampaignGate(campaign=str(n), tenant="acme", since=now, time=now, delivered=60))
    gates.due(campaigns, now)
    campaigns.asked = 0
    for second in range(1, 50):
        assert gates.due(campaigns, now + second) == []
        gates.waiting(campaigns, now + second)
    assert campaigns.asked <= 50 * (2 + 84)  # a sixtieth of all, in turn
    count = CampaignCount(campaign="9", tenant="acme", delivered=100, attempts=100)
    gates.add(LaneReport(worker="w", number=1, provider="p", source="s", campaigns=(count,)), now + 50)
    campaigns.asked = 0
    gates.due(campaigns, now + 51)
    assert campaigns.asked <= 2 + 2 * 84
    # The canary's time comes without a report, and once a minute every campaign is looked at.
    told = [(s, found) for s in range(60, 1900) for found in gates.due(campaigns, now + s)]
    assert (told[0][0], told[0][1].campaign.id, told[0][1].gate) == (1800, "7", "passed")
    campaigns["acme/7"] = told[0][1].campaign
    campaigns["acme/11"] = campaign(CANARY, id="11")
    later = {found.campaign.id for s in range(1900, 1990) for found in gates.due(campaigns, now + s)}
    assert later == {"11"}


def test_every_campaign_is_looked_at_within_a_minute_and_few_at_a_time() -> None:
    """A limit that an operator lowers reaches those too of which nothing new is heard."""
    world = World()
    names = [f"c{n}" for n in range(300)]
    world.campaigns = {f"acme/{name}": campaign(id=name) for name in names}
    world.report(*(CampaignCount(campaign=n, tenant="acme", delivered=196, bounced=4) for n in names))
    assert world.tick() == []
    world.gates.settings = replace_rules(bounces=0.02)
    found = [world.tick() for _ in range(62)]
    assert {change.campaign.id for changes in found for change in changes} == set(names)
    assert max(map(len, found)) == 5
    world.gates.settings = replace_rules(bounces=0.01)
    assert world.tick(61.0) == []  # they are paused


def replace_rules(**changes: float) -> Feedback:
    return dataclasses.replace(RULES, **changes)


def test_beyond_the_most_the_one_unheard_of_for_the_longest_is_forgotten(monkeypatch: Any) -> None:
    monkeypatch.setattr("agents.shape.campaigns.MOST_CAMPAIGNS", 2)
    world = World()
    for name in ("a", "b", "a", "c"):
        world.report(CampaignCount(campaign=name, tenant="acme", delivered=1))
        world.tick()
    assert set(world.gates.kept) == {"acme/a", "acme/c"}
