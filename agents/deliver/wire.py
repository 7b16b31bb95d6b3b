"""Bytes of SMTP, without a connection: its phases, the commands of a mail, its body on the wire, replies out of bytes."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

import idna

from agents.deliver.attempt import Facts

MAX_LINE = 4096
"""Bytes of a reply line; RFC 5321 4.5.3.1.5 allows 512, some servers take more."""
MAX_REPLY = 32_768
"""Bytes of a whole multi-line reply."""
MAX_TEXT = 2000
"""Characters that are kept of a reply's text."""

TAIL = 64
"""Bytes of a mail that are left for its last BDAT chunk: few, because they are what is held back until the
right to send is looked at, and not none, because an empty last chunk is a rarity that some servers trip over."""
NO_BDAT = frozenset({500, 502, 503, 504})
"""Codes by which a server says that it does not know BDAT, whatever its EHLO said."""

_CONTROLS = dict.fromkeys((*range(32), 127), " ")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_UNSAFE = re.compile(r"[\x00-\x20\x7f<>]")


class Phase(IntEnum):
    """What is awaited. SPOILED: the answer to the lone dot of a mail that is refused already (RFC 2920)."""

    IDLE = 0
    RSET = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    BODY = 5
    SPOILED = 6
    DOT = 7
    QUIT = 8
    CLOSED = 9


NAMES = ("mail", "mail", "mail", "rcpt", "data", "data", "data", "dot", "dot", "dot")
"""By phase: the command that it is told as."""
FOLLOWS = (Phase.IDLE, Phase.MAIL, Phase.RCPT, Phase.DATA)
"""By phase, where all three commands went out together: what is answered next."""


class Refusal(NamedTuple):
    """Why a mail cannot be sent to this server, in the words a server would use (RFC 3463)."""

    code: int
    text: str
    phase: str


def clean(text: str) -> str:
    """Text of a server as we keep it: one line, no control characters, at most MAX_TEXT characters."""
    text = text[:MAX_TEXT]
    return text if text.isprintable() else text.translate(_CONTROLS)


def commands(mail_from: str, rcpt: str, body: bytes, facts: Facts) -> tuple[bytes, bytes] | Refusal:
    """The MAIL and RCPT commands, with the parameters that the server offers and the mail needs.

    SIZE is RFC 1870, BODY=8BITMIME RFC 6152, SMTPUTF8 RFC 6531. A Refusal where an address could speak
    SMTP itself, or where the mail needs what the server does not offer.
    """
    if not (mail_from.isascii() and rcpt.isascii()):
        mail_from, rcpt = _ascii_domain(mail_from), _ascii_domain(rcpt)
    for address, phase in ((mail_from, "mail"), (rcpt, "rcpt")):
        if _UNSAFE.search(address) or len(address) > 320 or (phase == "rcpt" and not address):
            return Refusal(553, "5.1.3 not sent: the address cannot be written in SMTP", phase)
    if facts.size and len(body) > facts.size:
        return Refusal(552, f"5.3.4 not sent: the server takes {facts.size} bytes at most", "mail")
    options = f" SIZE={len(body)}" if "SIZE" in facts.extensions else ""
    if not body.isascii():
        if "8BITMIME" not in facts.extensions:
            return Refusal(554, "5.6.3 not sent: 8-bit content, but no 8BITMIME at the server", "mail")
        options += " BODY=8BITMIME"
    if not (mail_from.isascii() and rcpt.isascii()):
        if "SMTPUTF8" not in facts.extensions:
            return Refusal(550, "5.6.7 not sent: non-ASCII address, but no SMTPUTF8 at the server", "rcpt")
        options += " SMTPUTF8"
    return f"MAIL FROM:<{mail_from}>{options}\r\n".encode(), f"RCPT TO:<{rcpt}>\r\n".encode()


def _ascii_domain(address: str) -> str:
    """A domain needs no SMTPUTF8, only what stands before its @ may (RFC 6531 section 3.2)."""
    local, at, domain = address.rpartition("@")
    try:
        return local + at + idna.encode(domain, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return address


def wire(body: bytes) -> bytes:
    """The body as it goes out before the final dot: dot-stuffed, its last line ended (RFC 5321 4.5.2).

    A dot after a bare CR or LF would end the mail for some servers and let the rest of it speak SMTP
    (smuggling): a body with such a dot, or whose first line end is bare, has all line ends made CRLF. The
    usual body (CRLF, no line that begins with a dot) costs two searches.
    """
    crlf = body.endswith(b"\r\n") and body[body.find(b"\n") - 1] == 13
    if not crlf or b"\n." in body or b"\r." in body:
        lines = body.count(b"\r\n")
        if not lines == body.count(b"\n") == body.count(b"\r"):
            body = _BARE.sub(b"\r\n", body)
        body = body if body.endswith(b"\r\n") else body + b"\r\n"
        body = body.replace(b"\r\n.", b"\r\n..")
    return b"." + body if body.startswith(b".") else body


def chunk(body: bytes) -> bytes:
    """The body as it goes out in BDAT (RFC 3030): nothing is stuffed, but what a later server that speaks DATA
    could take for the end of the mail is made harmless as in ``wire``, and the last line is ended."""
    if b"\n." in body or b"\r." in body or body.startswith(b"."):
        lines = body.count(b"\r\n")
        if not lines == body.count(b"\n") == body.count(b"\r"):
            body = _BARE.sub(b"\r\n", body)
    return body if body.endswith(b"\r\n") else body + b"\r\n"


class Replies:
    """Cuts received bytes into replies. ``nonsense`` says what broke the protocol; nothing follows it."""

    __slots__ = ("_buffer", "_lines", "_size", "nonsense")

    def __init__(self) -> None:
        """Nothing received yet."""
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0
        self.nonsense = ""

    @property
    def pending(self) -> bool:
        """Whether part of a reply is here already."""
        return bool(self._buffer or self._lines or self.nonsense)

    def feed(self, data: bytes) -> list[tuple[int, str]]:
        """(code, text) of every reply that is complete now. Lines may end in CRLF or LF."""
        if self.nonsense:
            return []
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        found = []
        for line in lines:
            if not self._fits(line):
                break
            self._lines.append(line)
            if line[3:4] == b"-":
                continue
            parts = self._lines
            text = line[4:].rstrip() if len(parts) == 1 else b" ".join([part[4:].rstrip() for part in parts])
            found.append((int(line[:3]), clean(text.decode("utf-8", "replace"))))
            self._lines, self._size = [], 0
        if len(self._buffer) > MAX_LINE and not self.nonsense:
            self.nonsense = f"a reply line of more than {MAX_LINE} bytes"
        return found

    def _fits(self, line: bytes) -> bool:
        """Whether the line can follow; says why not in ``nonsense``.

        Codes within a reply should be equal; some servers differ in the last digits, the last one counts.
        """
        self._size += len(line)
        if len(line) > MAX_LINE or self._size > MAX_REPLY:
            self.nonsense = f"a reply line of more than {MAX_LINE} bytes, or a reply of more than {MAX_REPLY}"
        elif not line[:3].isdigit() or line[0] not in b"2345" or line[3:4] not in (b" ", b"-", b"\r", b""):
            self.nonsense = "not an SMTP reply: " + clean(line[:80].decode("utf-8", "replace")).strip()
        elif self._lines and self._lines[0][0] != line[0]:
            self.nonsense = f"a reply with codes {self._lines[0][:3].decode()} and {line[:3].decode()}"
        return not self.nonsense
