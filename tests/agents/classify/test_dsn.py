"""Mails that came back: standard reports, the usual wrong ones, and hostile bytes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.classify.dsn import Recipient, parse_mail, recipients_of
from agents.classify.mime import DEEPEST, MOST_PARTS, parts


def dsn(
    status: str,
    kind: str = "message/delivery-status",
    outer: str = "multipart/report; report-type=delivery-status",
    original: str = "",
) -> bytes:
    return (
        "From: MAILER-DAEMON@mx.example.org\r\nTo: b-1@bounce.example.com\r\nSubject: Undelivered mail\r\n"
        f'MIME-Version: 1.0\r\nContent-Type: {outer}; boundary="=_b"\r\n\r\npreamble\r\n'
        "--=_b\r\nContent-Type: text/plain\r\n\r\nIt did not work.\r\n"
        f"--=_b\r\nContent-Type: {kind}\r\n\r\n{status}\r\n"
        f"--=_b\r\nContent-Type: message/rfc822\r\n\r\n{original or 'Message-ID: <abc@example.com>'}\r\n"
        "Feedback-ID: c1:t1:marketing:mailsluice\r\nSubject: hello\r\n\r\nbody\r\n--=_b--\r\n"
    ).encode()


STATUS = (
    "Reporting-MTA: dns; mx.example.org\r\n\r\n"
    "Final-Recipient: rfc822; anna@example.org\r\nAction: failed\r\nStatus: 5.1.1 (bad)\r\n"
    "Remote-MTA: dns; mail.example.org\r\nDiagnostic-Code: smtp; 550-5.1.1 No such\r\n user here\r\n"
)


def test_a_standard_report():
    found = parse_mail(dsn(STATUS))
    assert found.kind == "dsn"
    assert found.message_id == "<abc@example.com>"
    assert found.feedback_id == "c1:t1:marketing:mailsluice"
    assert found.recipients == (
        Recipient("anna@example.org", "failed", "5.1.1", "550-5.1.1 No such user here", "mail.example.org"),
    )


def test_several_recipients_and_actions():
    status = STATUS + (
        "\r\nOriginal-Recipient: rfc822;bob+2Bnews@example.org\r\nFinal-Recipient: rfc822; b@other.example\r\n"
        "Action: delayed\r\nStatus: 4.4.1\r\n\r\n"
        "Final-Recipient: rfc822; cleo@example.org\r\nAction: relayed\r\nStatus: 2.0.0\r\n"
    )
    found = parse_mail(dsn(status)).recipients
    assert [(r.address, r.action) for r in found] == [
        ("anna@example.org", "failed"),
        ("bob+news@example.org", "delayed"),
        ("cleo@example.org", "relayed"),
    ]
    assert found[1].reply == "4.4.1"


@pytest.mark.parametrize(
    ("kind", "outer"),
    [
        ("text/plain", "multipart/report"),
        ("application/octet-stream", "multipart/mixed"),
        ("message/global-delivery-status", "multipart/report"),
        ("MESSAGE/DELIVERY-STATUS; name=x", "multipart/mixed"),
    ],
)
def test_wrong_content_types_are_read_all_the_same(kind, outer):
    found = parse_mail(dsn(STATUS, kind, outer))
    assert (found.kind, found.recipients[0].status) == ("dsn", "5.1.1")


def test_a_report_in_base64_and_without_an_end():
    from base64 import encodebytes

    body = encodebytes(STATUS.encode()).decode()
    raw = dsn(body, "message/delivery-status\r\nContent-Transfer-Encoding: base64")
    assert (
        parse_mail(raw[: raw.index(b"Content-Type: message/rfc822")]).recipients[0].address
        == "anna@example.org"
    )


def test_internationalised_addresses():
    status = "Final-Recipient: utf-8; j\\x{F6}rg@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    assert recipients_of(status)[0].address == "jörg@example.org"
    status = "Final-Recipient: utf-8; jörg@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    assert recipients_of(status)[0].address == "jörg@example.org"
    status = "Final-Recipient: rfc822; anna+2024@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    assert recipients_of(status)[0].address == "anna+2024@example.org"


def test_missing_fields_are_inferred():
    assert recipients_of("Final-Recipient: rfc822; a@b.example\nStatus: 5.2.2")[0].action == "failed"
    assert recipients_of("Final-Recipient: a@b.example\nAction: Failed")[0].address == "a@b.example"
    assert (
        recipients_of("Action: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; no code")[0].reply
        == "5.0.0 no code"
    )
    assert recipients_of("Reporting-MTA: dns; x\n\nsomething else") == []
    (odd,) = recipients_of(
        "Final-Recipient: rfc822;a@b.example\nAction: failure\nStatus: 553 Message too big"
    )
    assert (odd.action, odd.reply) == ("failed", "553 Message too big")


QMAIL = b"""From: MAILER-DAEMON@mail.example.org
To: b-1@bounce.example.com
Subject: failure notice

Hi. This is the qmail-send program at mail.example.org.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<anna@example.org>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <b-1@bounce.example.com>
Message-ID: <abc@example.com>
Subject: hello

550 5.7.1 not part of it
"""

EXIM = b"""From: Mail Delivery System <Mailer-Daemon@mx.example.org>
Auto-Submitted: auto-replied
X-Failed-Recipients: anna@example.org
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  anna@example.org
    host mail.example.org [192.0.2.9]
    SMTP error from remote mail server after RCPT TO:<anna@example.org>:
    550 5.1.1 No such person

------ This is a copy of the message, including all the headers. ------

