"""A MIME message as a flat list of parts, read from bytes that a stranger wrote.

Not the standard library's parser: that recurses with the message's nesting and raises on some headers.
This one is bounded in depth, parts, headers and bytes, takes what it can and never raises.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator
from typing import NamedTuple

DEEPEST = 8
"""Levels of nesting that are opened."""
MOST_PARTS = 60
"""Parts of a message that are looked at."""
LONGEST_HEADER = 100_000
"""Bytes of a header section that are looked at."""
MOST_FIELDS = 500

_END = re.compile(rb"\r?\n[ \t]*\r?\n|\A\r?\n")
_BOUNDARY = re.compile(r"boundary\s{0,9}=\s{0,9}(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}\"?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n(?=[ \t])")


class Fields(dict[str, str]):
    """Header fields by lower-case name; of a repeated one the first."""

    def __missing__(self, name: str) -> str:
        return ""


class Part(NamedTuple):
    """A leaf, or an embedded message (whose own headers are in ``body``). ``kind``: ``text/plain`` ..."""

    kind: str
    headers: Fields
    body: bytes

    @property
    def text(self) -> str:
        """The body as text with line feeds, decoded as well as it can be."""
        raw = decoded(self.body, self.headers["content-transfer-encoding"])
        charset = _CHARSET.search(self.headers["content-type"])
        return _text(raw, charset.group(1) if charset else "utf-8").replace("\r\n", "\n")


def split(raw: bytes) -> tuple[Fields, bytes]:
    """(header fields, body) of a message or part."""
    end = _END.search(raw)
    head, body = (raw[: end.start()], raw[end.end() :]) if end else (raw, b"")
    return fields(_text(head[:LONGEST_HEADER], "utf-8")), body


def fields(text: str) -> Fields:
    """The header fields in a text, unfolded; lines that are none are passed over."""
    found = Fields()
    for line in _FOLD.sub("", text).splitlines()[:MOST_FIELDS]:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name and " " not in name and name not in found:
            found[name] = value.strip()
    return found


def parts(raw: bytes) -> tuple[Fields, list[Part]]:
    """The message's header fields and its leaves, in order."""
    headers, body = split(raw)
    found: list[Part] = []
    for part in _walk(headers, body, DEEPEST):
        found.append(part)
        if len(found) == MOST_PARTS:
            break
    return headers, found


def _walk(headers: Fields, body: bytes, depth: int) -> Iterator[Part]:
    kind = headers["content-type"].partition(";")[0].strip().lower() or "text/plain"
    boundary = _BOUNDARY.search(headers["content-type"]) if kind.startswith("multipart/") else None
    if boundary is None or depth == 0:
        yield Part(kind, headers, body)
        return
    mark = b"--" + (boundary.group(1) or boundary.group(2)).encode("utf-8", "replace")
    for piece in _pieces(body, mark):
        yield from _walk(*split(piece), depth - 1)


def _pieces(body: bytes, mark: bytes) -> Iterator[bytes]:
    """What stands between the boundary lines (RFC 2046 section 5.1.1); the last may lack its end."""
    start = -1
    for line in re.finditer(rb"^" + re.escape(mark) + rb"(--)?[ \t]*\r?(?:\n|\Z)", body, re.MULTILINE):
        if start >= 0:
            yield body[start : line.start()]
        start = line.end()
        if line.group(1):
            return
    if start >= 0:
        yield body[start:]


def decoded(body: bytes, encoding: str) -> bytes:
    """The body without its transfer encoding; as it is where that cannot be undone."""
    encoding = encoding.strip().lower()
    try:
        if encoding == "base64":
            return a2b_base64(body)
        if encoding == "quoted-printable":
            return a2b_qp(body)
    except ValueError:
        pass
    return body


def _text(raw: bytes, charset: str) -> str:
    try:
        return raw.decode(charset, "replace")
    except (LookupError, UnicodeError, ValueError):
        return raw.decode("latin-1")
