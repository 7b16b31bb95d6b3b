"""Identities: who a record is, in every attempt and on every path (design, "Nothing lost", 3).

An id is 128 bits of BLAKE2b as 32 hex digits. Redone work gets the same id, whichever stage redid it.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct


def _digest(*parts: str) -> str:
    # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ.
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return blake2b(text.encode(), digest_size=16).hexdigest()


def origin_of(topic: str, partition: int, offset: int, timestamp: int, index: int = 0) -> str:
    """The ``origin`` header: where and when a send was received; ``index`` within its record."""
    return f"{topic}/{partition}/{offset}/{timestamp}/{index}"


def mail_id(tenant: str, key: str | None, recipient: str, origin: str) -> str:
    """The id of a mail: of (tenant, idempotency key, recipient), or of its origin where there is no key."""
    if key:
        return _digest("key", tenant, key, recipient)
    return _of_origin(origin)


@lru_cache(maxsize=1000)  # screen asks three times for each mail
def _of_origin(origin: str) -> str:
    return _digest("origin", origin)


def event_id(mail: str, kind: str, *causes: str) -> str:
    """The deterministic id of an event about a mail, e.g. ``event_id(id, "deferred", "2")``."""
    return _digest("event", mail, kind, *causes)


_WORDS = tuple(Struct(f"<{count}I") for count in range(64))


def murmur2(data: bytes) -> int:
    """Kafka's default partitioner hash (unsigned 32 bit), as in the Java client's ``Utils.murmur2``."""
    length = len(data)
    m = 0x5BD1E995
    h = (0x9747B28C ^ length) & 0xFFFFFFFF
    end = length & ~3
    # All words at once: 1.5 µs for an address, 3.3 with a slice for each.
    words = _WORDS[length >> 2] if length < 256 else Struct(f"<{length >> 2}I")
    for k in words.unpack_from(data):
        k = k * m & 0xFFFFFFFF
        k = (k ^ (k >> 24)) * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ k
    left = length & 3
    if left >= 3:
        h ^= data[end + 2] << 16
    if left >= 2:
        h ^= data[end + 1] << 8
    if left >= 1:
        h = ((h ^ data[end]) * m) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * m) & 0xFFFFFFFF
    return h ^ (h >> 15)


def partition_of(recipient: str, partitions: int) -> int:
    """The partition of a normalised recipient: murmur2 mod P, as a Java producer would choose it."""
    return (murmur2(recipient.encode()) & 0x7FFFFFFF) % partitions
