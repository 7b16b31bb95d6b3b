"""What each kind of event does to a recipient's suppressions, as tables and as properties."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.suppress.policy import DAY, Settings, decide, matters
from schemas.codec import Malformed
from schemas.event import Kind, MailEvent
from schemas.suppression import Suppression

TO, TENANT = "ada@example.org", "acme"
START = 20_000 * DAY + 1000.0
FAR = START + 1000 * DAY
DEFAULT = Settings()


def at(day: float, kind: Kind, action: str = "", rule: str = "", tenant: str = TENANT) -> MailEvent:
    when = START + day * DAY
    return MailEvent(
        id=f"{kind}{action}{when}",
        kind=kind,
        mail="m",
        time=when,
        tenant=tenant,
        to=TO,
        action=action,
        rule=rule,
    )


def soft(day: float, rule: str = "full") -> MailEvent:
    return at(day, "soft_bounced", "soft", rule)


def play(
    events: Iterable[MailEvent], chosen: Settings = DEFAULT, rows: dict[bytes, Suppression] | None = None
) -> dict[bytes, Suppression]:
    """The rows after the events, each decided at its own time."""
    rows = {} if rows is None else rows
    for event in events:
        if matters(event):
            rows.update({row.key: row for row in decide(event, list(rows.values()), chosen, event.time)})
    return rows


def forbids(
    rows: dict[bytes, Suppression], day: float, stream: str = "marketing", tenant: str = TENANT
) -> bool:
    return any(row.applies(tenant, stream, START + day * DAY) for row in rows.values())


def test_a_bad_address_is_suppressed_for_the_tenant_and_for_ever() -> None:
    rows = play([at(0, "bounced", "suppress")])
    assert [(row.scope, row.reason, row.until, row.version) for row in rows.values()] == [
        ("tenant", "hard_bounce", 0.0, 1)
    ]
    assert forbids(rows, 900, "transactional")
    assert not forbids(rows, 1, tenant="other")


def test_a_bad_address_is_everybodys_where_the_operator_shares_it() -> None:
    rows = play([at(0, "bounced", "suppress")], Settings(share_bad_addresses=True))
    assert forbids(rows, 1, tenant="other")
    assert (
        play([at(1, "bounced", "suppress", tenant="other")], Settings(share_bad_addresses=True), dict(rows))
        == rows
    )


@pytest.mark.parametrize("kind", ["bounced", "deferred", "soft_bounced"])
@pytest.mark.parametrize("action", ["hold", "slow", "retry", "none", ""])
def test_what_is_our_own_fault_never_suppresses(kind: Kind, action: str) -> None:
    assert play(at(day, kind, action) for day in range(20)) == {}


@pytest.mark.parametrize(
    "kind", ["queued", "opened", "clicked", "rejected", "expired", "suppressed", "replied"]
)
def test_other_events_need_no_look_at_the_state(kind: Kind) -> None:
    event = at(0, kind, "suppress")
    assert not matters(event)
    assert decide(event, [], DEFAULT, FAR) == []


def test_a_refusal_that_may_be_tried_again_is_no_bad_address() -> None:
    assert play([at(0, "deferred", "suppress")]) == {}


@pytest.mark.parametrize(("kind", "reason"), [("complained", "complaint"), ("unsubscribed", "unsubscribe")])
def test_who_leaves_gets_no_marketing_but_receipts(kind: Kind, reason: str) -> None:
    rows = play([at(0, kind)])
    assert [row.reason for row in rows.values()] == [reason]
    assert forbids(rows, 900)
    assert not forbids(rows, 1, "transactional")
    assert not forbids(rows, 1, tenant="other")


def test_a_complaint_ends_receipts_too_where_the_operator_says_so() -> None:
    rows = play([at(0, "complained"), at(1, "unsubscribed")], Settings(complaints_end_all=True))
    assert forbids(rows, 900, "transactional")
    assert not forbids(rows, 900, "transactional", tenant="other")
    rows = play([at(901, "released")], rows=rows)  # a person's word
    assert not forbids(rows, 902)


def test_subscribing_again_takes_back_the_unsubscribe_and_not_the_complaint() -> None:
    assert not forbids(play([at(0, "unsubscribed"), at(1, "subscribed")]), 2)
    assert forbids(play([at(0, "unsubscribed"), at(1, "subscribed"), at(2, "unsubscribed")]), 3)
    assert forbids(play([at(0, "complained"), at(1, "subscribed")]), 2)
    assert play([at(0, "subscribed")]) == {}


def test_a_late_unsubscribe_does_not_overrule_a_newer_yes() -> None:
    assert not forbids(play([at(0, "unsubscribed"), at(2, "subscribed"), at(1, "unsubscribed")]), 3)


@pytest.mark.parametrize(
    ("days", "rule", "suppressed"),
    [
        ([0, 1, 2], "full", True),
        ([0, 0.2, 0.4], "full", False),
        ([0, 1], "full", False),
        ([0, 7, 13], "full", True),
        ([0, 7, 14], "full", False),
        ([0, 7, 14, 15], "full", True),
        ([0, 1], "microsoft-access-denied", True),
        ([0, 0.5], "microsoft-access-denied", False),
        ([0, 14], "microsoft-access-denied", False),
        ([0, 1, 2], "apple-inactive", False),
        ([0, 10, 20, 30], "apple-inactive", True),
        ([0, 14, 28, 42], "apple-inactive", False),
    ],
)
def test_soft_failures_count_by_different_days_in_their_own_window(
    days: list[float], rule: str, suppressed: bool
) -> None:
    rows = play(soft(day, rule) for day in days)
    assert forbids(rows, days[-1] + 0.01) is suppressed
    assert not forbids(rows, days[-1] + 0.01, "transactional")  # there may be room for the password again
    assert len(rows) == 1


def test_every_window_names_a_rule_that_exists_and_is_soft() -> None:
    text = files("schemas").joinpath("replies.toml").read_text("utf-8")
    soft_rules = [rule["name"] for rule in tomllib.loads(text)["rule"] if rule["action"] == "soft"]
    for window in DEFAULT.windows:
        assert any(window.rule in name for name in soft_rules), window
    assert DEFAULT.windows[-1].rule == ""


def test_windows_do_not_add_up() -> None:
    rows = play([soft(0), soft(1, "microsoft-access-denied"), soft(2)])
    assert len(rows) == 2
    assert not forbids(rows, 3)


def test_a_delivery_starts_the_window_again() -> None:
    assert not forbids(play([soft(0), soft(1), at(2, "delivered"), soft(3), soft(4)]), 5)
    assert forbids(play([soft(0), soft(1), at(2, "delivered"), soft(3), soft(4), soft(5)]), 6)
    other = at(2, "delivered", tenant="other")
    assert forbids(play([soft(0), soft(1), other, soft(3)]), 4)


def test_a_delivery_without_a_window_writes_nothing() -> None:
    assert decide(at(1, "delivered"), [], DEFAULT, FAR) == []
    hard = list(play([at(0, "bounced", "suppress")]).values())
    assert decide(at(1, "delivered"), hard, DEFAULT, FAR) == []
    reset = list(play([soft(0), at(1, "delivered")]).values())
    assert decide(at(2, "delivered"), reset, DEFAULT, FAR) == []


def test_a_soft_suppression_ends_and_the_window_starts_again() -> None:
    rows = play([soft(0), soft(1), soft(2)])
    assert forbids(rows, 31.9)
    assert not forbids(rows, 32.1)
    assert not forbids(play([soft(33), soft(34)], rows=dict(rows)), 35)
    assert forbids(play([soft(33), soft(34), soft(35)], rows=dict(rows)), 36)


def test_an_operators_release_is_not_undone_by_history() -> None:
    rows = play([at(0, "bounced", "suppress")])
    (row,) = rows.values()
    released = {
        row.key: Suppression(
            tenant=row.tenant, to=TO, reason=row.reason, active=False, time=START + 5 * DAY, version=2
        )
    }
    assert play([at(0, "bounced", "suppress")], rows=dict(released)) == released
    again = play([at(6, "bounced", "suppress")], rows=dict(released))
    assert forbids(again, 7)
    assert again[row.key].version == 3


def test_a_bad_address_may_be_tried_again_after_a_while() -> None:
    chosen = Settings(hard_days=10)
    rows = play([at(0, "bounced", "suppress")], chosen)
    assert forbids(rows, 9.9)
    assert not forbids(rows, 10.1)
    assert decide(at(0, "bounced", "suppress"), [], chosen, START + 11 * DAY) == []
    assert forbids(play([at(5, "bounced", "suppress")], chosen, rows), 14)


def test_a_clock_that_runs_ahead_does_not_hide_later_events() -> None:
    ahead = at(500, "unsubscribed")
    rows = {row.key: row for row in decide(ahead, [], DEFAULT, START)}
    assert all(row.time == START for row in rows.values())
    assert not forbids(play([at(1, "subscribed")], rows=rows), 2)


STEPS: list[tuple[Kind, str, str]] = [
    ("bounced", "suppress", ""),
    ("bounced", "soft", "full"),
    ("soft_bounced", "soft", "microsoft-access-denied"),
    ("deferred", "soft", "apple-inactive"),
    ("deferred", "slow", ""),
    ("delivered", "", ""),
    ("complained", "", ""),
    ("unsubscribed", "", ""),
    ("subscribed", "", ""),
]
KINDS = st.sampled_from(STEPS)
STORIES = st.lists(st.tuples(KINDS, st.floats(0.01, 9, allow_nan=False)), max_size=25).map(
    lambda steps: [
        at(sum(gap for _, gap in steps[: n + 1]), kind, action, rule)
        for n, ((kind, action, rule), _) in enumerate(steps)
    ]
)


@settings(max_examples=150, deadline=None)
@given(STORIES, st.integers(0, 25), st.booleans())
def test_a_replay_of_any_part_changes_nothing(story: list[MailEvent], start: int, share: bool) -> None:
    chosen = Settings(share_bad_addresses=share, hard_days=20)
    rows = play(story, chosen)
    for event in story[start:]:
        if matters(event):
            assert decide(event, list(rows.values()), chosen, FAR) == []


@settings(max_examples=150, deadline=None)
@given(STORIES)
def test_versions_grow_and_every_row_is_the_recipients(story: list[MailEvent]) -> None:
    rows: dict[bytes, Suppression] = {}
    for event in story:
        for row in decide(event, list(rows.values()), DEFAULT, event.time) if matters(event) else []:
            assert row.version == (rows[row.key].version + 1 if row.key in rows else 1)
            assert row.key.startswith(f"{TO}|".encode())
            assert row.origin == event.id
            rows[row.key] = row


@settings(max_examples=100, deadline=None)
@given(STORIES)
def test_once_somebody_complained_no_event_lets_marketing_through(story: list[MailEvent]) -> None:
    rows = play([at(0, "complained"), *story])
    assert forbids(rows, 900)


# -- a person's word


def by_hand(day: float, kind: Kind, **fields: object) -> MailEvent:
    values = {
        "id": f"{kind}{day}",
        "mail": "",
        "tenant": TENANT,
        "to": TO,
        "by": "jane",
        "detail": "asked",
        **fields,
    }
    return MailEvent(kind=kind, time=START + day * DAY, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "forbidden"),
    [
        ({}, {("acme", "marketing"), ("acme", "transactional")}),
        ({"scope": "stream", "stream": "marketing"}, {("acme", "marketing")}),
        ({"scope": "global"}, {(t, s) for t in ("acme", "other") for s in ("marketing", "transactional")}),
    ],
)
def test_a_person_suppresses_in_the_scope_that_they_name(fields, forbidden) -> None:
    rows = play([by_hand(0, "blocked", **fields)])
    asked = {(t, s) for t in ("acme", "other") for s in ("marketing", "transactional")}
    assert {(t, s) for t, s in asked if any(r.applies(t, s, FAR) for r in rows.values())} == forbidden


def test_for_a_while_and_then_no_more() -> None:
    (row,) = play([by_hand(0, "blocked", until=START + 5 * DAY)]).values()
    assert row.applies(TENANT, "marketing", START + 4 * DAY)
    assert not row.applies(TENANT, "marketing", START + 5 * DAY)
    assert decide(by_hand(0, "blocked", until=START + 1), [], DEFAULT, FAR) == []


def test_a_release_takes_all_of_the_tenant_but_nothing_global() -> None:
    story = [at(0, "complained"), at(1, "bounced", "suppress"), by_hand(2, "blocked", scope="global")]
    rows = play([*story, by_hand(3, "released")])
    assert {row.scope for row in rows.values() if row.active} == {"global"}
    rows = play([*story, by_hand(3, "released"), by_hand(4, "released", scope="global")])
    assert not any(row.active for row in rows.values())


def test_a_release_may_name_the_reason_and_the_stream() -> None:
    story = [at(0, "complained"), at(1, "bounced", "suppress")]
    rows = play([*story, by_hand(3, "released", reason="hard_bounce")])
    assert {row.reason for row in rows.values() if row.active} == {"complaint"}
    rows = play([*story, by_hand(3, "released", scope="stream", stream="transactional")])
    assert len([row for row in rows.values() if row.active]) == 2


def test_what_bounces_after_its_release_is_suppressed_again() -> None:
    rows = play([at(0, "bounced", "suppress"), by_hand(1, "released"), at(2, "bounced", "suppress")])
    assert forbids(rows, 3)


@pytest.mark.parametrize(
    "fields",
    [{"scope": "world"}, {"reason": "mood"}, {"reason": "soft_bounces"}, {"scope": "stream", "stream": ""}],
)
def test_a_scope_or_reason_that_there_is_not_is_refused(fields) -> None:
    with pytest.raises(Malformed):
        decide(by_hand(0, "blocked", **fields), [], DEFAULT, FAR)
