"""A cache bounded by the bytes that its values weigh; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Bounded(Generic[V]):
    """``limit`` in bytes, as the callers of ``put`` weigh their values."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self.weight = 0

    def get(self, key: Hashable) -> V | None:
        """The value under ``key``, now the most recently used, or None."""
        row = self._rows.get(key)
        if row is None:
            return None
        self._rows.move_to_end(key)
        return row[0]

    def put(self, key: Hashable, value: V, weight: int) -> None:
        """Keep ``value``; what no longer fits goes. A value heavier than the limit is not kept."""
        old = self._rows.pop(key, None)
        if old is not None:
            self.weight -= old[1]
        if weight > self._limit:
            return
        self._rows[key] = (value, weight)
        self.weight += weight
        while self.weight > self._limit:
            _, (_, dropped) = self._rows.popitem(last=False)
            self.weight -= dropped
