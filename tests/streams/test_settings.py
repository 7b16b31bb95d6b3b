"""Environment -> Settings: all faults at once, and back again."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.suppress.policy import Settings as Strictness
from streams.operators import suppress_settings_of
from streams.settings import BadSettings, Settings, load, settings_networks, variable


def test_defaults_come_from_an_empty_environment():
    assert load({"HOME": "/", "PATH": ""}) == Settings()


def test_every_fault_is_in_one_error():
    with pytest.raises(BadSettings) as caught:
        load(
            {
                "MAILSLUICE_PARTITIONS": "many",
                "MAILSLUICE_SESION": "10",
                "MAILSLUICE_BROKER_IDEMPOTENT": "perhaps",
                "MAILSLUICE_COMMIT": "0",
                "MAILSLUICE_DRAIN": "nan",
                "MAILSLUICE_LIFETIME": "inf",
                "MAILSLUICE_RUNGS": "1,10,5,20",
                "MAILSLUICE_SECRET": "short",
                "MAILSLUICE_PROFILE": "test",
                "MAILSLUICE_DELIVER_NETWORKS": "10.0.0.0/99",
                "MAILSLUICE_DELIVER_PORT": "70000",
                "MAILSLUICE_LINGER": "-1",
                "MAILSLUICE_LOG": "LOUD",
                "MAILSLUICE_REPLICATION": "0",
            }
        )
    text = str(caught.value)
    for name in (
        *("PARTITIONS", "SESION", "BROKER_IDEMPOTENT", "COMMIT", "DRAIN", "LIFETIME", "RUNGS", "SECRET"),
        *("PROFILE", "DELIVER_NETWORKS", "DELIVER_PORT", "LINGER", "LOG", "REPLICATION"),
    ):
        assert f"MAILSLUICE_{name}" in text, text
    assert text.count(";") == 13


def test_a_retired_secret_is_good_for_hashes_alone():
    one, old = "a" * 32, "b" * 32
    settings = load({"MAILSLUICE_SECRET": one, "MAILSLUICE_RETIRED_SECRETS": old})
    assert (settings.secrets(), settings.hash_secrets()) == ([one.encode()], [one.encode(), old.encode()])
    for bad in (
        {"MAILSLUICE_RETIRED_SECRETS": old},
        {"MAILSLUICE_SECRET": one, "MAILSLUICE_RETIRED_SECRETS": "short"},
    ):
        with pytest.raises(BadSettings, match="MAILSLUICE_RETIRED_SECRETS"):
            load(bad)


def test_rungs_are_four_and_grow():
    for rungs in ("1,2,3", "1,2,3,3", "0,1,2,3", "1,2,3,inf", "nan,1,2,3", "1,2,3,4,5"):
        with pytest.raises(BadSettings, match="MAILSLUICE_RUNGS"):
            load({"MAILSLUICE_RUNGS": rungs})
    assert load({"MAILSLUICE_RUNGS": " 1, 3 ,10,30"}).rungs == (1.0, 3.0, 10.0, 30.0)


POSITIVE = st.floats(0.001, 1e6, allow_nan=False)
TEXT = st.text("abc-._", max_size=8)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "broker": TEXT,
            "broker_idempotent": st.booleans(),
            "prefix": TEXT,
            "state": st.sampled_from([Path("a/b"), Path("/x")]),
            "session": POSITIVE,
            "commit": POSITIVE,
            "partitions": st.integers(1, 10_000),
            "rungs": st.sets(POSITIVE, min_size=4, max_size=4).map(lambda found: tuple(sorted(found))),
            "deliver_sources": st.lists(st.sampled_from(["127.0.0.11", "127.0.0.12"]), max_size=3).map(tuple),
            "deliver_networks": st.sampled_from(["public", "127.0.0.0/8,10.0.0.0/8"]),
            "secret": st.sampled_from(["", "s" * 32, "s" * 32 + "," + "t" * 40]),
            "policy": st.sampled_from([None, Path("p.toml")]),
            "profile": st.sampled_from(["demo", "production"]),
        },
    )
)
def test_settings_survive_the_way_through_an_environment(values):
    settings = Settings(**values)
    assert load(settings.environment()) == settings


def test_every_field_has_a_sentence_and_a_variable():
    source = Path(__file__).parents[2] / "streams" / "settings.py"
    text = source.read_text()
    for item in fields(Settings):
        assert f"    {item.name}: " in text
        assert variable(item.name) == "MAILSLUICE_" + item.name.upper()


def test_where_answers_go_on_to():
    pair = {"MAILSLUICE_CLASSIFY_FORWARD": "shop=desk@shop.example, *=post@firm.example"}
    settings = load({**pair, "MAILSLUICE_CLASSIFY_FORWARD_FROM": "*=news@firm.example"})
    assert settings.routes().of("shop") == ("desk@shop.example", "news@firm.example")
    assert settings.routes().of("other") == ("post@firm.example", "news@firm.example")
    assert load({}).routes().of("shop") is None
    own = "shop=fbl@bounces.shop.example"
    for bad in (
        pair,  # from whom?
        {"MAILSLUICE_CLASSIFY_FORWARD": "desk@shop.example"},
        {"MAILSLUICE_CLASSIFY_FORWARD": own, "MAILSLUICE_CLASSIFY_FORWARD_FROM": "*=a@shop.example",
         "MAILSLUICE_RETURN_DOMAIN": "bounces.shop.example"},
    ):  # fmt: skip
        with pytest.raises(BadSettings, match="MAILSLUICE_CLASSIFY_FORWARD"):
            load(bad)


def test_networks():
    assert settings_networks("public") is None
    assert [str(n) for n in settings_networks("127.0.0.0/8, ::1/128")] == ["127.0.0.0/8", "::1/128"]


def test_how_strict_suppress_is() -> None:
    settings = load({"MAILSLUICE_SUPPRESS_SHARED": "1", "MAILSLUICE_SUPPRESS_COMPLAINTS_ALL": "1"})
    found = suppress_settings_of(settings)
    assert (found.share_bad_addresses, found.complaints_end_all) == (True, True)
    found = suppress_settings_of(load({}))
    assert (found.share_bad_addresses, found.complaints_end_all) == (False, False)
    assert found == Strictness()  # what the policy says by itself


def test_the_window_of_soft_bounces_is_the_operators() -> None:
    days = {"HITS": "5", "WITHIN": "30", "DAYS": "7"}
    found = suppress_settings_of(
        load({f"MAILSLUICE_SUPPRESS_SOFT_{name}": value for name, value in days.items()})
    )
    assert (found.windows[-1].hits, found.windows[-1].days, found.soft_days) == (5, 30, 7.0)
    assert found.windows[:-1] == Strictness().windows[:-1]
    with pytest.raises(BadSettings, match="15 different days do not fit into 14"):
        load({"MAILSLUICE_SUPPRESS_SOFT_HITS": "15"})
