"""Gate two's decisions: whether an attempt runs, what its end means, when it is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.policy import Settings, gate, retry_delay, state_of
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
