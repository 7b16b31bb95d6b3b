"""What the events say of themselves: keys of compacted topics, whether a suppression applies, what ends a mail."""

from __future__ import annotations

from typing import get_args

import pytest

from schemas.campaign import Campaign
from schemas.codec import Record, encode, registered
from schemas.contact import Contact
from schemas.event import Kind
from schemas.hosts import NO_DOMAIN, NULL_MX, UNKNOWN, MailHosts, MxHost
from schemas.inbound import inbound_headers
from schemas.lane_policy import Decision, LanePolicy, Leader, Lease
from schemas.mail import base_topic, is_verdict, number, twin, verdict
from schemas.outcome import TERMINAL, Outcome, State
from schemas.suppression import Suppression
from streams.topics import TOPICS
from tests.support.examples import EXAMPLES

NOW = 1_800_000_000.0
POLICY = LanePolicy(
    kind="source", name="192.0.2.1", provider="google", rate=1.0, minimum=0.1, connections=1, per_connection=1
)
LEASE = Lease(
    worker="w1", number=1, provider="google", kind="source", name="192.0.2.1", rate=1.0, connections=1,
    per_connection=1, duration=3.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("event", "key"),
    [
        (Campaign(id="c1", sender="a@x.test"), b"default/c1"),
        (Campaign(id="c1", tenant="acme", sender="a@x.test"), b"acme/c1"),
        (Contact(tenant="acme", to="anna@x.test"), b"anna@x.test|acme"),
        (Suppression(tenant="acme", to="anna@x.test", reason="manual"), b"anna@x.test|acme|tenant||manual"),
        (
            Suppression(tenant="acme", to="a@x.test", reason="complaint", scope="stream", stream="marketing"),
            b"a@x.test|acme|stream|marketing|complaint",
        ),
        (
            Suppression(tenant="acme", to="a@x.test", reason="soft_bounces", window="apple-inactive"),
            b"a@x.test|acme|tenant||soft_bounces|apple-inactive",
        ),
        (POLICY, b"policy|source|192.0.2.1|google"),
        (LEASE, b"lease|w1|source|192.0.2.1|google"),
        (
            Decision(kind="dkim", name="x.test", provider="yahoo", time=1.5, what="cut", reason="r"),
            b"decision|dkim|x.test|yahoo|1.500",
        ),
        (Leader(worker="w1", time=1.0), b"leader"),
    ],
)
def test_keys_are_pinned(event: Campaign | Contact | Suppression, key: bytes) -> None:
    """Compaction goes by them: a new spelling would leave the old rows standing for ever."""
    assert event.key == key


@pytest.mark.parametrize(
    ("fields", "tenant", "stream", "applies"),
    [
        ({}, "acme", "marketing", True),
        ({}, "acme", "transactional", True),
        ({}, "other", "marketing", False),
        ({"scope": "stream", "stream": "marketing"}, "acme", "marketing", True),
        ({"scope": "stream", "stream": "marketing"}, "acme", "transactional", False),
        ({"scope": "stream", "stream": "marketing"}, "other", "marketing", False),
        ({"scope": "global", "tenant": ""}, "anybody", "transactional", True),
        ({"active": False}, "acme", "marketing", False),
        ({"scope": "global", "active": False}, "acme", "marketing", False),
        ({"until": NOW + 1}, "acme", "marketing", True),
        ({"until": NOW}, "acme", "marketing", False),
        ({"scope": "global", "until": NOW - 1}, "acme", "marketing", False),
    ],
)
def test_a_suppression_applies_within_its_scope_and_time(
    fields: dict[str, str | float], tenant: str, stream: str, applies: bool
) -> None:
    row = Suppression(**({"tenant": "acme", "to": "a@x.test", "reason": "hard_bounce"} | fields))  # type: ignore[arg-type]
    assert row.applies(tenant, stream, NOW) is applies


@pytest.mark.parametrize("state", get_args(State))
def test_what_ends_a_mail(state: State) -> None:
    outcome = Outcome(id="1", state=state, attempt=1)
    assert outcome.terminal is (state in TERMINAL)
    assert Outcome(id="1", state=state, attempt=1, final=True).terminal
    assert state == "intent" or state in get_args(Kind)  # each is told to the public


def test_open_states_are_few() -> None:
    assert set(get_args(State)) - TERMINAL == {"deferred", "unknown", "intent"}


def test_every_topic_carries_what_the_codec_knows() -> None:
    """Or mail on its way, whose envelope is ``schemas.mail``, or raw bytes."""
    assert EXAMPLES  # their module imports every event
    names = {name for name, _ in registered()}
    assert {topic.event for topic in TOPICS} <= names | {"", "accepted", "mail", "inbound"}
    assert {topic.event for topic in TOPICS if topic.outside} - {""} <= names


def test_the_twin_is_for_transactional_mail() -> None:
    assert twin("mail-enqueued", "transactional") == "mail-enqueued-now"
    assert twin("mail-enqueued", "marketing") == "mail-enqueued"
    assert base_topic("mail-enqueued-now") == base_topic("mail-enqueued") == "mail-enqueued"


def test_a_verdict_keeps_the_envelope() -> None:
    before = {"type": b"accepted", "id": b"1", "to": b"a@x.test"}
    after = verdict(before, "rejected", "template_error", "ü" * 600)
    assert before["type"] == b"accepted"
    assert (after["id"], after["to"], after["outcome"]) == (b"1", b"a@x.test", b"rejected")
    assert after["detail"].decode() == "ü" * 500
    assert is_verdict(Record("t", 0, 0, 0, None, None, after))
    assert not is_verdict(Record("t", 0, 0, 0, None, None, before))
    assert "detail" not in verdict(before, "expired", "expired")


@pytest.mark.parametrize(
    ("value", "text"), [(1_800_000_000.0, b"1800000000"), (1.5, b"1.500"), (0, b"0"), (2.0004, b"2.000")]
)
def test_times_in_headers(value: float, text: bytes) -> None:
    assert number(value) == text


def test_inbound_headers_are_bounded() -> None:
    headers = inbound_headers(NOW, "ü" * 1000, "b" * 1000, "192.0.2.1", "f" * 32)
    assert len(headers["mail_from"]) == len(headers["rcpt_to"]) == 512
    assert (headers["time"], headers["id"], headers["peer"]) == (b"1800000000.000", b"f" * 32, b"192.0.2.1")
    assert "id" not in inbound_headers(NOW, "", "b@x.test", "192.0.2.1")


def test_hosts_say_why_a_domain_takes_no_mail() -> None:
    assert (NULL_MX.refused, NO_DOMAIN.refused, UNKNOWN.refused) == ("null_mx", "no_domain", "")
    found = MailHosts((MxHost(10, "mx1.x.test"), MxHost(20, "mx2.x.test")), "ok")
    assert (found.refused, found.names) == ("", ("mx1.x.test", "mx2.x.test"))


def test_an_event_is_small() -> None:
    """Defaults are left out: a minimal public event stays near its ids."""
    assert len(encode(Outcome(id="f" * 32, state="delivered", attempt=1))) < 80
