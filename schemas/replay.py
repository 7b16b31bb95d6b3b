"""Dead letters that come again: the origin that a send had, said by us and nobody else; and which ones came.

Outsiders write ``mail-sends``, so a header there that names an origin must be authenticated: believed as it
stands, it would let anybody's send pass for another one, and the audit would not count it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from schemas.codec import Headers, Record, event
from schemas.token import SHORTEST_SECRET

HEADER = "replay"
"""On a record of ``mail-sends``: ``<MAC, 32 hex digits>:<origin>``."""

_SAID = re.compile(rb"([0-9a-f]{32}):(mail-sends(?:-now)?/\d{1,9}/\d{1,18}/-?\d{1,18}/\d{1,9})")
_READ = ("type", "version", "ce_type")
"""Headers that say how the value is read: the MAC is over them too."""


def claims(record: Record) -> bool:
    """Whether a record says, in our form, that it comes again. Another's header of that name says nothing."""
    return HEADER in record.headers and _SAID.fullmatch(record.headers[HEADER]) is not None


class Replays:
    """Signs with the first secret, accepts all, as ``schemas.token.Tokens`` does. Raises ValueError."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or min(map(len, secrets)) < SHORTEST_SECRET:
            raise ValueError(f"replays need a secret of at least {SHORTEST_SECRET} bytes")
        self._keys = tuple(blake2b(s, digest_size=64, person=b"ms-replay").digest() for s in secrets)

    @classmethod
    def of(cls, secret: str) -> Replays | None:
        """Those of MAILSLUICE_SECRET; None where it is empty."""
        return cls([part.encode() for part in secret.split(",")]) if secret else None

    def header(self, origin: str, topic: str, headers: Headers, value: bytes | None) -> bytes:
        """The header for a copy on ``topic`` of the send that was received as ``origin``."""
        said = origin.encode()
        return _mac(self._keys[0], said, topic, headers, value).encode() + b":" + said

    def origin(self, record: Record) -> str | None:
        """The origin that the record's header names; None where it has none or we did not write it: for other
        bytes, another topic, or with a secret that is no longer set."""
        found = _SAID.fullmatch(record.headers.get(HEADER, b""))
        if found is None:
            return None
        mac, said = found.groups()
        for key in self._keys:
            made = _mac(key, said, record.topic, record.headers, record.value)
            if hmac.compare_digest(made.encode(), mac):
                return said.decode()
        return None


def received_at(origin: str) -> float:
    """Unix seconds: the time stamp in an origin."""
    return int(origin.split("/")[3]) / 1000


def _mac(key: bytes, origin: bytes, topic: str, headers: Headers, value: bytes | None) -> str:
    parts = [origin, topic.encode(), *(headers.get(name) for name in _READ), value or b""]
    # Length-prefixed, -1 for what is absent: no part can be shifted into the next.
    sizes = b",".join(b"%d" % (-1 if part is None else len(part)) for part in parts)
    found = blake2b(sizes, key=key, digest_size=16)
    for part in parts:
        found.update(part or b"")
    return found.hexdigest()


@event("replayed", 1)
class Replayed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """These dead letters of ``topic`` were written again where they died, and acknowledged.

    On ``mail-lane-policy``, where all that operators did is. ``runs``: an offset and how many from it on, the
    next offset and how many, and so on. ``time`` Unix seconds: letters of a later time stamp are of another log.
    """

    topic: str
    runs: tuple[int, ...]
    who: str
    time: float

    @property
    def key(self) -> bytes:
        """The key on the compacted topic: the time keeps every one under compaction."""
        return f"replayed|{self.topic}|{self.time:.3f}|{self.runs[0] if self.runs else ''}".encode()
