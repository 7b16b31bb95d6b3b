"""DKIM signatures: RFC 6376, with the algorithms of RFC 8301 (RSA) and RFC 8463 (Ed25519).

``c=relaxed/relaxed``, no ``l=`` (text could be appended), ``t=`` given. Every field of OVERSIGNED is named
once more in ``h=`` than it occurs, so that nobody can add another From or unsubscribe link unnoticed.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from agents.sign.canonical import Unsignable, fields, relaxed_body, relaxed_value, split
from agents.sign.keys import SigningKey

OVERSIGNED = (
    b"From",
    b"To",
    b"Cc",
    b"Subject",
    b"Date",
    b"Message-ID",
    b"Reply-To",
    b"MIME-Version",
    b"Content-Type",
    b"List-Id",
    b"List-Unsubscribe",
    b"List-Unsubscribe-Post",
    b"Feedback-ID",
    b"Auto-Submitted",
)
"""What is signed, once more than present. Both fields of RFC 8058 (its section 4 demands it)."""

_PLACE = {name.lower(): place for place, name in enumerate(OVERSIGNED)}


class Prepared:
    """A message, hashed once for any number of signatures. Raises Unsignable.

    ``clean``: the caller knows that every LF follows a CR (``canonical.is_wire_clean``).
    """

    __slots__ = ("body_hash", "sender", "signed", "tags")

    def __init__(self, message: bytes, clean: bool = False) -> None:
        head, body = split(message, clean)
        found: list[list[bytes]] = [[] for _ in OVERSIGNED]
        for name, raw in fields(head):
            place = _PLACE.get(name)
            if place is not None:
                found[place].append(name + b":" + relaxed_value(raw) + b"\r\n")
        if len(found[0]) != 1:
            raise Unsignable(f"a mail has one From field (RFC 5322 section 3.6), this has {len(found[0])}")
        self.sender = found[0][0][5:-2]
        """The value of From, unfolded."""
        # Instances are taken from the last to the first (RFC 6376 section 5.4.2).
        self.signed = b"".join([line for lines in found for line in reversed(lines)])
        self.tags = _h_tag(tuple(map(len, found)))
        self.body_hash = b64encode(sha256(relaxed_body(body)).digest())

    def sign(self, key: SigningKey, now: int) -> bytes:
        """One DKIM-Signature field with its CRLF; ``now`` in Unix seconds goes into ``t=``."""
        field = self.unsigned(key, now)
        signature = b64encode(key.sign(self.signed + canonical_field(field)))
        return field + _folded(signature) + b"\r\n"

    def unsigned(self, key: SigningKey, now: int) -> bytes:
        """The field up to and including ``b=``, folded."""
        return b"DKIM-Signature: v=1; %bt=%d;\r\n %b bh=%b;\r\n b=" % (
            key.tags,
            now,
            self.tags,
            self.body_hash,
        )


def canonical_field(field: bytes) -> bytes:
    """A DKIM-Signature field with an empty ``b=`` as it is hashed: last, without CRLF."""
    return b"dkim-signature:" + relaxed_value(field[15:])


def sign(message: bytes, keys: Sequence[SigningKey], now: int) -> bytes:
    """The message with one signature per key in front of it. Raises Unsignable."""
    prepared = Prepared(message)
    return b"".join([prepared.sign(key, now) for key in keys]) + message


@lru_cache(maxsize=256)
def _h_tag(counts: tuple[int, ...]) -> bytes:
    """``h=`` for a message with so many of each field, folded before column 78."""
    names = [name for name, count in zip(OVERSIGNED, counts, strict=True) for _ in range(count + 1)]
    lines = [b"h="]
    for name in names:
        if len(lines[-1]) + len(name) > 75:
            lines.append(b" ")
        lines[-1] += name + b":"
    return b"\r\n".join(lines)[:-1] + b";\r\n"


def _folded(signature: bytes) -> bytes:
    """Base64 in lines of at most 76 characters; the first stands behind ``b=``."""
    return b"\r\n ".join([signature[at : at + 74] for at in range(0, len(signature), 74)])
