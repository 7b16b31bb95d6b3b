"""``mailsluice classify``, as an operator or a program calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from schemas.reply import Meaning
from streams.ops.classify import LONGEST_LINE, classify
from streams.ops.clusters import Groups


def asked(text: str | bytes = "", *arguments: str):
    found = CliRunner().invoke(classify, list(arguments), input=text)
    return found, [json.loads(line) for line in found.stdout.splitlines()]


def test_replies_plain_and_in_json():
    lines = [
        "550 5.1.1 No such user",
        "",
        json.dumps(
            {"mx": "mta5.am0.yahoodns.net", "phase": "data", "reply": "552 mailbox not found", "n": 1}
        ),
        json.dumps({"phase": "mail", "mx": None, "reply": "550-5.1.1 User unknown\n550 5.1.1 here"}),
        "hello",
        "421 4.7.28 Too much from your IP address [192.0.2.1 19]. gsmtp",
    ]
    found, said = asked("\n".join(lines))
    assert found.exit_code == 0
    assert [(one["class"], one["action"]) for one in said] == [
        ("unknown_user", "suppress"),
        ("unknown_user", "suppress"),
        ("refused", "hold"),
        ("unclassified", "none"),
        ("rate", "slow"),
    ]
    assert set(said[0]) == {"class", "scope", "permanence", "action", "rule"}
    assert said[1]["rule"] == "yahoo-unknown"
    assert said[4]["names"] == {"ip": "192.0.2.1"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{no", "line 2: it begins with { but is no JSON"),
        ('{"reply": 5}', "line 2: it should be"),
        ('{"mx": "x"}', "line 2: it should be"),
        ("x" * (LONGEST_LINE + 5), "line 2: it has more than"),
    ],
)
def test_a_bad_line_is_named_and_the_others_go_on(line, fault):
    found, said = asked(f"550 5.1.1 x\n{line}\n452 4.2.2 full\n")
    assert found.exit_code == 1
    assert fault in found.stderr
    assert [one["action"] for one in said] == ["suppress", "soft"]


def test_bytes_that_are_no_text():
    found, said = asked(b"550 5.1.1 \xff\xfe\x00\r\n")
    assert (found.exit_code, said[0]["action"]) == (0, "suppress")


DSN = """From: mailer-daemon@mx.example.org
Subject: Undelivered
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx

Final-Recipient: rfc822; anna@example.org
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 User unknown

Final-Recipient: rfc822; bob@example.org
Action: delayed
Status: 4.2.2

Final-Recipient: rfc822; cleo@example.org
Action: delivered
Status: 2.0.0

--b--
"""
ARF = """From: fbl@provider.example
Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b
Content-Type: message/feedback-report

Feedback-Type: {feedback}
Original-Rcpt-To: anna@example.org

--b--
"""


def test_mails(tmp_path):
    mails = {
        "dsn.eml": DSN,
        "arf.eml": ARF.format(feedback="abuse"),
        "fine.eml": ARF.format(feedback="not-spam"),
        "away.eml": "From: a@example.org\nAuto-Submitted: auto-replied\n\nAway\n",
        "leave.eml": "From: a@example.org\nSubject: unsubscribe\n\n",
    }
    for name, text in mails.items():
        (tmp_path / name).write_text(text)
    found, said = asked("", "--mail", *(str(tmp_path / name) for name in mails))
    assert found.exit_code == 0
    told = {one["file"].rpartition("/")[2]: one for one in said}
    assert [one["kind"] for one in told.values()] == [
        "bounce",
        "complaint",
        "none",
        "auto_reply",
        "unsubscribe",
    ]
    anna, bob, cleo = told["dsn.eml"]["recipients"]
    assert (anna["address"], anna["status"], anna["reply"]) == (
        "anna@example.org",
        "5.1.1",
        "550 5.1.1 User unknown",
    )
    assert (anna["class"], anna["action"]) == ("unknown_user", "suppress")
    assert (bob["action"], cleo["action"]) == ("retry", "none")
    assert told["arf.eml"]["recipients"][0]["action"] == "complaint"
    assert told["fine.eml"]["recipients"][0]["action"] == "none"
    assert told["away.eml"]["recipients"] == []
    assert told["leave.eml"]["recipients"][0]["action"] == "unsubscribe"


def test_a_mail_on_standard_input_and_a_missing_one(tmp_path):
    found, said = asked(DSN, "--mail", str(tmp_path / "missing.eml"), "-")
    assert found.exit_code == 1
    assert "missing.eml: No such file" in found.stderr
    assert said[0]["kind"] == "bounce"


def clusters(*arguments: str, text: str = ""):
    return CliRunner().invoke(classify, ["--cluster", *arguments], input=text)


def test_what_no_rule_knows_is_grouped_for_review(tmp_path):
    lines = [
        "550 5.9.1 Zorp zurbled anna@example.org at mx1.example.net [192.0.2.7] ticket 4Fh2kL3z9Xz1B, see http://a.example/x?y=1",
        "550-5.9.1 Zorp zurbled bob@example.org at mx22.example.com\n550 5.9.1 [2001:db8::9] ticket 9Fh2kL3z9Xz77, see https://b.example/",
        "550 5.1.1 User unknown",
        "hello",
        "250 OK",
    ]
    file = tmp_path / "replies.jsonl"
    file.write_text("\n".join(json.dumps({"reply": line}) for line in lines))
    found = clusters("--json", str(file))
    assert found.exit_code == 0
    told = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(one["count"], one["code"], one["enhanced"], one["action"]) for one in told] == [
        (2, "550", "5.9.1", "hold"),
        (1, "", "", "none"),
    ]
    assert told[0]["text"] == "zorp zurbled @ at HOST [#] ticket #, see URL"
    assert "3 of 5 replies are known to no rule" in found.stderr
    assert clusters("-", text="550 Zorp\n550 zorp").stdout.split() == ["2", "550", "hold", "zorp"]


def test_clusters_name_what_they_cannot_read(tmp_path):
    found = clusters(str(tmp_path / "missing.txt"), "-", text="550 Zorp\n{no\n")
    assert found.exit_code == 1
    assert "missing.txt: No such file" in found.stderr
    assert "-: line 2: it begins with { but is no JSON" in found.stderr
    assert "zorp" in found.stdout
    assert clusters("--mail").exit_code == 2


def test_groups_are_bounded():
    groups = Groups(most=2)
    for word in ("one", "two", "three", "three", "two"):
        groups.add(f"550 zorp {word}", Meaning("refused", "domain", "permanent", "hold", "basic-550", 550))
    assert [(group.text, group.count) for group in groups] == [("zorp two", 2), ("zorp one", 1)]
    assert (groups.seen, groups.unclassified, groups.over) == (5, 5, 2)


def test_wrong_usage():
    assert asked("", "file.eml")[0].exit_code == 2
    assert asked("", "--mail")[0].exit_code == 2


def test_help_has_an_example():
    assert "Example: echo" in CliRunner().invoke(classify, ["--help"]).output


def test_each_answer_comes_before_the_next_question():
    command = [sys.executable, "-c", "from streams.ops.classify import classify; classify()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"550 5.1.1 No such user\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["action"] == "suppress"
        process.stdin.close()
        assert process.wait() == 0
        watchdog.cancel()
