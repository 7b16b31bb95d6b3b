"""Enqueue's decisions, by tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agents.enqueue.agent import gather
from agents.enqueue.policy import Request, Settings, accepted, printable, refuse, refuse_alone, refused
from schemas.campaign import Campaign, Schedule
from schemas.codec import Record, encode
from schemas.hosts import NO_DOMAIN, NULL_MX, UNKNOWN, MailHosts, MxHost
from schemas.identity import mail_id
from schemas.lanes import LANES
from schemas.send import Attachment, Consent, Content, Send

NOW = 1_800_000_000.0
DAY = 86400.0
GOOGLE = MailHosts(
    (MxHost(5, "gmail-smtp-in.l.google.com"), MxHost(10, "alt1.gmail-smtp-in.l.google.com")), "ok"
)


def campaign(**changes: Any) -> Campaign:
    fields: dict[str, Any] = {"id": "c1", "sender": "Shop <shop@shop.test>", "subject": "Hi", "text": "Hello"}
    return Campaign(**{**fields, **changes})


def request(topic: str = "mail-sends", timestamp: float = NOW - 5, **changes: Any) -> Request:
    fields: dict[str, Any] = {"campaign": "c1", "to": "Anna@example.com"}
    record = Record(topic, 3, 42, int(timestamp * 1000), None, encode(Send(**{**fields, **changes})), {})
    return gather(record, Settings(), NOW)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_an_accepted_send_carries_its_envelope() -> None:
    asked = request(key="k1", consent=Consent(opens=True, clicks=True))
    headers = accepted(asked, campaign(guarantee="at_most_once", priority=7), GOOGLE, Settings(), NOW)
    assert headers == {
        "type": b"accepted",
        "version": b"1",
        "id": mail_id("default", "k1", "anna@example.com", "").encode(),
        "origin": b"mail-sends/3/42/1799999995000/0",
        "tenant": b"default",
        "campaign": b"c1",
        "stream": b"marketing",
        "to": b"anna@example.com",
        "rcpt": b"Anna@example.com",
        "keyed": b"1",
        "attempt": b"1",
        "expires": b"%d" % (NOW - 5 + 7 * DAY),
        "received": b"%d" % (NOW - 5),
        "priority": b"7",
        "consent": b"oc",
        "guarantee": b"at_most_once",
        "lane": b"google",
        "provider": b"google",
    }


def test_without_a_key_the_id_is_the_origins() -> None:
    asked = request()
    headers = accepted(asked, campaign(), GOOGLE, Settings(), NOW)
    assert headers["id"].decode() == mail_id("default", None, "anna@example.com", asked.origin)
    assert "keyed" not in headers


def test_the_case_of_the_local_part_does_not_make_another_recipient() -> None:
    one = accepted(request(key="k", to="ANNA@EXAMPLE.COM"), campaign(), GOOGLE, Settings(), NOW)
    two = accepted(request(key="k", to="anna@example.com"), campaign(), GOOGLE, Settings(), NOW)
    assert (one["id"], one["to"]) == (two["id"], two["to"])
    assert one["rcpt"] == b"ANNA@example.com"
    assert "rcpt" not in two


@pytest.mark.parametrize(
    ("schedule", "expires", "not_before"),
    [
        (Schedule(), NOW - 5 + 7 * DAY, None),
        (Schedule(at=at(NOW + DAY)), NOW + 8 * DAY, b"%d" % (NOW + DAY)),
        (Schedule(at=at(NOW - DAY)), NOW - 5 + 7 * DAY, None),
        (Schedule(expires_at=at(NOW + 60)), NOW + 60, None),
        (Schedule(expires_at=at(NOW + 30 * DAY)), NOW - 5 + 7 * DAY, None),
        (Schedule(at=at(NOW + DAY), expires_at=at(NOW + 2 * DAY)), NOW + 2 * DAY, b"%d" % (NOW + DAY)),
    ],
)
def test_a_lifetime_counts_from_the_due_time(
    schedule: Schedule, expires: float, not_before: bytes | None
) -> None:
    headers = accepted(request(), campaign(schedule=schedule), GOOGLE, Settings(), NOW)
    assert float(headers["expires"]) == expires
    assert headers.get("not_before") == not_before


@pytest.mark.parametrize(
    ("stamp", "received"), [(NOW - 60, NOW - 60), (NOW + 3600, NOW), (-0.001, NOW), (0, NOW)]
)
def test_a_producers_clock_is_believed_only_about_the_past(stamp: float, received: float) -> None:
    assert request(timestamp=stamp).received == received


@pytest.mark.parametrize(
    ("hosts", "lane", "provider", "host"),
    [
        (GOOGLE, "google", b"google", None),
        (MailHosts((MxHost(1, "mx.free.fr"),), "ok"), "other-", b"free", None),
        (MailHosts((MxHost(1, "mx.nobody.test"),), "ok"), "other-", None, None),
        (MailHosts((MxHost(0, "example.com"),), "implicit"), "other-", None, None),
        (UNKNOWN, "other-", None, None),
        (NULL_MX, "other-", None, b"null_mx"),
        (NO_DOMAIN, "other-", None, b"no_domain"),
    ],
)
def test_the_lane_is_the_providers_or_a_shared_one(
    hosts: MailHosts, lane: str, provider: bytes | None, host: bytes | None
) -> None:
    headers = accepted(request(), campaign(), hosts, Settings(), NOW)
    found = headers["lane"].decode()
    assert found == lane if lane in LANES else found.startswith(lane)
    assert (headers.get("provider"), headers.get("host")) == (provider, host)


def nested(levels: int) -> Any:
    found: Any = 1
    for level in range(levels):
        found = [found] if level % 2 else {"a": found}
    return found


INLINE = Attachment(filename="a.txt", content_type="text/plain", data=b"x" * 200_000)
TRANSACTIONAL = {"stream": "transactional", "text": ""}


@pytest.mark.parametrize(
    ("send", "about", "expected"),
    [
        ({}, {}, None),
        ({}, {"state": "paused"}, None),
        ({}, {"state": "cancelled"}, ("cancelled", "campaign_cancelled")),
        ({}, {"schedule": Schedule(expires_at=at(NOW - 1))}, ("expired", "before_enqueue")),
        ({}, {"text": ""}, ("rejected", "no_content")),
        ({}, {"text": "", "html": "<p>"}, None),
        ({"content": Content(subject="s", text="t")}, {}, ("rejected", "content_not_allowed")),
        ({"content": Content(subject="s", text="t")}, TRANSACTIONAL, None),
        ({"content": Content(subject="s")}, TRANSACTIONAL, ("rejected", "no_content")),
        ({"attachments": (INLINE,)}, {}, None),
        ({"attachments": (INLINE, INLINE)}, {}, ("rejected", "attachments_too_large")),
        ({"variables": {"a": "x" * 2_000_000}}, {}, ("rejected", "too_large")),
        ({"variables": {"a": nested(31)}}, {}, None),
        ({"variables": {"a": nested(32)}}, {}, ("rejected", "too_deep")),
        ({"variables": {"a": nested(200)}}, {}, ("rejected", "too_deep")),
        ({"to": "anna@example.com\r\nDATA"}, {}, ("rejected", "bad_address")),
        ({"to": "änna@example.com"}, {}, ("rejected", "bad_address")),
    ],
)
def test_refusals(send: dict[str, Any], about: dict[str, Any], expected: tuple[str, str] | None) -> None:
    asked = request(**send)
    refusal = refuse_alone(asked, Settings()) or refuse(asked, campaign(**about), Settings(), NOW)
    assert (refusal[:2] if refusal else None) == expected


def test_no_provider_is_guessed_from_the_domain_while_dns_is_silent() -> None:
    headers = accepted(request(to="anna@mail.web.de"), campaign(), UNKNOWN, Settings(), NOW)
    assert headers["lane"].startswith(b"other-")
    assert "provider" not in headers


def test_an_old_send_is_expired_by_its_own_time() -> None:
    refusal = refuse(request(timestamp=NOW - 8 * DAY), campaign(), Settings(), NOW)
    assert refusal
    assert refusal.outcome == "expired"


def test_a_verdict_over_a_bad_address_shows_a_clean_copy() -> None:
    asked = request(topic="mail-sends-now", to="x\r\nä" + "y" * 400)
    refusal = refuse_alone(asked, Settings())
    assert refusal
    headers = refused(asked, None, refusal, Settings())
    assert headers["to"] == b"x???" + b"y" * 250
    assert headers["type"] == b"verdict"
    assert (headers["outcome"], headers["reason"]) == (b"rejected", b"bad_address")
    assert headers["stream"] == b"transactional"
    assert headers["lane"].startswith(b"other-")
    assert all(value.isascii() and b"\r" not in value and b"\n" not in value for value in headers.values())


def test_printable_is_ascii_and_bounded() -> None:
    assert printable("a b\x00\u202e" + "c" * 1000) == "a?b??" + "c" * 249
