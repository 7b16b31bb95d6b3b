"""When a record on the ladder wakes, and where it goes."""

from __future__ import annotations

from typing import Any

import pytest

from agents import Reject
from agents.wait.policy import MAY_GO_TO, Settings, onward, read, wakes_at
from schemas.codec import Headers, Malformed, Record
from schemas.ladder import RUNGS
from streams.topics import BY_NAME

NOW = 1_800_000_000.0


def record(topic: str = "mail-wait-1m", age: float = 0.0, **headers: Any) -> Record:
    texts = {
        "id": "1",
        "type": "mail",
        "campaign": "c1",
        "next": "mail-lane-google",
        "due": NOW + 30,
        **headers,
    }
    found: Headers = {name: str(text).encode() for name, text in texts.items() if text is not None}
    return Record(topic, 3, 1, int((NOW - age) * 1000), None, b"MIME", found)


def test_it_may_only_go_to_known_topics() -> None:
    assert set(BY_NAME) >= MAY_GO_TO
    assert "mail-lane-google-now" in MAY_GO_TO
    assert not {"mail-outcomes", "mail-suppressions", "mail-sends", "mail-wait-1m"} & MAY_GO_TO


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"next": None}, "bad_next"),
        ({"next": "mail-suppressions"}, "bad_next"),
        ({"next": "mail-lane-nobody"}, "bad_next"),
        ({"due": None}, "bad_header"),
        ({"due": "soon"}, "bad_header"),
        ({"due": "nan"}, "bad_header"),
        ({"due": "-5"}, "bad_header"),
        ({"due": "1e300"}, "bad_header"),
        ({"expires": "x"}, "bad_header"),
        ({"expires": "inf"}, "bad_header"),
    ],
)
def test_what_no_stage_of_ours_wrote(headers: dict[str, Any], code: str) -> None:
    with pytest.raises((Reject, Malformed)) as caught:
        read(record(**headers))
    assert getattr(caught.value, "reason", None) or getattr(caught.value, "code", None) == code


@pytest.mark.parametrize(
    ("topic", "age", "headers", "wakes"),
    [
        ("mail-wait-1m", 0, {"due": NOW + 3600}, NOW + 60),
        ("mail-wait-1m", 20, {"due": NOW + 3600}, NOW + 40),
        ("mail-wait-1m", 0, {"due": NOW + 30}, NOW + 30),
        ("mail-wait-1h", 0, {"due": NOW + 7200, "expires": NOW + 600}, NOW + 600),
        ("mail-wait-6h", 0, {"due": NOW + 50_000}, NOW + 21_600),
        ("mail-wait-1m", -500, {"due": NOW + 3600}, NOW + 60),
        ("mail-wait-1m", 9999, {"due": NOW - 5}, NOW - 9939),
    ],
)
def test_it_wakes_after_its_rung_or_when_due(
    topic: str, age: float, headers: dict[str, Any], wakes: float
) -> None:
    found = record(topic, age, **headers)
    assert wakes_at(found, read(found), RUNGS, NOW) == wakes


@pytest.mark.parametrize(
    ("state", "headers", "topic", "changed"),
    [
        ("active", {"due": NOW}, "mail-lane-google", {}),
        ("active", {"due": NOW + 5000}, "mail-wait-1h", {"due": b"%d" % (NOW + 5000)}),
        ("active", {"due": NOW + 5}, "mail-wait-1m", {"due": b"%d" % (NOW + 5)}),
        ("paused", {"due": NOW}, "mail-wait-10m", {"due": b"%d" % (NOW + 600)}),
        ("paused", {"due": NOW, "expires": NOW + 90}, "mail-wait-10m", {"due": b"%d" % (NOW + 90)}),
        ("paused", {"due": NOW + 5000}, "mail-wait-1h", {"due": b"%d" % (NOW + 5000)}),
        ("cancelled", {"due": NOW + 5000}, "mail-lane-google", {"type": b"verdict", "outcome": b"cancelled"}),
        (
            "active",
            {"due": NOW + 9, "expires": NOW},
            "mail-lane-google",
            {"type": b"verdict", "outcome": b"expired"},
        ),
        (
            "paused",
            {"due": NOW, "expires": NOW},
            "mail-lane-google",
            {"type": b"verdict", "outcome": b"expired"},
        ),
        (
            "cancelled",
            {"type": "verdict", "outcome": "rejected", "due": NOW + 9},
            "mail-lane-google",
            {"outcome": b"rejected"},
        ),
    ],
)
def test_where_it_goes(state: str, headers: dict[str, Any], topic: str, changed: Headers) -> None:
    asked = record(**headers)
    found, after = onward(asked, read(asked), state, Settings(), NOW)
    assert found == topic
    assert {name: after[name] for name in changed} == changed
    assert ("next" in after) == ("due" in after) == topic.startswith("mail-wait-")
    assert after["id"] == b"1"
