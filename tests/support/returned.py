"""Mails that come back, as mail systems write them: the corpus of the parsers' tests, built from templates.

The layouts are those of the systems named; the words, hosts and people are made up.
"""

from __future__ import annotations

from base64 import encodebytes
from dataclasses import dataclass
from email.header import Header
from quopri import encodestring

OURS = "b-00112233445566778899aabbccddeeff00050011223344556677@bounce.shop.example"
SENDER = "news@shop.example"
ID = "00112233445566778899aabbccddeeff"


@dataclass(frozen=True)
class Mail:
    """``want``: what each recipient's address leads to. ``kind`` as ``mailsluice classify --mail`` prints it."""

    name: str
    kind: str
    want: tuple[tuple[str, str], ...]
    raw: bytes


def mail(name: str, kind: str, want: str, raw: str | bytes) -> Mail:
    """``want``: ``address action, address action``; text is encoded as UTF-8."""
    pairs = tuple((one.split()[0], one.split()[1]) for one in want.split(",") if one.strip())
    return Mail(name, kind, pairs, raw.encode() if isinstance(raw, str) else raw)


def word(text: str, charset: str = "utf-8") -> str:
    """A header value as encoded words (RFC 2047)."""
    return Header(text, charset, maxlinelen=60).encode()


def body(text: str, charset: str = "utf-8", encoding: str = "base64", kind: str = "text/plain") -> bytes:
    """A part's headers and body in a charset and a transfer encoding."""
    raw = text.encode(charset)
    head = f"Content-Type: {kind}; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
    if encoding == "base64":
        return head + encodebytes(raw)
    return head + (encodestring(raw) if encoding == "quoted-printable" else raw) + b"\n"


def original(to: str, subject: str = "Spring news", whole: bool = True) -> str:
    """The mail that comes back."""
    head = (
        f"Return-Path: <{OURS}>\nReceived: from out.shop.example (out.shop.example [192.0.2.25])\n\tby mx.example.net with ESMTPS id 4Zq1;\n"
        f"\tMon, 02 Jun 2025 08:00:01 +0000\nFrom: Shop <{SENDER}>\nTo: {to}\nSubject: {subject}\n"
        f"Message-ID: <{ID}.c1@shop.example>\nList-Unsubscribe: <mailto:u-00@bounce.shop.example>\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
    )
    return head + ("\nHello, our spring list is here. Questions: help@shop.example\n" if whole else "")


def plain(
    sender: str, subject: str, text: str, extra: str = "", charset: str = "", encoding: str = "8bit"
) -> bytes:
    """A mail of one text part; ``extra``: further header lines."""
    subject = subject if subject.isascii() else word(subject, charset or "utf-8")
    top = f"From: {sender}\nTo: {OURS}\nSubject: {subject}\nDate: Mon, 02 Jun 2025 08:05:00 +0000\n"
    top += f"Message-ID: <x1@mx.example.net>\nMIME-Version: 1.0\n{extra}"
    return top.encode() + body(text, charset or "utf-8", encoding)


def multi(
    sender: str, subject: str, *parts: str | bytes, kind: str = "report; report-type=delivery-status", extra: str = ""
) -> bytes:  # fmt: skip
    """A multipart mail; each part with its own headers."""
    subject = subject if subject.isascii() else word(subject)
    top = (
        f"Return-Path: <>\nFrom: {sender}\nTo: {OURS}\nSubject: {subject}\nDate: Mon, 02 Jun 2025 08:05:00 +0000\n"
        f'MIME-Version: 1.0\n{extra}Content-Type: multipart/{kind};\n\tboundary="=_ab/12.34"\n\nThis is a MIME-encapsulated message.\n\n'
    ).encode()
    for part in parts:
        top += b"--=_ab/12.34\n" + (part.encode() if isinstance(part, str) else part) + b"\n"
    return top + b"--=_ab/12.34--\n"


def text(words: str) -> str:
    """A plain part."""
    return f"Content-Type: text/plain; charset=utf-8\n\n{words}\n"


def status(*groups: str, mta: str = "dns; mx.example.net", kind: str = "message/delivery-status") -> str:
    """A delivery-status part; each group as its lines."""
    return f"Content-Type: {kind}\n\nReporting-MTA: {mta}\nArrival-Date: Mon, 02 Jun 2025 08:00:00 +0000\n\n" + "\n\n".join(groups) + "\n"  # fmt: skip


