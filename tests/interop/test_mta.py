"""Mail to a real Postfix and a real Exim over STARTTLS that they require, verified as strictly as can be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.deliver.connect import ConnectFailed, Target, connect
from agents.deliver.dane import Tlsa
from agents.deliver.requirement import Requirement
from agents.deliver.smtp import Session
from agents.deliver.tls import contexts
from tests.support.mta import Mta, exim, postfix
from tests.support.pki import Issued, issue
from tests.support.smtp_mail import Letter, asked, post, settings

ROOT = issue("Root", authority=True)
MX = ROOT.issue("mx.test")
EE = Requirement("dane", "dane", (Tlsa(3, 1, 1, hashlib.sha256(MX.spki).digest()),))
TA = Requirement("dane", "dane", (Tlsa(2, 0, 1, hashlib.sha256(ROOT.der).digest()),), ("mx.test",))
LINES = b"".join(b"%b line %d\r\n" % (b"." * (n % 4), n) for n in range(3000))
BODY = b"From: a@a.example\r\nTo: b@b.example\r\nSubject: hello\r\nMessage-ID: <1@a.example>\r\n\r\n"


@pytest.fixture(scope="module", params=["postfix", "exim", "exim without CHUNKING", "exim, stepwise"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Mta, Issued]]:
    kind, _, how = request.param.partition(" ")
    kind = kind.rstrip(",")
    if kind == "postfix":
        with postfix(MX) as mta:
            yield kind, mta, MX
    else:
        with exim(MX, chunking=how != "without CHUNKING", pipelining=how != "stepwise") as mta:
            yield kind, mta, MX


async def dial(mta: Mta, tmp_path: Path, requires: Requirement) -> Session | ConnectFailed:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    where = settings(tls=contexts(str(tmp_path / "root.pem")), timeouts=20.0)
    return await connect(Target("mx.test", "127.0.0.1", mta.port, requires), where)


async def test_mail_arrives_whole_by_every_kind_of_tls(
    server: tuple[str, Mta, Issued], tmp_path: Path
) -> None:
    kind, mta, _ = server
    sent = []
    for requires, security in (
        (asked("require"), "verified"),
        (asked("verify"), "verified"),
        (EE, "dane"),
        (TA, "dane"),
    ):
        session = await dial(mta, tmp_path, requires)
        assert isinstance(session, Session), session
        assert (session.facts.security, session.facts.tls) == (security, "TLSv1.3")
        for text in (b"short\r\n", LINES, "naïve ☃\r\n".encode()):
            body = BODY + text + b"%d\r\n" % len(sent)
            attempt = await post(session, Letter(rcpt=f"box@{kind}.test", body=body))
            assert attempt.state == "accepted", attempt
            sent.append(body)
        session.quit()
    assert session.facts.extensions >= {"SIZE", "8BITMIME"}
    got = mta.mails(len(sent))
    assert len(got) == len(sent), mta.log()
    texts = sorted(mail.partition(b"\n\n")[2] for mail in got)
    assert texts == sorted(body.replace(b"\r\n", b"\n").partition(b"\n\n")[2] for body in sent)
    assert all(b"TLS" in mail.partition(b"\n\n")[0] for mail in got)


async def test_refusals_and_what_follows_on_the_same_connection(
    server: tuple[str, Mta, Issued], tmp_path: Path
) -> None:
    kind, mta, _ = server
    session = await dial(mta, tmp_path, asked("verify"))
    assert isinstance(session, Session)
    attempt = await post(session, Letter(rcpt="box@elsewhere.test", body=BODY))
    assert (attempt.state, attempt.phase, attempt.code // 100) == ("refused", "rcpt", 5)
    attempt = await post(session, Letter(rcpt=f"box@{kind}.test", body=BODY + b"after\r\n"))
    assert attempt.state == "accepted"
    held = await post(session, Letter(rcpt=f"box@{kind}.test", body=BODY + LINES, dot=lambda: False))
    assert held.state == "held"


async def test_without_tls_they_refuse_and_the_wrong_certificate_we_do(
    server: tuple[str, Mta, Issued], tmp_path: Path
) -> None:
    kind, mta, _ = server
    session = await dial(mta, tmp_path, asked("off"))
    assert isinstance(session, Session)
    attempt = await post(session, Letter(rcpt=f"box@{kind}.test", body=BODY))
    assert (attempt.state, attempt.phase, attempt.code // 100) == ("refused", "mail", 5)
    assert "STARTTLS" in attempt.text
    wrong = Requirement("dane", "dane", (Tlsa(3, 1, 1, bytes(32)),))
    found = await dial(mta, tmp_path, wrong)
    assert isinstance(found, ConnectFailed)
    assert (found.why, found.temporary) == ("dane", True)


async def test_a_session_is_taken_up_again(server: tuple[str, Mta, Issued], tmp_path: Path) -> None:
    _, mta, _ = server
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    where = settings(tls=contexts(str(tmp_path / "root.pem")))
    target = Target("mx.test", "127.0.0.1", mta.port, asked("verify"))
    found = []
    for _ in range(2):
        session = await connect(target, where)
        assert isinstance(session, Session), session
        found.append(session.ssl_object.session_reused)  # type: ignore[attr-defined]
        session.close()
    assert found == [False, True]
