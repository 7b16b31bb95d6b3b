"""What each event adds to a contact; the order of events and repeats do not matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.score.policy import DAY, Settings, decide, matters, score_at
from schemas.contact import Contact
from schemas.event import Kind, MailEvent
from schemas.send import Consent

START = 20_000 * DAY
FAR = START + 1000 * DAY
DEFAULT = Settings()


def at(day: float, kind: Kind, machine: bool = False, id: str = "") -> MailEvent:
    when = START + day * DAY
    return MailEvent(
        id=id or f"{int(when * 1000):012x}{kind}", kind=kind, mail="m", time=when, tenant="t", to="a@b.example",
        machine=machine,
    )  # fmt: skip


def play(*events: MailEvent, contact: Contact | None = None) -> Contact:
    for event in events:
        contact = decide(event, contact, DEFAULT, FAR) or contact
    assert contact is not None
    return contact


def test_a_delivery_is_counted_and_earns_nothing() -> None:
    contact = play(at(0, "delivered"))
    assert (contact.delivered, contact.first_seen, contact.last_delivered, contact.score) == (
        1,
        START,
        START,
        0.0,
    )
    assert contact.version == 1


def test_human_clicks_count_far_more_than_opens_and_machines_nothing() -> None:
    click, opened, machine = (
        play(at(0, "clicked")),
        play(at(0, "opened")),
        play(at(0, "opened", machine=True)),
    )
    assert click.score >= 3 * opened.score > machine.score == 0.0
    assert (machine.machine_opens, machine.opens, machine.last_open) == (1, 0, 0.0)
    assert (click.clicks, opened.opens) == (1, 1)
    assert decide(at(0, "clicked", machine=True), None, DEFAULT, FAR) is None


@pytest.mark.parametrize(
    "kind", ["queued", "bounced", "complained", "unsubscribed", "deferred", "suppressed"]
)
def test_other_events_are_not_counted(kind: Kind) -> None:
    assert not matters(at(0, kind))
    assert decide(at(0, kind), None, DEFAULT, FAR) is None


def test_the_score_halves_with_time() -> None:
    contact = play(at(0, "clicked"))
    assert score_at(contact, START + 30 * DAY, DEFAULT) == pytest.approx(DEFAULT.click / 2)
    later = play(at(60, "delivered"), contact=contact)
    assert later.score == pytest.approx(DEFAULT.click / 4)
    assert score_at(later, START + 90 * DAY, DEFAULT) == pytest.approx(DEFAULT.click / 8)
    assert score_at(later, START, DEFAULT) == later.score


def test_a_repeat_counts_once_as_far_back_as_the_row_remembers() -> None:
    first = at(0, "clicked")
    contact = play(first)
    assert decide(first, contact, DEFAULT, FAR) is None
    many = play(*(at(day, "opened") for day in range(1, 26)), contact=contact)
    assert len(many.seen) == DEFAULT.remembered
    assert (many.opens, many.version) == (25, 26)
    assert decide(at(25, "opened"), many, DEFAULT, FAR) is None


def test_consent_is_kept() -> None:
    contact = Contact(tenant="t", to="a@b.example", consent=Consent(opens=True), version=3)
    after = play(at(0, "opened"), contact=contact)
    assert after.consent == Consent(opens=True)
    assert after.version == 4


def test_a_clock_that_runs_ahead_does_not_keep_a_contact_fresh() -> None:
    contact = decide(at(999, "opened"), None, DEFAULT, START)
    assert contact is not None
    assert contact.last_open == START


READING: list[Kind] = ["delivered", "opened", "clicked"]
KINDS: st.SearchStrategy[Kind] = st.sampled_from(READING)
STORIES = st.lists(
    st.tuples(KINDS, st.booleans(), st.floats(0, 400)),
    min_size=1,
    max_size=15,
).map(
    lambda steps: [
        at(day, kind, machine and kind != "delivered", f"{n:012d}")
        for n, (kind, machine, day) in enumerate(steps)
    ]
)


@settings(max_examples=150, deadline=None)
@given(STORIES, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(story: list[MailEvent], chance: object) -> None:
    shuffled = list(story)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    if not any(matters(event) for event in story):
        return
    one, other = play(*story), play(*shuffled)
    assert (one.delivered, one.opens, one.clicks, one.machine_opens) == (
        other.delivered, other.opens, other.clicks, other.machine_opens,
    )  # fmt: skip
    assert (one.first_seen, one.last_open, one.last_click) == (
        other.first_seen,
        other.last_open,
        other.last_click,
    )
    assert one.score == pytest.approx(other.score, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(STORIES)
def test_a_score_is_never_negative_nor_above_all_points_together(story: list[MailEvent]) -> None:
    if any(matters(event) for event in story):
        assert 0.0 <= play(*story).score <= len(story) * DEFAULT.click
