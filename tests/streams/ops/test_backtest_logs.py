"""Logs of other engines: what is read, what is passed over, and that nothing hostile gets further than a count."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.ops.backtest.kumomta import KumoMta
from streams.ops.backtest.logs import BadLog, Seen, read_logs
from streams.ops.backtest.powermta import PowerMta
from streams.ops.backtest.row import BadLine, Row, Whose, host, seconds

HEADER = "type,timeLogged,orig,rcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,dlvSourceIp,vmta,queue,feedbackType"
NOON = 1772366400.0  # 2026-03-01 12:00:00Z
GMAIL = "gmail-smtp-in.l.google.com (192.0.2.27)"


def pmta(*fields: str) -> Row | None:
    return PowerMta(HEADER, Whose()).row(",".join(fields))


def kumo(**fields: object) -> Row | None:
    record = {"type": "Delivery", "recipient": "Anna@gmail.com", "timestamp": NOON, "egress_source": "ip-1"}
    return KumoMta(Whose()).row(json.dumps(record | fields))


def log(path: Path, *lines: str) -> str:
    path.write_text("\n".join((HEADER, *lines, "")), "utf-8")
    return str(path)


def line(kind: str, at: str, to: str) -> str:
    return f"{kind},{at},b@news.example,{to},,5.1.1 (bad),smtp;550 5.1.1 no,mx.example.org,bad-mailbox,192.0.2.1,v1,,"


def test_records_of_powermta():
    delivered = pmta(
        "d",
        "2026-03-01 12:00:00+0000",
        "b@x",
        "Anna@Gmail.com",
        "relayed",
        "2.0.0",
        "smtp;250 ok",
        GMAIL,
        "",
        "192.0.2.1",
        "v1",
        "",
        "",
    )
    assert delivered == Row(
        NOON, "delivered", "anna@gmail.com", "v1", "google", "smtp;250 ok", "", "gmail-smtp-in.l.google.com"
    )
    bounced = pmta(
        "b",
        f"{NOON:.0f}",
        "b@x",
        "c@shop.example",
        "failed",
        "5.1.1 (bad destination mailbox address)",
        '"smtp;550 5.1.1 ""no"", sorry"',
        "mx.mail.example",
        "bad-mailbox",
        "192.0.2.1",
        "",
        "",
        "",
    )
    assert bounced is not None
    assert (bounced.kind, bounced.source, bounced.provider) == ("bounced", "192.0.2.1", "mail.example")
    assert bounced.reply == 'smtp;550 5.1.1 "no", sorry'
    assert bounced.category == "bad-mailbox"
    queue = pmta("tq", f"{NOON:.0f}", "", "", "", "", "421 busy", "", "", "", "", "yahoo.com/v2", "")
    assert queue == Row(NOON, "deferred", "", "v2", "yahoo", "421 busy", "connect")
    for kind, feedback, wanted in (("rb", "", "late"), ("f", "abuse", "complaint"), ("t", "", "deferred")):
        row = pmta(kind, f"{NOON:.0f}", "b@x", "c@shop.example", "", "", "", "", "", "", "v1", "", feedback)
        assert row is not None
        assert row.kind == wanted
    # No delivery, no complaint, or the end of what was told before.
    assert pmta("r", f"{NOON:.0f}", "b@x", "c@shop.example") is None
    assert pmta("f", f"{NOON:.0f}", "b@x", "c@shop.example", *[""] * 8, "virus") is None
    assert pmta("b", f"{NOON:.0f}", "b@x", "c@shop.example", "", "", "", "", "message-expired") is None


def test_records_of_kumomta():
    peer = {"name": "mta7.am0.yahoodns.net.", "addr": "192.0.2.4"}
    code = {"class": 5, "subject": 1, "detail": 1}
    said = {"code": 550, "enhanced_code": code, "content": "no such user", "command": "RCPT TO:<a@yahoo.com>"}
    row = kumo(type="Bounce", response=said, peer_address=peer, bounce_classification="InvalidRecipient")
    assert row == Row(
        NOON, "bounced", "anna@gmail.com", "ip-1", "yahoo", "550 5.1.1 no such user", "rcpt", "mta7.am0.yahoodns.net", "InvalidRecipient"
    )  # fmt: skip
    by_site = kumo(type="TransientFailure", site="ip-1->(alt1|alt2)?.gmail-smtp-in.l.google.com.")
    assert by_site is not None
    assert (by_site.kind, by_site.provider) == ("deferred", "google")
    report = {"feedback_type": "abuse", "original_rcpto_to": ["<c@orange.fr>"]}
    complaint = kumo(type="Feedback", recipient="fbl@ours.example", feedback_report=report, peer_address=peer)
    assert complaint is not None
    assert (complaint.kind, complaint.to, complaint.provider) == ("complaint", "c@orange.fr", "orange")
    newer = kumo(timestamp="2026-03-01T12:00:00.25Z", egress_source=None)
    assert newer is not None
    assert (newer.time, newer.source, newer.category) == (NOON + 0.25, "default", "")
    assert kumo(type="Reception") is None
    assert kumo(type="Expiration") is None


def test_a_recipient_whose_host_is_not_told_is_where_their_domain_was_before():
    whose = Whose()
    assert whose.of("a@shop.example", "") == "shop.example"
    assert whose.of("a@shop.example", "shop-example.mail.protection.outlook.com") == "microsoft365"
    assert whose.of("b@shop.example", "") == "microsoft365"


@pytest.mark.parametrize("text", ["", "soon", "-5", "1e400", "2026-13-01", "99999999999999", "nan", "²"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(BadLine, match="is no time"):
        seconds(text)


def test_times_of_several_kinds_are_the_same():
    assert {
        seconds(text)
        for text in ("1772366400", "2026-03-01T12:00:00Z", "2026-03-01 13:00:00+0100", "2026-03-01 12:00:00")
    } == {NOON}
    assert host("mx1.example.org. (192.0.2.1)") == "mx1.example.org"
    assert host("[192.0.2.1]x|y") == ""


def test_bad_lines_are_counted_with_their_place_and_the_rest_goes_on(tmp_path):
    name = log(
        tmp_path / "acct.csv",
        line("b", "1772366400", "a@shop.example"),
        "!!,what,is,this",
        line("b", "yesterday", "a@shop.example"),
        line("b", "1772366401", "nobody"),
        'b,1772366402,b@x,c@shop.example,,,"a quotation without end',
        line("b", "1772366403", "d@shop.example"),
        f"b,{'9' * 1_000_001}",
        'b,1772366404,b@x,e@shop.example,,5.1.1,"two\nlines",mx.example.org,bad-mailbox,,v1,,',
        HEADER,
        line("d", "1772366405", "f@shop.example"),
    )
    seen = Seen()
    rows = list(read_logs((name,), seen))
    assert [row.to[0] for row in rows] == ["a", "d", "e", "f"]
    assert rows[2].reply == "two\nlines"
    assert seen.bad.count == 5
    assert [shown.removeprefix(name).split(":")[1] for shown in seen.bad.shown] == ["3", "4", "5", "6", "8"]
    assert "nobody" not in " ".join(seen.bad.shown)


def test_files_are_merged_by_time_compressed_or_not(tmp_path):
    early, late = (
        [line("d", str(1772366400 + at), f"u{at}@shop.example") for at in ats]
        for ats in ((0, 2, 4), (1, 3, 9))
    )
    plain = log(tmp_path / "late.csv", *late)
    packed = tmp_path / "early.csv.gz"
    packed.write_bytes(gzip.compress("\n".join((HEADER, *early)).encode()))
    seen = Seen()
    assert [row.time - NOON for row in read_logs((plain, str(packed)), seen)] == [0, 1, 2, 3, 4, 9]
    assert (seen.rows, seen.bad.count, seen.engines) == (6, 0, {"PowerMTA"})


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no program zstd")
def test_segments_of_zstd_are_read_and_their_damage_is_told(tmp_path):
    record = {"type": "Delivery", "recipient": "a@gmail.com", "timestamp": NOON}
    text = "".join(json.dumps(record | {"timestamp": NOON + at}) + "\n" for at in range(5000))
    packed = subprocess.run(["zstd", "-qc"], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.write_bytes(packed)
    broken.write_bytes(packed[: len(packed) // 2])
    seen = Seen()
    assert len(list(read_logs((str(whole),), seen))) == 5000
    assert seen.bad.count == 0
    list(read_logs((str(broken),), seen))
    assert "damaged" in seen.bad.shown[-1]


def test_what_is_no_log_is_told_as_a_whole(tmp_path):
    no_header = tmp_path / "acct.csv"
    no_header.write_text(line("b", "1772366400", "a@shop.example") + "\n")
    with pytest.raises(
        BadLog, match=r"neither a PowerMTA accounting file's header .* nor a KumoMTA log record"
    ):
        list(read_logs((str(no_header),), Seen()))
    no_header.write_text("type,orig\nd,x\n")
    with pytest.raises(BadLog, match="no column timelogged, rcpt"):
        list(read_logs((str(no_header),), Seen()))
    no_header.write_bytes(gzip.compress(HEADER.encode() * 1000)[:-20])
    with pytest.raises(BadLog, match="damaged"):
        list(read_logs((str(no_header),), Seen()))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([
    b'{"type":"Bounce","recipient":["a@b.example"],"timestamp":1772366400}', b'{"type":"Bounce","response":[],"recipient":{}}', b'{"type":7}',
    b'{"type":"Feedback","feedback_report":{"original_rcpto_to":[3]},"timestamp":1}', b"[]", b"{", b'b,1772366400,x,a@b.example,"', HEADER.encode(), b"type,",
    b'd,1772366400,,a@b.example,,,"x""y",,,,\xff\xfe,,', b'{"type":"Bounce","recipient":"a@b|c","timestamp":1e999}',
])), max_size=12), st.sampled_from([b"", HEADER.encode() + b"\n", b'{"type":"x"}\n']))  # fmt: skip
def test_nothing_in_a_file_raises_but_that_it_is_no_log(tmp_path_factory, lines, begin):
    path = tmp_path_factory.mktemp("logs") / "log"
    path.write_bytes(begin + b"\n".join(lines))
    seen = Seen()
    try:
        rows = list(read_logs((str(path),), seen))
    except BadLog:
        return
    assert seen.rows == len(rows)
    assert all(row.provider.isprintable() and "|" not in row.provider + row.source for row in rows)


def test_a_file_that_an_editor_wrote_again_and_odd_rows_in_it_are_read(tmp_path):
    log = tmp_path / "acct.csv"
    rows = [
        'b,1772366400,a@shop.example,"550 5.1.1 no such user\nsecond line, with ""quotes"""',
        "d,soon,b@shop.example,",
        "d,1772366401",
        ",,,",
        "x" * 200_000 + ",1,2,3",
        "d,1772366402,c@shop.example,250 ok,more,than,the,header,has",
    ]
    log.write_bytes(
        b"\xef\xbb\xbf" + ("type,timeLogged,rcpt,dsnDiag\r\n" + "\r\n".join(rows) + "\r\n").encode()
    )
    seen = Seen()
    found = list(read_logs((str(log),), seen))
    assert [(row.kind, row.to) for row in found] == [
        ("bounced", "a@shop.example"),
        ("delivered", "c@shop.example"),
    ]
    assert found[0].reply.startswith("550 5.1.1 no such user")
    assert seen.bad.count == 3
    assert [text.split(":", 2)[1] for text in seen.bad.shown] == ["4", "5", "6"]  # each with its line
