"""What the metrics count, at next to no cost on the way."""

from __future__ import annotations

from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any

from agents import Out
from schemas.codec import encode
from schemas.event import MailEvent
from schemas.lane_policy import LanePolicy
from schemas.suppression import Suppression
from streams import metrics
from streams.counting import Written, forget_limits, lane_gauges, limit_gauges, provider_label


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def policy(provider: str, rate: float, until: float = 0.0, kind: Any = "source") -> LanePolicy:
    return LanePolicy(
        kind=kind,
        name="count-s",
        provider=provider,
        rate=rate,
        minimum=0.1,
        connections=1,
        per_connection=1,
        suspended_until=until,
    )


def test_what_a_stage_wrote_is_counted_once_it_is_flushed():
    written = Written("count-a", ("mail-events", "mail-suppressions"))
    assert value("mailsluice_records_out_total", stage="count-a", topic="mail-events") == 0
    assert value("mailsluice_bugs_total", stage="count-a") == 0
    before = (
        value("mailsluice_events_total", kind="complained"),
        value("mailsluice_suppressions_total", reason="complaint"),
    )
    assert None not in before
    event = encode(MailEvent(id="1", kind="complained", mail="m", time=1.0))
    row = Suppression(tenant="t", to="a@b.test", reason="complaint")
    released = Suppression(tenant="t", to="a@b.test", reason="complaint", active=False)
    for out in (
        Out("mail-events", event, {}),
        Out("mail-events", event, {}),
        Out("mail-suppressions", encode(row), {}),
        Out("mail-suppressions", encode(released), {}),
        Out("mail-suppressions", None, {}, b"key"),
        Out("mail-events", b"no event at all", {}),
    ):
        written.add(out)
    assert value("mailsluice_records_out_total", stage="count-a", topic="mail-events") == 0
    written.flush()
    written.flush()
    assert value("mailsluice_records_out_total", stage="count-a", topic="mail-events") == 3
    assert value("mailsluice_records_out_total", stage="count-a", topic="mail-suppressions") == 3
    assert value("mailsluice_events_total", kind="complained") == (before[0] or 0) + 2
    assert value("mailsluice_suppressions_total", reason="complaint") == (before[1] or 0) + 1


def test_lanes_have_few_labels_however_many_mail_hosts_there_are():
    assert provider_label("google") == "google"
    assert provider_label("mx.some-company.test") == provider_label("") == "other"
    sites = {f"site{n}.test": [1, 2] for n in range(50)}
    opened = {("count-1", "google"): 3, ("count-1", "site7.test"): 1}

    def count(group: Hashable) -> int:
        return opened.get(group, 0)  # type: ignore[call-overload, no-any-return]

    feeds = SimpleNamespace(
        feeds={"google": [1] * 4, "idle.test": [], **sites},
        rate=lambda feed, source, dkim: SimpleNamespace(rate=float(len(feed))),
    )
    lane_gauges(feeds, count, ("count-1",))
    assert value("mailsluice_lane_waiting", provider="google") == 4
    assert value("mailsluice_lane_waiting", provider="other") == 100
    assert value("mailsluice_smtp_connections", provider="google", source="count-1") == 3
    assert value("mailsluice_smtp_connections", provider="other", source="count-1") == 1
    assert value("mailsluice_lane_rate", provider="google", source="count-1") == 4.0
    assert value("mailsluice_lane_rate", provider="other", source="count-1") == 100.0


def test_limits_are_the_leaders_and_go_with_it():
    limit_gauges(
        [
            policy("google", 5.0, 99.0),
            policy("a.test", 1.0),
            policy("b.test", 2.0),
            policy("google", 7.0, 0.0, "dkim"),
        ]
    )
    assert value("mailsluice_lane_limit", provider="google", source="count-s") == 5.0
    assert value("mailsluice_lane_suspended_until", provider="google", source="count-s") == 99.0
    assert value("mailsluice_lane_limit", provider="other", source="count-s") == 3.0
    forget_limits()
    assert value("mailsluice_lane_limit", provider="google", source="count-s") is None
