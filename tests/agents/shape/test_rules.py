"""Policy texts: the shipped ones are sound, and a wrong one names all its faults at once."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from agents.shape.limit import Limit
from agents.shape.policy import SIGNER_SCOPES, SOURCE_SCOPES
from agents.shape.react import react
from agents.shape.rules import BadPolicy, parse_policy
from schemas.lane_report import Reply
from schemas.lanes import LANES
from schemas.reply import classify
from schemas.reply_rules import fixtures, read_rules

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
[source."10.0.0.1".provider.x]
burst = 3
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
        *("[provider.google] connections: must be int", "[source.10.0.0.1.provider.x] burst"),
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


LAYERS = (
    GOOD
    + """
max_connections = 8
warm_up = "slow"
[plan.slow]
day = [100, 140]
[provider.google]
connections = 5
maximum = 50
[source."192.0.2.1"]
warm_up = "warm"
[source."192.0.2.1".provider.google]
start = 20
[dkim."a.example"]
maximum = 7
[[reaction]]
name = "one"
rules = ["x"]
suspend = 60
"""
)


def test_a_section_says_only_what_differs_from_the_layer_below():
    settings = parse_policy(LAYERS)
    google = settings.limits("google")
    assert (google.connections, google.max_connections, google.per_connection) == (5, 0, 20)
    assert (google.start, google.maximum, google.warm_up) == (1, 50, "slow")
    mine = settings.limits("google", "source", "192.0.2.1")
    assert (mine.start, mine.maximum, mine.connections, mine.warm_up) == (20, 50, 5, "warm")
    assert settings.limits("elsewhere", "source", "192.0.2.1").start == 1
    assert settings.limits("google", "source", "192.0.2.2") == google
    signer = settings.limits("google", "dkim", "a.example")
    assert (signer.start, signer.maximum, signer.connections) == (7, 7, 50)
    assert settings.limits("google", "dkim", "b.example").maximum == 500


def test_the_operators_override_comes_last():
    over = """
[law]
grow = 1.2
[default]
minimum = 0.2
[provider.google]
start = 3
[source."192.0.2.1"]
per_connection = 9
[[reaction]]
name = "one"
rules = ["y"]
suspend = 90
[[reaction]]
name = "two"
rules = ["z"]
suspend = 5
"""
    settings = parse_policy(LAYERS, "base.toml", over, "mine.toml")
    assert settings.law.grow == 1.2
    assert settings.default.minimum == 0.2
    mine = settings.limits("google", "source", "192.0.2.1")
    assert (mine.start, mine.per_connection) == (3, 9)
    assert [(r.name, r.rules, r.suspend) for r in settings.reactions] == [
        ("one", ("y",), 90.0),
        ("two", ("z",), 5.0),
    ]


def test_faults_of_both_files_come_in_one_error():
    with pytest.raises(BadPolicy) as caught:
        parse_policy(
            LAYERS + "[law]\ngrwo = 1\n", "base.toml", "[sweep]\nwindow = 0\n[nonsense]\n", "mine.toml"
        )
    told = str(caught.value)
    assert told.startswith("base.toml with mine.toml has 3 fault(s)")
    for part in ("[law] grwo: no such setting", "mine.toml: [nonsense]", "[sweep] window: must be above 0"):
        assert part in told
    with pytest.raises(BadPolicy, match=r"mine\.toml: not TOML"):
        parse_policy(LAYERS, "base.toml", "=", "mine.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[plan.a]\nday = [100, 200]", "[plan.a] from 100 to 200 is more than x1.4 a day"),
        ("[plan.a]\nday = [200, 100]", "[plan.a] from 200 to 100 goes down"),
        ("[plan.a]\nhourly = [20, 28]\nday = [3]", "[plan.a] day or hourly: give one of them"),
        ("[plan.a]\ngrow = 2", "[plan.a] grow: must be above 1 and at most 1.4"),
        ("[plan.a]\nday = [0, 0]", "each step must be at least 1 message"),
        ("[plan.a]\nday = [1.5]", "[plan.a] day: must be tuple[int, ...]"),
        ("[plan.a]\nday = [10]\nfilled = 2", "filled: is a share"),
        ("[plan.a]\nday = [10]\nrest = 60", "rest: must be a day"),
        ("[plan.warm]\nday = [10]", "the name says that there is no plan"),
        ('[provider.x]\nwarm_up = "fast"', "[provider.x] warm_up: no plan 'fast'; there are warm"),
        ('[source."1.2.3.4"]\nwarm_up = "fast"', "[source.1.2.3.4] warm_up: no plan 'fast'"),
    ],
)
def test_no_plan_doubles_and_every_plan_named_is_there(text, fault):
    with pytest.raises(BadPolicy) as caught:
        parse_policy(GOOD + text)
    assert fault in str(caught.value)


def _fixtures() -> list[tuple[str, str, str, str]]:
    """(provider, rule, class, scope) of every reply that the shipped rules are shown."""
    rules = read_rules((SHAPE.parents[1] / "schemas" / "replies.toml").read_text())
    found = set()
    for rule in rules.rules:
        for reply in fixtures(rule):
            for provider in rule.provider or ("small.example",):
                meaning = classify(rules, reply, provider=provider)
                if meaning.scope in SOURCE_SCOPES | SIGNER_SCOPES:
                    found.add((provider, meaning.rule, meaning.klass, meaning.scope))
    return sorted(found)


def test_every_shipped_reaction_fires_on_its_own_fixtures_and_on_no_others():
    """Each fixture of replies.toml, as often as the reaction wants it: only what names it reacts."""
    settings = parse_policy((SHAPE / "policy.toml").read_text())
    fired: set[str] = set()
    limits = settings.default
    for provider, rule, klass, scope in _fixtures():
        key = ("dkim" if scope in SIGNER_SCOPES else "source", "s", provider)
        reply = Reply(klass=klass, action="slow", scope=scope, rule=rule, count=50)
        # A reaction that takes the reply may stand behind another one: each is tried alone.
        for reaction in settings.reactions:
            limit = Limit(key, 1.0, 1000.0, reason="x")
            after, what, _ = react(limit, [reply], limits, (reaction,), 1000.0)
            named = any(fnmatchcase(rule, want) for want in reaction.rules) or klass in reaction.classes
            wanted = named and (not reaction.providers or provider in reaction.providers)
            assert bool(what) == wanted, (reaction.name, provider, rule)
            if what:
                fired.add(reaction.name)
                assert after.reason.startswith(reaction.name)
    assert fired == {reaction.name for reaction in settings.reactions}
