"""The whole loop against providers with hidden budgets: workers, leases, reports, cuts and raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.shape.rules import parse_policy
from tests.agents.shape.world import Provider, Worker, run

DEMO = parse_policy((Path(__file__).parents[3] / "agents" / "shape" / "demo.toml").read_text())
WARM = replace(DEMO, default=DEMO.providers["google"])
SECONDS = 60


STEADY = [(8, 1, DEMO), (8, 2, DEMO), (20, 1, WARM), (40, 2, WARM), (120, 0.5, WARM), (250, 2, WARM)]
# A handful of messages a second over several workers is a matter of chance: fewer workers there.
CASES = [(*case, n) for case in STEADY for n in (1, 3, 5)] + [(3, 2, DEMO, 1), (3, 2, DEMO, 3)]


@pytest.mark.parametrize(("budget", "burst", "settings", "workers"), CASES)
def test_the_law_finds_a_hidden_budget_and_keeps_to_it(budget, burst, settings, workers):
    provider = Provider(budget, burst * budget)
    team = [Worker(f"w{n}", 15, 15 // workers, 10**6, n / workers) for n in range(workers)]
    run(settings, provider, team, SECONDS)
    first = provider.refused[0]
    taken = sum(at > first for at in provider.attempts) - len(provider.refused)
    assert provider.busiest(first + 5) <= 1.2 * budget + 1e-9
    assert len(provider.refused) <= 0.05 * len(provider.attempts)
    assert taken >= 0.8 * budget * (SECONDS - first)


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
