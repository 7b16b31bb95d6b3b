"""What providers send back later, by real SMTP: bounces (RFC 3464) and complaints (RFC 5965).

A bounce goes to the message's return path from the empty sender; a complaint to ``fbl@`` its domain.
Both carry the original's header. The receiver may be down for a while: they are tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate

import aiosmtplib

from streams.lab.ledger import Take

LARGEST_HEADER = 16_384
"""Bytes of the original's header that go back."""
GIVE_UP = 120.0
"""Seconds for which a report is tried again."""
TIMEOUT = 15.0
AT_ONCE = 4


def dsn(take: Take, content: bytes, host: str, diagnostic: str, now: float) -> bytes:
    """The failure report of provider host ``host`` about a message it had taken (RFC 3464, 6522).

    ``diagnostic`` is a reply like ``550 5.1.1 no such user``; its enhanced code becomes the status.
    """
    first = diagnostic.split("\n")[0]
    words = first.split(" ", 2)
    status = words[1] if len(words) > 1 and words[1].count(".") == 2 else "5.0.0"
    report = (
        f"Reporting-MTA: dns; {host}\r\nArrival-Date: {formatdate(take.time)}\r\n\r\n"
        f"Original-Recipient: rfc822; {take.rcpt}\r\nFinal-Recipient: rfc822; {take.rcpt}\r\n"
        f"Action: failed\r\nStatus: {status}\r\nDiagnostic-Code: smtp; {first}\r\n"
        f"Last-Attempt-Date: {formatdate(now)}\r\n"
    )
    return _report(
        kind="delivery-status",
        sender=f"Mail Delivery System <mailer-daemon@{host}>",
        to=take.sender,
        subject="Undelivered mail returned to sender",
        text=f"Your message to {take.rcpt} was taken but could not be put into its mailbox:\r\n\r\n{first}",
        report=report,
        content=content,
        tag=f"dsn.{take.id}",
        host=host,
        now=now,
    )


def arf(take: Take, content: bytes, host: str, redacted: bool, now: float) -> bytes:
    """A complaint of the recipient (RFC 5965). ``redacted``: without their address, as some loops send it."""
    domain = take.rcpt.rpartition("@")[2]
    who = "" if redacted else f"Original-Rcpt-To: {take.rcpt}\r\n"
    report = (
        f"Feedback-Type: abuse\r\nUser-Agent: LabFeedback/1.0\r\nVersion: 1\r\n"
        f"Original-Mail-From: <{take.sender}>\r\n{who}Arrival-Date: {formatdate(take.time)}\r\n"
        f"Source-IP: {take.source}\r\nReported-Domain: {take.sender.rpartition('@')[2]}\r\n"
    )
    return _report(
        kind="feedback-report",
        sender=f"Feedback Loop <feedback@{domain}>",
        to=complaints_to(take),
        subject="Abuse report",
        text=f"This is a report about a message that came from {take.source}: a user calls it spam.",
        report=report,
        content=content,
        tag=f"arf.{take.id}",
        host=host,
        now=now,
    )


def complaints_to(take: Take) -> str:
    """The address that complaints about a message go to."""
    return f"fbl@{take.sender.rpartition('@')[2]}"


def _report(
    *,
    kind: str,
    sender: str,
    to: str,
    subject: str,
    text: str,
    report: str,
    content: bytes,
    tag: str,
    host: str,
    now: float,
) -> bytes:
    mark = f"=_{tag}"
    head = (
        f"From: {sender}\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {formatdate(now)}\r\n"
        f"Message-ID: <{tag}.{now:.3f}@{host}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type={kind};\r\n boundary="{mark}"\r\n\r\n'
        f"--{mark}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n\r\n"
        f"--{mark}\r\nContent-Type: message/{kind}\r\n\r\n{report}\r\n"
        f"--{mark}\r\nContent-Type: text/rfc822-headers\r\n\r\n"
    )
    original = content.partition(b"\r\n\r\n")[0][:LARGEST_HEADER]
    return head.encode("utf-8", "replace") + original + f"\r\n\r\n--{mark}--\r\n".encode()


class Feedback:
    """Sends the reports to the pipeline's SMTP edge, a few at a time, each after its delay.

    ``host`` and ``port`` may change while it runs. ``waiting`` are those not yet taken by the edge,
    ``lost`` those given up.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.lost = 0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Reports on their way."""
        return len(self._tasks)

    def later(
        self, delay: float, sender: str, to: str, make: Callable[[], bytes], sent: Callable[[], None]
    ) -> None:
        """Send what ``make`` returns after ``delay`` seconds; ``sent`` is called at the edge's 250."""
        task = asyncio.ensure_future(self._send(delay, sender, to, make, sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(
        self, delay: float, sender: str, to: str, make: Callable[[], bytes], sent: Callable[[], None]
    ) -> None:
        await asyncio.sleep(delay)
        message, pause, spent = make(), 0.5, 0.0
        while spent < GIVE_UP:
            code = await self._try(sender, to, message)
            if code == 250:
                sent()
                return
            if code >= 500:
                break
            await asyncio.sleep(pause)
            spent += pause
            pause = min(5.0, pause * 2)
        self.lost += 1

    async def _try(self, sender: str, to: str, message: bytes) -> int:
        """The reply's code; 0 where there was none."""
        async with self._slots:
            client = aiosmtplib.SMTP(
                hostname=self.host,
                port=self.port,
                timeout=TIMEOUT,
                start_tls=False,
                local_hostname="lab.test",
            )
            try:
                async with client:
                    await client.sendmail(sender, [to], message)
            except aiosmtplib.SMTPRecipientsRefused as error:
                return error.recipients[0].code
            except aiosmtplib.SMTPResponseException as error:
                return error.code
            except (aiosmtplib.SMTPException, OSError):
                return 0
        return 250

    async def close(self) -> None:
        """Drop what is still waiting."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
