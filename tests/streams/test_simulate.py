"""mailsluice simulate: the law of production against models, beside a constant rate and fixed reactions."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from agents.shape.halt import asked
from streams.ops.simulate.command import command
from streams.ops.simulate.compare import simulate
from streams.ops.simulate.generate import generated
from streams.ops.simulate.provider import DAY, Provider
from streams.ops.simulate.providers_file import BadProviders, Drop, Model, Pause, read_providers


def test_all_faults_of_a_providers_file_come_in_one_error():
    text = """
seeed = 1
[providers.a]
rate = -1
brust = 2
connections = 1.5
pattern = "sometimes"
drops = [{ day = 1, hours = 2 }]
[providers.b]
dialect = "klingon"
suspensions = [{ day = 1, hours = 1, reply = "go away" }]
"""
    with pytest.raises(BadProviders) as caught:
        read_providers(text)
    said = str(caught.value)
    wanted = (
        "seeed",
        "a.rate: is -1",
        "brust: no such key (did you mean burst?)",
        "must be a whole number",
        "drops[0].to",
    )
    assert all(want in said for want in wanted)
    with pytest.raises(BadProviders, match=r"klingon[\s\S]*reply: must begin"):
        read_providers(text[text.index("[providers.b]") :])


def test_a_model_takes_its_budget_and_no_more():
    provider = Provider(Model("a", rate=10.0, burst=1.0, per_day=20_000, harm=0.0))
    took = sum(provider.offer(float(at), 10.0, 1000, 1, 1).taken for at in range(0, 1000, 10))
    assert 9_900 <= took <= 10_010
    took += sum(provider.offer(float(at), 10.0, 1000, 1, 1).taken for at in range(1000, 4000, 10))
    assert took == 20_000
    assert provider.offer(DAY, 10.0, 1000, 1, 1).taken in (109, 110)


def test_reputation_falls_with_hammering_and_rises_with_clean_mail():
    provider = Provider(Model("a", rate=10.0, reputation=0.5))
    for at in range(0, 3600, 10):
        provider.offer(float(at), 10.0, 500, 1, 1)
    hammered = provider.reputation
    assert hammered < 0.45
    for at in range(36_000, 122_400, 60):
        provider.offer(float(at), 60.0, 60, 1, 1)
    assert provider.reputation > hammered + 0.15


def test_the_law_finds_a_hidden_rate_and_comes_back_after_a_drop_and_a_stop():
    model = Model(
        "gmx", rate=6.0, drops=(Drop(1.2, 6, 0.2),), suspensions=(Pause(1.4, 3, "421 4.7.0 try again in 3 hours"),)
    )  # fmt: skip
    found = simulate(model, "adaptive", 2.5, seed=1)
    assert found.figures["used"] >= 0.9
    assert found.figures["deferred_after_first_hour"] <= 0.01
    assert found.figures["hours_to_full_rate_after_drop"] <= 2.0
    assert any("as the reply asks" in decision.reason for decision in found.decisions)
    assert simulate(model, "adaptive", 2.5, seed=1).figures == found.figures
    for other in ("fixed", "rules"):
        assert simulate(model, other, 2.5, seed=1).figures["used"] < found.figures["used"]


def test_an_hourly_quota_that_is_used_up_is_waited_for():
    found = simulate(Model("a", provider="yahoo", per_hour=18_000), "adaptive", 1.0, seed=1).figures
    assert found["used"] >= 0.9
    assert found["deferred_after_first_hour"] <= 0.01


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("421 4.7.0 please try again in 2 hours", 7200),
        ("451 wait 15 minutes", 900),
        ("421 retry after 300 seconds", 300),
        ("450 too many messages", 0),
        ("421 try again later", 0),
    ],
)
def test_what_a_reply_asks_for(text, seconds):
    assert asked(text) == seconds


def test_the_command_prints_one_object_and_draws(tmp_path):
    (tmp_path / "p.toml").write_text("[providers.x]\nrate = 3.0\n[providers.y]\nper_minute = 60\n")
    plot = tmp_path / "p.svg"
    run = [
        "--providers",
        str(tmp_path / "p.toml"),
        "--days",
        "0.5",
        "--json",
        "--plot",
        str(plot),
        "--jobs",
        "1",
    ]
    result = CliRunner().invoke(command, run)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert set(found["providers"]) == {"x", "y"}
    assert "polyline" in plot.read_text()
    refused = CliRunner().invoke(command, ["--plot", "x.png"])
    assert refused.exit_code == 2
    assert "svg" in refused.output


def test_generated_files_are_sound_and_the_same_for_a_seed():
    for seed in range(20):
        assert len(read_providers(generated(seed)).models) == 6
    assert generated(3) == generated(3)
    assert generated(3) != generated(4)
