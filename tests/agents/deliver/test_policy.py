"""Gate two's decisions: whether an attempt runs, what its end means, when it is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.policy import Settings, come_back, gate, retry_delay, says_never, state_of
from agents.deliver.row import Row
from schemas.outcome import TERMINAL

SETTINGS = Settings()


@pytest.mark.parametrize(
    ("attempt", "row", "verdict"),
    [
        (1, None, "run"),
        (7, None, "run"),
        (1, Row(1, "deferred", False), "repeat"),
        (2, Row(1, "deferred", False), "run"),
        (3, Row(1, "deferred", False), "run"),
        (1, Row(2, "deferred", False), "repeat"),
        (1, Row(1, "unknown", False), "repeat"),
        (2, Row(1, "unknown", False), "run"),
        (1, Row(1, "unknown", True), "repeat"),
        (2, Row(1, "unknown", True), "repeat"),
        (1, Row(1, "intent", False), "orphan"),
        (1, Row(2, "intent", False), "repeat"),
        (2, Row(1, "intent", False), "run"),
        *((9, Row(1, state, True), "repeat") for state in sorted(TERMINAL)),
    ],
)
def test_gate(attempt: int, row: Row | None, verdict: str):
    assert gate(attempt, row) == verdict


@pytest.mark.parametrize(
    ("state", "permanence", "once", "wanted"),
    [
        ("accepted", "unknown", False, ("delivered", True)),
        ("accepted", "permanent", True, ("delivered", True)),
        ("lost", "transient", False, ("unknown", False)),
        ("lost", "permanent", True, ("unknown", True)),
        ("refused", "permanent", False, ("bounced", True)),
        ("refused", "unknown", False, ("bounced", True)),
        ("refused", "transient", False, ("deferred", False)),
        ("deferred", "transient", False, ("deferred", False)),
        ("deferred", "unknown", False, ("deferred", False)),
        ("deferred", "permanent", False, ("bounced", True)),
        ("failed", "transient", False, ("deferred", False)),
        ("failed", "transient", True, ("deferred", False)),
    ],
)
def test_state_of(state: str, permanence: str, once: bool, wanted: tuple[str, bool]):
    assert state_of(state, permanence, once) == wanted


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 60), (2, 180), (3, 540), (6, 14580), (7, 21600), (99, 21600)]
)
def test_retries_come_three_times_as_late_each_time(attempt: int, seconds: float):
    assert retry_delay(attempt, SETTINGS, 0.5) == pytest.approx(seconds)


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
@hypothesis(max_examples=100, deadline=None)
def test_a_retry_is_never_at_once_and_never_beyond_the_longest(attempt: int, chance: float):
    delay = retry_delay(attempt, SETTINGS, chance)
    assert 0.8 * SETTINGS.first_retry <= delay <= 1.2 * SETTINGS.last_retry


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        ("450 4.2.0 Greylisted, please try again in 300 seconds", 300),
        ("451 4.7.1 Greylisting in action, please come back in 00:05:00", 300),
        ("451 4.7.1 Please try again later (greylisted for 5 minutes)", 300),
        ("450 4.7.1 <a@b.test>: Recipient address rejected: Greylisted, retry in 5 min", 300),
        ("451 greylisted, wait 60s", 60),
        ("450 4.7.0 greylisted: try again after 1 hour", 3600),
        ("450 Greylisted, retry in 599", 599),
        ("450 greylisted, try again in 3 days", None),
        ("450 greylisted, come back in 96 hours", 4 * 3600),
        ("450 4.7.1 Greylisted, see http://postgrey.schweikert.ch/help/b.test.html", None),
        ("450 4.2.0 192.0.2.7 greylisted", None),
        ("450 try again in 0 seconds", None),
        ("", None),
    ],
)
def test_when_a_greylisting_server_says_to_come_back(reply: str, seconds: float | None):
    assert come_back(reply) == seconds


@pytest.mark.parametrize(
    "reply",
    [
        "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.",
        "451 4.3.0 This message will never succeed",
        "450 4.1.8 Do not retry.",
        "450 further attempts will not be accepted",
    ],
)
def test_a_transient_reply_that_says_it_is_none(reply: str):
    assert says_never(reply)
    assert not says_never("2" + reply[1:])


@pytest.mark.parametrize(
    "reply",
    [
        "450 4.2.0 Greylisted, please do not retry before 300 seconds",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume",
        "450 4.2.1 try again later",
        "451 4.7.1 the message will not be accepted now",
        "",
    ],
)
def test_one_that_does_not(reply: str):
    assert not says_never(reply)


@given(st.text(max_size=300))
@hypothesis(max_examples=200, deadline=None)
def test_no_words_break_it(text: str):
    says_never("4" + text)
    found = come_back("450 in " + text)
    assert found is None or 0 < found <= 4 * 3600
