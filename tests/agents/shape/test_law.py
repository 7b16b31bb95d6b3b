"""The whole loop against providers with hidden budgets: workers, leases, reports, cuts and raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.shape.agent import Shaper
from agents.shape.limit import Limit
from agents.shape.rules import parse_policy
from tests.agents.shape.world import START, Provider, Worker, run

DEMO = parse_policy((Path(__file__).parents[3] / "agents" / "shape" / "demo.toml").read_text())
WARM = replace(DEMO, default=DEMO.providers["google"])
COLD = replace(DEMO, default=replace(DEMO.default, connections=5))
"""The slow start, with a connection for each of five workers: only the rate is looked for."""
SECONDS = 60


STEADY = [(8, 1, COLD), (8, 2, COLD), (20, 1, WARM), (40, 2, WARM), (120, 0.5, WARM), (250, 2, WARM)]
# A handful of messages a second over several workers is a matter of chance: fewer workers there.
CASES = [(*case, n) for case in STEADY for n in (1, 3, 5)] + [(3, 2, COLD, 1), (3, 2, COLD, 3)]


@pytest.mark.parametrize(("budget", "burst", "settings", "workers"), CASES)
def test_the_law_finds_a_hidden_budget_and_keeps_to_it(budget, burst, settings, workers):
    provider = Provider(budget, burst * budget)
    team = [Worker(f"w{n}", 15, 15 // workers, 10**6, n / workers) for n in range(workers)]
    run(settings, provider, team, SECONDS)
    first = provider.refused[0]
    taken = sum(at > first for at in provider.attempts) - len(provider.refused)
    assert provider.busiest(first + 5) <= 1.2 * budget + 0.2  # two messages in ten seconds are chance
    assert len(provider.refused) <= 0.05 * len(provider.attempts) + 2
    assert taken >= 0.8 * budget * (SECONDS - first)


# Budgets and connections of the demo's providers, their dialects aside: (messages/s, connections, messages
# on each, seconds for each message), and where the lane starts.
WORLD = [
    (60, 10, 100, 0.04, "google"),
    (40, 8, 50, 0.06, "outlook"),
    (30, 6, 20, 0.05, "yahoo"),
    (18, 2, 100, 0.04, "orange"),
    (25, 4, 20, 0.04, "gmx"),
    (9, 2, 50, 0.08, "small.test"),
    # Stricter than what we begin with, in connections and in messages on each.
    (9, 1, 10, 0.04, "small.test"),
    (40, 3, 12, 0.02, "google"),
    # Two connections do not carry this rate, ten would be refused.
    (30, 4, 50, 0.1, "small.test"),
]


@pytest.mark.parametrize("linger", [0.0, 0.05])
@pytest.mark.parametrize(("budget", "connections", "each", "service", "name"), WORLD)
def test_hidden_limits_of_rate_and_connections_are_found_together(
    budget, connections, each, service, name, linger
):
    settings = replace(DEMO, default=DEMO.limits(name))
    provider = Provider(budget, budget, connections, each, service, linger)
    run(settings, provider, [Worker("w", 15, 15, 10**6, 0.0)], SECONDS)
    throttled = [*provider.refused, *provider.crowded]
    settled = min(throttled) + 5
    late = sum(at >= settled for at in throttled)
    assert late <= 0.05 * sum(at >= settled for at in provider.attempts) + 2
    assert provider.busiest(min(provider.refused, default=0.0) + 5) <= 1.2 * budget + 1e-9
    assert len(provider.crowded) <= 3
    assert len(provider.spent) <= 6
    assert provider.rate(20, SECONDS) >= 0.8 * budget


@pytest.mark.parametrize("connections", [2, 4, 8])
def test_hidden_connections_are_shared_among_workers(connections):
    provider = Provider(20, 20, connections, 20, 0.05)
    team = [Worker(f"w{n}", 15, 5, 10**6, n / 3) for n in range(3)]
    run(WARM, provider, team, SECONDS)
    assert len(provider.crowded) <= 5
    assert provider.rate(20, SECONDS) >= 0.6 * provider.budget
    assert all(worker.sent > 50 for worker in team)  # in turns, where there are fewer than workers


def test_a_small_budget_is_found_within_20_seconds_of_the_slow_start():
    provider = Provider(9, 9, 2, 50, 0.08)
    run(DEMO, provider, [Worker("w", 15, 15, 10**6, 0.0)], 30)
    assert provider.rate(20, 30) >= 0.8 * provider.budget
    assert provider.crowded == []


def test_a_ceiling_that_was_wrong_is_forgotten():
    """A provider that was short of everything for a while takes five times as much afterwards."""
    provider = Provider(8, 8)
    worker = Worker("w", 15, 15, 10**6, 0.0)
    shaper = run(DEMO, provider, [worker], 30)
    slow = shaper.published[("source", "127.0.0.11", "demo")].rate
    assert slow < 10
    provider.budget = provider.burst = 40
    shaper = run(DEMO, provider, [worker], 100, shaper=shaper, begin=30)
    assert shaper.published[("source", "127.0.0.11", "demo")].rate > 25


def test_the_tail_of_a_lane_is_not_held_back():
    """A handful of mails after a cut: the lane goes up again as long as it is used."""
    provider = Provider(9, 9, 2, 50, 0.08)
    worker = Worker("w", 15, 15, 40, 0.0)
    shaper = Shaper(DEMO)
    key = ("source", "127.0.0.11", "demo")
    limit = Limit(key, 1.0, START, ceiling=1.0, cut_at=START, raised_at=START, reason="cut")
    shaper.remember(limit.policy(DEMO.default, START), 0, 0.0)
    run(DEMO, provider, [worker], 40, shaper=shaper)
    assert worker.sent == 40


def test_the_demo_is_quick_enough_for_a_provider_that_takes_a_lot():
    """2,000 mails within a minute from the warm start, against 100/s."""
    provider = Provider(100, 100)
    team = [Worker(f"w{n}", 8, 4, 1000, n / 2) for n in range(2)]
    run(WARM, provider, team, 60)
    assert sum(worker.sent for worker in team) == 2000


def test_without_a_leader_workers_share_the_floor():
    provider = Provider(1000, 1000)
    team = [Worker(f"w{n}", 15, 5, 10**6, n / 3) for n in range(3)]
    shaper = run(DEMO, provider, team, 20)
    policy = shaper.published[("source", "127.0.0.11", "demo")]
    for worker in team:
        found = worker.allowance.rate("demo", "127.0.0.11", "a.example", 100.0, 2e9)
        assert found.rate == pytest.approx(policy.minimum / 3)
        assert found.reason == "no lease: the floor"


def test_a_worker_that_dies_gives_its_share_to_the_others():
    provider = Provider(1000, 1000)
    team = [Worker(f"w{n}", 15, 5, 10**6, n / 3) for n in range(3)]
    team[2].next_report = float("inf")
    shaper = run(DEMO, provider, team, 15)
    policy = shaper.published[("source", "127.0.0.11", "demo")]
    sums = [worker.allowance.rate("demo", "127.0.0.11", "", 14.9, 2e9).rate for worker in team]
    assert sums[2] == pytest.approx(policy.minimum / 3)
    assert 0.85 * policy.rate <= sum(sums) <= policy.rate * 1.000001
