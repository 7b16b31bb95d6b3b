"""Every mail of the corpora is what it is, and nobody is suppressed for what is not about them."""

from __future__ import annotations

from importlib import resources

import pytest

from schemas.reply import load_rules
from streams.ops.returned_mail import judged
from tests.agents.classify.corpus import CORPUS
from tests.agents.classify.held_out import HELD_OUT
from tests.support.returned import Mail, exchange, exim, google, plain, postfix, qmail, sendmail

RULES = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
ALL = [*CORPUS, *HELD_OUT]


def test_the_corpus_is_as_large_as_it_should_be():
    assert len({one.name for one in ALL}) == len(ALL) >= 250


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_what_it_is_and_what_to_do(one: Mail):
    found = judged(RULES, one.raw)
    assert found["kind"] == one.kind
    assert {(who["address"], who["action"]) for who in found["recipients"]} == set(one.want)


@pytest.mark.parametrize("one", [one for one in ALL if one.kind == "bounce"], ids=lambda one: one.name)
def test_a_bounce_that_somebody_forwards_is_none(one: Mail):
    forwarded = (
        b"From: Bob <bob@example.com>\nTo: help@shop.example\nSubject: Fwd: look at this\nMIME-Version: 1.0\n"
    )
    forwarded += b"Content-Type: multipart/mixed; boundary=fwd\n\n--fwd\n\nIs this for you? It could not be delivered.\n"
    forwarded += b"--fwd\nContent-Type: message/rfc822\n\n" + one.raw + b"\n--fwd--\n"
    assert judged(RULES, forwarded)["kind"] == "none"


A = "anna@example.org"


@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 Your IP is blacklisted",
        "550 5.7.1 blocked using zen.spamhaus.org",
        "550 5.2.1 blocked by policy",
        "550 User unknown or blocked: policy restriction",
        "550 message content rejected as spam, unknown user",
        "550 5.1.1 rejected: reputation too low",
        "554 5.1.0 Sender denied by DMARC policy",
        "550 no such user - your host is listed at rbl.example",
        "550 5.1.1 Access denied, banned sender",
    ],
)
def test_no_system_s_report_of_a_block_suppresses(said: str):
    reports = [
        postfix(A, "5.1.1", said),
        exim((A, f"host mx [192.0.2.1]: {said}")),
        qmail((A, f"Remote host said: {said}")),
        sendmail(A, "5.1.1", said),
        exchange(A, "5.1.1", said),
        google(A, "5.1.1", said, "Message blocked"),
        plain("postmaster@x.example", "Undeliverable", f"Not delivered to:\n{A}\n{said}\n"),
    ]
    for raw in reports:
        (who,) = judged(RULES, raw)["recipients"]
        assert (who["address"], who["action"]) == (A, "hold")