def who(address: str, code: str, diagnostic: str = "", action: str = "failed", more: str = "") -> str:
    """A recipient's group."""
    said = f"\nDiagnostic-Code: {diagnostic}" if diagnostic else ""
    return f"Final-Recipient: rfc822; {address}\nAction: {action}\nStatus: {code}{said}{more}"


def returned(to: str, whole: bool = True) -> str:
    """The original as a part: the message, or its header alone."""
    kind = "message/rfc822" if whole else "text/rfc822-headers"
    return f"Content-Type: {kind}\n\n{original(to, whole=whole)}"


# --- the systems


def postfix(to: str, code: str, reply: str, action: str = "failed") -> bytes:
    """Postfix: three parts; ``reply`` as its remote host said it."""
    host = "mx1." + to.rpartition("@")[2]
    late = action == "delayed"
    words = f"host\n    {host}[192.0.2.80] said: {reply} (in reply to RCPT TO\n    command)"
    intro = (
        "####################################################################\n# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #\n"
        "####################################################################\n\nYour message could not be delivered for more than 4 hours.\nIt will be retried until it is 5 days old."
        if late
        else "I'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients. It's attached below."
    )
    return multi(
        "MAILER-DAEMON@mail.example.net (Mail Delivery System)",
        "Delayed Mail (still being retried)" if late else "Undelivered Mail Returned to Sender",
        f"Content-Description: Notification\nContent-Type: text/plain; charset=us-ascii\n\nThis is the mail system at host mail.example.net.\n\n{intro}\n\n"
        f"For further assistance, please send mail to postmaster.\n\n                   The mail system\n\n<{to}>: {words}\n",
        status(
            f"Final-Recipient: rfc822; {to}\nOriginal-Recipient: rfc822;{to}\nAction: {action}\nStatus: {code}\nRemote-MTA: dns; {host}\nDiagnostic-Code: smtp; {reply}"
        ),
        returned(to),
        extra="Auto-Submitted: auto-replied\n",
    )


def exim(*failed: tuple[str, str], final: bool = True) -> bytes:
    """Exim: words and X-Failed-Recipients; (address, what happened)."""
    if not final:
        return plain(
            "Mail Delivery System <Mailer-Daemon@mx.example.net>", "Warning: message 1tQ9-0001 delayed 24 hours",
            "This message was created automatically by mail delivery software.\nA message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue on mx.example.net.\n\n"
            "The message identifier is:     1tQ9-0001\nThe subject of the message is: Spring news\n\nThe address to which the message has not yet been delivered is:\n\n"
            + "\n".join(f"  {to}\n    {why}" for to, why in failed) + "\n\nNo action is required on your part. Delivery attempts will continue for\nsome time. Eventually the mail\ndelivery software will give up, and the message will be returned to you.\n",
            "Auto-Submitted: auto-replied\n",
        )  # fmt: skip
    names = ",\n  ".join(to for to, _ in failed)
    blocks = "\n".join(f"  {to}\n    {why}\n" for to, why in failed)
    return plain(
        "Mail Delivery System <Mailer-Daemon@mx.example.net>",
        "Mail delivery failed: returning message to sender",
        "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\n"
        f"recipients. This is a permanent error. The following address(es) failed:\n\n{blocks}\n------ This is a copy of the message, including all the headers. ------\n\n{original(failed[0][0])}",
        f"X-Failed-Recipients: {names}\nAuto-Submitted: auto-replied\n",
    )


def qmail(*failed: tuple[str, str]) -> bytes:
    """qmail-send: QSBMF."""
    blocks = "\n".join(f"<{to}>:\n{why}\n" for to, why in failed)
    return plain(
        "MAILER-DAEMON@mail.example.net",
        "failure notice",
        "Hi. This is the qmail-send program at mail.example.net.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n"
        f"This is a permanent error; I've given up. Sorry it didn't work out.\n\n{blocks}\n--- Below this line is a copy of the message.\n\n{original(failed[0][0])}",
    )


