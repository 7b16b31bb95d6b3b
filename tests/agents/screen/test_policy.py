"""Gate one's decisions: keys, repeats, and what ends a mail, in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from agents.screen.policy import (
    Candidate,
    Settings,
    decide,
    keys_of,
    looked_up,
    missing,
    repeat,
    row_for,
)
from schemas.identity import mail_id
from schemas.suppression import Suppression

NOW = 1_800_000_000.0
SETTINGS = Settings()
DAY = 86400.0


def candidate(origin: str = "o1", key: str | None = None, **values) -> Candidate:
    to = values.setdefault("to", "a@b.example")
    tenant = values.setdefault("tenant", "t")
    found = {"campaign": "c", "stream": "marketing", "lane": "gmx", "expires": NOW + DAY, "not_before": 0.0}
    return Candidate(**(found | values | {"id": mail_id(tenant, key, to, origin), "origin": origin}))


def row(**values) -> Suppression:
    return Suppression(**({"tenant": "t", "to": "a@b.example", "reason": "hard_bounce"} | values))


@pytest.mark.parametrize(
    ("mail", "kinds"),
    [
        (candidate(), "c"),
        (candidate(key="k"), "ci"),
        (candidate(stream="transactional"), "i"),
        (candidate(stream="transactional", key="k"), "i"),
        (candidate(outcome="rejected"), "i"),
        (candidate(outcome="rejected", key="k"), "i"),
    ],
)
def test_keys(mail: Candidate, kinds: str):
    assert "".join(key[0] for key in keys_of(mail)) == kinds
    assert set(keys_of(mail)) <= set(looked_up(mail))


def test_two_password_resets_share_no_key():
    one, two = candidate("o1", stream="transactional"), candidate("o2", stream="transactional")
    assert not set(keys_of(one)) & set(keys_of(two))


@pytest.mark.parametrize("changes", [{"to": "x@b.example"}, {"campaign": "d"}, {"tenant": "u"}])
def test_marketing_keys_tell_recipient_campaign_and_tenant_apart(changes: dict):
    assert not set(keys_of(candidate())) & set(keys_of(candidate("o2", **changes)))


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (candidate(), candidate(), "again"),
        (candidate(digest="1"), candidate(digest="2"), "again"),
        (candidate(), candidate("o2"), "duplicate"),
        (candidate(key="k", digest="1"), candidate("o2", key="k", digest="1"), "duplicate"),
        (candidate(key="k", digest="1"), candidate("o2", key="k", digest="2"), "conflict"),
    ],
)
def test_repeat(first: Candidate, second: Candidate, what: str):
    key = keys_of(first)[-1]
    assert repeat(second, row_for(key, first, "pass", "", SETTINGS, NOW)) == what


def test_other_content_under_the_campaign_key_is_a_plain_duplicate():
    first = candidate(key="k", digest="1")
    found = row_for(keys_of(first)[0], first, "pass", "", SETTINGS, NOW)
    assert repeat(candidate("o2", key="k", digest="2"), found) == "duplicate"


@pytest.mark.parametrize(
    ("mail", "rows", "wanted"),
    [
        (candidate(), [], ("pass", "")),
        (
            candidate(outcome="rejected", reason="bad_address", host="null_mx"),
            [row()],
            ("rejected", "bad_address"),
        ),
        (candidate(expires=NOW, host="null_mx"), [row()], ("expired", "before_screen")),
        (candidate(expires=NOW + 0.1), [], ("pass", "")),
        (candidate(expires=0.0), [], ("pass", "")),
        (candidate(host="null_mx"), [row()], ("bounced", "null_mx")),
        (candidate(host="no_domain"), [], ("bounced", "no_domain")),
        (candidate(), [row()], ("suppressed", "hard_bounce")),
        (candidate(), [row(until=NOW)], ("pass", "")),
        (candidate(), [row(until=NOW + 1)], ("suppressed", "hard_bounce")),
        (candidate(), [row(active=False)], ("pass", "")),
        (candidate(), [row(tenant="u")], ("pass", "")),
        (candidate(), [row(tenant="u", scope="global")], ("suppressed", "hard_bounce")),
        (candidate(), [row(scope="stream", stream="transactional")], ("pass", "")),
        (
            candidate(),
            [row(scope="stream", stream="marketing", reason="unsubscribe")],
            ("suppressed", "unsubscribe"),
        ),
        (candidate(), [row(active=False), row(reason="complaint")], ("suppressed", "complaint")),
        (
            candidate(stream="transactional"),
            [row(scope="stream", stream="marketing", reason="unsubscribe")],
            ("pass", ""),
        ),
    ],
)
def test_decide(mail: Candidate, rows: list[Suppression], wanted: tuple[str, str]):
    assert decide(mail, rows, SETTINGS, NOW) == wanted


def test_a_row_outlives_its_mail_and_the_horizon():
    assert row_for("k", candidate(), "pass", "", SETTINGS, NOW).until == NOW + 14 * DAY
    late = candidate(expires=NOW + 60 * DAY)
    assert row_for("k", late, "pass", "", SETTINGS, NOW).until == NOW + 61 * DAY


@pytest.mark.parametrize(
    ("stream", "topic"), [("marketing", "mail-screened"), ("transactional", "mail-screened-now")]
)
def test_a_row_keeps_lane_twin_and_expiry(stream: str, topic: str):
    found = row_for("k", candidate(stream=stream), "pass", "", SETTINGS, NOW)
    assert (found.lane, found.to_topic, found.expires) == ("gmx", topic, NOW + DAY)


def test_what_is_missing_after_a_crash_between_two_rows():
    made = row_for("c|x", candidate(key="k"), "pass", "", SETTINGS, NOW)
    assert missing(made, "c|x")
    assert missing(made, "i|y")
    assert missing(changed(made, decision="suppressed"), "c|x")
    # A refusal by enqueue is remembered under the id alone.
    assert not missing(changed(made, decision="rejected"), "i|y")


words = st.text(st.characters(codec="utf-8", exclude_characters="|"), max_size=8)


@given(words, words, words, st.booleans(), st.none() | words)
@hypothesis(max_examples=50, deadline=None)
def test_a_send_redone_always_finds_what_it_wrote(to, tenant, campaign, marketing, key):
    """Whatever enqueue makes of it the second time: accepted, refused, or of another stream."""
    values = {"to": to, "tenant": tenant, "campaign": campaign}
    streams = ("marketing", "transactional") if marketing else ("transactional", "marketing")
    first = candidate("o", key, stream=streams[0], **values)
    for stream in streams:
        for outcome in ("", "rejected"):
            assert set(keys_of(first)) & set(
                looked_up(candidate("o", key, stream=stream, outcome=outcome, **values))
            )
