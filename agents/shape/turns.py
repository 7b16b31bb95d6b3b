"""Whose turn it is to be looked at: a few of many at a time, so that no look holds the loop for long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")
LOOKED_AT = 200
"""Limits that are looked at in one go, once a second: what only time changes waits longer where there are more."""


class Turns(Generic[K]):
    """Rounds over keys that come and go: each has its turn once a round."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: list[K] = []

    def next(self, keys: Iterable[K], most: int = LOOKED_AT) -> list[K]:
        """The next ``most`` (1 or more) at most; those of the round that are gone from ``keys`` meanwhile are among them."""
        if not self._left:
            self._left = list(keys)
        found = self._left[-most:]
        del self._left[-most:]
        return found
