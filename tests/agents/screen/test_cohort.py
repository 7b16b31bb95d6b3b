"""Which cohort a recipient is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.screen.cohort import cohort_of
from agents.screen.rules import DAY, STRANGER, Known
from schemas.cohort import ACTIVE, CLICKED, NEW, OPENED, SILENT

NOW = 1_800_000_000.0


def ago(days: float) -> float:
    return NOW - days * DAY


@pytest.mark.parametrize(
    ("known", "tracked", "cohort"),
    [
        (Known(last_click=ago(30)), True, CLICKED),
        (Known(last_click=ago(30), last_open=ago(1)), False, CLICKED),
        (Known(last_click=ago(31), last_open=ago(1)), True, OPENED),
        (Known(last_click=ago(31)), True, ACTIVE),
        (Known(last_open=ago(90)), True, ACTIVE),
        (Known(last_open=ago(91)), True, SILENT),
        (STRANGER, True, NEW),
        (Known(first_seen=ago(29), delivered=9), True, NEW),
        (Known(first_seen=ago(31), delivered=9), True, SILENT),
        (Known(first_seen=ago(400), delivered=9), False, NEW),  # nobody could have seen them read
        (Known(first_seen=ago(400), last_open=ago(300)), False, SILENT),
    ],
)
def test_by_the_last_sign_of_life(known: Known, tracked: bool, cohort: int) -> None:
    assert cohort_of(known, tracked, NOW) == cohort


MOMENTS = st.floats(0, NOW) | st.just(0.0)


@given(MOMENTS, MOMENTS, MOMENTS, st.booleans(), st.floats(0, 200 * DAY))
def test_a_sign_of_life_never_makes_it_worse_and_time_never_better(
    first, opened, clicked, tracked, later
) -> None:
    known = Known(first_seen=first, last_open=opened, last_click=clicked)
    found = cohort_of(known, tracked, NOW)
    read = Known(first_seen=first, last_open=NOW, last_click=clicked)
    assert cohort_of(read, tracked, NOW) <= OPENED
    clicks = Known(first_seen=first, last_open=opened, last_click=NOW)
    assert cohort_of(clicks, tracked, NOW) == CLICKED
    assert cohort_of(known, tracked, NOW + later) >= found
