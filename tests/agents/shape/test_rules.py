"""Policy texts: the shipped ones are sound, and a wrong one names all its faults at once."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from agents.shape.policy import SIGNER_SCOPES, SOURCE_SCOPES
from agents.shape.rules import BadPolicy, parse_policy
from schemas.lanes import LANES

SHAPE = Path(__file__).parents[3] / "agents" / "shape"
GOOD = """
[default]
connections = 2
per_connection = 20
start = 1
minimum = 0.1
maximum = 5
"""


@pytest.mark.parametrize("name", ["policy.toml", "demo.toml"])
def test_the_shipped_policies_are_sound(name):
    settings = parse_policy((SHAPE / name).read_text(), name)
    assert settings.default.connections >= 2
    assert settings.reactions


def test_production_keeps_the_pace_of_the_field():
    settings = parse_policy((SHAPE / "policy.toml").read_text())
    assert set(LANES) <= set(settings.providers)
    assert settings.law.cut_after >= 60
    assert settings.law.raise_after >= 3600
    assert (settings.default.connections, settings.default.start) == (2, 1.0)
    orange = settings.limits("orange")
    assert (orange.connections, orange.per_connection) == (2, 100)
    assert settings.limits("nobody.example") == settings.default


@pytest.mark.parametrize("name", ["policy.toml", "demo.toml"])
def test_every_reaction_names_replies_that_exist_and_reach_a_lane(name):
    """A reaction that no reply can trigger is dead: a reply of another scope never comes to a limit."""
    rules = tomllib.loads((SHAPE.parents[1] / "schemas" / "replies.toml").read_text())["rule"]
    lane = [rule for rule in rules if rule["scope"] in SOURCE_SCOPES | SIGNER_SCOPES]
    for reaction in parse_policy((SHAPE / name).read_text()).reactions:
        for want in reaction.rules:
            assert any(fnmatchcase(rule["name"], want) for rule in lane), f"{reaction.name}: {want}"
        assert set(reaction.classes) <= {rule["class"] for rule in lane}, reaction.name


def test_a_dkim_domain_has_room_for_several_sources():
    settings = parse_policy(GOOD)
    limits = settings.limits("nobody", "dkim")
    assert limits.start == limits.maximum == 50
    assert limits.minimum == 0.1


def test_all_faults_come_in_one_error():
    text = """
[law]
grow = 3
windwo = 5
margin = 1.5
[sweep]
refused = "many"
[default]
connections = 2
per_connection = 20
start = 9
minimum = 0
maximum = 5
[provider.google]
connections = true
[[reaction]]
name = "nothing"
[[reaction]]
name = "cap"
rules = ["x"]
rate = 1
[surprise]
"""
    with pytest.raises(BadPolicy) as caught:
        parse_policy(text, "mine.toml")
    told = str(caught.value)
    assert told.startswith("mine.toml has ")
    for part in (
        *("[law] windwo: no such setting", "[sweep] refused", "[default] must keep 0 < minimum"),
        *("[provider.google] connections: must be int", "[provider.google] maximum: missing"),
        *("[reaction nothing] rules or classes", "[reaction cap] lasting", "[surprise]: no such section"),
    ):
        assert part in told


def test_figures_of_the_law_are_checked():
    with pytest.raises(BadPolicy) as caught:
        parse_policy(GOOD + "[law]\ngrow = 3\nmargin = 1.5\nwindow = 0\nsettle = 90\n")
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    "text",
    [
        "not toml at all =",
        "",
        "default = 3",
        GOOD + "[provider]\ngoogle = 3",
        GOOD + "reaction = 3",
        GOOD.replace("maximum = 5", "maximum = inf"),
        GOOD.replace("maximum = 5", "maximum = nan"),
        GOOD.replace("connections = 2", "connections = -2"),
        GOOD + '[[reaction]]\nname = "a"\nrules = ["x"]\nsuspend = 1\n' * 2,
        GOOD + '[[reaction]]\nname = "a"\nrules = [3]\nsuspend = 1\n',
    ],
)
def test_wrong_texts_are_refused(text):
    with pytest.raises(BadPolicy):
        parse_policy(text)
