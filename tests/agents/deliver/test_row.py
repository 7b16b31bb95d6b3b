"""What the journal's entries come to: the same row, whoever reads them in whichever order."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from agents.deliver.row import KEPT, newer, read_row, reduce_outcome
from schemas.codec import encode
from schemas.outcome import TERMINAL, Outcome

STATES = (*sorted(TERMINAL), "unknown", "deferred", "intent")
outcomes = st.builds(
    lambda state, attempt, final: Outcome(
        id="x", state=state, attempt=attempt, final=final and state == "unknown"
    ),
    st.sampled_from(STATES),
    st.integers(1, 4),
    st.booleans(),
)


def row(outcome: Outcome) -> bytes:
    return reduce_outcome(encode(outcome))[0]


def entry(state: str, attempt: int = 1, final: bool = False) -> bytes:
    return row(Outcome(id="x", state=state, attempt=attempt, final=final))  # type: ignore[arg-type]


def merge(rows: list[bytes]) -> bytes:
    return reduce(lambda old, new: new if newer(old, new) else old, rows)


@given(outcomes)
@hypothesis(max_examples=100, deadline=None)
def test_a_row_says_what_its_outcome_said(outcome: Outcome):
    found = read_row(row(outcome))
    assert (found.attempt, found.state, found.terminal) == (outcome.attempt, outcome.state, outcome.terminal)


@given(st.lists(outcomes, min_size=1, max_size=6), st.randoms(use_true_random=False))
@hypothesis(max_examples=200, deadline=None)
def test_entries_merge_in_any_order_to_the_same_row(found: list[Outcome], chance):
    rows = [row(outcome) for outcome in found]
    mixed = rows * 2
    chance.shuffle(mixed)
    assert merge(mixed) == merge(rows)


@given(st.lists(outcomes, min_size=1, max_size=6))
@hypothesis(max_examples=200, deadline=None)
def test_terminal_beats_open_and_then_the_higher_attempt(found: list[Outcome]):
    end = read_row(merge([row(outcome) for outcome in found]))
    assert end.terminal == any(outcome.terminal for outcome in found)
    known = [o for o in found if o.state in TERMINAL]
    pool = known or [o for o in found if o.terminal] or found
    assert end.attempt == max(outcome.attempt for outcome in pool)


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        (entry("intent"), entry("unknown")),
        (entry("intent"), entry("unknown", final=True)),
        (entry("intent"), entry("deferred")),
        (entry("intent"), entry("delivered")),
        (entry("unknown"), entry("deferred")),
        (entry("unknown"), entry("delivered")),
        (entry("unknown", 3), entry("delivered", 1)),
        (entry("unknown", 3, final=True), entry("delivered", 3)),
        (entry("unknown", 3, final=True), entry("bounced", 3)),
        (entry("deferred", 9), entry("expired", 1)),
        (entry("deferred", 1), entry("deferred", 2)),
        (entry("deferred", 9), entry("deferred", 10)),
        (entry("deferred", 1), entry("intent", 2)),
        (entry("bounced", 1), entry("delivered", 2)),
        (entry("delivered", 1), entry("expired", 2)),
        (entry("bounced", 1), entry("delivered", 1)),
    ],
)
def test_who_wins(loser: bytes, winner: bytes):
    assert newer(loser, winner)
    assert not newer(winner, loser)
    assert not newer(winner, winner)


def test_a_row_lives_to_the_expiry_of_its_mail_and_a_day():
    assert (
        reduce_outcome(encode(Outcome(id="x", state="deferred", attempt=1, expires=1000.0)))[1]
        == 1000.0 + KEPT
    )


def test_the_row_of_a_mail_that_never_expires_is_never_dropped():
    assert reduce_outcome(encode(Outcome(id="x", state="delivered", attempt=1)))[1] == 0.0
