"""TLS reports (RFC 8460): what counts, what a report says, who asked for it, and the mail that carries it."""

from __future__ import annotations

import email
import gzip
import json
from email import policy

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.deliver.sts import StsPolicy
from schemas.outcome import Outcome
from streams.cli import main
from streams.ops.tls_report.message import Places, message, read_record
from streams.ops.tls_report.send import policy_lines
from streams.ops.tls_report.tally import Day, Reporter, bounds, report, result_of, told_by

US = Reporter("Lakeside Shop", "mail@shop.example", "shop.example")


def outcome(security: str = "verified", asked: str = "", to: str = "a@x.example", **more: object) -> Outcome:
    values = {
        "state": "delivered",
        "phase": "dot",
        "mx": "mx1.x.example",
        "source": "192.0.2.1",
        "opened": True,
        "campaign": "c",
    } | more
    return Outcome(id="1", attempt=1, to=to, security=security, asked=asked, **values)  # type: ignore[arg-type]


def refused(reason: str, why: str) -> Outcome:
    return outcome(
        "",
        reason=reason,
        state="deferred",
        phase="starttls",
        reply=f"4.7.5 not sent: so it is and it failed: {why}",
        source="",
    )


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (outcome("sts", "sts"), ("sts", "")),
        (outcome("dane", "dane"), ("tlsa", "")),
        (outcome("encrypted"), ("no-policy-found", "")),
        (outcome("clear"), ("no-policy-found", "starttls-not-supported")),
        (outcome("broken"), ("no-policy-found", "validation-failure")),
        # The other side wants to know what enforcing its policy would stop.
        (outcome("verified", "testing"), ("sts", "")),
        (outcome("encrypted", "testing"), ("sts", "validation-failure")),
        (outcome("verified", "setting"), ("no-policy-found", "")),
        (refused("sts", "SSLCertVerificationError: certificate verify failed: Hostname mismatch"), ("sts", "certificate-host-mismatch")),
        (refused("sts", "certificate verify failed: certificate has expired (_ssl.c:1)"), ("sts", "certificate-expired")),
        (refused("sts", "certificate verify failed: self-signed certificate"), ("sts", "certificate-not-trusted")),
        (refused("dane", "no TLSA record matches the server's certificates"), ("tlsa", "validation-failure")),
        (refused("tls_required", "the server does not offer STARTTLS"), ("no-policy-found", "starttls-not-supported")),
        # A mail that went over a connection made for another one, or that never came so far.
        (outcome("sts", "sts", opened=False), None),
        (outcome("", state="deferred", phase="connect", reply="no connection within 30 s"), None),
        (outcome("", state="bounced", phase="rcpt"), None),
        # A report itself.
        (outcome(campaign=""), None),
    ],
)  # fmt: skip
def test_what_an_attempt_says_of_tls(found, wanted):
    assert told_by(found) == wanted


def test_the_report_of_a_domain_is_what_the_standard_asks_for():
    day = Day("2026-03-01")
    for one in (
        outcome("sts", "sts"),
        outcome("sts", "sts"),
        outcome("clear"),
        outcome("verified", to="b@other.example"),
    ):
        day.add(one)
    for _ in range(3):
        day.add(refused("sts", "certificate has expired"))
    lines = policy_lines(StsPolicy("enforce", ("*.x.example",), 86400))
    found = report(day, "x.example", US, {"sts": lines})
    assert found["report-id"] == "2026-03-01.x.example@shop.example"
    assert found["date-range"] == {
        "start-datetime": "2026-03-01T00:00:00Z",
        "end-datetime": "2026-03-01T23:59:59Z",
    }
    none, sts = found["policies"]
    assert none["policy"] == {"policy-type": "no-policy-found", "policy-domain": "x.example"}
    assert none["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": 1}
    assert sts["policy"] == {
        "policy-type": "sts",
        "policy-string": ["version: STSv1", "mode: enforce", "mx: *.x.example", "max_age: 86400"],
        "policy-domain": "x.example",
        "mx-host": ["*.x.example"],
    }
    assert sts["summary"] == {"total-successful-session-count": 2, "total-failure-session-count": 3}
    (failure,) = sts["failure-details"]
    assert (failure["result-type"], failure["failed-session-count"]) == ("certificate-expired", 3)
    assert failure["receiving-mx-hostname"] == "mx1.x.example"
    assert report(day, "nobody.example", US)["policies"] == []


def test_the_mail_carries_it_as_the_standard_asks():
    day = Day("2026-03-01")
    day.add(outcome())
    content = report(day, "x.example", US)
    raw = message(content, "x.example", "tls@x.example", "tlsrpt@shop.example", US, 1_772_500_000.0)
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert raw.isascii()
    mail = email.message_from_bytes(raw, policy=policy.default)
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == ("x.example", "shop.example")
    assert (
        mail["Subject"]
        == "Report Domain: x.example Submitter: shop.example Report-ID: <2026-03-01.x.example@shop.example>"
    )
    text, attached = mail.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    begin, end = bounds("2026-03-01")
    assert attached.get_filename() == f"shop.example!x.example!{begin:.0f}!{end - 1:.0f}.json.gz"
    assert json.loads(gzip.decompress(attached.get_content())) == content


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["v=TLSRPTv1; rua=mailto:tls@x.example"], Places(("tls@x.example",))),
        (["v=TLSRPTv1;rua=mailto:A%2Bb@X.example,https://x.example/r , mailto:c@y.example;"], Places(("a+b@x.example", "c@y.example"), 1)),
        (["v=TLSRPTv1; rua=mailto:no address"], Places((), 1)),
        (["v=TLSRPTv1;"], Places()),
        (["v=TLSRPTv1; rua=mailto:a@x.example", "v=TLSRPTv1; rua=mailto:b@x.example"], None),
        (["v=spf1 -all"], None),
        ([], None),
    ],
)  # fmt: skip
def test_who_wants_a_report(texts, wanted):
    assert read_record(texts) == wanted


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=60), st.text(max_size=40).map(lambda text: f"v=TLSRPTv1;rua=mailto:{text}")
        ),
        max_size=3,
    )
)
def test_a_hostile_record_names_nobody_else(texts):
    places = read_record(texts)
    assert places is None or all(address.isascii() and "\n" not in address for address in places.addresses)


def test_an_unknown_failure_is_one_of_validation():
    assert result_of("550 \x00 what") == "validation-failure"


def test_wrong_usage(tmp_path):
    def said(*arguments: str):
        return CliRunner().invoke(main, ["report", "tls", *arguments], env={"MAILSLUICE_KEYS": str(tmp_path)})

    assert "write it as 2026-03-01" in said("--day", "yesterday").output
    assert "is not over yet" in said("--day", "2999-01-01", "--send").output
    assert "or name the sender with --from" in said("--send").output
    assert said("--send", "--from", "nobody").exit_code == 2
