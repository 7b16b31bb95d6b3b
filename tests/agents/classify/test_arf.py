"""Abuse reports (RFC 5965)."""

from __future__ import annotations

import pytest

from agents.classify.arf import mailbox
from agents.classify.dsn import parse_mail


def arf(report: str, original: str = "Message-ID: <abc@example.com>") -> bytes:
    return (
        "From: fbl@provider.example\r\nTo: fbl@bounce.example.com\r\nSubject: FW: hello\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: text/plain\r\n\r\nAn abuse report.\r\n"
        f"--b\r\nContent-Type: message/feedback-report\r\n\r\n{report}\r\n"
        f"--b\r\nContent-Type: message/rfc822\r\n\r\n{original}\r\n\r\nbody\r\n--b--\r\n"
    ).encode()


def test_what_it_tells():
    found = parse_mail(
        arf(
            "Feedback-Type: Abuse\r\nVersion: 1\r\nOriginal-Mail-From: <b-1@bounce.example.com>\r\n"
            "Original-Rcpt-To: <anna@example.org>\r\nSource-IP: 192.0.2.25",
            "Message-ID: <abc@example.com>\r\nDKIM-Signature: v=1; a=rsa-sha256; d=News.Example.com;\r\n s=k1; bh=x",
        )
    )
    assert found.kind == "arf"
    said = found.complaint
    assert said is not None
    assert said.counts
    assert (said.feedback, said.recipient, said.dkim) == ("abuse", "anna@example.org", "news.example.com")
    assert (said.mail_from, said.source, said.message_id) == (
        "b-1@bounce.example.com",
        "192.0.2.25",
        "<abc@example.com>",
    )
    assert found.message_id == "<abc@example.com>"


@pytest.mark.parametrize(
    ("feedback", "counts"),
    [("abuse", True), ("fraud", True), ("not-spam", False), ("auth-failure", False), ("virus", False), ("other", False)],
)  # fmt: skip
def test_what_counts_as_a_complaint(feedback, counts):
    said = parse_mail(arf(f"Feedback-Type: {feedback}\r\nVersion: 1")).complaint
    assert said is not None
    assert said.counts is counts


def test_the_signing_domain_where_the_report_names_none():
    said = parse_mail(arf("Feedback-Type: abuse\r\nReported-Domain: example.com")).complaint
    assert said is not None
    assert said.dkim == "example.com"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("Anna <anna@example.org>", "anna@example.org"),
        ("anna@example.org (Anna)", "anna@example.org"),
        ('"a@b" <c@example.org>', "c@example.org"),
        ("nobody", ""),
        ("", ""),
    ],
)
def test_mailbox(value, address):
    assert mailbox(value) == address
