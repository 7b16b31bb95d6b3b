"""A mail to send in tests, and a session to a test server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents.deliver.attempt import Attempt, Timeouts
from agents.deliver.connect import ConnectFailed, Networks, Settings, Target, connect
from agents.deliver.requirement import Requirement
from agents.deliver.smtp import Session
from tests.support.smtp_server import SmtpServer

LOOPBACK = Networks.parse("127.0.0.0/8")
BODY = b"Subject: hello\r\n\r\nHello there.\r\n"


@dataclass
class Letter:
    """A job that remembers what became of it."""

    rcpt: str = "to@b.example"
    body: bytes = BODY
    mail_from: str = "from@a.example"
    start: Callable[[], bool] = lambda: True
    dot: Callable[[], bool] = lambda: True
    after: Callable[[Attempt], Any] = lambda attempt: None
    attempts: list[Attempt] = field(default_factory=list)
    lates: list[Attempt] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def may_start(self) -> bool:
        return self.start()

    def may_dot(self) -> bool:
        return self.dot()

    def done(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        self.ended.set()
        self.after(attempt)

    def late(self, attempt: Attempt) -> None:
        self.lates.append(attempt)
        self.answered.set()


def settings(**changes: Any) -> Settings:
    """Settings that may go to loopback. ``timeouts``: seconds for every phase; 10 unless a test waits."""
    seconds = changes.pop("timeouts", 10.0)
    times = dict.fromkeys(("mail", "rcpt", "data", "block", "dot", "quit"), seconds)
    found: dict[str, Any] = {"connect": 5.0, "ehlo": 10.0, "starttls": 10.0, "networks": LOOPBACK}
    return Settings(hostname="client.test", timeouts=Timeouts(**times), **(found | changes))


def asked(mode: Any) -> Requirement:
    """A requirement out of its mode alone."""
    return mode if isinstance(mode, Requirement) else Requirement(mode)


async def dial(server: SmtpServer, **changes: Any) -> Session:
    """A session to the server; fails the test where there is none."""
    mode = changes.pop("tls_mode", "opportunistic")
    target = Target("mx.test", server.host, server.port, asked(mode))
    found = await connect(target, settings(**changes))
    assert not isinstance(found, ConnectFailed), found
    return found


async def post(session: Session, letter: Letter | None = None) -> Attempt:
    """Send one mail and wait (at most 10 s) for its end."""
    letter = letter or Letter()
    found = session.start(letter)
    if found is None:
        async with asyncio.timeout(10):
            await letter.ended.wait()
        [found] = letter.attempts
    else:
        assert letter.attempts == []
    return found


async def until(check: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until ``check`` is true; fails the test after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)
