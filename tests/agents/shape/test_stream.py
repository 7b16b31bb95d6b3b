"""A stream stops only for a fault of ours that many domains tell of; one hostile domain stops nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from agents.deliver.allowance import Allowance
from agents.shape.agent import Shaper
from agents.shape.rules import parse_policy
from schemas.lane_policy import ALL, Decision, LanePolicy
from schemas.lane_report import LaneReport, Reply

NOW = 1_800_000_000.0
TEXT = (Path(__file__).parents[3] / "agents" / "shape" / "policy.toml").read_text()
SETTINGS = parse_policy(TEXT.replace('warm_up = "conservative"', ""))


def shaper() -> Shaper:
    made = Shaper(SETTINGS)
    made.lead(0, 0.0, NOW)
    return made


def told(
    made: Shaper, domain: str, scope: str = "config", provider: str = "", n: int = 1, attempts: int = 10
):
    reply = Reply(
        klass="authentication", action="hold", scope=scope, count=n, domain=domain, sample="550 5.7.26 no SPF"
    )
    report = LaneReport(
        worker="w", number=n, provider=provider or domain, source="192.0.2.1", dkim="news.example", time=NOW,
        attempts=attempts, replies=(reply,) if n else (),
    )  # fmt: skip
    return [f for f in made.on_report(report, NOW, 0.0) if isinstance(f, Decision) and f.what == "stop"]


def test_a_fault_of_ours_over_20_domains_stops_the_stream_and_says_why():
    made = shaper()
    stops = [stop for n in range(25) for stop in told(made, f"d{n}.example")]
    (stop,) = stops
    assert (stop.kind, stop.name, stop.provider) == ("dkim", "news.example", ALL)
    assert stop.reason == "stopped: 20 of 200 attempts met a fault of ours at 20 domains"
    assert stop.sample == "550 5.7.26 no SPF"
    policy = made.published[("dkim", "news.example", ALL)]
    assert policy.suspended_until == NOW + SETTINGS.sweep.stop
    worker = Allowance("w", 1)
    worker.own(1)
    worker.feed(1, policy)
    assert worker.rate("x.example", "192.0.2.1", "news.example", 1.0, NOW).rate == 0
    assert worker.rate("x.example", "192.0.2.1", "other.example", 1.0, NOW).rate > 0
    assert worker.rate("x.example", "192.0.2.1", "news.example", 1.0, policy.suspended_until).rate > 0
    # It is taken back when it is over, and not before.
    assert made.tick(NOW + 5, 5.0)[1] == []
    assert policy.key in made.tick(policy.suspended_until, 6.0)[1]


@pytest.mark.parametrize("scope", ["address", "domain", "content", ""])
def test_what_is_no_fault_of_ours_stops_nothing(scope):
    made = shaper()
    assert [stop for n in range(40) for stop in told(made, f"d{n}.example", scope)] == []


def test_one_hostile_domain_stops_nobody():
    made = shaper()
    assert [stop for _ in range(100) for stop in told(made, "hostile.example", n=10)] == []


def test_few_among_many_stop_nothing():
    made = shaper()
    assert [stop for n in range(100) for stop in told(made, f"d{n}.example", attempts=30)] == []


def test_a_whole_named_provider_stops_the_stream_there():
    made = shaper()
    stops = [stop for _ in range(30) for stop in told(made, "gmail.com", "source", "google", n=6)]
    assert [(stop.kind, stop.name, stop.provider) for stop in stops] == [("source", "192.0.2.1", "google")]
    assert made.state[("source", "192.0.2.1", "google")].suspended_until == NOW + SETTINGS.sweep.stop
    assert ("source", "192.0.2.1", ALL) not in made.published


def test_old_faults_are_forgotten():
    made = shaper()
    for n in range(15):
        told(made, f"d{n}.example")
    made.tick(NOW + SETTINGS.sweep.stop_window + 1, 1.0)
    assert made.streams.tried == {}


def test_a_stop_outlives_its_leader():
    made = shaper()
    for n in range(20):
        told(made, f"d{n}.example")
    other = Shaper(SETTINGS)
    for policy in made.published.values():
        assert isinstance(policy, LanePolicy)
        other.remember(with_fields(policy, epoch=5), 6, 0.0)
    other.lead(9, 0.0, NOW + 1)
    other.tick(NOW + 1, 1.0)
    assert other.published[("dkim", "news.example", ALL)].suspended_until > NOW + 1
