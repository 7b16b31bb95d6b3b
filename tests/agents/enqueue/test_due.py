"""When a mail is due: spread by its id, never in the recipient's quiet hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.enqueue.agent import gather, zone_of
from agents.enqueue.due import MORNING, awake, due_of, in_canary, share_of
from agents.enqueue.policy import Settings, accepted
from schemas.campaign import Campaign, Canary, Quiet, Schedule
from schemas.codec import Record, encode
from schemas.hosts import UNKNOWN
from schemas.identity import mail_id
from schemas.send import Send

ZONES = ["Europe/Zurich", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC", "Pacific/Apia"]
NIGHT = Quiet(begin="21:00", end="08:00")


def local(text: str, zone: str = "Europe/Zurich") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("due", "quiet", "expected"),
    [
        ("2026-09-21T20:59", NIGHT, "2026-09-21T20:59"),
        ("2026-09-21T21:00", NIGHT, "2026-09-22T08:00"),
        ("2026-09-22T03:00", NIGHT, "2026-09-22T08:00"),
        ("2026-09-22T08:00", NIGHT, "2026-09-22T08:00"),
        ("2026-09-22T12:30", Quiet(begin="12:00", end="14:00"), "2026-09-22T14:00"),
        ("2026-09-22T14:00", Quiet(begin="12:00", end="14:00"), "2026-09-22T14:00"),
        ("2026-09-22T14:00", Quiet(begin="08:00", end="08:00"), "2026-09-22T14:00"),
        ("2026-10-24T23:00", NIGHT, "2026-10-25T08:00"),  # the night is an hour longer
        ("2027-03-27T23:00", NIGHT, "2027-03-28T08:00"),  # and one shorter
    ],
)
def test_what_falls_into_quiet_hours_is_due_at_their_end(due: str, quiet: Quiet, expected: str) -> None:
    assert awake(local(due), quiet, ZoneInfo("Europe/Zurich"), 0.0) == local(expected)


@given(
    st.integers(1_700_000_000, 1_900_000_000),
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.integers(0, 23),
    st.floats(0, 0.999),
    st.integers(0, 2**128 - 1),
)
@hypothesis(max_examples=300, deadline=None)
def test_nothing_is_due_in_quiet_hours_before_its_time_or_more_than_a_day_late(
    received: int, zone: str, begin: int, end: int, spread: float, id: int
) -> None:
    quiet = Quiet(begin=f"{begin:02}:00", end=f"{end:02}:00")
    schedule = Schedule(spread_hours=spread * 10, quiet=quiet)
    mail, place = f"{id:032x}", ZoneInfo(zone)
    due = due_of(mail, received, schedule, place)
    assert due == due_of(mail, received, schedule, place)
    assert received <= due <= received + spread * 36_000 + 25 * 3600 + MORNING
    hour = datetime.fromtimestamp(due, place).hour
    if (end - begin) % 24 <= 22:  # else the quarter of an hour after the end may touch the next begin
        assert not (begin <= hour < end if begin <= end else hour >= begin or hour < end)


def test_a_campaign_is_spread_evenly() -> None:
    ids = [mail_id("t", None, "a@b.example", f"o/{n}") for n in range(4000)]
    start = datetime(2026, 9, 21, 7, tzinfo=UTC)
    schedule = Schedule(at=start, spread_hours=4.0)
    hours = [int((due_of(id, 0.0, schedule, None) - start.timestamp()) / 3600) for id in ids]
    assert all(900 < hours.count(hour) < 1100 for hour in range(4))
    assert {share_of(id) < 1.0 for id in ids} == {True}


def test_the_envelope_says_when_and_the_lifetime_counts_from_then() -> None:
    now = local("2026-09-21T22:00", "Asia/Kolkata")
    record = Record("mail-sends", 3, 42, int(now * 1000), None, encode(Send(campaign="c", to="a@b.example", time_zone="Asia/Kolkata")), {})  # fmt: skip
    fields: dict[str, Any] = {"id": "c", "sender": "s@shop.test", "text": "Hello"}
    campaign = Campaign(**fields, schedule=Schedule(quiet=NIGHT))
    request = gather(record, Settings(), now)._replace(zone=zone_of("Asia/Kolkata"))
    headers = accepted(request, campaign, UNKNOWN, Settings(), now)
    due = float(headers["not_before"])
    morning = local("2026-09-22T08:00", "Asia/Kolkata")
    assert morning <= due <= morning + MORNING
    assert float(headers["expires"]) == pytest.approx(due + timedelta(days=7).total_seconds(), abs=1)


@pytest.mark.parametrize("name", ["", "Nowhere/Land", "../etc/passwd", "a\x00b", "/etc/localtime", "x" * 60])
def test_a_zone_that_nobody_knows_is_none(name: str) -> None:
    assert zone_of(name) is None


# --- canaries


def test_a_canary_takes_its_share_always_the_same_ones_and_others_in_each_campaign() -> None:
    everybody = [f"p{n}@example.com" for n in range(20_000)]
    one = {to for to in everybody if in_canary("acme", "spring", to, 0.05)}
    wider = {to for to in everybody if in_canary("acme", "spring", to, 0.10)}
    other = {to for to in everybody if in_canary("acme", "autumn", to, 0.05)}
    assert 850 <= len(one) <= 1150
    assert one < wider
    assert len(one & other) < 100


@given(st.integers(0, 5000))
@hypothesis(max_examples=50, deadline=None)
def test_the_rest_of_a_canary_is_due_after_its_minutes_and_never_beyond_its_life(n: int) -> None:
    canary = Canary(share=0.5, minutes=60)
    fields: dict[str, Any] = {"id": "c", "sender": "a@b.test", "text": "x", "canary": canary}
    record = Record("mail-sends", 0, n, 1000, None, encode(Send(campaign="c", to=f"p{n}@example.com")), {})
    now = 1_800_000_000.0
    request = gather(record, Settings(), now)._replace(received=now)
    first = in_canary("default", "c", f"p{n}@example.com", 0.5)
    for settings in (Settings(), Settings(lifetime=600.0)):
        headers = accepted(request, Campaign(**fields), UNKNOWN, settings, now)
        assert ("canary" in headers) == (not first)
        assert ("not_before" in headers) == (not first)
        if not first:
            assert float(headers["not_before"]) == min(now + 3600, now + settings.lifetime - 1)
        passed = Campaign(**{**fields, "canary": Canary(share=0.5, minutes=60, state="passed")})
        assert "not_before" not in accepted(request, passed, UNKNOWN, settings, now)
