"""MIME entities as bytes (RFC 2045 to 2049): text parts, attachments, multiparts."""

from __future__ import annotations

from base64 import encodebytes
from binascii import b2a_base64, b2a_qp
from collections.abc import Sequence
from typing import NamedTuple

from agents.render.headers import parameter

LONGEST_LINE = 998
"""RFC 5322 section 2.1.1, without its CRLF."""

MARK = b"=_"
"""How our boundaries begin: impossible in quoted-printable and base64 (RFC 2045 section 6.7), and refused
as 7bit where a line begins with it."""


class Entity(NamedTuple):
    """``head`` holds its header fields, each with CRLF; ``body`` ends in CRLF."""

    head: bytes
    body: bytes


def text_entity(subtype: bytes, text: str) -> Entity:
    """A text part in UTF-8: 7bit where that is possible, else quoted-printable, base64 for far scripts."""
    data = text.encode()
    foreign = len(data) - len(text)  # two bytes a letter in Greek, three in Chinese: less one each
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    data = data.replace(b"\n", b"\r\n")
    if not foreign:
        if _fits_7bit(data):
            return Entity(_text_head(subtype, b"7bit"), data)
    elif 6 * foreign > len(data):
        return Entity(_text_head(subtype, b"base64"), encodebytes(data).replace(b"\n", b"\r\n"))
    # b2a_qp takes its line ends from the first one it meets: there always is one, and it is CRLF.
    return Entity(_text_head(subtype, b"quoted-printable"), b2a_qp(data, istext=True))


def _text_head(subtype: bytes, encoding: bytes) -> bytes:
    return b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n" % (subtype, encoding)


def _fits_7bit(data: bytes) -> bool:
    """Whether ASCII ``data`` with CRLF line ends may go as it is: no NUL, no long line, no boundary of ours."""
    if b"\0" in data or b"\n--=_" in data or data.startswith(b"--=_"):
        return False
    start, end = 0, len(data)
    while end - start > LONGEST_LINE + 2:
        # The last line end within reach; so a body costs one search per kilobyte, not per line.
        found = data.rfind(b"\n", start, start + LONGEST_LINE + 2)
        if found < 0:
            return False
        start = found + 1
    return True


def file_entity(
    content_type: str, filename: str, disposition: str, content_id: str, encoded: bytes
) -> Entity:
    """An attachment, an inline image or a calendar; ``encoded`` is from ``base64_lines``.

    The texts are checked already (policy); raises HeaderInjection where they are not.
    """
    head = f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n"
    if content_id:
        head += f"Content-ID: <{content_id}>\r\n"
    if disposition:
        head += f"Content-Disposition: {disposition}{parameter('filename', filename)}\r\n"
    return Entity(head.encode(), encoded)


def base64_lines(data: bytes) -> bytes:
    """Base64 in lines of 76 characters, each with CRLF."""
    if len(data) <= 57:
        return b2a_base64(data, newline=False) + b"\r\n"
    return encodebytes(data).replace(b"\n", b"\r\n")


def multipart(subtype: bytes, id: bytes, level: int, parts: Sequence[Entity]) -> Entity:
    """The parts as one entity; the boundary derives from the mail's id, so that a redo is byte-equal."""
    if len(parts) == 1:
        return parts[0]
    boundary = b"%b%b_%d" % (MARK, id, level)
    pieces: list[bytes] = []
    for part in parts:
        pieces += (b"--", boundary, b"\r\n", part.head, b"\r\n", part.body, b"\r\n")
    pieces += (b"--", boundary, b"--\r\n")
    head = b'Content-Type: multipart/%b;\r\n boundary="%b"\r\n' % (subtype, boundary)
    return Entity(head, b"".join(pieces))
