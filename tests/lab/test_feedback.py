"""Bounces and complaints: well-formed reports, sent by real SMTP, again while the edge is down."""

import asyncio
from email import message_from_bytes
from email.policy import default

import pytest

from streams.lab.feedback import Feedback, arf, complaints_to, dsn
from streams.lab.ledger import Take
from streams.lab.site import Fault, Sink
from streams.lab.smtp import SmtpServer
from tests.lab.letters import letter

TAKE = Take(
    1e9,
    1e9,
    "127.0.0.1",
    "id1",
    "<id1@shop.test>",
    "ann@gmail.test",
    "b-1@bounces.shop.test",
    100,
    marketing=True,
)


class Edge(Sink):
    """Keeps what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[str, str, bytes]] = []

    def dot(self, session, content, replied):
        """Keep it."""
        self.got.append((session.sender, session.rcpts[0], content))
        return super().dot(session, content, replied)


@pytest.fixture
async def edge():
    async with SmtpServer(Edge()) as running:
        yield running


def test_a_bounce_is_an_rfc_3464_report():
    raw = dsn(TAKE, letter(), "mx.gmail.test", "550 5.2.1 The account is disabled\n5.2.1 so it is", 1e9 + 2)
    report = message_from_bytes(raw, policy=default)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report["Auto-Submitted"] == "auto-replied"
    text, status, original = report.iter_parts()
    assert "ann@gmail.test" in text.get_content()
    whole, recipient = status.get_payload()
    assert whole["Reporting-MTA"] == "dns; mx.gmail.test"
    assert recipient["Final-Recipient"] == "rfc822; ann@gmail.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.2.1"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.2.1 The account is disabled"
    assert original.get_content_type() == "text/rfc822-headers"
    assert "<id1@shop.test>" in original.get_content()
    assert b"<p>hi" not in raw
    assert raw.count(b"\n") == raw.count(b"\r\n")


def test_a_diagnostic_without_an_enhanced_code():
    assert b"\r\nStatus: 5.0.0\r\n" in dsn(TAKE, letter(), "mx.gmail.test", "554 no such account", 1e9)


@pytest.mark.parametrize("redacted", [False, True])
def test_a_complaint_is_an_rfc_5965_report(redacted):
    report = message_from_bytes(arf(TAKE, letter(), "mx.gmail.test", redacted, 1e9), policy=default)
    assert report.get_param("report-type") == "feedback-report"
    _, feedback, original = report.iter_parts()
    assert feedback.get_content_type() == "message/feedback-report"
    fields = message_from_bytes(feedback.as_bytes().partition(b"\n\n")[2])
    assert fields["Feedback-Type"] == "abuse"
    assert fields["Version"] == "1"
    assert fields["Original-Mail-From"] == "<b-1@bounces.shop.test>"
    assert (fields["Original-Rcpt-To"] is None) == redacted
    assert fields["Source-IP"] == "127.0.0.1"
    assert "List-Unsubscribe-Post" in original.get_content()
    assert complaints_to(TAKE) == "fbl@bounces.shop.test"


async def test_reports_are_sent_after_their_delay_and_again_while_the_edge_is_unwell(edge):
    edge.site.script(Fault("connect", "reset"))
    edge.site.script(Fault("dot", "reply", text="451 4.3.0 not now"))
    feedback = Feedback(*edge.address)
    sent = asyncio.Event()
    raw = dsn(TAKE, letter(), "mx.gmail.test", "550 5.1.1 gone", 1e9)
    feedback.later(0.05, "", TAKE.sender, lambda: raw, sent.set)
    assert feedback.waiting == 1
    assert not edge.site.got
    await asyncio.wait_for(sent.wait(), 10)
    assert edge.site.got == [("", "b-1@bounces.shop.test", raw)]
    await asyncio.sleep(0)
    assert (feedback.waiting, feedback.lost) == (0, 0)


async def test_a_refused_report_is_counted_and_a_waiting_one_can_be_dropped(edge):
    edge.site.script(Fault("rcpt", "reply", text="550 5.1.1 no such token"))
    feedback = Feedback(*edge.address)
    feedback.later(0, "", TAKE.sender, lambda: b"x\r\n", lambda: None)
    async with asyncio.timeout(5):
        while feedback.waiting:
            await asyncio.sleep(0.02)
    assert feedback.lost == 1
    feedback.later(60, "", TAKE.sender, lambda: b"x\r\n", lambda: None)
    await feedback.close()
    assert feedback.waiting == 0
    assert not edge.site.got
