"""The wait ladder's arithmetic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ladder import RUNGS, Rung, off_ladder, onto_ladder, rung_for
from streams.topics import BY_NAME


def test_the_rungs_are_topics() -> None:
    assert all(rung.topic in BY_NAME for rung in RUNGS)


def test_five_hours_and_23_minutes_walk_down() -> None:
    now, due, walked = 0.0, 5 * 3600 + 23 * 60, []
    while due - now > 0:
        topic, _ = onto_ladder({}, "mail-screened", due, now)
        walked.append(topic.removeprefix("mail-wait-"))
        now += dict(RUNGS)[walked[-1]]
    assert walked == ["1h"] * 5 + ["10m"] * 2 + ["1m"] * 3


@settings(max_examples=200)
@given(st.floats(-1e6, 1e6), st.lists(st.floats(0.1, 1e5), min_size=1, max_size=4))
def test_the_longest_rung_that_fits_or_the_shortest(delay: float, lengths: list[float]) -> None:
    rungs = [Rung(str(n), length) for n, length in enumerate(lengths)]
    found = rung_for(delay, rungs).seconds
    fitting = [length for length in lengths if length <= delay]
    assert found == (max(fitting) if fitting else min(lengths))


def test_what_the_ladder_sets_comes_off_again() -> None:
    before = {"id": b"1", "attempt": b"2"}
    topic, headers = onto_ladder(before, "mail-lane-google", 1000.25, 990.0)
    assert topic == "mail-wait-1m"
    assert headers == {**before, "next": b"mail-lane-google", "due": b"1000.250"}
    assert off_ladder(headers) == before
