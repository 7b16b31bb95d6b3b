"""Relaxed canonicalisation (RFC 6376 sections 3.4.2 and 3.4.4), on bytes.

Most bodies need no change, which a few searches at memory speed find out; only bodies with runs of blanks
pay for folding them.
"""

from __future__ import annotations

import re

_LONE_LF = re.compile(rb"(?<!\r)\n")
_BLANKS = re.compile(rb"  +")
_WSP_RUN = re.compile(rb"[ \t]+")


class Unsignable(Exception):
    """The message cannot be signed; ``args[0]`` says why."""


def split(message: bytes, clean: bool = False) -> tuple[bytes, bytes]:
    """Header section (without its blank line) and body of a message, lone LF read as CRLF.

    ``clean``: the caller knows that there is none (``is_wire_clean``).
    """
    if not clean and message.count(b"\n") != message.count(b"\r\n"):
        message = _LONE_LF.sub(b"\r\n", message)
    if message.startswith(b"\r\n"):
        return b"", message[2:]
    head, _, body = message.partition(b"\r\n\r\n")
    return head, body


def is_wire_clean(message: bytes) -> bool:
    """Whether every CR and LF is part of a CRLF and the last line is ended (RFC 5321 section 2.3.8)."""
    pairs = message.count(b"\r\n")
    return message.count(b"\n") == pairs == message.count(b"\r") and message.endswith(b"\r\n")


def relaxed_body(body: bytes) -> bytes:
    """The body as it is hashed: blanks folded, none at line ends, no empty lines at the end."""
    if b"\t" in body:
        body = body.replace(b"\t", b" ")
    if b"  " in body:
        body = _BLANKS.sub(b" ", body)
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    if not body.endswith(b"\r\n"):
        return body + b"\r\n" if body else b""
    if not body.endswith(b"\r\n\r\n"):
        return body if len(body) > 2 else b""
    end = len(body)
    while body.endswith(b"\r\n", 0, end):
        end -= 2
    return body[: end + 2] if end else b""


def relaxed_value(value: bytes) -> bytes:
    """A field's value as it is hashed: unfolded, blanks folded, none at the ends."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"")
    if b"\t" in value or b"  " in value:
        value = _WSP_RUN.sub(b" ", value)
    return value.strip(b" ")


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """(lower-case name, raw value with its folds) of every field of a header section, in order.

    Raises Unsignable for a line that is no field: a verifier would not read past it.
    """
    found: list[tuple[bytes, bytes]] = []
    if not head:
        return found
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if not found:
                raise Unsignable("the message begins with a continuation line")
            name, value = found[-1]
            found[-1] = (name, value + b"\r\n" + line)
            continue
        raw, colon, value = line.partition(b":")
        name = raw.rstrip(b" \t").lower()
        if not colon or not name or not name.isascii() or b" " in name:
            raise Unsignable(f"header line {len(found) + 1} is no field: {line[:40]!r}")
        found.append((name, value))
    return found
