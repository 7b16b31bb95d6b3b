"""The stage: a send becomes MIME, or a verdict that says why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from agents import Out
from agents.render.agent import STAGE, Render
from agents.render.policy import Settings
from schemas.campaign import Campaign
from schemas.token import Tokens

GOLDEN = Path(__file__).parent / "golden"
Maker = Callable[..., Any]


def read(out: Out) -> EmailMessage:
    assert out.value is not None, out.headers
    assert b"\r" not in out.value.replace(b"\r\n", b"")
    assert b"\n" not in out.value.replace(b"\r\n", b"")
    assert out.value.isascii()
    assert max(map(len, out.value.split(b"\r\n"))) <= 998
    message = cast(EmailMessage, message_from_bytes(out.value, policy=policy.default))
    assert not any(part.defects for part in message.walk())
    return message


def part(message: EmailMessage, kind: str) -> str:
    found = message.get_body((kind,))
    assert found is not None
    return str(cast(EmailMessage, found).get_content()).replace("\r\n", "\n")


def ended(out: Out) -> tuple[str, str, str]:
    assert out.value is None
    assert out.headers["type"] == b"verdict"
    headers = {name: value.decode() for name, value in out.headers.items()}
    return headers["outcome"], headers["reason"], headers.get("detail", "")


def test_a_marketing_mail_has_what_providers_demand(record: Maker, render: Maker, tokens: Tokens) -> None:
    out = render(record())
    message = read(out)
    assert (out.topic, out.partition, out.key) == ("mail-rendered", 3, b"anna@x.example")
    assert out.headers["type"] == b"mail"
    assert message["From"] == "Shop <news@shop.example>"
    assert message["To"] == "Anna <Anna@x.example>"
    assert message["Reply-To"] == "help@shop.example"
    assert message["Subject"] == "Kettle for Anna"
    assert message["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert re.fullmatch(r"<(0123456789abcdef){2}\.[0-9a-f]{8}@shop\.example>", message["Message-ID"])
    assert message["List-Id"] == "Shop news <news.shop.example>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message["Feedback-ID"] == "spring:acme:marketing:mailsluice"
    assert message["Auto-Submitted"] is None
    link, mailto = re.fullmatch(
        r"<https://t\.example/u/(\S+)>,\s*<mailto:(\S+)>", message["List-Unsubscribe"]
    ).groups()  # type: ignore[union-attr]
    assert tokens.read_mail_token(link).to == "anna@x.example"
    assert tokens.read_unsubscribe_address(mailto) == ("0123456789abcdef" * 2, 3)
    assert tokens.read_verp(out.headers["return_path"].decode()) == ("0123456789abcdef" * 2, 3)
    assert f'href="https://t.example/u/{link}"' in part(message, "html")
    assert part(message, "plain").startswith(
        "Hello Anna, your Kettle is here (https://shop.example/p?a=1&b=2)."
    )


def test_a_send_says_where_its_answers_go(record: Maker, render: Maker, campaign: Maker) -> None:
    message = read(render(record({"reply_to": "Jörg <joerg@sales.example>"})))
    assert message.get_all("Reply-To") == ["Jörg <joerg@sales.example>"]
    assert message["From"] == "Shop <news@shop.example>"
    assert read(render(record(), campaign(reply_to="")))["Reply-To"] is None
    assert ended(render(record({"reply_to": "nobody"})))[:2] == ("rejected", "bad_send")


def test_a_transactional_mail_says_that_it_is_automatic(
    record: Maker, render: Maker, campaign: Maker
) -> None:
    found = campaign(
        stream="transactional", guarantee="at_most_once", html="", text="Code {{ product }}", list_id=""
    )
    out = render(record(stream="transactional"), found)
    message = read(out)
    assert out.topic == "mail-rendered-now"
    assert out.headers["guarantee"] == b"at_most_once"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Unsubscribe"] is None
    assert message["List-Unsubscribe-Post"] is None
    assert message.get_content_type() == "text/plain"
    assert part(message, "plain") == "Code Kettle\n"


def test_a_transactional_send_brings_its_own_content(record: Maker, render: Maker, campaign: Maker) -> None:
    content = {"subject": "Order {{ number }}", "html": "<b>{{ number }}</b>", "text": "No. {{ number }}"}
    out = render(record({"content": content, "variables": {"number": 7}}), campaign(stream="transactional"))
    message = read(out)
    assert message["Subject"] == "Order 7"
    assert (part(message, "html"), part(message, "plain")) == ("<b>7</b>\n", "No. 7\n")


def test_values_are_escaped_in_html_and_only_there(record: Maker, render: Maker) -> None:
    message = read(render(record({"name": "A & <B>", "variables": {"product": "Ünï"}})))
    assert message["Subject"] == "Ünï for A & <B>"
    assert "Hello A &amp; &lt;B&gt;, your Ünï" in part(message, "html")
    assert "Hello A & <B>, your Ünï" in part(message, "plain")
    assert message["To"].addresses[0].display_name == "A & <B>"


@pytest.mark.parametrize(
    ("consent", "tracking", "opens", "clicks"),
    [
        ("oc", True, True, True),
        ("o", True, True, False),
        ("c", True, False, True),
        ("", True, False, False),
        ("oc", False, False, False),
    ],
)
def test_tracking_follows_consent(
    record: Maker,
    render: Maker,
    campaign: Maker,
    tokens: Tokens,
    consent: str,
    tracking: bool,
    opens: bool,
    clicks: bool,
) -> None:
    message = read(render(record(consent=consent), campaign(tracking=tracking)))
    html = part(message, "html")
    assert ('<img src="https://t.example/o/' in html) is opens
    click = re.search(r'href="https://t\.example/c/([\w-]+)\?u=([^&]+)&amp;s=([\w-]+)"', html)
    assert bool(click) is clicks
    if click:
        assert tokens.check_click(click[1], "https://shop.example/p?a=1&b=2", click[3]).campaign == "spring"
    assert html.count("/c/") == (1 if clicks else 0), "the unsubscribe link is never a tracked one"


def test_verdicts_pass_through(record: Maker, render: Maker) -> None:
    out = render(record(b"old", type="verdict", outcome="suppressed", reason="duplicate"))
    assert ended(out) == ("suppressed", "duplicate", "")


@pytest.mark.parametrize(
    ("send", "headers", "changes", "outcome", "reason", "says"),
    [
        ({}, {"expires": "1700000000"}, {}, "expired", "expired", ""),
        ({}, {"campaign": "none"}, {}, "rejected", "unknown_campaign", "publish the campaign"),
        ({}, {"tenant": "other"}, {}, "rejected", "unknown_campaign", "publish"),
        ({}, {}, {"state": "cancelled"}, "cancelled", "campaign_cancelled", ""),
        ({"variables": {}}, {}, {}, "rejected", "template_error", "subject template, line 1: 'product' is undefined"),
        ({}, {}, {"html": "a\nb {{ gone.deep }}"}, "rejected", "template_error", "html template, line 2: 'gone"),
        ({}, {}, {"html": "a\n{% if %}"}, "rejected", "template_error", "html template, line 2"),
        ({}, {}, {"html": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"}, "rejected", "template_error", "runs too long"),
        ({}, {}, {"html": "{% include 'other' %}"}, "rejected", "template_error", "line 1"),
        ({}, {}, {"html": "{{ debug() }}"}, "rejected", "template_error", "debug"),
        ({"variables": {"product": "x\r\nBcc: evil@y.example"}}, {}, {}, "rejected", "header_injection", "Subject"),
        ({"variables": {"product": "x\n"}}, {}, {"subject": "{{ product }}"}, "rejected", "header_injection", "Subject"),
        ({"variables": {"product": "x" * 6_000_000}}, {}, {}, "rejected", "size", "6000"),
        ({"variables": {"product": "x" * 3_000_000}}, {}, {"subject": "s"}, "rejected", "size", "2000000"),
        (b"{not json", {}, {}, "rejected", "bad_send", ""),
        (b'{"campaign":"spring","to":"a@b.example","surprise":1}', {}, {}, "rejected", "bad_send", "surprise"),
        ({}, {}, {"sender": "nobody"}, "rejected", "bad_campaign", "from or reply_to"),
        ({}, {}, {"sender": "Ü <ü@shop.example>"}, "rejected", "bad_campaign", "non-ASCII"),
        ({}, {}, {"headers": {"Bcc": "x@y.example"}}, "rejected", "bad_campaign", "Bcc"),
        ({}, {}, {"headers": {"content-type": "x"}}, "rejected", "bad_campaign", "content-type"),
        ({}, {}, {"headers": {"X-A": "b\r\nBcc: c"}}, "rejected", "bad_campaign", "X-A"),
        ({}, {}, {"headers": {"Bcc\n": "x@y.example"}}, "rejected", "bad_campaign", "no header name"),
        ({}, {}, {"subject": "two\nlines"}, "rejected", "header_injection", "Subject"),
        ({}, {}, {"html": " ", "text": ""}, "rejected", "bad_campaign", "neither html nor text"),
    ],
)  # fmt: skip
def test_what_cannot_go_becomes_a_verdict(
    record: Maker, render: Maker, campaign: Maker,
    send: Any, headers: dict[str, str], changes: dict[str, Any], outcome: str, reason: str, says: str,
) -> None:  # fmt: skip
    out = render(record(send, **headers), campaign(**changes))
    found = ended(out)
    assert found[:2] == (outcome, reason)
    assert says in found[2]
    assert out.headers["id"] == b"0123456789abcdef" * 2


def test_an_error_of_one_recipient_leaves_the_others(record: Maker, tokens: Tokens, campaign: Maker) -> None:
    agent = Render({"acme/spring": campaign()}, tokens, "https://t.example", "b.example", lambda: 1.7e9)
    for send, good in (({}, True), ({"variables": {}}, False), ({}, True)):
        (out,) = agent.step(record(send))
        assert (out.value is not None) is good


def test_a_campaign_may_change_under_us(record: Maker, tokens: Tokens, campaign: Maker) -> None:
    campaigns: dict[str, Campaign] = {"acme/spring": campaign(html="{% broken", subject="one")}
    agent = Render(campaigns, tokens, "https://t.example", "b.example", lambda: 1.7e9)
    assert ended(*agent.step(record()))[1] == "template_error"
    campaigns["acme/spring"] = campaign(subject="two", sender="Other <x@other.example>")
    message = read(*agent.step(record()))
    assert (message["Subject"], message["From"]) == ("two", "Other <x@other.example>")
    campaigns["acme/spring"] = campaign(state="cancelled")
    assert ended(*agent.step(record()))[0] == "cancelled"
    del campaigns["acme/spring"]
    assert ended(*agent.step(record()))[1] == "unknown_campaign"


def test_long_html_is_noted_not_refused(record: Maker, render: Maker, campaign: Maker) -> None:
    assert render(record(), campaign(html="<p>" + "word " * 20_000)).headers["note"] == b"gmail_clips"
    assert "note" not in render(record()).headers


def test_extra_headers_go_out(record: Maker, render: Maker, campaign: Maker) -> None:
    message = read(render(record(), campaign(headers={"X-Season": "Frühling", "Precedence": "bulk"})))
    assert (message["X-Season"], message["Precedence"]) == ("Frühling", "bulk")


def test_an_unknown_spelling_of_the_address_gives_way_to_the_key(record: Maker, render: Maker) -> None:
    assert read(render(record({"to": "other@x.example"})))["To"] == "Anna <anna@x.example>"


def test_the_same_send_renders_to_the_same_bytes(record: Maker, render: Maker) -> None:
    assert render(record(consent="oc")) == render(record(consent="oc"))


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
ICS = b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
ATTACHED = [
    {"filename": "logo.png", "content_type": "image/png", "disposition": "inline", "content_id": "logo@shop", "data": PNG},
    {"filename": "invite.ics", "content_type": "text/calendar; method=REQUEST", "disposition": "inline", "data": ICS},
    {"filename": "Rechnung März 2024 – Büchergroßhandlung.pdf", "content_type": "application/pdf", "data": b"%PDF-1.4\n" * 30},
]  # fmt: skip


def test_attachments_stand_where_mail_programs_look(record: Maker, render: Maker) -> None:
    message = read(render(record({"attachments": [dict(one) for one in ATTACHED]})))
    shape = [(one.get_content_type(), one.get_content_disposition()) for one in message.walk()]
    assert shape == [
        ("multipart/mixed", None),
        ("multipart/alternative", None),
        ("text/plain", None),
        ("multipart/related", None),
        ("text/html", None),
        ("image/png", "inline"),
        ("text/calendar", None),
        ("application/pdf", "attachment"),
    ]
    image, calendar, pdf = list(message.walk())[5:]
    assert (image["Content-ID"], image.get_payload(decode=True)) == ("<logo@shop>", PNG)
    assert (calendar.get_param("method"), calendar.get_payload(decode=True)) == ("REQUEST", ICS)
    assert pdf.get_filename() == "Rechnung März 2024 – Büchergroßhandlung.pdf"
    assert pdf.get_payload(decode=True) == b"%PDF-1.4\n" * 30


@pytest.mark.parametrize(
    ("name", "send", "changes"),
    [
        ("01-plain-ascii", {}, {}),
        ("02-eight-bit", {"name": "Zoë Müller-Lüdenscheidt", "variables": {"product": "Teekännchen"}}, {}),
        ("03-attachments", {"attachments": ATTACHED}, {}),
        ("04-transactional-text", {"variables": {"product": "4711"}}, {"stream": "transactional", "html": "", "text": "Your code: {{ product }}", "list_id": ""}),
    ],
)  # fmt: skip
def test_the_bytes_are_the_golden_ones(
    record: Maker, render: Maker, campaign: Maker, name: str, send: dict[str, Any], changes: dict[str, Any]
) -> None:
    if "attachments" in send:
        send = {"attachments": [dict(one) for one in send["attachments"]]}
    out = render(record(send, consent="oc"), campaign(**changes))
    read(out)
    assert out.value == (GOLDEN / f"{name}.eml").read_bytes()


def test_a_tenants_limits_are_kept(record: Maker, render: Maker) -> None:
    def reason(**part: Any) -> str:
        given = {"filename": "a", "content_type": "image/png", **part}
        return ended(render(record({"attachments": [given]})))[2]

    assert "not allowed" in reason(content_type="application/x-msdownload", data=b"MZ")
    assert "either data or url" in reason()
    assert "size and sha256" in reason(url="file:///x")
    assert "within the event" in reason(data=b"x" * 300_000)
    assert "may attach" in reason(url="file:///x", size=11_000_000, sha256="0" * 64)
    assert "printable ASCII" in reason(content_type="text/plaïn", data=b"x")
    assert "regex" in reason(content_type="text/plain\n", data=b"x")


def test_a_mail_with_attachments_may_be_larger(record: Maker, render: Maker) -> None:
    given = {"filename": "a.png", "content_type": "image/png", "data": b"x" * 3000}
    small = Settings(rendered=3000)
    assert ended(render(record({"variables": {"product": "x" * 4000}}), settings=small))[1] == "size"
    read(render(record({"attachments": [given]}), settings=small))


def test_the_stage_is_what_the_pipeline_expects() -> None:
    assert STAGE.topics == ("mail-screened-now", "mail-screened")
    assert STAGE.emits == ("mail-rendered",)
