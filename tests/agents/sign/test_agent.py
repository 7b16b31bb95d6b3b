"""The stage: signed mail and verdicts go down the lane."""

from __future__ import annotations

import dkim
import pytest

from agents import Out
from agents.shape.check import refused
from agents.sign.agent import STAGE, Sign
from agents.sign.keys import new_keys
from schemas.codec import Headers, Record
from schemas.lane_report import LaneReport, Used

NOW = 1_700_000_000.0
KEYS = {"shop.example": new_keys("shop.example", "r1", "e1")}
ZONE = {f"{key.dns_name}.".encode(): key.dns_record.encode() for key in KEYS["shop.example"]}
MAIL = b"From: Shop <news@shop.example>\r\nTo: a@x.example\r\nSubject: Hi\r\n\r\nHello\r\n"


def record(value: bytes | None = MAIL, **headers: str) -> Record:
    found: Headers = {
        "type": b"mail",
        "id": b"0" * 32,
        "tenant": b"acme",
        "stream": b"marketing",
        "to": b"a@x.example",
        "lane": b"google",
        "expires": b"1700000100",
    }
    found.update({name: text.encode() for name, text in headers.items()})
    return Record("mail-rendered", 3, -1, 0, b"a@x.example", value, found)


def step(given: Record, **settings: object) -> Out:
    (out,) = Sign(KEYS, lambda: NOW, **settings).step(given)  # type: ignore[arg-type]
    return out


def verdict_of(out: Out) -> tuple[str, str]:
    assert out.value is None
    assert out.headers["type"] == b"verdict"
    return out.headers["outcome"].decode(), out.headers["reason"].decode()


def test_a_mail_goes_down_its_lane_with_both_signatures() -> None:
    out = step(record())
    assert (out.topic, out.partition, out.key) == ("mail-lane-google", 3, b"a@x.example")
    assert out.headers["dkim"] == b"shop.example"
    assert out.headers["author"] == b"news@shop.example"
    assert out.headers["id"] == b"0" * 32
    assert out.value is not None
    assert out.value.endswith(MAIL)
    mail = dkim.DKIM(out.value)
    assert [mail.verify(idx=n, dnsfunc=lambda name, timeout=5: ZONE.get(name)) for n in range(2)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("sender", "author"),
    [
        (b'"Shop, <b@x.example>" <News@Shop.Example>', "news@shop.example"),
        (b"news|odd@shop.example", "news?odd@shop.example"),
        (b"n" * 300 + b"@shop.example", "n" * 242 + "@shop.example"),
        ("grüße@shop.example".encode(), "grüße@shop.example"),
    ],
)
def test_the_address_in_from_goes_along_as_the_name_of_a_limit(sender: bytes, author: str) -> None:
    out = step(record(b"From: " + sender + b"\r\nTo: a@x.example\r\n\r\nHello\r\n"))
    assert out.headers["author"].decode() == author
    assert refused(LaneReport(
        worker="w", number=1, provider="p", source="s", used=(Used(kind="from", name=author, total=1),),
    )) == ""  # fmt: skip


def test_transactional_mail_takes_the_twin() -> None:
    assert step(record(stream="transactional")).topic == "mail-lane-google-now"


def test_verdicts_pass_through_without_a_body() -> None:
    out = step(record(b"left over", type="verdict", outcome="rejected", reason="template_error"))
    assert verdict_of(out) == ("rejected", "template_error")
    assert out.topic == "mail-lane-google"
    assert "dkim" not in out.headers


@pytest.mark.parametrize(
    ("given", "outcome", "reason"),
    [
        (record(expires="1700000000"), "expired", "expired"),
        (record(MAIL.replace(b"shop.example", b"evil.example")), "rejected", "no_dkim_key"),
        (record(MAIL.replace(b"From:", b"X-From:")), "rejected", "malformed_mail"),
        (record(MAIL + b"lone\nfeed\r\n"), "rejected", "malformed_mail"),
        (record(MAIL + b"no end"), "rejected", "malformed_mail"),
        (record(expires="soon"), "rejected", "malformed_mail"),
        (record(None), "rejected", "malformed_mail"),
        (record(b"From: a@shop.example, b@evil.example\r\n\r\nx\r\n"), "rejected", "no_dkim_key"),
    ],
)
def test_what_cannot_be_signed_becomes_a_verdict(given: Record, outcome: str, reason: str) -> None:
    assert verdict_of(step(given)) == (outcome, reason)


def test_a_tenant_cannot_sign_as_another() -> None:
    out = step(record(), tenants={"shop.example": frozenset({"other"})})
    assert verdict_of(out) == ("rejected", "no_dkim_key")
    assert b"this tenant" in out.headers["detail"]


def test_a_lane_of_another_release_still_reaches_gate_two() -> None:
    out = step(record(lane="gone"))
    assert out.topic in STAGE.emits
    assert out.topic == "mail-lane-" + out.headers["lane"].decode()


def test_the_stage_is_what_the_pipeline_expects() -> None:
    assert STAGE.topics == ("mail-rendered-now", "mail-rendered")
    assert "mail-lane-other-3" in STAGE.emits
