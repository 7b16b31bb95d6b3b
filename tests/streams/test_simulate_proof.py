"""The proof in a closed loop, in short: models drawn from seeds that the law was not tuned on, a few days each.

The long form is ``mailsluice simulate --seeds 1001-1010 --policy all``.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from click.testing import CliRunner

from agents.shape.warm import DAY
from streams.ops.simulate.command import command
from streams.ops.simulate.compare import Outcome, settings_of, simulate
from streams.ops.simulate.generate import TUNED, generated
from streams.ops.simulate.ideal import Permit
from streams.ops.simulate.providers_file import BadProviders, Drop, Model, Pause, read_providers
from streams.ops.simulate.scores import missed, scored

SHIPPED = settings_of()


def drawn(seed: int, number: int) -> Model:
    """A model of a seed, with what happens to it brought into the first days."""
    assert seed not in TUNED
    model = read_providers(generated(seed)).models[number]
    drops = tuple(replace(drop, day=2.2, hours=min(8.0, drop.hours)) for drop in model.drops[:1])
    stops = tuple(replace(stop, day=3.3, hours=min(4.0, stop.hours)) for stop in model.suspensions[:1])
    return replace(model, drops=drops, suspensions=stops, rate=min(model.rate, 6.0))


@pytest.mark.parametrize("number", range(6))
def test_models_that_it_was_not_tuned_on(number):
    model = drawn(3001, number)
    found = simulate(model, "adaptive", 5.0, seed=3001)
    assert missed(found.figures) == []


def test_neither_a_constant_rate_nor_fixed_reactions_do_as_well():
    model = Model(
        "any", rate=5.0, wander=0.1, drops=(Drop(1.2, 8, 0.15),), suspensions=(Pause(2.5, 3, "450 4.7.1 not now"),)
    )  # fmt: skip
    runs = {policy: simulate(model, policy, 4.0, seed=1) for policy in ("adaptive", "fixed", "rules")}
    assert scored([runs["adaptive"]])["all"] == 1
    for other in ("fixed", "rules"):
        assert scored([runs[other]])["all"] == 0
        assert runs[other].figures["used"] < runs["adaptive"].figures["used"]


def test_a_cold_source_keeps_its_plan_and_uses_it_up():
    model = Model("google", rate=40.0, established=200)
    found = simulate(model, "adaptive", 6.0, seed=1).figures
    assert found["worst_growth"] <= found["permitted_growth"] == 1.4
    assert found["capacity"] == 300 + 390 + 510 + 660 + 860 + 1100
    assert found["used"] >= 0.99
    # Where the policy knows no plan for a provider, a cold source has one all the same.
    found = simulate(Model("any", rate=40.0, established=200), "adaptive", 2.0, seed=1).figures
    assert found["capacity"] == 690


def test_what_the_ideal_sender_may_send_is_the_plan_and_behind_a_gate_a_tenth():
    model = Model("google", complaint_hours=0.0)
    cold = Permit(SHIPPED, SHIPPED.limits("google", "dkim"), model, "conservative", 0)
    assert cold.left(0.0) == 60  # of 300 in the first hour
    cold.sent(0.0, 60.0, 60, 0.0)
    assert cold.left(100.0) == 0
    assert cold.left(3700.0) == 60
    warm = Permit(SHIPPED, SHIPPED.limits("google", "dkim"), model)
    assert warm.left(0.0) == float("inf")
    for hour in range(30):
        warm.sent(3600.0 * hour, 3600.0, 2000, 0.01)
    assert warm.left(30 * 3600.0) < 5000
    assert warm.pace() < 2000 / 3600


def test_refused_with_any_words_it_asks_by_a_few_mails_and_is_back_soon():
    model = Model("any", rate=5.0, suspensions=(Pause(1.0, 6, "451 4.3.0 Local problem"),))
    found = simulate(model, "adaptive", 1.6, seed=1)
    assert found.figures["hours_to_full_rate_after_drop"] <= 0.5
    # Six hours at a mail in five minutes, and what went before it was clear.
    assert found.figures["deferred"] * found.figures["attempts"] < 250


def test_days_of_a_plan_end_at_midnight():
    model = Model("gmx", rate=20.0, established=3000, demand=200_000, pattern="burst")
    found = simulate(model, "adaptive", 5.0, seed=1)
    assert found.figures["worst_growth"] <= 1.4
    days = {(decision.time % DAY) // 600 for decision in found.decisions if decision.what == "day"}
    assert days == {0}


def test_a_file_is_read_as_it_is_meant_and_faults_say_what_was_meant():
    text = '{"seed": 2, "providers": [{"name": "a", "connections": 4.0, "drops": {"day": 1, "hours": 2, "to": 0.1}}]}'
    found = read_providers(text)
    assert (found.models[0].connections, found.models[0].drops) == (4, (Drop(1.0, 2.0, 0.1),))
    assert read_providers('[[providers]]\nname = "b"\nrate = 3').models[0].rate == 3.0
    with pytest.raises(BadProviders) as caught:
        read_providers('rate = 3\n[[providers]]\nrate = 3\n[[providers]]\nname = "c"\nper_hours = 3')
    said = str(caught.value)
    for want in (
        "rate inside a provider",
        "providers[0].name",
        "providers.c.per_hours: no such key (did you mean per_hour",
    ):
        assert want in said
    with pytest.raises(BadProviders, match="not JSON"):
        read_providers("{")


def test_all_policies_in_one_table_and_one_picture(tmp_path):
    file, plot = tmp_path / "p.toml", tmp_path / "p.svg"
    file.write_text("[providers.x]\nrate = 2.0\n[providers.cold]\nestablished = 300\nrate = 2.0\n")
    run = ["--providers", str(file), "--days", "1", "--policy", "all", "--jobs", "1"]
    shown = CliRunner().invoke(command, run)
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in ("adaptive", "fixed", "rules", "2 of 2"))
    found = json.loads(CliRunner().invoke(command, [*run, "--json", "--plot", str(plot)]).output)
    assert set(found["policies"]) == {"adaptive", "fixed", "rules"}
    assert found["policies"]["adaptive"]["met"]["of"] == 2
    texts = ["".join(text.itertext()) for text in ET.parse(plot).iter("{http://www.w3.org/2000/svg}text")]
    assert sum("of capacity used" in text for text in texts) == 6


def test_seeds_are_drawn_and_wrong_ones_told():
    found = json.loads(
        CliRunner().invoke(command, ["--seeds", "3002", "--days", "0.1", "--json", "--jobs", "1"]).output
    )
    assert len(found["providers"]) == 6
    for wrong in ("x", "5-2", "1-5000"):
        assert CliRunner().invoke(command, ["--seeds", wrong]).exit_code == 2


def test_what_is_missed_is_named():
    figures = {
        "used": 0.95,
        "deferred_after_first_hour": 0.02,
        "worst_growth": None,
        "hours_to_full_rate_after_drop": 2.5,
    }
    assert missed(figures) == ["deferred", "back"]
    counts = scored([Outcome("a", figures, [], [])])
    assert (counts["used"], counts["growth"], counts["all"], counts["of"]) == (1, 1, 0, 1)
