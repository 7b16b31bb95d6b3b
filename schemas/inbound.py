"""Mail that came back: raw messages from the SMTP edge on ``mail-inbound``.

The value is the raw message; the headers say how it came: ``type`` inbound, ``time`` (Unix seconds),
``mail_from`` and ``rcpt_to`` (the envelope as received), ``peer`` (IP address), and, where rcpt_to holds a
VERP token that verified, ``id`` (the mail it is about). The partition is the token's, else
murmur2(rcpt_to) mod P.
"""

from __future__ import annotations

from schemas.codec import Headers

LARGEST = 1_000_000
"""Bytes of an inbound message that the edge takes; reports are small (RFC 3464 needs only headers)."""


def inbound_headers(time: float, mail_from: str, rcpt_to: str, peer: str, mail: str = "") -> Headers:
    """The record headers of an inbound message; ``mail`` is the id from a verified VERP token."""
    found: Headers = {
        "type": b"inbound",
        "version": b"1",
        "time": b"%.3f" % time,
        "mail_from": mail_from.encode("utf-8", "replace")[:512],
        "rcpt_to": rcpt_to.encode("utf-8", "replace")[:512],
        "peer": peer.encode(),
    }
    if mail:
        found["id"] = mail.encode()
    return found
