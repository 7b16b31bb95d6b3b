"""People who were erased: the keyed hash that is left of an address, and the order to forget it.

What stays is pseudonymous, not anonymous: who has the secret can tell whether an address was erased, by trying
it. That is what it is for: the address gets no mail again, though nothing holds it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from hashlib import blake2b
from typing import Protocol

import msgspec

from schemas.codec import event

MARK = b"#"
"""What a hash begins with, and no address that is normalised and no other key of a row."""
NAMED = 4
"""Bytes that name the key of a hash: who drops a secret can be told which hashes no one finds any more."""


@event("erasure", 1)
class Erasure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The order of stage suppress to other stages, behind the hash: forget ``to``. ``id`` is the event's, ``time``
    Unix seconds."""

    id: str
    to: str
    time: float = 0.0


class Pseudonyms:
    """Keyed hashes of normalised addresses. The first secret makes them, all are looked under: a secret under which
    somebody was erased has to stay in the list, retired or not, else they get mail again."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        keys = [blake2b(secret, digest_size=64, person=b"mailsluice-erase").digest() for secret in secrets]
        self._keys = [(key, f"#{blake2b(key, digest_size=NAMED).hexdigest()}.") for key in keys]
        self.known = frozenset(name[1:-1] for _, name in self._keys)
        """The names of the keys, as hashes begin with them."""

    def of(self, address: str) -> tuple[str, ...]:
        """The hashes of an address, that of the first secret first: 1 us each."""
        raw = address.encode()
        return tuple([name + blake2b(raw, key=key, digest_size=16).hexdigest() for key, name in self._keys])


def key_of(hashed: str) -> str:
    """The name of the key that made a hash."""
    return hashed[1:].partition(".")[0]


def name_in(key: bytes) -> str:
    """The hash that a row's key begins with."""
    return key.partition(b"|")[0].decode("utf-8", "replace")


class Rows(Protocol):
    """A view of rows that are found by an address or a hash."""

    @property
    def hashed(self) -> Set[str]:
        """The hashes of the people who were erased of whom it holds rows."""

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every (key, value) whose key starts with ``prefix``."""


def rows_of(view: Rows, to: str, names: Callable[[str], tuple[str, ...]]) -> list[tuple[bytes, bytes]]:
    """The rows of an address, and those of its hashes: nothing is hashed where nobody was ever erased."""
    found = view.scan(to.encode() + b"|")
    if view.hashed:
        for name in names(to):
            if name in view.hashed:
                found = found + view.scan(name.encode() + b"|")
    return found