def sendmail(to: str, code: str, transcript: str, reason: str = "") -> bytes:
    """Sendmail 8.12 and later."""
    return multi(
        "Mail Delivery Subsystem <MAILER-DAEMON@relay.example.net>",
        f"Returned mail: {reason or 'see transcript for details'}",
        "\nThe original message was received at Mon, 2 Jun 2025 08:00:00 GMT\nfrom out.shop.example [192.0.2.25]\n\n"
        f"   ----- The following addresses had permanent fatal errors -----\n<{to}>\n    (reason: {transcript})\n\n   ----- Transcript of session follows -----\n... while talking to mx1.example.org.:\n"
        f">>> DATA\n<<< {transcript}\n",
        status(who(to, code, f"SMTP; {transcript}"), mta="dns; relay.example.net"),
        returned(to, False),
        extra="Auto-Submitted: auto-generated (failure)\n",
    )


def exchange(
    to: str, code: str, diagnostic: str, words: str = "", heading: str = "Undeliverable: Spring news", admin: str = "Diagnostic information for administrators:"
) -> bytes:  # fmt: skip
    """Microsoft 365: a page of words, the diagnostic at its end, a status part."""
    words = (
        words
        or f"Delivery has failed to these recipients or groups:\n\n{to}\nThe email address you entered couldn't be found. Please check it and try again."
    )
    page = f"<html><head><style>p {{color: red}}</style></head><body><p>{words}</p><p><b>{admin}</b></p><p>Generating server: AM0PR01.eurprd01.prod.outlook.com</p><p>{to}<br>{diagnostic}</p><p>Original message headers:</p></body></html>"
    plain_words = f"{words}\n\n{admin}\n\nGenerating server: AM0PR01.eurprd01.prod.outlook.com\n\n{to}\n{diagnostic}\n\nOriginal message headers:\n\n{original(to, whole=False)}"
    return multi(
        "<postmaster@corp.example>",
        heading,
        b"Content-Type: multipart/alternative; boundary=inner\n\n--inner\n" + body(plain_words, "utf-8", "base64")
        + b"\n--inner\n" + body(page, "utf-8", "quoted-printable", "text/html") + b"\n--inner--\n",
        status(f"Final-Recipient: rfc822;{to}\nAction: failed\nStatus: {code}\nDiagnostic-Code: smtp;{diagnostic}", mta="dns;AM0PR01.eurprd01.prod.outlook.com"),
        returned(to),
        extra="X-MS-Exchange-Message-Is-Ndr:\nContent-Language: en-US\n",
    )  # fmt: skip


def google(to: str, code: str, diagnostic: str, words: str, action: str = "failed") -> bytes:
    """Gmail's own notices: alternative text and page, related image, status."""
    subject = (
        "Delivery Status Notification (Delay)"
        if action == "delayed"
        else "Delivery Status Notification (Failure)"
    )
    return multi(
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        subject,
        b"Content-Type: multipart/related; boundary=rel\n\n--rel\nContent-Type: multipart/alternative; boundary=alt\n\n--alt\n"
        + body(f"\n** {words} **\n\nYour message to {to} was not delivered.\n\nThe response from the remote server was:\n{diagnostic}\n", "utf-8", "quoted-printable")
        + b"\n--alt\n" + body(f"<div>{words}<br>{to}</div>", kind="text/html") + b"\n--alt--\n--rel\nContent-Type: image/png; name=icon.png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--rel--\n",
        status(f"Final-Recipient: rfc822; {to}\nAction: {action}\nStatus: {code}\nRemote-MTA: dns; mx.example.org. (192.0.2.90, the server for the domain example.org.)\nDiagnostic-Code: smtp; {diagnostic}", mta="dns; googlemail.com"),
        returned(to),
        extra=f"X-Failed-Recipients: {to}\nAuto-Submitted: auto-replied\n",
    )  # fmt: skip


def arf(feedback: str, fields: str = "", head: str = "") -> bytes:
    """An abuse report (RFC 5965); ``head``: more header lines of the mail it is about."""
    return multi(
        "feedback@fbl.example.org",
        "FW: Spring news",
        text("This is an email abuse report for an email message received from 192.0.2.25."),
        f"Content-Type: message/feedback-report\n\nFeedback-Type: {feedback}\nUser-Agent: Loop/1.0\nVersion: 1\n{fields}",
        "Content-Type: message/rfc822\n\n" + head + original("redacted"),
        kind="report; report-type=feedback-report",
    )
