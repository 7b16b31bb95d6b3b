"""What each kind of event does to a recipient's consents: tables, and that order and repetition do not matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.suppress import policy as suppress
from agents.suppress.consent import DAY, MOST_CHANGES, Answer, decide, matters, stream_of
from schemas.consent import StreamConsent, ends
from schemas.consent_rules import NOTHING, ConsentRule
from schemas.event import Kind, MailEvent
from schemas.suppression import Suppression

TO, START = "ada@example.org", 20_000 * DAY
RULE = ConsentRule(require=True, sender="Acme <news@acme.test>", wording="I want news")


def said(day: float, kind: Kind, **fields: Any) -> MailEvent:
    values = {"id": f"{kind}{day}", "mail": "", "tenant": "acme", "to": TO, **fields}
    return MailEvent(kind=kind, time=START + day * DAY, **values)


def ask(day: float, **fields: Any) -> MailEvent:
    return said(day, "subscription_requested", wording="I want news", url="https://acme.test/", **fields)


def confirm(day: float, asked: MailEvent, **fields: Any) -> MailEvent:
    return said(
        day, "subscribed", mail=asked.id, asked=asked.time, id=f"c{asked.id}", tenant=asked.tenant, **fields
    )


class World:
    """The rows of one recipient, and the confirmation mails."""

    def __init__(self, rule: ConsentRule = RULE) -> None:
        self.rule = rule
        self.rows: dict[bytes, StreamConsent] = {}
        self.suppressions: dict[bytes, Suppression] = {}
        self.answers: list[Answer] = []

    def tell(self, *events: MailEvent) -> World:
        for event in events:
            against = list(self.suppressions.values())
            if suppress.matters(event):
                for row in suppress.decide(event, against, suppress.Settings(), event.time):
                    self.suppressions[row.key] = row
            if matters(event):
                answer = decide(event, list(self.rows.values()), against, self.rule, event.time)
                self.answers.append(answer)
                if answer.row:
                    self.rows[answer.row.key] = answer.row
        return self

    def row(self, tenant: str = "acme") -> StreamConsent:
        return self.rows[f"{TO}|{tenant}|marketing".encode()]

    def allowed(self, day: float) -> bool:
        when = START + day * DAY
        row = self.rows.get(f"{TO}|acme|marketing".encode())
        return (
            row is not None
            and row.in_force(when)
            and not any(s.applies("acme", "marketing", when) for s in self.suppressions.values())
        )

    @property
    def told(self) -> list[str]:
        return [answer.told for answer in self.answers]


def test_a_confirmed_subscription_holds_what_was_shown_when_and_where() -> None:
    asked = ask(0, detail="from 203.0.113.7", tracking="oc")
    world = World().tell(asked)
    assert not world.allowed(0.5)
    assert (world.told, world.answers[0].mail) == (["mailed"], world.row().asked[0])
    world.tell(confirm(1, asked, tracking="oc", detail="from 203.0.113.8"))
    (change,) = world.row().changes
    assert (change.wording, change.source, change.basis) == (
        "I want news",
        "https://acme.test/",
        "double_opt_in",
    )
    assert change.proof == "from 203.0.113.7; from 203.0.113.8"
    assert (change.asked, change.time) == (START, START + DAY)
    assert (world.row().tracking, world.row().until) == ("oc", 0.0)
    assert world.allowed(3000)


def test_the_fourth_confirmation_in_24_hours_is_not_sent_whatever_the_tenant() -> None:
    world = World()
    world.tell(*(ask(n / 10, id=f"a{n}", tenant=f"t{n}") for n in range(5)))
    assert world.told == ["mailed", "mailed", "mailed", "limited", "limited"]
    world.tell(ask(0.99, id="still"), ask(1.01, id="later"))
    assert world.told[-2:] == ["limited", "mailed"]


def test_only_who_was_asked_and_said_nothing_is_forgotten() -> None:
    asked = ask(0)
    world = World().tell(asked)
    assert world.row().goes == START + 2 * DAY
    assert world.tell(ask(1, id="again")).row().goes == START + 3 * DAY
    assert world.tell(confirm(1.5, asked)).row().goes == 0.0
    slow = ConsentRule(sender="a@acme.test", wording="x", hours=300)
    assert World(slow).tell(ask(0)).row().goes == START + 300 * 3600


def test_an_asking_that_comes_again_is_the_same_mail_and_counts_once() -> None:
    world = World().tell(ask(0), ask(0), ask(0))
    assert [answer.row is not None for answer in world.answers] == [True, False, False]
    assert len({answer.mail.id for answer in world.answers if answer.mail}) == 1


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ([said(0, "complained")], "complained"),
        ([said(0, "consented", basis="express")], "known"),
        ([said(0, "consented", basis="express"), said(1, "unsubscribed")], "mailed"),
        ([said(0, "consented", basis="purchase")], "mailed"),
        (
            [said(0, "bounced", action="suppress")],
            "mailed",
        ),  # screen stops it: transactional mail bounces too
    ],
)
def test_who_is_asked(before: list[MailEvent], told: str) -> None:
    assert World().tell(*before, ask(5)).told[-1] == told


def test_where_no_subscriptions_are_taken_nobody_is_asked() -> None:
    world = World(NOTHING).tell(ask(0))
    assert (world.told, world.rows) == (["closed"], {})


def test_without_double_opt_in_a_form_is_enough_but_not_after_a_no() -> None:
    rule = ConsentRule(sender="a@acme.test", wording="x", double_opt_in=False)
    world = World(rule).tell(ask(0, tracking="o"))
    assert (world.told, world.row().basis, world.row().tracking) == (["granted"], "single_opt_in", "o")
    world.tell(said(1, "unsubscribed"), ask(2))
    assert world.told[-1] == "mailed"
    assert not world.allowed(3)


def test_a_confirmation_releases_the_unsubscribe_before_it_and_never_a_complaint() -> None:
    asked = ask(2)
    story = [said(0, "consented", basis="express"), said(1, "unsubscribed"), asked, confirm(2.5, asked)]
    assert World().tell(*story).allowed(3)
    assert not World().tell(said(0.5, "complained"), *story).allowed(3)
    bounced = said(0.5, "bounced", action="suppress")
    assert not World().tell(bounced, *story).allowed(3)


def test_who_leaves_after_asking_stays_away_however_often_the_link_is_pressed() -> None:
    asked = ask(0)
    world = World().tell(asked, said(1, "unsubscribed"), confirm(1.5, asked), confirm(1.7, asked))
    assert not world.allowed(2)
    assert world.row().state == "revoked"
    world = World().tell(asked, confirm(0.5, asked), said(1, "unsubscribed"), confirm(1.9, asked))
    assert not world.allowed(2)


@pytest.mark.parametrize("basis", ["purchase", "inquiry", "customer", "single_opt_in"])
def test_after_a_no_an_implied_consent_is_none(basis: str) -> None:
    world = World().tell(said(0, "unsubscribed"), said(1, "consented", basis=basis))
    assert world.row().state == "revoked"
    world.tell(said(2, "consented", basis="express"))
    assert world.row().state == "granted"  # screen still sees the suppression: a person must release it
    assert not world.allowed(3)


def test_implied_consents_end_and_are_renewed_but_never_shorten_a_better_one() -> None:
    day = datetime(2026, 8, 31, 12, tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(ends("inquiry", day), UTC) == datetime(2027, 2, 28, 12, tzinfo=UTC)
    assert datetime.fromtimestamp(ends("purchase", day), UTC) == datetime(2028, 8, 31, 12, tzinfo=UTC)
    assert ends("express", day) == 0.0
    assert ends("purchase", -1e12) == ends("purchase", 0.0)  # no year that there is not
    world = World().tell(said(0, "consented", basis="inquiry"))
    assert (world.allowed(180), world.allowed(185)) == (True, False)
    world.tell(said(100, "consented", basis="purchase"))
    assert (world.allowed(800), world.allowed(832)) == (True, False)
    world.tell(said(110, "consented", basis="inquiry"))
    assert world.row().basis == "purchase"
    world.tell(said(120, "consented", basis="express"), said(130, "consented", basis="purchase"))
    assert (world.row().basis, world.allowed(5000)) == ("express", True)


def test_a_given_end_may_be_earlier_than_the_law_but_not_later() -> None:
    early, late = START + 30 * DAY, START + 3000 * DAY
    world = World().tell(said(0, "consented", basis="purchase", until=early))
    assert world.row().until == early
    world = World().tell(said(0, "consented", basis="purchase", until=late))
    assert world.row().until == ends("purchase", START)


def test_tracking_is_granted_and_revoked_by_itself_and_ends_with_the_mail() -> None:
    world = World().tell(said(0, "consented", basis="express"), said(1, "consented", tracking="co"))
    assert (world.row().tracking, world.row().basis) == ("oc", "express")
    world.tell(said(2, "consent_revoked", tracking="o"))
    assert (world.row().tracking, world.allowed(3)) == ("c", True)
    world.tell(said(3, "unsubscribed"))
    assert world.row().tracking == ""
    world.tell(said(4, "subscribed"))
    assert (world.row().tracking, world.row().basis, world.allowed(5)) == ("", "express", True)


def test_a_consent_is_of_its_tenant_and_who_leaves_by_any_mail_leaves_the_marketing() -> None:
    world = World().tell(said(0, "consented", basis="express", tenant="other"), said(1, "unsubscribed"))
    assert (world.row("other").state, world.row().state) == ("granted", "revoked")
    assert stream_of(said(0, "unsubscribed", stream="transactional")) == "marketing"


def test_what_is_said_without_a_basis_or_letter_says_nothing() -> None:
    world = World().tell(
        said(0, "consented"), said(1, "consent_revoked"), said(2, "consented", tracking="xyz")
    )
    assert world.rows == {}


# -- properties

KINDS = st.sampled_from(
    ["purchase", "inquiry", "express", "no", "complaint", "back", "o", "c", "-o", "confirm"]
)
STORIES = st.lists(st.tuples(st.integers(0, 3000), KINDS), min_size=1, max_size=12, unique=True)


def told(day: int, what: str) -> MailEvent:
    name = f"{what}{day}"
    match what:
        case "no":
            return said(day, "unsubscribed", id=name)
        case "complaint":
            return said(day, "complained", id=name)
        case "back":
            return said(day, "subscribed", id=name)
        case "o" | "c":
            return said(day, "consented", id=name, tracking=what)
        case "-o":
            return said(day, "consent_revoked", id=name, tracking="o")
        case "confirm":
            return said(day, "subscribed", id=name, asked=START + day * DAY - 3600, mail="x")
    return said(day, "consented", id=name, basis=what)


def rows_after(events: Iterable[MailEvent]) -> Sequence[StreamConsent]:
    # Nobody asks: only the rows count, and each event was written long after all of them were said.
    rows: dict[bytes, StreamConsent] = {}
    for event in events:
        row = decide(event, list(rows.values()), [], NOTHING, START + 9000 * DAY).row
        if row:
            rows[row.key] = row
    return list(rows.values())


@settings(max_examples=300, deadline=None)
@given(STORIES, st.data())
def test_order_and_repetition_do_not_matter(story: list[tuple[int, str]], data: st.DataObject) -> None:
    events = [told(*item) for item in story]
    other = data.draw(st.permutations(events)) + data.draw(st.lists(st.sampled_from(events)))
    one, two = rows_after(events), rows_after(other)
    assert [(r.state, r.basis, r.since, r.until, r.tracking, r.changes) for r in one] == [
        (r.state, r.basis, r.since, r.until, r.tracking, r.changes) for r in two
    ]


@settings(max_examples=200, deadline=None)
@given(STORIES)
def test_the_last_word_of_the_recipient_stands_against_all_that_is_implied(
    story: list[tuple[int, str]],
) -> None:
    later = [(3001 + n, basis) for n, basis in enumerate(("purchase", "inquiry"))]
    (row,) = rows_after(told(*item) for item in [*story, (3000, "no"), *later])
    strong = [item for item in story if item[0] == 3000 and item[1] in ("express", "back")]
    assert row.state == "revoked" or strong


def test_a_row_is_bounded_and_keeps_the_word_that_counts() -> None:
    many = [said(n, "consented", id=f"p{n}", basis="purchase") for n in range(1, 300)]
    (row,) = rows_after([said(0, "consented", basis="express"), *many])
    assert (len(row.changes), row.basis, row.until) == (MOST_CHANGES, "express", 0.0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 0.1), st.sampled_from("abc")), max_size=30))
def test_no_24_hours_have_more_than_three_confirmations(asks: list[tuple[float, float, str]]) -> None:
    world = World()
    for n, (day, behind, tenant) in enumerate(sorted(asks)):  # clocks of those who ask differ by hours
        world.tell(ask(day - behind, id=f"{n}", tenant=tenant))
    times = sorted(answer.mail.time for answer in world.answers if answer.mail)
    for first, fourth in zip(times, times[3:], strict=False):
        assert fourth - first >= DAY - 1e-3