Message-ID: <abc@example.com>
"""

EXCHANGE = b"""From: postmaster@example.org
Subject: Undeliverable: hello

Your message did not reach some or all of the intended recipients.

The following recipient(s) could not be reached:

      anna@example.org on 1/2/2026 10:00
            The e-mail account does not exist at the organization this message was sent to.
            <mx.example.org #5.1.1>
"""

DELAYED = b"""From: Mail Delivery System <MAILER-DAEMON@mx.example.org>
Subject: Warning: message still undelivered after 4 hours

THIS IS A WARNING MESSAGE ONLY. YOU DO NOT NEED TO RESEND IT.
<anna@example.org>: 451 4.4.1 host not answering, will keep trying
"""


@pytest.mark.parametrize(
    ("raw", "address", "status", "action", "words"),
    [
        (QMAIL, "anna@example.org", "5.1.1", "failed", "no mailbox here"),
        (EXIM, "anna@example.org", "5.1.1", "failed", "550 5.1.1 No such person"),
        (EXCHANGE, "anna@example.org", "5.1.1", "failed", "#5.1.1"),
        (DELAYED, "anna@example.org", "4.4.1", "delayed", "451 4.4.1"),
    ],
)  # fmt: skip
def test_bounces_in_words(raw, address, status, action, words):
    found = parse_mail(raw)
    assert found.kind == "dsn"
    first = found.recipients[0]
    assert (first.address, first.status, first.action) == (address, status, action)
    assert words in first.reply
    assert "not part of it" not in first.reply


def test_the_returned_header_of_a_bounce_in_words():
    assert parse_mail(QMAIL).message_id == "<abc@example.com>"


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ("From: a@example.org\nAuto-Submitted: auto-replied\nSubject: Re: hello", "auto_reply"),
        ("From: a@example.org\nSubject: Out of Office: Re: hello", "auto_reply"),
        ("From: a@example.org\nSubject: Automatic reply: hello", "auto_reply"),
        ("From: a@example.org\nSubject: Abwesenheitsnotiz", "auto_reply"),
        ("From: a@example.org\nX-Autoreply: yes\nSubject: hm", "auto_reply"),
        ("From: a@example.org\nPrecedence: auto_reply\nSubject: hm", "auto_reply"),
        ("From: a@example.org\nAuto-Submitted: no\nSubject: Re: hello", "reply"),
        ("From: A <a@example.org>\nSubject: Re: delivery of my order", "reply"),
        ("From: a@example.org\nSubject: Unsubscribe", "unsubscribe"),
        ("From: a@example.org\nPrecedence: bulk\nSubject: News", "other"),
        ("Subject: nobody", "other"),
        ("", "other"),
    ],
)
def test_answers(headers, kind):
    assert parse_mail(f"{headers}\n\nSome words, 550 5.1.1 among them.\n".encode()).kind == kind


def test_a_read_receipt_says_nothing():
    raw = dsn(
        "Final-Recipient: rfc822; a@b.example\r\nDisposition: automatic-action/x; deleted",
        "message/disposition-notification",
    )
    assert parse_mail(raw).kind == "auto_reply"


# --- hostile


def nested(levels: int) -> bytes:
    body = b"Content-Type: text/plain\r\n\r\nx"
    for level in range(levels):
        mark = b"b%d" % level
        body = (
            b"Content-Type: multipart/mixed; boundary="
            + mark
            + b"\r\n\r\n--"
            + mark
            + b"\r\n"
            + body
            + b"\r\n--"
            + mark
            + b"--\r\n"
        )
    return body


def test_nesting_and_number_of_parts_are_bounded():
    assert len(parts(nested(DEEPEST - 1))[1]) == 1
    assert parse_mail(nested(2000)).kind == "other"
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 5000
    assert len(parts(many)[1]) == MOST_PARTS


@pytest.mark.parametrize(
    "raw",
    [
        b"From: mailer-daemon@x\nSubject: undeliverable\n\n" + b"a" * 900_000,
        b"From: mailer-daemon@x\nSubject: undeliverable\n\n" + b"<a@b.example>:\n" * 60_000,
        b"From: mailer-daemon@x\nSubject: undeliverable\n\n" + b"a@" * 400_000,
        b"a: b\n" * 200_000,
        b"Subject: " + b" \n " * 300_000,
        dsn("Action: failed\r\nFinal-Recipient: rfc822; a@b.example\r\n\r\n" * 10_000),
        dsn("Status: " + "5." * 100_000),
        dsn("Action: failed\nOriginal-Recipient: rfc822; " + "+2B" * 100_000),
    ],
    ids=range(8),
)
def test_large_input_costs_little(raw):
    began = time.process_time()
    parse_mail(raw)
    assert time.process_time() - began < 1.0


def test_unknown_charsets_and_encodings_are_survived():
    for extra in ("charset=nonsense", "charset=utf-16", "charset=idna", "charset=zlib", "charset=undefined"):
        raw = dsn(STATUS, f"text/plain; {extra}\r\nContent-Transfer-Encoding: x-own")
        assert parse_mail(raw).kind in ("dsn", "other", "reply")


@given(st.binary(max_size=400), st.sampled_from([b"", dsn(STATUS), QMAIL, EXIM]), st.integers(0, 900))
@settings(max_examples=150)
def test_never_raises(noise, base, at):
    found = parse_mail(base[:at] + noise + base[at:])
    assert found.kind in ("dsn", "arf", "auto_reply", "unsubscribe", "reply", "other")
    for who in found.recipients:
        assert len(who.address) <= 500
        assert "\n" not in who.reply
